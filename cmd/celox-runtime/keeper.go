package main

/*
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

// The keeper of a terminal: a process that only holds the master of a
// container's terminal open, so that the container is not hung up when the
// holder is killed. It is C and runs before the Go runtime, like the pause
// process.
__attribute__((constructor)) static void celox_keep(void) {
	if (getenv("CELOX_KEEP") == NULL)
		return;
	prctl(PR_SET_NAME, "celox-keep", 0, 0, 0);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	for (;;)
		pause();
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// keptFD is where a keeper has the terminal: the first of ExtraFiles.
const keptFD = 3

// startKeeper makes a process that holds the master of a terminal, and returns
// its pid and start time.
func startKeeper(master *os.File) (pid int, ticks uint64, err error) {
	// A second descriptor: giving the file itself away would make it blocking.
	raw, err := master.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var fd int
	var kerr error
	if err := raw.Control(func(old uintptr) { fd, kerr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return 0, 0, err
	}
	if kerr != nil {
		return 0, 0, kerr
	}
	kept := os.NewFile(uintptr(fd), "terminal")
	defer kept.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"celox-keep"}
	cmd.Env = []string{"CELOX_KEEP=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{kept}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, 0, fmt.Errorf("starting the keeper of a terminal: %w", err)
	}
	pid = cmd.Process.Pid
	stat, err := holder.ReadProcStat(pid)
	if err != nil {
		return 0, 0, err
	}
	return pid, stat.StartTicks, cmd.Process.Release()
}

// openKeeper finds a keeper that still lives.
func openKeeper(pid int, ticks uint64) (*proc, error) {
	if pid <= 0 {
		return nil, os.ErrProcessDone
	}
	p, err := openProc(pid)
	if err != nil {
		return nil, err
	}
	if stat, err := holder.ReadProcStat(pid); err != nil || stat.StartTicks != ticks {
		p.close()
		return nil, os.ErrProcessDone
	}
	return p, nil
}

// takeKept gets the master of a terminal back from its keeper.
func takeKept(pid int, ticks uint64) (*os.File, error) {
	p, err := openKeeper(pid, ticks)
	if err != nil {
		return nil, err
	}
	defer p.close()
	raw, err := p.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var kerr error
	if err := raw.Control(func(pidfd uintptr) { fd, kerr = unix.PidfdGetfd(int(pidfd), keptFD, 0) }); err != nil {
		return nil, err
	}
	if kerr != nil {
		return nil, os.NewSyscallError("pidfd_getfd", kerr)
	}
	return inherit(fd, "terminal"), nil
}

// endKeeper ends a keeper whose terminal is not needed any more.
func endKeeper(pid int, ticks uint64) {
	p, err := openKeeper(pid, ticks)
	if err != nil {
		return
	}
	defer p.close()
	if p.signal(unix.SIGKILL) != nil || p.await() != nil {
		return
	}
	for { // our child, unless its terminal was adopted
		_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
