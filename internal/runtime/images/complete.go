package images

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/images/overlay"
)

// A layer need not describe the directories above its files, and may link to files of layers below it. Both can only be resolved when
// those are at hand. The result is what unpacking the layer into the mounted image would have given.

// complete fills in what the layer in dir leaves to the layers lower (topmost first).
func complete(dir string, l unpacked, lower []string) error {
	if len(lower) == 0 {
		if len(l.links) > 0 {
			return errorf(KindCorrupt, "hard link %q to %q, which doesn't exist", l.links[0].name, l.links[0].target)
		}
		return nil
	}
	view, err := overlay.View(lower)
	if err != nil {
		return err
	}
	defer unix.Close(view)
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	u := &unpacker{root: root, parent: -1, implicit: map[string]bool{}}
	defer u.close()
	below := &unpacker{root: view, parent: -1}

	for _, name := range l.implicit {
		u.implicit[name] = true
	}
	// Moving a directory can make further ones, hence the loop; its bound is that of links in a path.
	for range maxLinks {
		if len(u.implicit) == 0 {
			break
		}
		todo := u.implicit
		u.implicit = map[string]bool{}
		names := make([]string, 0, len(todo))
		for name := range todo {
			names = append(names, name)
		}
		slices.Sort(names)
		for i, name := range names {
			moved, err := u.inherit(below, name)
			if err != nil {
				return fmt.Errorf("directory %q: %w", name, err)
			}
			if moved == "" {
				continue
			}
			for j, n := range names[i+1:] {
				if rest, ok := strings.CutPrefix(n, name+"/"); ok {
					names[i+1+j] = path.Join(moved, rest)
				}
			}
		}
	}
	for _, k := range l.links {
		if err := u.copyFrom(below, k); err != nil {
			return fmt.Errorf("hard link %q to %q: %w", k.name, k.target, err)
		}
	}
	return nil
}

// inherit gives a directory that the layer doesn't describe the attributes of the one below it. If that is a symbolic link, the
// layer meant what it points to: its content is moved there, and inherit returns where.
func (u *unpacker) inherit(below *unpacker, name string) (moved string, err error) {
	fd, err := below.openIn(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		own, err := u.openIn(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			return "", nil // moved away with its parent
		}
		if err != nil {
			return "", err
		}
		defer unix.Close(own)
		return "", copyAttributes(fd, own, ".", &st)
	case unix.S_IFLNK:
		target, err := readlinkat(fd, "")
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(name), target)
		}
		target = strings.TrimPrefix(path.Clean(target), "/")
		if target == "" || target == name || strings.HasPrefix(target, name+"/") {
			return "", nil
		}
		return target, u.relocate(name, target)
	}
	return "", nil
}

// copyAttributes copies owner, mode, extended attributes and time of the directory from, and its stat, to name below to.
func copyAttributes(from, to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	self := fmt.Sprintf("/proc/self/fd/%d", from)
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(self, buf)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:max(n, 0)]), "\x00"), "\x00") {
		if attr == "" || strings.HasPrefix(attr, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(self, attr, value)
		if err != nil {
			return err
		}
		if err := setXattr(to, name, attr, value[:n]); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// relocate moves what the layer has in the directory name to the directory target.
func (u *unpacker) relocate(name, target string) error {
	fd, err := u.openIn(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // moved with its parent
	}
	if err != nil {
		return err
	}
	unix.Close(fd)
	if _, err := u.directory(target); err != nil {
		return err
	}
	if err := u.merge(name, target, 0); err != nil {
		return err
	}
	u.forget()
	return nil
}

// merge moves the entries of directory from into directory to, and removes it; where both have an entry, that of from, which
// came through the link, wins, and directories are merged.
func (u *unpacker) merge(from, to string, depth int) error {
	if depth > 1000 {
		return unix.ELOOP
	}
	src, err := u.openIn(from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(src), from)
	defer f.Close()
	dst, err := u.openIn(to, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Renameat2(src, n, dst, n, unix.RENAME_NOREPLACE)
		if err != unix.EEXIST {
			if err != nil {
				return err
			}
			continue
		}
		var a, b unix.Stat_t
		if err := errors.Join(unix.Fstatat(src, n, &a, unix.AT_SYMLINK_NOFOLLOW), unix.Fstatat(dst, n, &b, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
			return err
		}
		if a.Mode&unix.S_IFMT == unix.S_IFDIR && b.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := u.merge(path.Join(from, n), path.Join(to, n), depth+1); err != nil {
				return err
			}
			continue
		}
		if err := os.RemoveAll(atFD(dst, n)); err != nil {
			return err
		}
		if err := unix.Renameat(src, n, dst, n); err != nil {
			return err
		}
	}
	dir, base := path.Split(from)
	parent, err := u.openIn(path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
}

// copyFrom makes k.name a copy of the file below the layer that it is a hard link to.
func (u *unpacker) copyFrom(below *unpacker, k link) error {
	fd, err := below.openIn(k.target, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return &Error{Kind: KindCorrupt, Err: fmt.Errorf("the target doesn't exist: %w", err)}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	dir, base := path.Split(k.name)
	parent, err := u.directory(path.Clean(dir))
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := readlinkat(fd, "")
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, parent, base); err != nil {
			if err == unix.EEXIST {
				return nil // a later entry of the layer
			}
			return err
		}
		return unix.Fchownat(parent, base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	case unix.S_IFREG:
	default:
		return errorf(KindInvalid, "the target is not a file")
	}
	in, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(out), base)
	_, err = io.Copy(f, in)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return copyAttributes(fd, parent, base, &st)
}
