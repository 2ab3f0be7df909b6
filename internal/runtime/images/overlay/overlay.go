package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount mounts an overlay at target: lower are the read-only directories, topmost first; upper and work (both or neither)
// make it writable. A single layer that isn't to be written to needs no overlay and is bound read-only instead. flags are mount(2) flags that the mount point gets (unix.MS_NODEV and so on).
//
// Layers are given to the kernel one by one (fsconfig "lowerdir+", Linux 6.7), so that their number and the length of their paths
// are no concern; older kernels get one option string, in which the layers go by descriptor if it would be too long otherwise.
func Mount(target string, lower []string, upper, work string, flags uintptr) error {
	if len(lower) == 0 {
		return errors.New("overlay: no lower directory")
	}
	if (upper == "") != (work == "") {
		return errors.New("overlay: upper and work directory belong together")
	}
	if len(lower) == 1 && upper == "" {
		return bind(lower[0], target, flags)
	}
	err := mountNew(target, lower, upper, work, flags)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, errNoAppend) {
		return mountOld(target, lower, upper, work, flags)
	}
	return err
}

// bind mounts a directory read-only.
func bind(dir, target string, flags uintptr) error {
	if err := unix.Mount(dir, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("overlay: bind %s to %s: %w", dir, target, err)
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return errors.Join(fmt.Errorf("overlay: make %s read-only: %w", target, err), unix.Unmount(target, unix.MNT_DETACH))
	}
	return nil
}

// errNoAppend says that the kernel knows fsopen but not overlay's "lowerdir+".
var errNoAppend = errors.New("overlay: the kernel doesn't take layers one by one")

func mountNew(target string, lower []string, upper, work string, flags uintptr) error {
	mnt, err := newMount(lower, upper, work, flags)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("overlay: mount on %s: %w", target, err)
	}
	return nil
}

// newMount makes an overlay that is mounted nowhere yet.
func newMount(lower []string, upper, work string, flags uintptr) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlay: fsopen: %w", err)
	}
	defer unix.Close(fs)
	for i, l := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) {
				return -1, errNoAppend
			}
			return -1, fmt.Errorf("overlay: layer %s: %w", l, err)
		}
	}
	if upper != "" {
		if err := unix.FsconfigSetString(fs, "upperdir", upper); err != nil {
			return -1, fmt.Errorf("overlay: upper directory %s: %w", upper, err)
		}
		if err := unix.FsconfigSetString(fs, "workdir", work); err != nil {
			return -1, fmt.Errorf("overlay: work directory %s: %w", work, err)
		}
	}
	if err := unix.FsconfigSetString(fs, "source", "overlay"); err != nil {
		return -1, fmt.Errorf("overlay: source: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		if errors.Is(err, unix.EINVAL) {
			// Before Linux 6.5 overlayfs took any option here and looked at them only now. mount(2) will tell if it is something else.
			return -1, errNoAppend
		}
		return -1, fmt.Errorf("overlay: create: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes(flags))
	if err != nil {
		return -1, fmt.Errorf("overlay: fsmount: %w", err)
	}
	return mnt, nil
}

// attributes translates mount(2) flags to those of fsmount(2).
func attributes(flags uintptr) int {
	var a int
	for _, p := range [...]struct {
		flag uintptr
		attr int
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
	} {
		if flags&p.flag != 0 {
			a |= p.attr
		}
	}
	return a
}

// mountOld uses mount(2), whose options must fit into one page.
func mountOld(target string, lower []string, upper, work string, flags uintptr) error {
	tail := ""
	if upper != "" {
		tail = ",upperdir=" + escape(upper, ",") + ",workdir=" + escape(work, ",")
	}
	names := make([]string, len(lower))
	for i, l := range lower {
		names[i] = escape(l, ",:")
	}
	data := "lowerdir=" + strings.Join(names, ":") + tail
	if len(data) >= unix.Getpagesize() {
		// Descriptors have short names. The writable directory keeps its own, because the mount table shows it.
		for i, l := range lower {
			fd, err := unix.Open(l, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
			if err != nil {
				return fmt.Errorf("overlay: %s: %w", l, err)
			}
			defer unix.Close(fd)
			names[i] = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
		data = "lowerdir=" + strings.Join(names, ":") + tail
	}
	if len(data) >= unix.Getpagesize() {
		return fmt.Errorf("overlay: %d layers are more than this kernel mounts at once", len(lower))
	}
	if err := unix.Mount("overlay", target, "overlay", flags, data); err != nil {
		return fmt.Errorf("overlay: mount on %s: %w", target, err)
	}
	return nil
}

// escape writes a path so that overlayfs reads it as one: what separates options and layers gets a backslash.
func escape(path, separators string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c == '\\' || strings.IndexByte(separators, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// View returns a descriptor of the merged, read-only view of the layers lower, topmost first, without mounting it anywhere. The caller
// closes it.
func View(lower []string) (int, error) {
	switch len(lower) {
	case 0:
		return -1, errors.New("overlay: no lower directory")
	case 1: // overlayfs wants two at least
		fd, err := unix.Open(lower[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("overlay: %s: %w", lower[0], err)
		}
		return fd, nil
	}
	fd, err := newMount(lower, "", "", unix.MS_RDONLY)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, errNoAppend) {
		return fd, err
	}
	dir, err := os.MkdirTemp("", "overlay")
	if err != nil {
		return -1, fmt.Errorf("overlay: %w", err)
	}
	defer os.Remove(dir)
	if err := mountOld(dir, lower, "", "", unix.MS_RDONLY); err != nil {
		return -1, err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("overlay: %s: %w", dir, err)
	}
	return fd, nil
}
