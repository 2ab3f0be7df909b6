package images

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func dockerArchive(t testing.TB) []byte {
	t.Helper()
	images := map[name.Tag]v1.Image{}
	for ref, i := range map[string]v1.Image{"a:1": sample(t), "a:2": sample(t), "quay.io/b/c:x": imageOf(t, v1.Config{}, layerOf(t, file("x", strings.Repeat("x", 9000))))} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = i
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(images, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layoutArchive is an OCI layout as a tar, of an image, an index that holds it for a platform and one for another.
func layoutArchive(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(sample(t), layout.WithAnnotations(map[string]string{annotationRefName: "1", annotationName: "docker.io/library/a:1"})); err != nil {
		t.Fatal(err)
	}
	x := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageOf(t, v1.Config{}, layerOf(t, file("arm", ""))), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: imageOf(t, v1.Config{}, layerOf(t, file("amd", ""))), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	if err := p.AppendIndex(x, layout.WithAnnotations(map[string]string{annotationRefName: "quay.io/b/c:x"})); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImport(t *testing.T) {
	gz := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		if cerr := w.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		return out.Bytes()
	}
	zst := func(b []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(b, nil)
	}
	plain := func(b []byte) []byte { return b }
	for _, tt := range []struct {
		name    string
		archive []byte
		pack    func([]byte) []byte
		tags    []string
	}{
		{"docker", dockerArchive(t), plain, []string{"docker.io/library/a:1", "docker.io/library/a:2", "quay.io/b/c:x"}},
		{"docker gzip", dockerArchive(t), gz, []string{"docker.io/library/a:1", "docker.io/library/a:2", "quay.io/b/c:x"}},
		{"layout", layoutArchive(t), plain, []string{"docker.io/library/a:1", "quay.io/b/c:x"}},
		{"layout zstd", layoutArchive(t), zst, []string{"docker.io/library/a:1", "quay.io/b/c:x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.pack(tt.archive)
			path := filepath.Join(t.TempDir(), "a.tar")
			if err := os.WriteFile(path, append([]byte("skipped"), b...), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Seek(int64(len("skipped")), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			for what, r := range map[string]io.Reader{"stream": onlyReader{bytes.NewReader(b)}, "file": f} {
				root := t.TempDir()
				s := openStore(t, root, Registries{})
				out, err := s.Import(t.Context(), r, nil)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				var tags []string
				for _, i := range out {
					tags = append(tags, i.RepoTags...)
				}
				slices.Sort(tags)
				same(t, tags, tt.tags)
				if len(out) != 2 {
					t.Errorf("%s: %d images", what, len(out))
				}
				i, ok := s.Get("a:1")
				if !ok {
					t.Fatal("not there")
				}
				same(t, mounted(t, s, i.ID, "c"), []string{"etc/ 755 0:0", `etc/b 644 0:0 "two"`, `etc/c 644 0:0 "three"`})
				s.background.Wait()
				if left, err := os.ReadDir(filepath.Join(root, "tmp")); err != nil || len(left) != 0 {
					t.Errorf("%s: left behind: %v %v", what, left, err)
				}
			}
		})
	}
}

func TestImportErrors(t *testing.T) {
	good := dockerArchive(t)
	manifest := func(s string, more ...entry) []byte {
		return tarOf(t, append([]entry{file("manifest.json", s)}, more...)...)
	}
	for name, tt := range map[string]struct {
		archive []byte
		text    string
	}{
		"empty":           {nil, "neither a docker archive nor an OCI layout"},
		"junk":            {[]byte(strings.Repeat("junk", 1000)), "not a tar archive"},
		"cut off":         {good[:len(good)/2], "cut off"},
		"cut off early":   {good[:700], "cut off"},
		"other archive":   {tarOf(t, file("x", "")), "neither a docker archive nor an OCI layout"},
		"traversal":       {tarOf(t, file("../../x", "")), "leads out of the image"},
		"device":          {tarOf(t, entry{name: "x", kind: tar.TypeBlock}), "is not a file"},
		"bad manifest":    {manifest("{"), "manifest.json"},
		"no config":       {manifest(`[{"Config":"c.json"}]`), `no file "c.json"`},
		"circle":          {manifest(`[{"Config":"c"}]`, symlink("c", "d"), symlink("d", "c")), "circles"},
		"link outside":    {manifest(`[{"Config":"c"}]`, symlink("c", "/etc/passwd")), "no file"},
		"no layers":       {manifest(`[{"Config":"c"}]`, file("c", `{"os":"linux","architecture":"amd64"}`)), "no layer"},
		"bad name":        {manifest(`[{"Config":"c","RepoTags":["A B"]}]`, file("c", `{}`)), "invalid reference format"},
		"layers differ":   {manifest(`[{"Config":"c","Layers":["l"]}]`, file("c", `{}`), file("l", "")), "0 layers"},
		"no image":        {manifest(`[]`), "no image"},
		"corrupt config":  {tarOf(t, file("oci-layout", "{}"), file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+`"}]}`), file("blobs/sha256/"+strings.Repeat("a", 64), "x")), "has digest"},
		"broken gzip":     {[]byte("\x1f\x8bjunk that isn't gzip at all"), "broken compression"},
		"other algorithm": {[]byte("BZh91AY&SY"), "only gzip and zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.archive), onlyReader{bytes.NewReader(tt.archive)}} {
				root := t.TempDir()
				s := openStore(t, root, Registries{})
				if out, err := s.Import(t.Context(), r, nil); err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v, %v; want %q", out, err, tt.text)
				}
				s.background.Wait()
				same(t, disk(t, root), nil)
			}
		})
	}
}

func TestImportCancelled(t *testing.T) {
	s := openStore(t, t.TempDir(), Registries{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Import(ctx, bytes.NewReader(dockerArchive(t)), nil); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Error(err)
	}
}

func FuzzImport(f *testing.F) {
	f.Add(dockerArchive(f))
	f.Add(layoutArchive(f))
	f.Add([]byte("\x1f\x8b"))
	s := openStore(f, f.TempDir(), Registries{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := s.readArchive(t.Context(), bytes.NewReader(b), func(Progress) {})
		if a != nil {
			defer a.close()
		}
		if err != nil {
			return
		}
		_, _ = a.images(s.platform) // only that it ends, without a panic
	})
}
