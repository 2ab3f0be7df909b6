package podlog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options say what of a log is wanted. The zero value is everything that is there now.
type Options struct {
	Follow     bool
	Since      time.Time
	Tail       int64 // lines from the end; -1: all
	LimitBytes int64 // -1: no limit
	Timestamps bool
	Stream     string // "stdout", "stderr" or "" for both
	// Done is closed, or nil, when the container has ended: following stops at the end of the log then.
	Done <-chan struct{}
}

// AllLines is an Options without limits.
var AllLines = Options{Tail: -1, LimitBytes: -1}

// maxLineBytes bounds a line in memory: a longer one is given out in pieces.
const maxLineBytes = 1 << 20

// stampFormat is how times are shown: with all nine digits, so that they sort.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Read writes the log at path, with its rotated predecessors, to stdout and stderr.
func Read(ctx context.Context, path string, o Options, stdout, stderr io.Writer) error {
	out := &writer{stdout: stdout, stderr: stderr, limit: o.LimitBytes, options: o}
	if o.LimitBytes == 0 || o.Tail == 0 && !o.Follow {
		return nil
	}
	var w *fsnotify.Watcher
	if o.Follow {
		var err error
		if w, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("follow %s: %w", path, err)
		}
		defer w.Close()
		// The directory is watched, because rotation replaces the file.
		if err := w.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("follow %s: %w", path, err)
		}
	}
	c, err := openCurrent(path)
	if err != nil {
		return fmt.Errorf("failed to try resolving symlinks in path %q: %w", path, err)
	}
	defer func() { c.file.Close() }()
	if err := history(c, o, out); err != nil {
		return ended(err)
	}
	r := bufio.NewReaderSize(c.file, 64<<10)
	var rest []byte // the beginning of a line that isn't complete yet
	// drain gives out what is complete up to the end of the file.
	drain := func() error {
		for {
			line, err := r.ReadSlice('\n')
			rest = append(rest, line...)
			switch {
			case err == nil || errors.Is(err, bufio.ErrBufferFull):
				if err == nil || len(rest) > maxLineBytes {
					if err := out.line(rest); err != nil {
						return err
					}
					rest = rest[:0]
				}
			case errors.Is(err, io.EOF):
				return nil
			default:
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
	}
	over := false // nothing will be written any more
	for {
		if err := drain(); err != nil {
			return ended(err)
		}
		if !o.Follow || over && !c.rotated() {
			if len(rest) > 0 {
				return ended(out.line(rest))
			}
			return nil
		}
		if c.rotated() {
			// The runtime makes the new file after its last write to the old one.
			if err := drain(); err != nil {
				return ended(err)
			}
			next, err := openCurrent(path)
			if err != nil {
				return fmt.Errorf("follow %s: %w", path, err)
			}
			between := c.missed(next)
			c.file.Close()
			c = next
			for _, p := range between {
				if err := whole(p, out); err != nil {
					return ended(err)
				}
			}
			r.Reset(c.file)
			continue
		}
		if over, err = wait(ctx, w, path, o.Done); err != nil {
			return err
		}
	}
}

var errLimit = errors.New("the limit is reached")

// ended turns the ends that aren't errors into nil.
func ended(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// wait blocks until the log may have changed, or the container has ended.
func wait(ctx context.Context, w *fsnotify.Watcher, path string, done <-chan struct{}) (over bool, _ error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-done:
			return true, nil
		case err, ok := <-w.Errors:
			if !ok {
				return true, nil
			}
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				return false, nil // so much has happened that it isn't told one by one
			}
			return false, err
		case e, ok := <-w.Events:
			if !ok {
				return true, nil
			}
			if e.Name == path {
				return false, nil
			}
		}
	}
}

// current is the file that a log is written to, and the place that it has in the row of its files.
type current struct {
	path  string
	file  *os.File
	older []string // when file was opened, oldest first
	// aside says that file had been moved aside already, and no new one made: it has a name of its own.
	aside string
}

// openCurrent opens a log's newest file. Between two looks at the directory the log may be rotated, and for a moment there is no file at path.
func openCurrent(path string) (*current, error) {
	for {
		f, err := os.Open(path)
		older := Rotated(path)
		if errors.Is(err, fs.ErrNotExist) && len(older) > 0 {
			last := older[len(older)-1]
			if f, err = os.Open(last); err == nil {
				return &current{path: path, file: f, older: older[:len(older)-1], aside: last}, nil
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was compressed, so there has been another rotation since
			}
		}
		if err != nil {
			return nil, err
		}
		c := &current{path: path, file: f, older: older}
		if c.stands() {
			return c, nil
		}
		f.Close() // it may be among the older ones
	}
}

// stands says whether the file still is at the log's path.
func (c *current) stands() bool {
	now, err := os.Stat(c.path)
	if err != nil {
		return false
	}
	have, err := c.file.Stat()
	return err == nil && os.SameFile(now, have)
}

// rotated says whether there is a newer file. One look tells: of two, a rotation could come between, and this file would be
// taken for its own successor.
func (c *current) rotated() bool {
	now, err := os.Stat(c.path)
	if err != nil {
		return false
	}
	have, err := c.file.Stat()
	return err == nil && !os.SameFile(now, have)
}

// missed are the files that were begun after this one and moved aside before next.
func (c *current) missed(next *current) []string {
	self := stampOf(c.aside)
	if self == "" {
		// The first that came after the ones that were there is this one.
		last := ""
		if len(c.older) > 0 {
			last = stampOf(c.older[len(c.older)-1])
		}
		for _, p := range next.older {
			if stamp := stampOf(p); stamp > last {
				self = stamp
				break
			}
		}
	}
	var out []string
	for _, p := range next.older {
		if stampOf(p) > self {
			out = append(out, p)
		}
	}
	return out
}

// stampOf is a rotated file's name without what compression appends.
func stampOf(path string) string { return strings.TrimSuffix(path, ".gz") }

// history deals with what lies before the place in the file to read on from: rotated files and the tail. It leaves the file there.
func history(c *current, o Options, out *writer) error {
	if o.Tail < 0 {
		for _, p := range c.older {
			if err := whole(p, out); err != nil {
				return err
			}
		}
		return nil
	}
	offset, found, err := tailOffset(c.file, o)
	if err != nil {
		return err
	}
	if missing := o.Tail - found; missing > 0 {
		var kept [][]byte
		for i := len(c.older) - 1; i >= 0 && missing > 0; i-- {
			lines, n, err := lastLines(c.older[i], missing, o)
			if err != nil {
				return err
			}
			missing -= n
			kept = append(lines, kept...)
		}
		for _, l := range kept {
			if err := out.line(l); err != nil {
				return err
			}
		}
	}
	_, err = c.file.Seek(offset, io.SeekStart)
	return err
}

// counts tells whether a raw line counts as one of a tail: full lines of the wanted stream, and what the log ends with.
func counts(line []byte, o Options, end bool) bool {
	l, err := Parse(line)
	return err == nil && (!l.Part || end) && (o.Stream == "" || l.Stream == o.Stream)
}

// tailOffset finds where the last o.Tail lines of f begin, reading backwards in blocks.
func tailOffset(f *os.File, o Options) (offset, found int64, _ error) {
	const block = 64 << 10
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	if o.Tail == 0 {
		return end, 0, nil
	}
	var tail []byte // what has been read so far, from pos to the first line that was counted
	pos := end
	lineEnd := end
	for pos > 0 {
		n := min(int64(block), pos)
		pos -= n
		buf := make([]byte, n)
		if _, err := f.ReadAt(buf, pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		tail = append(buf, tail...)
		for {
			// The last complete line in tail ends at lineEnd.
			body := tail[:lineEnd-pos]
			trimmed := bytes.TrimSuffix(body, []byte{'\n'})
			i := bytes.LastIndexByte(trimmed, '\n')
			if i < 0 {
				if pos > 0 {
					break // the line begins in an earlier block
				}
				if len(trimmed) > 0 && counts(trimmed, o, lineEnd == end) {
					if found == o.Tail {
						return lineEnd, found, nil
					}
					found++
				}
				return 0, found, nil
			}
			begin := pos + int64(i) + 1
			if counts(body[i+1:], o, lineEnd == end) {
				if found == o.Tail {
					return lineEnd, found, nil
				}
				found++
			}
			lineEnd = begin
			tail = tail[:begin-pos]
		}
	}
	return 0, found, nil
}

// lastLines are the last n lines of an older file.
func lastLines(path string, n int64, o Options) (lines [][]byte, found int64, err error) {
	err = eachLine(path, func(line []byte) error {
		lines = append(lines, bytes.Clone(line))
		if counts(line, o, false) {
			found++
		}
		for found > n {
			if counts(lines[0], o, false) {
				found--
			}
			lines = lines[1:]
		}
		return nil
	})
	return lines, found, err
}

func whole(path string, out *writer) error { return eachLine(path, out.line) }

// eachLine calls f for every line of a log file that may be compressed. The line is valid during the call only.
func eachLine(path string, f func([]byte) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(path, ".gz") {
		path += ".gz" // compressed meanwhile
		file, err = os.Open(path)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // rotated away meanwhile
		}
		return err
	}
	defer file.Close()
	var in io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		defer z.Close()
		in = z
	}
	r := bufio.NewReaderSize(in, 64<<10)
	var rest []byte
	for {
		line, err := r.ReadSlice('\n')
		rest = append(rest, line...)
		switch {
		case err == nil || len(rest) > maxLineBytes:
			if err := f(rest); err != nil {
				return err
			}
			rest = rest[:0]
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			if len(rest) > 0 {
				return f(rest)
			}
			return nil
		default:
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// Rotated lists the older files of a log, oldest first: <path>.<time>[.gz].
func Rotated(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	prefix := filepath.Base(path) + "."
	var out []string
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, ".tmp") {
			out = append(out, filepath.Join(filepath.Dir(path), name))
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(stampOf(a), stampOf(b)) })
	return slices.CompactFunc(out, func(a, b string) bool { return stampOf(a) == stampOf(b) })
}

// writer gives out lines as the options want them.
type writer struct {
	stdout, stderr io.Writer
	limit          int64 // bytes left; -1: no limit
	options        Options
	open           map[string]bool // streams in the middle of a line
	buf            []byte
}

func (w *writer) line(raw []byte) error {
	l, err := Parse(raw)
	if err != nil {
		return nil // not ours to show: a line that was cut by a crash
	}
	if w.options.Stream != "" && l.Stream != w.options.Stream || !w.options.Since.IsZero() && l.Time.Before(w.options.Since) {
		return nil
	}
	out := w.stdout
	if l.Stream == "stderr" {
		out = w.stderr
	}
	w.buf = w.buf[:0]
	if w.options.Timestamps && !w.open[l.Stream] {
		w.buf = l.Time.AppendFormat(w.buf, stampFormat)
		w.buf = append(w.buf, ' ')
	}
	w.buf = append(w.buf, l.Text...)
	if l.Part {
		if w.open == nil {
			w.open = map[string]bool{}
		}
		w.open[l.Stream] = true
	} else {
		delete(w.open, l.Stream)
		if n := len(w.buf); n == 0 || w.buf[n-1] != '\n' {
			w.buf = append(w.buf, '\n')
		}
	}
	if out == nil {
		return nil
	}
	data := w.buf
	if w.limit >= 0 && int64(len(data)) > w.limit {
		data = data[:w.limit]
	}
	if _, err := out.Write(data); err != nil {
		return err
	}
	if w.limit >= 0 {
		if w.limit -= int64(len(data)); w.limit <= 0 {
			return errLimit
		}
	}
	return nil
}

// LastWords is the end of a log, for the message of a container that said nothing else: at most lines and bytes.
func LastWords(path string, lines int64, bytesMax int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	offset, _, err := tailOffset(f, Options{Tail: lines})
	if err != nil {
		return ""
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return ""
	}
	var out bytes.Buffer
	w := &writer{stdout: &out, stderr: &out, limit: -1}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 && w.line(line) != nil {
			break
		}
		if err != nil {
			break
		}
	}
	b := out.Bytes()
	if len(b) > bytesMax {
		b = b[len(b)-bytesMax:]
	}
	return string(b)
}
