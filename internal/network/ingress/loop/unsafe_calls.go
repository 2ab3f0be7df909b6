package loop

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls that never wait are not announced to Go's scheduler: it would look after a thread that is in one for longer than it likes, which costs more than the call.

// rawMost is how much is read or written at a time: copying more takes a time in which the scheduler might want to stop the world.
const rawMost = 16 << 10

func read(fd int, b []byte) (int, error) {
	b = b[:min(len(b), rawMost)]
	return result(syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

func write(fd int, b []byte) (int, error) {
	b = b[:min(len(b), rawMost)]
	return result(syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

// peek reads a byte, which stays.
func peek(fd int) (int, error) {
	var b [1]byte
	return result(syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0))
}

func result(n, _ uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
