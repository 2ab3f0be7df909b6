package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sync says what is left of a file when the machine loses its power.
type Sync int

const (
	// Unsynced files may be anything then: old, new, cut short or empty. It is for what is of no use after a boot, or can be made again, and is read with
	// that in mind.
	Unsynced Sync = iota
	// Synced files are the old ones or the new ones.
	Synced
	// Durable files are the new ones, once the function has returned.
	Durable
)

const (
	// prefix and suffix are around the name of a file while it is written.
	prefix = "."
	suffix = ".new"
)

// Leftover says whether a file's name is that of one that was not finished.
func Leftover(name string) bool {
	return strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
}

// Write replaces the file at path, or makes it, in a directory that is there. The file has exactly that mode from its first byte on, whatever the umask.
func Write(path string, data []byte, mode fs.FileMode, sync Sync) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Place(sync)
	}
	return errors.Join(err, f.Close())
}

// File is a file that does not have its name yet. It is for who has more to do than [Write] does; one goroutine at a time may use it.
type File struct {
	*os.File
	path   string
	placed bool
}

// Create begins a file that is to have the name path. Close must follow. Another writer of the same path waits until then, or until the file has its name.
func Create(path string, mode fs.FileMode) (*File, error) {
	for {
		f, err := os.OpenFile(unfinished(path), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		own, err := take(f)
		if err == nil && !own {
			_ = f.Close() // it has become the file of whoever we waited for
			continue
		}
		out := &File{File: f, path: path, placed: !own} // what is somebody else's is not removed
		if err == nil {
			err = errors.Join(f.Truncate(0), f.Chmod(mode)) // it may be a leftover
		}
		if err != nil {
			return nil, errors.Join(err, out.Close())
		}
		return out, nil
	}
}

// Place gives the file its name. It may be written to afterwards.
func (f *File) Place(sync Sync) error {
	if sync >= Synced {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), f.path); err != nil {
		return err
	}
	f.placed = true
	if sync >= Durable {
		return SyncDir(filepath.Dir(f.path))
	}
	return nil
}

// Close ends the writing. A file without its name is removed.
func (f *File) Close() error {
	if !f.placed {
		f.placed = true
		return errors.Join(os.Remove(f.Name()), f.File.Close()) // in this order: it is nobody else's before
	}
	return f.File.Close()
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// unfinished is the name of a file while it is written.
func unfinished(path string) string {
	return filepath.Join(filepath.Dir(path), prefix+filepath.Base(path)+suffix)
}

// take waits until nobody else writes to an unfinished file. It returns false if the file is not unfinished any more.
func take(f *os.File) (own bool, err error) {
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	// Where a file system has no locks, writers cannot wait for each other.
	if err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return false, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(have, there), nil
}
