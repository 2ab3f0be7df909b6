package shortcut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// request is the part of union bpf_attr that a command reads. What it points to stays where it is until call returns.
type request struct {
	b   []byte
	pin runtime.Pinner
}

func (r *request) words(list ...uint32) *request {
	for _, w := range list {
		r.b = binary.NativeEndian.AppendUint32(r.b, w)
	}
	return r
}

func (r *request) pointer(b []byte) *request {
	address := uint64(0)
	if len(b) > 0 {
		r.pin.Pin(&b[0])
		address = uint64(uintptr(unsafe.Pointer(&b[0])))
	}
	r.b = binary.NativeEndian.AppendUint64(r.b, address)
	return r
}

// name is padded to what the kernel takes.
func (r *request) name(name string) *request {
	var b [unix.BPF_OBJ_NAME_LEN]byte
	copy(b[:len(b)-1], name)
	r.b = append(r.b, b[:]...)
	return r
}

// call makes the request, once.
func (r *request) call(command int) (int, error) {
	defer r.pin.Unpin()
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&r.b[0])), uintptr(len(r.b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.EAGAIN: // the verifier was interrupted
			continue
		}
		return 0, errno
	}
}

// open makes a file of a descriptor, which is closed with it.
func open(fd int, err error, what string) (*os.File, error) {
	if err != nil {
		return nil, fmt.Errorf("shortcut: %s: %w", what, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), what), nil
}

func newMap(kind, keyBytes, valueBytes, entries uint32, name string) (*os.File, error) {
	var r request
	fd, err := r.words(kind, keyBytes, valueBytes, entries, 0, 0, 0).name(name).call(unix.BPF_MAP_CREATE)
	return open(fd, err, name)
}

func newProgram(code []byte, name string) (*os.File, error) {
	license, log := []byte("Apache-2.0\x00"), make([]byte, 64<<10)
	load := func(level uint32, log []byte) (int, error) {
		var r request
		r.words(unix.BPF_PROG_TYPE_SCHED_CLS, uint32(len(code)/instructionSize)).pointer(code).pointer(license)
		r.words(level, uint32(len(log))).pointer(log).words(0, 0).name(name)
		return r.call(unix.BPF_PROG_LOAD)
	}
	fd, err := load(0, nil)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) { // the verifier says why
		if fd, err = load(1, log); err != nil {
			if said := text(log); said != "" {
				err = fmt.Errorf("%w: %s", err, said)
			}
		}
	}
	return open(fd, err, name)
}

// text is the end of what the verifier said.
func text(log []byte) string {
	end := 0
	for end < len(log) && log[end] != 0 {
		end++
	}
	return string(log[max(0, end-500):end])
}

func update(m *os.File, key, value []byte) error {
	var r request
	_, err := r.words(uint32(m.Fd()), 0).pointer(key).pointer(value).words(0, 0).call(unix.BPF_MAP_UPDATE_ELEM)
	return err
}

// remove takes a key away, if it is there.
func remove(m *os.File, key []byte) error {
	var r request
	if _, err := r.words(uint32(m.Fd()), 0).pointer(key).words(0, 0, 0, 0).call(unix.BPF_MAP_DELETE_ELEM); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
