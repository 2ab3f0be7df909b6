package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/images/overlay"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// entry is one entry of a layer in a test.
type entry struct {
	name, body, link string
	kind             byte
	mode             int64
	uid, gid         int
	pax              map[string]string
}

func dir(name string) entry { return entry{name: name, kind: tar.TypeDir, mode: 0o755} }
func file(name, body string) entry {
	return entry{name: name, body: body, kind: tar.TypeReg, mode: 0o644}
}
func symlink(name, link string) entry { return entry{name: name, link: link, kind: tar.TypeSymlink} }
func hardlink(name, to string) entry  { return entry{name: name, link: to, kind: tar.TypeLink} }

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid, PAXRecords: e.pax, ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	b := tarOf(t, entries...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	i, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", "amd64", cfg
	if i, err = mutate.ConfigFile(i, f); err != nil {
		t.Fatal(err)
	}
	return i
}

func sample(t testing.TB) v1.Image {
	return imageOf(t, v1.Config{Env: []string{"A=b"}, Entrypoint: []string{"/bin/x"}, Cmd: []string{"y"}, User: "7", WorkingDir: "/w", Labels: map[string]string{"l": "v"}, StopSignal: "SIGINT"},
		layerOf(t, dir("etc"), file("etc/a", "one"), file("etc/b", "two")),
		layerOf(t, dir("etc"), file("etc/.wh.a", ""), file("etc/c", "three")))
}

func openStore(t testing.TB, root string, reg Registries) *Store {
	t.Helper()
	s, err := Open(Config{Root: root, Registries: reg, Platform: "linux/amd64", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// registryAt serves a registry on loopback.
func registryAt(t testing.TB) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func push(t testing.TB, ref string, i v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, i, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below a directory: path, type and mode, and content or target.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", rel, d.Type())
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%s %o %d:%d %q", rel, st.Mode&0o7777, st.Uid, st.Gid, b)
		case d.IsDir():
			line = fmt.Sprintf("%s/ %o %d:%d", rel, st.Mode&0o7777, st.Uid, st.Gid)
			b := make([]byte, 8)
			if n, err := unix.Lgetxattr(p, xattrOpaque, b); err == nil {
				line += " opaque=" + string(b[:n])
			}
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line = rel + " -> " + to
		case isWhiteout(&st):
			line = rel + " whiteout"
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mounted returns what a container of the image sees.
func mounted(t testing.TB, s *Store, id, container string) []string {
	t.Helper()
	r, err := s.Prepare(context.Background(), id, container)
	if err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	if err := overlay.Mount(at, r.Lower, r.Upper, r.Work, 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	return tree(t, at)
}

func same(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// staticLayer is a layer with content that isn't what it says.
func staticLayer(b []byte) v1.Layer { return static.NewLayer(b, types.DockerLayer) }
