package images

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// imported takes an image into a store by way of an archive.
func imported(t testing.TB, s *Store, ref string, i v1.Image) Image {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, tag, i); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := s.Import(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 1 {
		t.Fatalf("%d images", len(out))
	}
	return out[0]
}

// disk lists what a closed or idle store keeps, without the lock.
func disk(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	for _, d := range []string{"s", "c", "tmp", "blobs/sha256"} {
		names, err := os.ReadDir(filepath.Join(root, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			out = append(out, d+"/"+n.Name())
		}
	}
	return out
}

func TestLayersOnTopOfEachOther(t *testing.T) {
	base := layerOf(t, dir("usr"), dir("usr/lib"), file("usr/lib/libc", "c"), symlink("lib", "usr/lib"),
		entry{name: "srv", kind: tar.TypeDir, mode: 0o750, uid: 8, gid: 9}, entry{name: "srv/own", kind: tar.TypeDir, mode: 0o700}, file("srv/own/f", "f"), dir("old"), file("old/x", ""))
	for _, tt := range []struct {
		name  string
		layer []entry
		want  []string
	}{
		{name: "parents that aren't described keep their attributes", layer: []entry{file("srv/own/g", "g")},
			want: []string{"lib -> usr/lib", "old/ 755 0:0", `old/x 644 0:0 ""`, "srv/ 750 8:9", "srv/own/ 700 0:0", `srv/own/f 644 0:0 "f"`, `srv/own/g 644 0:0 "g"`, "usr/ 755 0:0", "usr/lib/ 755 0:0", `usr/lib/libc 644 0:0 "c"`}},
		{name: "a parent that is a link below", layer: []entry{file("lib/libx", "x"), file("lib/sub/y", "y"), file("usr/lib/z", "z")},
			want: []string{"lib -> usr/lib", "old/ 755 0:0", `old/x 644 0:0 ""`, "srv/ 750 8:9", "srv/own/ 700 0:0", `srv/own/f 644 0:0 "f"`, "usr/ 755 0:0", "usr/lib/ 755 0:0", `usr/lib/libc 644 0:0 "c"`, `usr/lib/libx 644 0:0 "x"`, "usr/lib/sub/ 755 0:0", `usr/lib/sub/y 644 0:0 "y"`, `usr/lib/z 644 0:0 "z"`}},
		{name: "a hard link to a file below", layer: []entry{hardlink("f2", "srv/own/f"), {name: ".wh.usr", kind: tar.TypeReg}, {name: ".wh.lib", kind: tar.TypeReg}},
			want: []string{`f2 644 0:0 "f"`, "old/ 755 0:0", `old/x 644 0:0 ""`, "srv/ 750 8:9", "srv/own/ 700 0:0", `srv/own/f 644 0:0 "f"`}},
		{name: "everything hidden", layer: []entry{{name: ".wh..wh..opq", kind: tar.TypeReg}, file("only", "")}, want: []string{`only 644 0:0 ""`}},
		{name: "a directory replaced", layer: []entry{{name: ".wh.old", kind: tar.TypeReg}, dir("old"), file("old/y", ""), {name: ".wh.srv", kind: tar.TypeReg}, {name: ".wh.usr", kind: tar.TypeReg}, file("lib", "now a file")},
			want: []string{`lib 644 0:0 "now a file"`, "old/ 755 0:0", `old/y 644 0:0 ""`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Registries{})
			i := imported(t, s, "x:1", imageOf(t, v1.Config{}, base, layerOf(t, tt.layer...)))
			same(t, mounted(t, s, i.ID, "c1"), tt.want)
		})
	}
}

func TestRootAttributes(t *testing.T) {
	s := openStore(t, t.TempDir(), Registries{})
	i := imported(t, s, "x:1", imageOf(t, v1.Config{}, layerOf(t, entry{name: "./", kind: tar.TypeDir, mode: 0o711, uid: 4}), layerOf(t, file("a", ""))))
	r, err := s.Prepare(t.Context(), i.ID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(r.Upper)
	if err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

func TestManyLayers(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), strings.Repeat("long", 40)), Registries{})
	var layers []v1.Layer
	var want []string
	for i := range 200 {
		n := string(rune('a'+i/26)) + string(rune('a'+i%26))
		layers = append(layers, layerOf(t, file(n, "")))
		want = append(want, n+` 644 0:0 ""`)
	}
	i := imported(t, s, "x:1", imageOf(t, v1.Config{}, layers...))
	slices.Sort(want)
	same(t, mounted(t, s, i.ID, "c1"), want)
}

func TestNamesAndRemoval(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root, Registries{})
	a := imported(t, s, "a:1", sample(t))
	same(t, imported(t, s, "b:1", sample(t)).RepoTags, []string{"docker.io/library/a:1", "docker.io/library/b:1"})
	if a.Config.User != "7" || a.Config.WorkingDir != "/w" || a.Config.StopSignal != "SIGINT" || a.Config.Labels["l"] != "v" || a.Config.Entrypoint[0] != "/bin/x" || a.Size == 0 {
		t.Errorf("%+v", a)
	}
	other := imported(t, s, "b:1", imageOf(t, v1.Config{}, layerOf(t, file("x", "other"))))
	for _, n := range []string{"a:1", "docker.io/library/a:1", a.ID, strings.TrimPrefix(a.ID, "sha256:")[:12], "index.docker.io/a:1"} {
		if i, ok := s.Get(n); !ok || i.ID != a.ID {
			t.Errorf("%q: %v %v", n, ok, i.ID)
		}
	}
	if i, ok := s.Get("b:1"); !ok || i.ID != other.ID {
		t.Errorf("the tag didn't move: %v", i)
	}
	if len(s.List()) != 2 {
		t.Errorf("%v", s.List())
	}
	if _, ok := s.Get("c"); ok {
		t.Error("got what isn't there")
	}
	imported(t, s, "a:2", sample(t))
	for _, n := range []string{"nothing:1", "a:1"} {
		if err := s.Remove(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if i, ok := s.Get("a:2"); !ok || !slices.Equal(i.RepoTags, []string{"docker.io/library/a:2"}) {
		t.Errorf("%v %v", ok, i)
	}
	c, err := s.Prepare(t.Context(), "a:2", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(a.ID); ok {
		t.Error("removed, but there")
	}
	for _, l := range c.Lower {
		if _, err := os.Stat(l); err != nil {
			t.Errorf("a container's layer: %v", err)
		}
	}
	if again, err := s.Prepare(t.Context(), "a:2", "c1"); err != nil || !slices.Equal(again.Lower, c.Lower) {
		t.Errorf("prepared again: %v %v", again, err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Prune(func(id string) bool { return id == other.ID }); err != nil || len(removed) != 0 {
		t.Errorf("%v %v", removed, err)
	}
	if removed, err := s.Prune(nil); err != nil || len(removed) != 1 || removed[0].ID != other.ID {
		t.Errorf("%v %v", removed, err)
	}
	s.background.Wait()
	same(t, disk(t, root), nil)
	if info, err := s.FSInfo(); err != nil || info.UsedBytes != 0 || info.CapacityBytes == 0 {
		t.Errorf("%+v %v", info, err)
	}
}

func TestReopen(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root, Registries{})
	if _, err := Open(Config{Root: root}); KindOf(err) != KindConflict {
		t.Errorf("opened twice: %v", err)
	}
	a := imported(t, s, "a:1", sample(t))
	gone := imported(t, s, "gone:1", imageOf(t, v1.Config{}, layerOf(t, file("x", "x"))))
	for _, c := range []string{"c1", "c2"} {
		if _, err := s.Prepare(t.Context(), a.ID, c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prepare(t.Context(), gone.ID, "c3"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	s.background.Wait()
	before := disk(t, root)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What a crash may leave.
	for _, d := range []string{"s/zz/etc", "tmp/layer-1/etc", "tmp/trash-1", "c/c4/u"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"blobs/sha256/x", "blobs/sha256/.y.new", ".index.json.new"} {
		if err := os.WriteFile(filepath.Join(root, f), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, root, Registries{})
	same(t, disk(t, root), before)
	same(t, s.Containers(), []string{"c1", "c2", "c3"})
	if i, ok := s.Get("a:1"); !ok || i.Config.Env[0] != "A=b" {
		t.Errorf("%v %v", ok, i)
	}
	same(t, mounted(t, s, a.ID, "c1"), []string{"etc/ 755 0:0", `etc/b 644 0:0 "two"`, `etc/c 644 0:0 "three"`})
	if err := s.Release("c3"); err != nil {
		t.Fatal(err)
	}
	s.background.Wait()
	if n, err := os.ReadDir(filepath.Join(root, "s")); err != nil || len(n) != 2 {
		t.Errorf("the last container's layer is still there: %v %v", n, err)
	}
}

func TestPrepareErrors(t *testing.T) {
	s := openStore(t, t.TempDir(), Registries{})
	if _, err := s.Prepare(t.Context(), "sha256:"+strings.Repeat("0", 64), "c"); !IsNotFound(err) {
		t.Error(err)
	}
	for _, id := range []string{"", "..", "../x", "a/b"} {
		if _, err := s.Prepare(t.Context(), "x", id); KindOf(err) != KindInvalid {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), "x", "c"); KindOf(err) != KindUnavailable {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), "x", nil, nil); KindOf(err) != KindUnavailable {
		t.Error(err)
	}
}

func TestBadIndex(t *testing.T) {
	for content, kind := range map[string]Kind{"{": KindCorrupt, `{"version":99}`: KindInvalid} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "index.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Root: root}); KindOf(err) != kind {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func BenchmarkPrepareRelease(b *testing.B) {
	s := openStore(b, b.TempDir(), Registries{})
	i := imported(b, s, "a:1", sample(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Prepare(context.Background(), i.ID, "c"); err != nil {
			b.Fatal(err)
		}
		if err := s.Release("c"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImport(b *testing.B) {
	var entries []entry
	for i := range 200 {
		entries = append(entries, file("f"+time.Duration(i).String(), strings.Repeat("content ", 2000)))
	}
	img := imageOf(b, v1.Config{}, layerOf(b, entries...))
	s := openStore(b, b.TempDir(), Registries{})
	b.ReportAllocs()
	for b.Loop() {
		i := imported(b, s, "a:1", img)
		if err := s.Remove(context.Background(), i.ID); err != nil {
			b.Fatal(err)
		}
	}
}
