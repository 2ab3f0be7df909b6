package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a file must have been left alone before it is read: who writes it may not do so at once.
	settle = 100 * time.Millisecond
	// maxLinks bounds a chain of symbolic links, as the kernel does.
	maxLinks = 40
)

// WatchFile calls changed when the content of a file may be another, until ctx ends. The file may be written to, replaced, or be a symbolic link (to
// one, and so on) of which any part is; it need not exist.
func WatchFile(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer func() { _ = w.Close() }() // nothing was written
	var chain []string
	follow := func() error {
		for {
			was, dirs := links(path)
			for _, old := range w.WatchList() {
				if !slices.Contains(dirs, old) {
					_ = w.Remove(old) // it may have gone by itself
				}
			}
			for _, d := range dirs {
				if err := w.Add(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("watch %s: %w", path, err)
				}
			}
			// What came before it was watched is seen now.
			if chain, _ = links(path); slices.Equal(chain, was) {
				return nil
			}
		}
	}
	if err := follow(); err != nil {
		return err
	}
	quiet := time.NewTimer(0) // what happened before we watched
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if !slices.Contains(chain, e.Name) {
				continue
			}
			quiet.Reset(settle)
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", path, err)
			}
			quiet.Reset(settle)
		case <-quiet.C:
			if err := follow(); err != nil {
				return err
			}
			changed()
		}
	}
}

// links are the names on the way from a path to its file, and the directories in which they come and go. Of one that doesn't exist it is the next above, and
// the name in that.
func links(path string) (chain, dirs []string) {
	add := func(name string) string {
		dir := filepath.Dir(name)
		for {
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				name = filepath.Join(real, filepath.Base(name))
				chain, dirs = append(chain, name), append(dirs, real)
				return name
			}
			if dir == filepath.Dir(dir) {
				return name
			}
			name, dir = dir, filepath.Dir(dir)
		}
	}
	for range maxLinks {
		path = add(path)
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	slices.Sort(dirs)
	return chain, slices.Compact(dirs)
}
