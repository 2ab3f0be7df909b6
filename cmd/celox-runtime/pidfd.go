package main

import (
	"errors"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// proc is a process that is watched without a thread: its pidfd becomes
// readable in the runtime's poller when it ends.
type proc struct {
	pid  int
	file *os.File
}

func openProc(pid int) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &proc{pid: pid, file: os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))}, nil
}

func (p *proc) close() { _ = p.file.Close() }

func (p *proc) signal(sig unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var kerr error
	if err := raw.Control(func(fd uintptr) { kerr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return kerr
}

// await blocks until the process ended. It does not reap, so that whoever comes
// later (a successor after a handover) still learns the exit code.
func (p *proc) await() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return !alive(int(fd)) })
}

// reap returns the exit code of an ended process, 128+signal for a signal. known
// is false if the code cannot be learnt any more.
func (p *proc) reap() (code int, known bool) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(p.pid, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case got == p.pid:
			return exitCode(ws), true
		}
		return p.adoptedExit()
	}
}

// alive polls a pidfd.
func alive(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 0
	}
}

func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// pidfdInfo is struct pidfd_info of Linux 6.15, as far as it is needed.
type pidfdInfo struct {
	mask     uint64
	cgroupID uint64
	ids      [11]uint32
	exitCode int32
}

const (
	pidfdGetInfo  = 0xC000FF0B | unsafe.Sizeof(pidfdInfo{})<<16 // _IOWR(0xFF, 11, struct pidfd_info)
	pidfdInfoExit = 1 << 3

	adoptedExitTries = 100
	adoptedExitDelay = 5 * time.Millisecond
)

// adoptedExit asks for the exit code of a dead process that is not our child:
// from its zombie while it is one, and afterwards from the pidfd, which keeps
// it on Linux 6.15 and later once the parent has reaped.
func (p *proc) adoptedExit() (int, bool) {
	for range adoptedExitTries {
		if status, ok := zombieStatus(p.pid); ok {
			return exitCode(status), true
		}
		info := pidfdInfo{mask: pidfdInfoExit}
		var errno unix.Errno
		raw, err := p.file.SyscallConn()
		if err != nil {
			return 0, false
		}
		if err := raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		}); err != nil {
			return 0, false
		}
		if errno == 0 && info.mask&pidfdInfoExit != 0 {
			return exitCode(unix.WaitStatus(info.exitCode)), true
		}
		if errno != 0 && errno != unix.ESRCH {
			return 0, false // a kernel without the call
		}
		time.Sleep(adoptedExitDelay)
	}
	return 0, false
}

func zombieStatus(pid int) (unix.WaitStatus, bool) {
	st, err := holder.ReadProcStat(pid)
	if err != nil || (st.State != 'Z' && st.State != 'X') {
		return 0, false
	}
	return unix.WaitStatus(st.ExitCode), true
}
