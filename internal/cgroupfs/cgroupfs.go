package cgroupfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends every process in a group and below it, also those that are being forked meanwhile. Kernels before 5.14 cannot; nor does
// version 1 have the file.
func Kill(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close())
}

// State of a group, from cgroup.events.
type State int

// Unknown is a group that is gone, or one of version 1.
const (
	Unknown State = iota
	Empty
	Populated
)

// AwaitEmpty waits until no process is left in a group and below it, at most for patience, and tells how it found the group in the end.
// It doesn't look again and again: the kernel notifies who polls cgroup.events.
func AwaitEmpty(dir string, patience time.Duration) State {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return Unknown
	}
	defer f.Close()
	deadline := time.Now().Add(patience)
	buf := make([]byte, 128)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return Unknown
		}
		if !bytes.Contains(buf[:n], []byte("populated 1")) {
			return Empty
		}
		left := time.Until(deadline)
		if left <= 0 {
			return Populated
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return Populated
		}
	}
}
