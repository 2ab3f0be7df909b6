package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/celox/celox/internal/runtime/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an image store that reports progress while it reads.
type fake struct{ read int64 }

func (f *fake) Import(_ context.Context, r io.Reader, progress func(images.Progress)) ([]images.Image, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		f.read += int64(n)
		progress(images.Progress{Current: f.read})
		if errors.Is(err, io.EOF) {
			return []images.Image{{ID: "sha256:1"}}, nil
		} else if err != nil {
			return nil, err
		}
	}
}

func (f *fake) Pull(_ context.Context, ref string, auth *images.Auth, _ func(images.Progress)) (images.Image, error) {
	if auth == nil || auth.Username != "u" {
		return images.Image{}, errors.New("denied")
	}
	return images.Image{RepoTags: []string{ref}}, nil
}

func (f *fake) List(context.Context) ([]images.Image, error) {
	return []images.Image{{ID: "a"}, {ID: "b"}}, nil
}

func (f *fake) Remove(_ context.Context, ref string) error { return errors.New("no image " + ref) }

func (f *fake) Prune(context.Context) ([]images.Image, error) { return nil, nil }

func TestClientAndServer(t *testing.T) {
	// A path beyond the kernel's limit for sockets.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	ctx := t.Context()
	if _, err := Dial(ctx, dir); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("no server: %v", err)
	}
	l, err := Listen(Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	srv := &http.Server{Handler: Handler(f)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	c, err := Dial(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.http.CloseIdleConnections()
		_ = srv.Close()
		<-done
	}()
	const size = 8 << 20
	var last int64
	got, err := c.Import(ctx, bytes.NewReader(make([]byte, size)), func(p images.Progress) { last = p.Current })
	if err != nil || len(got) != 1 || f.read != size || last != size {
		t.Errorf("import: %v, %v; read %d, last progress %d", got, err, f.read, last)
	}
	if _, err := c.Pull(ctx, "x", nil, nil); err == nil || err.Error() != "denied" {
		t.Errorf("pull without login: %v", err)
	}
	if img, err := c.Pull(ctx, "x", &images.Auth{Username: "u"}, nil); err != nil || img.RepoTags[0] != "x" {
		t.Errorf("pull: %v, %v", img, err)
	}
	if list, err := c.List(ctx); err != nil || len(list) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := c.Remove(ctx, "a b&c"); err == nil || err.Error() != "no image a b&c" {
		t.Errorf("remove: %v", err)
	}
	if _, err := c.Prune(ctx); err != nil {
		t.Errorf("prune: %v", err)
	}
}
