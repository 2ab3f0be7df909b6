package holder

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// MaxMessageBytes bounds a message: the largest is the start of a
	// container with a seccomp profile and many mounts.
	MaxMessageBytes = 4 << 20
	// maxFiles bounds the descriptors of one message.
	maxFiles = 4
	// maxSocketPath is the room for a path in sockaddr_un, with its NUL.
	maxSocketPath = 107
)

// Conn is one end of a connection between celox and the holder. Send and
// Receive may run at the same time, but neither twice.
type Conn struct {
	unix *net.UnixConn
}

// NewConn wraps a connected unix stream socket.
func NewConn(c *net.UnixConn) *Conn { return &Conn{unix: c} }

// Close ends the connection; a Receive under way returns.
func (c *Conn) Close() error { return c.unix.Close() }

// Send writes one message. The files stay the caller's.
func (c *Conn) Send(message any, files ...*os.File) error {
	if len(files) > maxFiles {
		return fmt.Errorf("holder: %d descriptors in one message", len(files))
	}
	frame, err := encode(message)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			conn, err := f.SyscallConn()
			if err != nil {
				return err
			}
			// Not Fd(): it would make the file blocking for its owner.
			if err := conn.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.unix.WriteMsgUnix(frame, rights, nil)
	if err != nil {
		return err
	}
	if n < len(frame) {
		_, err = c.unix.Write(frame[n:])
	}
	return err
}

// Receive reads one message and the descriptors that came with it, which are
// the caller's even if an error is returned along with them.
func (c *Conn) Receive(message any) ([]*os.File, error) {
	var header [4]byte
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	var files []*os.File
	for got := 0; got < len(header); {
		n, oobn, _, _, err := c.unix.ReadMsgUnix(header[got:], oob)
		if oobn > 0 {
			more, perr := parseRights(oob[:oobn])
			files = append(files, more...)
			if perr != nil && err == nil {
				err = perr
			}
		}
		if n == 0 && err == nil {
			err = io.EOF
			if got > 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			return files, err
		}
		got += n
	}
	return files, decode(header, c.unix, message)
}

func encode(message any) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxMessageBytes {
		return nil, fmt.Errorf("holder: message of %d bytes exceeds %d", len(body), MaxMessageBytes)
	}
	frame := make([]byte, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	copy(frame[4:], body)
	return frame, nil
}

func decode(header [4]byte, r io.Reader, message any) error {
	size := binary.BigEndian.Uint32(header[:])
	if size > MaxMessageBytes {
		return fmt.Errorf("holder: message of %d bytes exceeds %d", size, MaxMessageBytes)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return json.Unmarshal(body, message)
}

func parseRights(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseFiles closes all that are not nil.
func CloseFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Listen makes a unix socket of mode 0600 at path, replacing one that nobody
// listens on any more. The path may be longer than sockaddr_un has room for.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var l *net.UnixListener
	err := withShortPath(path, func(short string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// Dial connects to a unix socket at a path of any length.
func Dial(path string) (*net.UnixConn, error) {
	var c *net.UnixConn
	err := withShortPath(path, func(short string) error {
		var err error
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	return c, err
}

// withShortPath calls f with a path that fits into sockaddr_un: itself, or
// through a descriptor of its directory.
func withShortPath(path string, f func(string) error) error {
	if len(path) <= maxSocketPath {
		return f(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return f("/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path))
}
