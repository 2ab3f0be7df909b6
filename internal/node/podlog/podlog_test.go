package podlog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/utils/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var base = time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)

func stamp(i int) string { return base.Add(time.Duration(i) * time.Second).Format(time.RFC3339Nano) }

func raw(i int, stream, tag, text string) string {
	return stamp(i) + " " + stream + " " + tag + " " + text + "\n"
}

func TestParse(t *testing.T) {
	l, err := Parse([]byte(raw(0, "stdout", "F", "hello world")))
	if err != nil || l.Stream != "stdout" || l.Part || string(l.Text) != "hello world\n" || !l.Time.Equal(base) {
		t.Errorf("%+v, %v", l, err)
	}
	l, err = Parse([]byte(raw(0, "stderr", "P:x", "half")))
	if err != nil || l.Stream != "stderr" || !l.Part || string(l.Text) != "half" {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"", "x", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z stdout", "2026-01-02T03:04:05Z stdin F x", "2026-01-02T03:04:05Z stdout X x", "nope stdout F x"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{raw(0, "stdout", "F", "a"), raw(1, "stderr", "P", ""), "", "2026-01-02T03:04:05Z stdout F", "\x00 \n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		if l.Stream != "stdout" && l.Stream != "stderr" {
			t.Errorf("stream %q", l.Stream)
		}
		if l.Part && bytes.HasSuffix(l.Text, []byte("\n")) && !bytes.HasSuffix(data, []byte("\n\n")) {
			t.Errorf("a part ends with a newline: %q", data)
		}
		if !bytes.HasSuffix(data, l.Text) && !bytes.HasSuffix(bytes.TrimSuffix(data, []byte("\n")), l.Text) {
			t.Errorf("the text %q isn't the end of %q", l.Text, data)
		}
	})
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Join(lines, "")); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string, o Options) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if err := Read(context.Background(), path, o, &out, &errs); err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String()
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path+".20260102-030000.000000000", raw(-2, "stdout", "F", "old1"), raw(-1, "stdout", "F", "old2"))
	if err := compress(path + ".20260102-030000.000000000"); err != nil {
		t.Fatal(err)
	}
	write(t, path, raw(0, "stdout", "F", "one"), raw(1, "stderr", "F", "two"), raw(2, "stdout", "P", "thr"), raw(3, "stdout", "F", "ee"), "garbage\n", raw(4, "stdout", "F", "four"))
	with := func(edit func(*Options)) Options {
		o := AllLines
		edit(&o)
		return o
	}
	tests := []struct {
		name        string
		o           Options
		out, errout string
	}{
		{"all", AllLines, "old1\nold2\none\nthree\nfour\n", "two\n"},
		{"since", with(func(o *Options) { o.Since = base.Add(time.Second) }), "three\nfour\n", "two\n"},
		{"stream", with(func(o *Options) { o.Stream = "stderr" }), "", "two\n"},
		{"limit", with(func(o *Options) { o.LimitBytes = 12 }), "old1\nold2\non", ""},
		{"tail 0", with(func(o *Options) { o.Tail = 0 }), "", ""},
		{"tail 1", with(func(o *Options) { o.Tail = 1 }), "four\n", ""},
		{"tail 2", with(func(o *Options) { o.Tail = 2 }), "three\nfour\n", ""},
		{"tail 3", with(func(o *Options) { o.Tail = 3 }), "three\nfour\n", "two\n"},
		{"tail 5 reaches the older file", with(func(o *Options) { o.Tail = 5 }), "old2\none\nthree\nfour\n", "two\n"},
		{"tail 100", with(func(o *Options) { o.Tail = 100 }), "old1\nold2\none\nthree\nfour\n", "two\n"},
		{"tail of a stream", with(func(o *Options) { o.Tail = 2; o.Stream = "stdout" }), "three\nfour\n", ""},
		{"timestamps", with(func(o *Options) { o.Tail = 2; o.Timestamps = true }),
			"2026-01-02T03:04:07.123456789Z three\n2026-01-02T03:04:09.123456789Z four\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errout := read(t, path, tt.o)
			if out != tt.out || errout != tt.errout {
				t.Errorf("stdout %q, stderr %q", out, errout)
			}
		})
	}
	if got := LastWords(path, 2, 100); got != "three\nfour\n" {
		t.Errorf("last words %q", got)
	}
	if got := LastWords(path, 80, 6); got != "\nfour\n" {
		t.Errorf("last words %q", got)
	}
}

// What a container wrote last may lack its newline: it is a line of the tail, and shown as it is.
func TestUnfinishedLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, raw(0, "stdout", "F", "one"), raw(1, "stdout", "F", "two"), raw(2, "stdout", "P", "DO"), raw(3, "stdout", "P", "NE"))
	for n, want := range map[int64]string{-1: "one\ntwo\nDONE", 1: "DONE", 2: "two\nDONE", 3: "one\ntwo\nDONE"} {
		o := AllLines
		o.Tail = n
		if out, _ := read(t, path, o); out != want {
			t.Errorf("tail %d: %q", n, out)
		}
	}
	if got := LastWords(path, 2, 100); got != "two\nDONE" {
		t.Errorf("last words %q", got)
	}
}

func TestTailOfABigLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var lines []string
	for i := range 20000 {
		lines = append(lines, raw(i, "stdout", "F", fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%200))))
	}
	write(t, path, lines...)
	o := AllLines
	for _, n := range []int{1, 700, 19999, 20000, 30000} {
		o.Tail = int64(n)
		out, _ := read(t, path, o)
		want := min(n, 20000)
		if got := strings.Count(out, "\n"); got != want {
			t.Errorf("tail %d gave %d lines", n, got)
		}
		if first := fmt.Sprintf("line %d ", 20000-want); !strings.HasPrefix(out, first) {
			t.Errorf("tail %d begins with %.30q, want %q", n, out, first)
		}
	}
}

// buffer is a bytes.Buffer that somebody else may look into.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
	up chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.up <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

func (b *buffer) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		b.mu.Lock()
		got := b.b.String()
		b.mu.Unlock()
		if got == want {
			return
		}
		if !strings.HasPrefix(want, got) {
			t.Fatalf("got %q, want %q", got, want)
		}
		select {
		case <-b.up:
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollowSurvivesRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	write(t, path, raw(0, "stdout", "F", "a"))
	out := &buffer{up: make(chan struct{}, 1)}
	done := make(chan struct{})
	o := AllLines
	o.Follow, o.Done = true, done
	result := make(chan error, 1)
	go func() { result <- Read(context.Background(), path, o, out, out) }()
	out.wait(t, "a\n")
	write(t, path, raw(1, "stdout", "F", "b"))
	out.wait(t, "a\nb\n")

	rotator := NewRotator(1, 3, clock.RealClock{}, slog.New(slog.DiscardHandler), func(context.Context, string) error {
		return os.WriteFile(path, nil, 0o640)
	})
	if err := rotator.rotate(context.Background(), "id", path); err != nil {
		t.Fatal(err)
	}
	write(t, path, raw(2, "stdout", "F", "c"))
	out.wait(t, "a\nb\nc\n")
	write(t, path, raw(3, "stdout", "F", "d"))
	out.wait(t, "a\nb\nc\nd\n")
	close(done)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	for range 4 {
		write(t, path, raw(9, "stdout", "F", "more"))
		if err := rotator.rotate(context.Background(), "id", path); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(Rotated(path)); n != 2 {
		t.Errorf("%d rotated files are kept, want 2 besides the one in use: %v", n, Rotated(path))
	}
}

// TestReadersDuringRotations rotates a log under the eyes of many readers, some of them slow: each sees every line once and in order, up to
// some line for those who do not follow, and to the last for those who do.
func TestReadersDuringRotations(t *testing.T) {
	const lines, perFile, readers = 3000, 50, 40
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, "")
	rotator := NewRotator(1, lines, clock.RealClock{}, slog.New(slog.DiscardHandler), func(context.Context, string) error {
		return os.WriteFile(path, nil, 0o640)
	})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range lines {
		write(t, path, raw(i, "stdout", "F", strconv.Itoa(i)))
		if i%perFile == perFile-1 {
			if err := rotator.rotate(context.Background(), "id", path); err != nil {
				t.Fatal(err)
			}
		}
		if i%(lines/readers) != 0 {
			continue
		}
		wg.Go(func() {
			o := AllLines
			n, want := 0, "any number of"
			if o.Follow = i/(lines/readers)%2 == 0; o.Follow {
				o.Done, want = done, strconv.Itoa(lines)
			}
			out := counter(func(text string) error {
				if text != strconv.Itoa(n)+"\n" {
					return fmt.Errorf("got %q where %d should be", text, n)
				}
				if n++; n%100 == 0 && o.Follow {
					time.Sleep(time.Millisecond) // slower than the writer
				}
				return nil
			})
			if err := Read(context.Background(), path, o, out, out); err != nil || o.Follow && n != lines || n <= i {
				t.Errorf("a reader from line %d on saw %d, want %s lines: %v", i, n, want, err)
			}
		})
	}
	close(done)
	wg.Wait()
}

// counter gets one line at a time.
type counter func(text string) error

func (c counter) Write(p []byte) (int, error) { return len(p), c(string(p)) }

func TestFollowEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, raw(0, "stdout", "F", "a"))
	ctx, cancel := context.WithCancel(context.Background())
	out := &buffer{up: make(chan struct{}, 1)}
	o := AllLines
	o.Follow = true
	result := make(chan error, 1)
	go func() { result <- Read(ctx, path, o, out, out) }()
	out.wait(t, "a\n")
	cancel()
	if err := <-result; err != context.Canceled {
		t.Errorf("error %v", err)
	}
}

func TestRotatorActsOnWrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	write(t, path, raw(0, "stdout", "F", "a"))
	reopened := make(chan string, 1)
	r := NewRotator(100, 3, clock.RealClock{}, slog.New(slog.DiscardHandler), func(_ context.Context, id string) error {
		err := os.WriteFile(path, nil, 0o640)
		reopened <- id
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	r.Follow("id", path)
	write(t, path, raw(1, "stdout", "F", strings.Repeat("x", 200)))
	select {
	case id := <-reopened:
		if id != "id" {
			t.Errorf("reopened %q", id)
		}
	case <-time.After(time.Minute):
		t.Error("the log was not rotated")
	}
	r.Forget("id")
	cancel()
	<-ended
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "0.log")
	var text strings.Builder
	for i := range 10000 {
		text.WriteString(raw(i, "stdout", "F", "a line of a usual length, as programs write them"))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o640); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if err := Read(context.Background(), path, AllLines, discard{}, discard{}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
