package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is one file of a volume that is made of objects.
type File struct {
	Data []byte
	Mode os.FileMode
	UID  *int64 // owner; nil: root
}

// Payload is what a volume contains, by path relative to the volume.
type Payload map[string]File

// dataLink points at the directory with the current files; all visible names point through it.
const dataLink = "..data"

// checkPath refuses paths that could leave the volume or collide with its own names.
func checkPath(p string) error {
	switch {
	case p == "", filepath.IsAbs(p):
		return fmt.Errorf("invalid path %q: must be relative and not empty", p)
	case len(p) > 4096:
		return errors.New("invalid path: longer than 4096 bytes")
	case strings.HasPrefix(p, ".."):
		return fmt.Errorf("invalid path %q: must not begin with '..'", p)
	}
	for _, part := range strings.Split(p, "/") {
		if part == ".." || len(part) > 255 {
			return fmt.Errorf("invalid path %q", p)
		}
	}
	return nil
}

// writeAtomic makes dir contain exactly the payload. Readers see all of the old files or all of the new ones. gid owns
// everything if it isn't nil. It reports whether anything changed.
func writeAtomic(dir string, payload Payload, gid *int64) (bool, error) {
	clean := make(Payload, len(payload))
	for p, f := range payload {
		if err := checkPath(p); err != nil {
			return false, err
		}
		clean[filepath.Clean(p)] = f
	}
	link := filepath.Join(dir, dataLink)
	old, err := os.Readlink(link)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && same(filepath.Join(dir, old), clean) {
		return false, showNames(dir, clean)
	}
	fresh, err := os.MkdirTemp(dir, "..celox_")
	if err != nil {
		return false, err
	}
	keep := false
	defer func() {
		if !keep {
			os.RemoveAll(fresh)
		}
	}()
	if err := writeFiles(fresh, clean, gid); err != nil {
		return false, err
	}
	tmp := filepath.Join(dir, dataLink+"_tmp")
	_ = os.Remove(tmp)
	if err := os.Symlink(filepath.Base(fresh), tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, link); err != nil {
		return false, err
	}
	keep = true
	if err := showNames(dir, clean); err != nil {
		return true, err
	}
	if old != "" && strings.HasPrefix(old, "..") && !strings.Contains(old, "/") {
		return true, os.RemoveAll(filepath.Join(dir, old))
	}
	return true, nil
}

func writeFiles(fresh string, payload Payload, gid *int64) error {
	dirMode := os.FileMode(0o755)
	group := -1
	if gid != nil {
		dirMode |= os.ModeSetgid
		group = int(*gid)
	}
	own := func(p string, mode os.FileMode, uid *int64) error {
		user := -1
		if uid != nil {
			user = int(*uid)
		}
		if user >= 0 || group >= 0 {
			if err := os.Lchown(p, user, group); err != nil {
				return err
			}
		}
		return os.Chmod(p, mode)
	}
	if err := own(fresh, dirMode, nil); err != nil {
		return err
	}
	made := map[string]bool{".": true}
	for p, f := range payload {
		for d := filepath.Dir(p); !made[d]; d = filepath.Dir(d) {
			if err := os.MkdirAll(filepath.Join(fresh, d), 0o755); err != nil {
				return err
			}
			if err := own(filepath.Join(fresh, d), dirMode, nil); err != nil {
				return err
			}
			made[d] = true
		}
		full := filepath.Join(fresh, p)
		if err := os.WriteFile(full, f.Data, 0o600); err != nil {
			return err
		}
		if err := own(full, f.Mode, f.UID); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether the directory holds the payload already.
func same(dir string, payload Payload) bool {
	count := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, ok := payload[rel]
		if !ok {
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.Data) || info.Mode().Perm() != f.Mode.Perm() {
			return fs.SkipAll
		}
		count++
		return nil
	})
	return err == nil && count == len(payload) && exact(dir, payload)
}

// exact tells that the directory holds no file besides the payload's.
func exact(dir string, payload Payload) bool {
	n := 0
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n == len(payload)
}

// showNames makes the visible names: a symbolic link for the first part of every path, and no others.
func showNames(dir string, payload Payload) error {
	want := map[string]bool{}
	for p := range payload {
		first, _, _ := strings.Cut(p, "/")
		want[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if want[e.Name()] {
			delete(want, e.Name())
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name := range want {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
