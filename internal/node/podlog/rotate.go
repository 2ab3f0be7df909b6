package podlog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/atomicfile"
)

// checkEvery is the least time between two looks at the size of a log that is being written.
const checkEvery = time.Second

// rotatedStamp names rotated files so that they sort by time.
const rotatedStamp = "20060102-150405.000000000"

// Rotator renames logs that have grown over a limit and tells the runtime to begin a new file. The kernel tells when a
// log is written; logs that are quiet cost nothing.
type Rotator struct {
	maxBytes int64
	maxFiles int
	clock    clock.Clock
	log      *slog.Logger
	reopen   func(ctx context.Context, containerID string) error

	mu      sync.Mutex
	watcher *fsnotify.Watcher // nil until the first log
	logs    map[string]string // container id -> path
	paths   map[string]string // path -> container id
	dirs    map[string]int    // watched directories and how many logs are in them
	changed chan struct{}
}

// NewRotator makes a Rotator; a negative maxBytes lets logs grow. reopen makes the runtime open the log's path anew.
func NewRotator(maxBytes int64, maxFiles int, c clock.Clock, log *slog.Logger, reopen func(ctx context.Context, containerID string) error) *Rotator {
	return &Rotator{
		maxBytes: maxBytes, maxFiles: max(maxFiles, 2), clock: c, log: log, reopen: reopen,
		logs: map[string]string{}, paths: map[string]string{}, dirs: map[string]int{}, changed: make(chan struct{}, 1),
	}
}

// Follow begins to watch a running container's log.
func (r *Rotator) Follow(id, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.logs[id]; ok || path == "" || r.maxBytes < 0 {
		return
	}
	if r.watcher == nil {
		w, err := fsnotify.NewWatcher()
		if err != nil {
			r.log.Warn("logs are not rotated: cannot watch files", "error", err)
			return
		}
		r.watcher = w
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	dir := filepath.Dir(path)
	if r.dirs[dir] == 0 {
		if err := r.watcher.Add(dir); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.log.Warn("a log is not rotated: cannot watch it", "path", path, "error", err)
			}
			return
		}
	}
	r.dirs[dir]++
	r.logs[id] = path
	r.paths[path] = id
}

// Forget ends the watch of a container's log.
func (r *Rotator) Forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, ok := r.logs[id]
	if !ok {
		return
	}
	delete(r.logs, id)
	delete(r.paths, path)
	dir := filepath.Dir(path)
	if r.dirs[dir]--; r.dirs[dir] <= 0 {
		delete(r.dirs, dir)
		_ = r.watcher.Remove(dir)
	}
}

// Run rotates until ctx ends.
func (r *Rotator) Run(ctx context.Context) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.watcher != nil {
			r.watcher.Close()
		}
	}()
	written := map[string]bool{} // logs that grew since the last look
	var timer clock.Timer
	var due <-chan time.Time
	for {
		r.mu.Lock()
		w := r.watcher
		r.mu.Unlock()
		var events chan fsnotify.Event
		var errs chan error
		if w != nil {
			events, errs = w.Events, w.Errors
		}
		select {
		case <-ctx.Done():
			if timer != nil {
				timer.Stop()
			}
			return
		case <-r.changed:
		case err := <-errs:
			r.log.Debug("watching logs", "error", err)
		case e := <-events:
			if !e.Has(fsnotify.Write) {
				continue
			}
			written[e.Name] = true
			if due == nil {
				timer = r.clock.NewTimer(checkEvery)
				due = timer.C()
			}
		case <-due:
			due = nil
			for path := range written {
				r.check(ctx, path)
			}
			clear(written)
		}
	}
}

func (r *Rotator) check(ctx context.Context, path string) {
	r.mu.Lock()
	id, ok := r.paths[path]
	r.mu.Unlock()
	if !ok {
		return
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() < r.maxBytes {
		return
	}
	if err := r.rotate(ctx, id, path); err != nil {
		r.log.Warn("cannot rotate a log", "path", path, "error", err)
	}
}

// rotate moves the log aside. The newest rotated file stays uncompressed, because the runtime may still be writing its
// last lines and followers read it to its end.
func (r *Rotator) rotate(ctx context.Context, id, path string) error {
	old := Rotated(path)
	for i := range old {
		if filepath.Ext(old[i]) == ".gz" {
			continue
		}
		if err := compress(old[i]); err != nil {
			return err
		}
		old[i] += ".gz"
	}
	// The file in use and the one to come count as well.
	for len(old) > r.maxFiles-2 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	aside := path + "." + r.clock.Now().UTC().Format(rotatedStamp)
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := r.reopen(ctx, id); err != nil {
		// The runtime writes to the old file still: give it its name back.
		return errors.Join(fmt.Errorf("reopen: %w", err), os.Rename(aside, path))
	}
	return nil
}

func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := atomicfile.Create(path+".gz", 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close()); err == nil {
		err = out.Place(atomicfile.Unsynced)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Remove(path)
}
