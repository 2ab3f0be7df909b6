package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stdout is the path that stands for the standard output.
const Stdout = "-"

// backupTime is how the time of a file that is full goes into its name; it sorts.
const backupTime = "2006-01-02T15-04-05.000"

// LogOptions bound a log. Zero values are no bounds.
type LogOptions struct {
	// MaxAge is how long full files are kept, MaxBackups how many.
	MaxAge     time.Duration
	MaxBackups int
	// MaxBytes is the size at which a file is full.
	MaxBytes int64
}

// Log is a file of events. When it is full it is given a name with the time, and begun again. Safe for concurrent use.
type Log struct {
	path string
	o    LogOptions
	now  func() time.Time

	mu   sync.Mutex // guards file, size
	file io.WriteCloser
	size int64
}

// OpenLog opens a log for appending, or the standard output for the path "-".
func OpenLog(path string, o LogOptions, now func() time.Time) (*Log, error) {
	l := &Log{path: path, o: o, now: now}
	if path == Stdout {
		l.file = keepOpen{os.Stdout}
		l.o.MaxBytes = 0
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// keepOpen is a writer that is not ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write appends a line. It returns when the system has it.
func (l *Log) Write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil { // turning it failed, or it was closed
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.o.MaxBytes > 0 && l.size > 0 && l.size+int64(len(line)) > l.o.MaxBytes {
		if err := l.turn(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// turn begins a new file and removes old ones.
func (l *Log) turn() error {
	err := l.file.Close()
	l.file = nil
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	ext := filepath.Ext(l.path)
	base := strings.TrimSuffix(l.path, ext)
	name := base + "-" + l.now().UTC().Format(backupTime) + ext
	for i := 1; exists(name); i++ {
		name = fmt.Sprintf("%s-%s.%d%s", base, l.now().UTC().Format(backupTime), i, ext)
	}
	if err := os.Rename(l.path, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit log: %w", err)
	}
	if err := l.open(); err != nil {
		return err
	}
	return l.prune()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// prune removes full files that are too many or too old.
func (l *Log) prune() error {
	ext := filepath.Ext(l.path)
	prefix := strings.TrimSuffix(filepath.Base(l.path), ext) + "-"
	entries, err := os.ReadDir(filepath.Dir(l.path))
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	type backup struct {
		name string
		at   time.Time
	}
	var all []backup
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || !strings.HasSuffix(rest, ext) || len(rest) < len(backupTime) {
			continue
		}
		if at, err := time.Parse(backupTime, rest[:len(backupTime)]); err == nil {
			all = append(all, backup{e.Name(), at})
		}
	}
	slices.SortFunc(all, func(a, b backup) int { return strings.Compare(b.name, a.name) }) // the newest first
	var errs []error
	for i, b := range all {
		if l.o.MaxBackups > 0 && i >= l.o.MaxBackups || l.o.MaxAge > 0 && l.now().Sub(b.at) > l.o.MaxAge {
			errs = append(errs, os.Remove(filepath.Join(filepath.Dir(l.path), b.name)))
		}
	}
	return errors.Join(errs...)
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
