package volume

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounter changes the mount table of the node.
type Mounter interface {
	Tmpfs(target, options string) error
	Bind(source, target string, readOnly bool) error
	Unmount(target string) error
	// Below lists the mount points at or below dir, deepest first.
	Below(dir string) ([]string, error)
}

// Kernel is the real Mounter.
type Kernel struct{}

// Tmpfs mounts a tmpfs.
func (Kernel) Tmpfs(target, options string) error {
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", target, err)
	}
	return nil
}

// Bind mounts source on target.
func (Kernel) Bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	if readOnly {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("bind %s read-only: %w", target, err)
		}
	}
	return nil
}

// Unmount takes the topmost mount off target, also if it is busy: it vanishes when its last user goes.
func (Kernel) Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// Below reads /proc/self/mountinfo.
func (Kernel) Below(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	name := []byte(dir)
	if strings.ContainsAny(dir, " \t\n\\#") {
		name = nil // it is written otherwise there
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), name) {
			continue // most lines, on a node with many pods
		}
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		p := unescape(fields[4])
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out, lines.Err()
}

// unescape undoes the kernel's octal escapes (\040 for a blank).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountBelow takes away everything mounted at or below dir.
func unmountBelow(m Mounter, dir string) error {
	points, err := m.Below(dir)
	if err != nil {
		return err
	}
	return unmountAll(m, points)
}

func unmountAll(m Mounter, points []string) error {
	var errs []error
	for _, p := range points {
		if err := m.Unmount(p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes dir, but never through a mount: what is mounted there isn't ours.
func removeTree(m Mounter, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	points, err := m.Below(dir)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		if err := unmountAll(m, points); err != nil {
			return err
		}
		if points, err = m.Below(dir); err != nil {
			return err
		}
	}
	if len(points) > 0 {
		return fmt.Errorf("%s is still mounted; not removed", points[0])
	}
	return os.RemoveAll(dir)
}

// openBelow opens p below root without ever leaving root, whatever symbolic links a container has put there: the kernel
// resolves it (openat2). Missing directories are made. Close the result when it is mounted.
func openBelow(root, p string) (*os.File, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p = filepath.Clean(p)
	f, err := openPath(root, p)
	if errors.Is(err, fs.ErrNotExist) {
		mode := os.FileMode(0o755)
		if info, serr := os.Stat(root); serr == nil {
			mode = info.Mode() & (os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky)
		}
		if err := r.MkdirAll(p, mode.Perm()); err != nil {
			return nil, err
		}
		if f, err = openPath(root, p); err != nil {
			return nil, err
		}
		// The volume's own mode, whatever this process's umask has left of it.
		if err := os.Chmod("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), mode); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, err
}

// openPath opens a path, as a reference only. (os.Root would hand out a symbolic link itself.)
func openPath(root, p string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, p, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(root, p)), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN): // something was renamed meanwhile
			continue
		}
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(root, p), Err: err}
	}
}
