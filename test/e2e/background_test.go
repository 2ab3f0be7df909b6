package e2e

import (
	"bufio"
	"io"
	"os/exec"
	"regexp"
	"syscall"
	"time"
)

// background starts a command that goes on until the test ends, waits for a line that the expression matches, and returns its first group.
func (u *user) background(cmd *exec.Cmd, expression string) string {
	u.t.Helper()
	re := regexp.MustCompile(expression)
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	if err := u.m.NS.Start(cmd); err != nil {
		u.t.Fatal(err)
	}
	drained := make(chan struct{})
	u.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // what is killed cannot remove its temporary files
		late := time.AfterFunc(patience, func() {
			u.t.Errorf("%v did not end when it was told to", cmd.Args)
			_ = cmd.Process.Kill()
		})
		defer late.Stop()
		<-drained
		_ = cmd.Wait() // it was told to end
	})
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	found := ""
	for found == "" && lines.Scan() {
		if match := re.FindStringSubmatch(lines.Text()); match != nil {
			found = match[1]
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, out) // ends with the process
		close(drained)
	}()
	if found == "" {
		u.t.Fatalf("%v never printed %q", cmd.Args, expression)
	}
	return found
}
