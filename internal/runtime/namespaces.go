package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pinned are the namespaces of a sandbox that are kept alive by a file each,
// with no process in them.
type pinned struct {
	net, ipc, uts bool
}

func (p pinned) each(f func(name string, flag int) error) error {
	for _, ns := range []struct {
		want bool
		name string
		flag int
	}{{p.net, "net", unix.CLONE_NEWNET}, {p.ipc, "ipc", unix.CLONE_NEWIPC}, {p.uts, "uts", unix.CLONE_NEWUTS}} {
		if ns.want {
			if err := f(ns.name, ns.flag); err != nil {
				return err
			}
		}
	}
	return nil
}

// pinNamespaces makes new namespaces and binds each to a file in dir. It sets
// what belongs to them: the hostname, the loopback interface and sysctls.
func pinNamespaces(dir string, p pinned, hostname string, sysctls map[string]string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return onOwnThread(func() error {
		flags := 0
		_ = p.each(func(_ string, flag int) error { flags |= flag; return nil })
		if err := unix.Unshare(flags); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if p.uts {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("setting the hostname %q: %w", hostname, err)
			}
		}
		if p.net {
			if err := loopbackUp(); err != nil {
				return fmt.Errorf("setting up the loopback interface: %w", err)
			}
		}
		for name, value := range sysctls {
			if err := writeSysctl(name, value); err != nil {
				return err
			}
		}
		task := "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/"
		return p.each(func(name string, _ int) error {
			file := filepath.Join(dir, name)
			f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
			if err != nil {
				return err
			}
			_ = f.Close()
			if err := unix.Mount(task+name, file, "", unix.MS_BIND, ""); err != nil {
				return &os.PathError{Op: "pin namespace", Path: file, Err: err}
			}
			return nil
		})
	})
}

// unpinNamespaces lets go of what pinNamespaces made. The kernel removes a
// namespace when nothing uses it any more.
func unpinNamespaces(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		if err := unmount(file); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// pinPID keeps the process namespace of a process.
func pinPID(dir string, pid int) (string, error) {
	file := filepath.Join(dir, "pid")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return "", err
	}
	_ = f.Close()
	if err := unix.Mount("/proc/"+strconv.Itoa(pid)+"/ns/pid", file, "", unix.MS_BIND, ""); err != nil {
		return "", &os.PathError{Op: "pin namespace", Path: file, Err: err}
	}
	return file, nil
}

// unmount removes every mount at a path. It is no error if there is none.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		}
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
}

// insideNamespace calls f on a thread that is in the network namespace at path.
func insideNamespace(path string, f func() error) error {
	return onOwnThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread that ends with it, so that nobody else ever
// runs in what f has changed. That is never the main thread: /proc/self shows
// its namespaces to the world, and it cannot end.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			inner := make(chan error, 1)
			go func() { inner <- onOwnThread(f) }() // the main thread is taken by us now
			done <- <-inner
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return os.NewSyscallError("SIOCGIFFLAGS", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}

// sysctlAllowed tells whether a sysctl belongs to a namespace that the sandbox
// has of its own; any other would change the machine.
func sysctlAllowed(name string, p pinned) error {
	key := sysctlPath(name)
	switch {
	case strings.Contains(name, ".."), strings.Contains(key, ".."):
	case strings.HasPrefix(key, "net/"):
		if p.net {
			return nil
		}
		return fmt.Errorf("sysctl %q is not allowed with the host's network", name)
	case strings.HasPrefix(key, "fs/mqueue/"), strings.HasPrefix(key, "kernel/shm"), strings.HasPrefix(key, "kernel/msg"), key == "kernel/sem":
		if p.ipc {
			return nil
		}
		return fmt.Errorf("sysctl %q is not allowed with the host's IPC", name)
	case key == "kernel/domainname" && p.uts:
		return nil
	}
	return fmt.Errorf("sysctl %q is not namespaced", name)
}

// sysctlPath turns "net.ipv4.conf.eth0/1.x" or "net/ipv4/..." into a path below
// /proc/sys, as sysctl.d(5) does: the first separator decides.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func writeSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", sysctlPath(name))
	// Not with O_CREATE or O_TRUNC: these are the kernel's files.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("setting sysctl %s: %w", name, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("setting sysctl %s to %q: %w", name, value, err)
	}
	return nil
}
