package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal at which a test sits.
type terminal struct {
	t     *testing.T
	outer *os.File // where the test reads and types
	inner *os.File // where the program does

	mu   sync.Mutex // guards said and wake
	said bytes.Buffer
	wake chan struct{}
	read int // how much of said has been expected; only the test's goroutine uses it
}

func newTerminal(t *testing.T, rows, cols uint16) *terminal {
	t.Helper()
	outer, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outer.Close() })
	if err := unix.IoctlSetPointerInt(int(outer.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(outer.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, outer: outer, inner: inner, wake: make(chan struct{})}
	term.resize(rows, cols)
	return term
}

// resize gives the terminal another size; who uses it gets a signal.
func (term *terminal) resize(rows, cols uint16) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.outer.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		term.t.Fatal(err)
	}
}

// start starts a command at the terminal, and reads along until it is gone.
func (term *terminal) start(u *user, cmd *exec.Cmd) {
	term.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.inner, term.inner, term.inner
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := u.m.NS.Start(cmd); err != nil {
		term.t.Fatal(err)
	}
	_ = term.inner.Close()
	timer := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		buf := make([]byte, 4096)
		for {
			n, err := term.outer.Read(buf)
			term.mu.Lock()
			term.said.Write(buf[:n])
			close(term.wake)
			term.wake = make(chan struct{})
			term.mu.Unlock()
			if err != nil {
				return // EIO: nobody is at the other end
			}
		}
	}()
	term.t.Cleanup(func() {
		timer.Stop()
		_ = cmd.Process.Kill()
		<-gone
	})
}

func (term *terminal) write(text string) {
	term.t.Helper()
	if _, err := term.outer.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until the program has said something, after what was expected before.
func (term *terminal) expect(text string) {
	term.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		term.mu.Lock()
		said, wake := term.said.String(), term.wake
		term.mu.Unlock()
		if i := strings.Index(said[term.read:], text); i >= 0 {
			term.read += i + len(text)
			return
		}
		select {
		case <-wake:
		case <-timeout.C:
			term.t.Fatalf("never said %q:\n%s", text, said)
		}
	}
}
