package network

import (
	"encoding/binary"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handOver is a program for the kernel that hands each packet to the pod behind an interface (bpf_redirect_peer), and does nothing else.
func handOver(t testing.TB, link int) (program int) {
	t.Helper()
	const redirectPeer = 155 // linux/bpf.h
	var code []byte
	for _, i := range []struct {
		code, registers byte
		constant        int32
	}{{0xb7, 1, int32(link)}, {0xb7, 2, 0}, {0x85, 0, redirectPeer}, {0x95, 0, 0}} {
		code = binary.NativeEndian.AppendUint32(append(code, i.code, i.registers, 0, 0), uint32(i.constant))
	}
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	var attr []byte // the begin of union bpf_attr
	attr = binary.NativeEndian.AppendUint32(attr, unix.BPF_PROG_TYPE_SCHED_CLS)
	attr = binary.NativeEndian.AppendUint32(attr, uint32(len(code)/8))
	attr = binary.NativeEndian.AppendUint64(attr, uint64(uintptr(unsafe.Pointer(&code[0]))))
	attr = binary.NativeEndian.AppendUint64(attr, uint64(uintptr(unsafe.Pointer(&license[0]))))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if errno != 0 {
		t.Fatalf("load a program: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	return int(fd)
}
