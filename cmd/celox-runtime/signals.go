package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// A signal can come before a program is able to take it. Until a new process has
// become its program, it is libcontainer's init, whose Go runtime ends on what
// the program would handle; and the kernel drops, without a word, what the init
// of a process namespace has not asked for, such as a TERM that comes before the
// shell has read its trap. Such signals are held and delivered as soon as the
// program can take them. One that never does is killed when its grace period
// ends, as it would be anyway.

const (
	initName = "runc:[2:INIT]" // libcontainer's init until it has become the program

	// How often a program is looked at for which signals are held: a start takes
	// milliseconds, and what goes on for long can be late a little.
	heldFirstDelay = time.Millisecond
	heldLastDelay  = 50 * time.Millisecond
)

// holdable are the signals that a program can handle, and that mean something
// only if it does.
func holdable(sig unix.Signal) bool {
	return sig > 0 && sig <= 64 && sig != unix.SIGKILL && sig != unix.SIGSTOP && sig != unix.SIGCONT
}

func bit(sig unix.Signal) uint64 { return 1 << (sig - 1) }

// send delivers a signal to the first process, or sees to it that it will be.
// t.mu is held, and t.s.changing for reading.
func (t *task) send(sig unix.Signal) error {
	if t.st.Held == 0 && canTake(t.st.Pid, sig) {
		return t.proc.signal(sig)
	}
	if err := t.proc.signal(0); err != nil {
		return err // nobody is left who could take it
	}
	if t.st.Held&bit(sig) != 0 {
		return nil // as the kernel does it: once is enough
	}
	first := t.st.Held == 0
	t.st.Held |= bit(sig)
	if err := writeState(t.s.layout, t.st); err != nil {
		t.warn(err) // a successor will not know of it
	}
	if first {
		t.work.Go(t.deliver)
	}
	return nil
}

// deliver delivers the held signals, and returns when none is left or the first
// process has ended.
func (t *task) deliver() {
	for delay := heldFirstDelay; ; delay = min(2*delay, heldLastDelay) {
		select {
		case <-t.ended:
			return
		case <-time.After(delay):
		}
		if !t.deliverReady() {
			return
		}
	}
}

// deliverReady delivers what can be taken by now, and tells whether there is more.
func (t *task) deliverReady() (more bool) {
	t.s.changing.RLock()
	defer t.s.changing.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.st.Held
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if t.st.Held&bit(sig) == 0 || !canTake(t.st.Pid, sig) {
			continue
		}
		if err := t.proc.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
			t.warn(fmt.Errorf("signal %d: %w", sig, err))
		}
		t.st.Held &^= bit(sig)
	}
	if t.st.Held != before {
		if err := writeState(t.s.layout, t.st); err != nil {
			t.warn(err)
		}
	}
	return t.st.Held != 0
}

// canTake tells whether a signal to a process would have its effect. What cannot
// be read is not held back.
func canTake(pid int, sig unix.Signal) bool {
	if !begun(pid) {
		return false
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	return takes(data, sig)
}

// begun tells whether a process has become its program so far that the handlers
// of libcontainer's init are gone.
func begun(pid int) bool {
	if stat, err := holder.ReadProcStat(pid); err != nil || stat.Name == initName {
		return err != nil
	}
	// The kernel gives it the new name, then drops the handlers, and then loads the
	// program. What was read with the new name may still be of the old one.
	stat, err := holder.ReadProcStat(pid)
	return err != nil || stat.StartCode != 0
}

// takes reads /proc/PID/status: the init of a process namespace gets only what it
// handles; what it blocks or ignores is its own business.
func takes(status []byte, sig unix.Signal) bool {
	isInit := false
	var asked uint64
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte{':'})
		fields := bytes.Fields(value)
		if len(fields) == 0 {
			continue
		}
		last := string(fields[len(fields)-1])
		switch string(name) {
		case "NSpid":
			isInit = last == "1"
		case "SigBlk", "SigIgn", "SigCgt":
			set, err := strconv.ParseUint(last, 16, 64)
			if err != nil {
				return true
			}
			asked |= set
		}
	}
	return !isInit || asked&bit(sig) != 0
}
