package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestIdleWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		w := newIdleWatch(func() { count.Add(1) })
		for range 5 {
			w.touch()
			time.Sleep(quiet / 2)
		}
		synctest.Wait()
		if idles := count.Load(); idles != 0 {
			t.Errorf("idle %d times while there were requests", idles)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if idles := count.Load(); idles != 1 {
			t.Errorf("idle %d times after the last request, want 1", idles)
		}
		w.touch()
		time.Sleep(2 * quiet)
		synctest.Wait()
		if idles := count.Load(); idles != 2 {
			t.Errorf("idle %d times, want 2", idles)
		}
	})
}

// Parts end in the reverse order of their start, and a failure of one ends all.
func TestGroup(t *testing.T) {
	var ended []string
	part := func(g *group, name string) {
		g.run(name, func(ctx context.Context) error {
			<-ctx.Done()
			ended = append(ended, name)
			return nil
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := newGroup(ctx)
	part(g, "store")
	part(g, "api")
	g.atEnd("last", func() error { ended = append(ended, "last"); return nil })
	cancel()
	if err := g.wait(); err != nil || strings.Join(ended, " ") != "last api store" {
		t.Errorf("%v, ended %v", err, ended)
	}
	ended = nil
	g = newGroup(context.Background())
	part(g, "store")
	g.run("broken", func(context.Context) error { return errors.New("cause") })
	if err := g.wait(); err == nil || err.Error() != "broken: cause" || len(ended) != 1 {
		t.Errorf("%v, ended %v", err, ended)
	}
}

func TestLockSaysWho(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "in use by a running celox (pid") {
		t.Errorf("second lock: %v", err)
	}
	release()
	if release, err = lock(dir); err != nil {
		t.Fatal(err)
	}
	release()
}

func TestResetRefusesWhatIsNotOurs(t *testing.T) {
	say := func(string, ...any) {}
	sure := func() error {
		t.Error("somebody was asked whether to remove it")
		return nil
	}
	for name, prepare := range map[string]func(path string) error{
		"nothing":         func(string) error { return nil },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) }, // as /var/lib is, above /var/lib/celox
		"a program":       func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("\x7fELF", 100)), 0o700) },
		"an empty file":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink("precious", path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			precious := filepath.Join(dir, "precious")
			if err := errors.Join(os.WriteFile(precious, []byte(markText), 0o600), prepare(filepath.Join(dir, markFile))); err != nil {
				t.Fatal(err)
			}
			if err := Reset(t.Context(), dir, sure, say); err == nil || !strings.Contains(err.Error(), "nothing was removed") {
				t.Errorf("reset: %v", err)
			}
			if err := Mark(dir); err == nil || !strings.Contains(err.Error(), "holds other things") {
				t.Errorf("mark: %v", err)
			}
			if _, err := os.Stat(precious); err != nil {
				t.Error(err)
			}
		})
	}
	if err := Reset(t.Context(), filepath.Join(t.TempDir(), "absent"), sure, say); err != nil {
		t.Errorf("absent: %v", err)
	}
}

func TestMark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for range 2 {
		if err := Mark(dir); err != nil {
			t.Fatal(err)
		}
		if !marked(dir) {
			t.Fatal("a directory that was marked is not known")
		}
	}
}
