package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names in a layer that stand for removals (OCI image specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh."
)

const (
	xattrOpaque = "trusted.overlay.opaque"
	paxXattr    = "SCHILY.xattr."
	// maxLinks is how many symbolic links may be followed on the way to one file, as in the kernel.
	maxLinks = 40
	// blockSize is what a file's size is rounded up to when disk use is estimated.
	blockSize = 4096
)

// attributes are a directory's, as a layer or the layers below it describe them.
type attributes struct {
	Mode, UID, GID uint32
}

// unpacked is what is known about a layer after its archive has been read.
type unpacked struct {
	bytes   int64 // estimate of what it takes on the disk
	entries int64
	// root are the attributes of the root directory, if the layer has an entry for it.
	root *attributes
	// opaqueRoot says that the layer hides everything below it.
	opaqueRoot bool
	// implicit are the directories that had to be made because the layer doesn't describe them, parents first.
	implicit []string
	// links are hard links to files that are not in this layer.
	links []link
}

type link struct{ name, target string }

// unpacker writes the files of one layer below a directory. All paths are resolved by the kernel as if that directory were "/".
type unpacker struct {
	root     int // descriptor of the directory
	out      unpacked
	implicit map[string]bool
	// parentName and parent cache the directory of the last entry; parent is -1 without one.
	parentName string
	parent     int
	// times are the directories', which are set last, because every file that is made in one changes its.
	times  map[string]time.Time
	limits Limits
	buf    []byte
}

// unpack writes the files of the tar archive r, with overlayfs' forms of whiteouts, below dir, which must be empty. It reads r to its end. Needs root.
func unpack(ctx context.Context, dir string, r io.Reader, limits Limits) (unpacked, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return unpacked{}, fmt.Errorf("open %s: %w", dir, err)
	}
	u := &unpacker{root: root, parent: -1, implicit: map[string]bool{}, times: map[string]time.Time{}, limits: limits, buf: make([]byte, 256<<10)}
	defer u.close()
	// A limit on what is read bounds what archive/tar skips or parses; the sum of sizes bounds sparse files, which
	// hold more than is read for them.
	counted := &limitReader{r: r, left: limits.LayerBytes}
	tr := tar.NewReader(counted)
	for {
		if err := ctx.Err(); err != nil {
			return unpacked{}, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return unpacked{}, layerError(err)
		}
		if u.out.entries++; u.out.entries > limits.LayerEntries {
			return unpacked{}, errorf(KindInvalid, "the layer has more than %d files", limits.LayerEntries)
		}
		if err := u.entry(ctx, h, tr); err != nil {
			return unpacked{}, fmt.Errorf("layer entry %q: %w", h.Name, layerError(err))
		}
	}
	// What follows the archive's end counts for the digest.
	if _, err := io.CopyBuffer(io.Discard, onlyReader{counted}, u.buf); err != nil {
		return unpacked{}, layerError(err)
	}
	for name, at := range u.times {
		if err := u.setTime(name, at); err != nil {
			return unpacked{}, fmt.Errorf("layer entry %q: %w", name, err)
		}
	}
	for name := range u.implicit {
		// A later entry may have replaced a directory above it.
		if fd, err := u.openIn(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW); err == nil {
			unix.Close(fd)
			u.out.implicit = append(u.out.implicit, name)
		}
	}
	slices.Sort(u.out.implicit)
	return u.out, nil
}

// layerError gives an error of the archive's own form its kind and leaves others as they are.
func layerError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrInsecurePath) || errors.Is(err, tar.ErrFieldTooLong) {
		return &Error{Kind: KindCorrupt, Op: "not a tar archive", Err: err}
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &Error{Kind: KindNoSpace, Err: err}
	}
	return err
}

type onlyReader struct{ io.Reader }

// limitReader fails, rather than ends, after so many bytes.
type limitReader struct {
	r    io.Reader
	left int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errorf(KindInvalid, "more data than allowed")
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, errorf(KindInvalid, "more data than allowed")
	}
	return n, err
}

func (u *unpacker) close() {
	u.forget()
	unix.Close(u.root)
}

// forget drops the cached directory, after something was removed that may have been part of its path.
func (u *unpacker) forget() {
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
	u.parent, u.parentName = -1, ""
}

// clean turns a name from an archive into a relative path below the root, "." for the root itself.
func clean(name string) (string, error) {
	c := path.Clean(strings.TrimLeft(name, "/"))
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", errorf(KindInvalid, "the path leads out of the image")
	}
	return c, nil
}

func (u *unpacker) openIn(name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(u.root, name, &unix.OpenHow{
			Flags:   uint64(flags) | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		// EAGAIN: something was renamed meanwhile, so that the kernel couldn't be sure about "..".
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

// directory returns a descriptor of the directory name, which it makes, with its parents, if the layer didn't have it yet. The
// descriptor is valid until the next call.
func (u *unpacker) directory(name string) (int, error) {
	if u.parent >= 0 && u.parentName == name {
		return u.parent, nil
	}
	fd, err := u.makeDirectory(name, maxLinks)
	if err != nil {
		return -1, err
	}
	u.forget()
	u.parent, u.parentName = fd, name
	return fd, nil
}

func (u *unpacker) makeDirectory(name string, links int) (int, error) {
	fd, err := u.openIn(name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil || name == "." {
		return fd, err
	}
	if err != unix.ENOENT && err != unix.ENOTDIR {
		return -1, err
	}
	if links == 0 {
		return -1, unix.ELOOP
	}
	dir, base := path.Split(name)
	parent, err := u.makeDirectory(path.Clean(dir), links-1)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	opaque := false
	var st unix.Stat_t
	switch err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
	case err != nil:
		return -1, err
	case isWhiteout(&st):
		// The layer replaces what was there by a directory that it doesn't describe.
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return -1, err
		}
		opaque = true
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		// A link to a directory that exists, if at all, in a lower layer.
		target, err := readlinkat(parent, base)
		if err != nil {
			return -1, err
		}
		if !path.IsAbs(target) {
			target = path.Join("/", dir, target)
		}
		target = strings.TrimPrefix(path.Clean(target), "/")
		if target == "" {
			target = "."
		}
		return u.makeDirectory(target, links-1)
	default:
		return -1, unix.ENOTDIR
	}
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(parent, base, 0o755, 0); err != nil { // whatever the umask
		return -1, err
	}
	if opaque {
		if err := setXattr(parent, base, xattrOpaque, []byte("y")); err != nil {
			return -1, err
		}
	} else {
		u.implicit[name] = true
	}
	u.out.bytes += blockSize
	return u.openIn(name, unix.O_PATH|unix.O_DIRECTORY)
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// atFD names a file below a descriptor, for system calls that have no such form.
func atFD(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

func setXattr(dir int, name, attr string, value []byte) error {
	if err := unix.Lsetxattr(atFD(dir, name), attr, value, 0); err != nil {
		return fmt.Errorf("set %s: %w", attr, err)
	}
	return nil
}

func (u *unpacker) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return errorf(KindInvalid, "owner %d:%d is out of range", h.Uid, h.Gid)
	}
	at := attributes{Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid)}
	if name == "." {
		if h.Typeflag == tar.TypeDir {
			u.out.root = &at
		}
		return nil
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	parent, err := u.directory(dir)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return u.hide(parent, name, base)
	}
	opaque, merged, err := u.makeRoom(parent, name, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	// makeRoom may have removed a directory, and with it the cached descriptor.
	if parent, err = u.directory(dir); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !merged {
			if err := unix.Mkdirat(parent, base, 0o700); err != nil {
				return err
			}
		}
		delete(u.implicit, name)
		u.out.bytes += blockSize
	case tar.TypeReg:
		return u.file(ctx, parent, base, h, at, content)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.hardLink(dir, name, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		if h.Devmajor < 0 || h.Devmajor > 1<<32-1 || h.Devminor < 0 || h.Devminor > 1<<32-1 {
			return errorf(KindInvalid, "device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		if err := unix.Mknodat(parent, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	default:
		return errorf(KindInvalid, "unknown type %q of a file", h.Typeflag)
	}
	if err := unix.Fchownat(parent, base, int(at.UID), int(at.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, at.Mode, 0); err != nil {
			return err
		}
	}
	if err := setXattrs(parent, base, h); err != nil {
		return err
	}
	if opaque {
		if err := setXattr(parent, base, xattrOpaque, []byte("y")); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		u.times[name] = h.ModTime
		return nil
	}
	return utimes(parent, base, h.ModTime)
}

// makeRoom removes what this layer has at name already, unless a directory is about to be merged with a directory. opaque says
// that a whiteout was there, which a new directory must go on to be.
func (u *unpacker) makeRoom(parent int, name, base string, isDir bool) (opaque, merged bool, err error) {
	var st unix.Stat_t
	switch err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && isDir:
		return false, true, nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		if err := os.RemoveAll(atFD(parent, base)); err != nil {
			return false, false, err
		}
		delete(u.times, name)
		delete(u.implicit, name)
		u.forget()
		return false, false, nil
	default:
		return isDir && isWhiteout(&st), false, unix.Unlinkat(parent, base, 0)
	}
}

func (u *unpacker) whiteout(dir, base string) error {
	if base == whiteoutOpaque {
		if dir == "." {
			u.out.opaqueRoot = true
			return nil
		}
		parent, err := u.directory(dir)
		if err != nil {
			return err
		}
		return setXattr(parent, ".", xattrOpaque, []byte("y"))
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil // bookkeeping of aufs
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errorf(KindInvalid, "the whiteout names nothing")
	}
	parent, err := u.directory(dir)
	if err != nil {
		return err
	}
	return u.hide(parent, path.Join(dir, hidden), hidden)
}

// hide makes name's form in the lower layers invisible. What this layer itself has there stays.
func (u *unpacker) hide(parent int, name, base string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return unix.Mknodat(parent, base, unix.S_IFCHR, 0)
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		delete(u.implicit, name)
		return setXattr(parent, base, xattrOpaque, []byte("y"))
	}
	return nil
}

func (u *unpacker) file(ctx context.Context, parent int, base string, h *tar.Header, at attributes, content io.Reader) error {
	if u.out.bytes += (h.Size + blockSize - 1) / blockSize * blockSize; h.Size < 0 || u.out.bytes > u.limits.LayerBytes {
		return errorf(KindInvalid, "the layer is larger than %d bytes", u.limits.LayerBytes)
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	err = u.content(ctx, f, h, at, content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := setXattrs(parent, base, h); err != nil {
		return err
	}
	return utimes(parent, base, h.ModTime)
}

// content fills f and sets its owner and mode. Blocks of zeros become holes, so that a sparse file stays one.
func (u *unpacker) content(ctx context.Context, f *os.File, h *tar.Header, at attributes, content io.Reader) error {
	var written int64
	hole := false
	for written < h.Size {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(content, u.buf[:min(int64(len(u.buf)), h.Size-written)])
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if hole = n >= blockSize && allZero(u.buf[:n]); !hole {
			if _, err := f.WriteAt(u.buf[:n], written); err != nil {
				return err
			}
		}
		written += int64(n)
	}
	if hole {
		if err := f.Truncate(h.Size); err != nil {
			return err
		}
	}
	// The owner first: changing it clears the set-id bits.
	if err := f.Chown(int(at.UID), int(at.GID)); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), at.Mode)
}

func allZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}

func (u *unpacker) hardLink(dir, name, base, target string) error {
	target, err := clean(target)
	if err != nil {
		return err
	}
	if target == name {
		return errorf(KindInvalid, "the hard link names itself")
	}
	tdir, tbase := path.Split(target)
	from, err := u.openIn(path.Clean(tdir), unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		defer unix.Close(from)
		parent, perr := u.directory(dir)
		if perr != nil {
			return perr
		}
		err = unix.Linkat(from, tbase, parent, base, 0)
	}
	if err == unix.ENOENT || err == unix.ENOTDIR {
		u.out.links = append(u.out.links, link{name: name, target: target})
		return nil
	}
	return err
}

func (u *unpacker) setTime(name string, at time.Time) error {
	fd, err := u.openIn(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil // a later entry replaced a directory above it
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return utimes(fd, ".", at)
}

func utimes(dir int, name string, at time.Time) error {
	// The years that a time on disk can have; what is outside is as good as unknown.
	if at.Unix() < 0 || at.Unix() > 1<<33 {
		at = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// setXattrs sets the extended attributes that the archive has for a file. Those that steer overlayfs are dropped: with them, a
// layer could show a container what isn't its own. What the file system doesn't support is left out, as other runtimes do.
func setXattrs(dir int, base string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, paxXattr)
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") {
			continue
		}
		err := setXattr(dir, base, attr, []byte(v))
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}
