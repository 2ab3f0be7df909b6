package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnpack(t *testing.T) {
	wh := func(name string) entry { return entry{name: name, kind: tar.TypeReg} }
	for _, tt := range []struct {
		name    string
		entries []entry
		want    []string
		bad     string
	}{
		{name: "files, owners and modes", entries: []entry{
			{name: "./", kind: tar.TypeDir, mode: 0o711}, {name: "bin/", kind: tar.TypeDir, mode: 0o1777, uid: 3, gid: 4},
			{name: "bin/su", kind: tar.TypeReg, mode: 0o4755, uid: 5, gid: 6, body: "x"}, symlink("bin/sh", "su"), hardlink("bin/su2", "bin/su"),
			{name: "pipe", kind: tar.TypeFifo, mode: 0o600},
		}, want: []string{"bin/ 1777 3:4", "bin/sh -> su", `bin/su 4755 5:6 "x"`, `bin/su2 4755 5:6 "x"`, "pipe p---------"}},
		{name: "whiteouts", entries: []entry{dir("a"), wh("a/.wh.gone"), dir("b"), wh("b/.wh..wh..opq"), file("b/new", ""), wh(".wh..wh.plnk")},
			want: []string{"a/ 755 0:0", "a/gone whiteout", "b/ 755 0:0 opaque=y", `b/new 644 0:0 ""`}},
		{name: "a whiteout before and after what replaces it", entries: []entry{wh(".wh.a"), dir("a"), file("a/x", ""), dir("b"), file("b/x", ""), wh(".wh.b"), file("c", "c"), wh(".wh.c"), wh(".wh.d"), file("d/x", "")},
			want: []string{"a/ 755 0:0 opaque=y", `a/x 644 0:0 ""`, "b/ 755 0:0 opaque=y", `b/x 644 0:0 ""`, `c 644 0:0 "c"`, "d/ 755 0:0 opaque=y", `d/x 644 0:0 ""`}},
		{name: "later entries win", entries: []entry{dir("a"), file("a/x", ""), file("a", "file"), file("b", "1"), file("b", "2"), file("c", ""), dir("c"), dir("d"), file("d/y", ""), {name: "d", kind: tar.TypeDir, mode: 0o700}},
			want: []string{`a 644 0:0 "file"`, `b 644 0:0 "2"`, "c/ 755 0:0", "d/ 700 0:0", `d/y 644 0:0 ""`}},
		{name: "links inside are followed inside", entries: []entry{dir("usr"), dir("usr/lib"), symlink("lib", "/usr/lib"), file("lib/x", "x"), symlink("up", "../../.."), file("up/y", "y")},
			want: []string{"lib -> /usr/lib", "up -> ../../..", "usr/ 755 0:0", "usr/lib/ 755 0:0", `usr/lib/x 644 0:0 "x"`, `y 644 0:0 "y"`}},
		{name: "a link whose target comes later", entries: []entry{symlink("lib", "usr/lib"), file("lib/x", "x")},
			want: []string{"lib -> usr/lib", "usr/ 755 0:0", "usr/lib/ 755 0:0", `usr/lib/x 644 0:0 "x"`}},
		{name: "device 0/0 is a whiteout", entries: []entry{{name: "x", kind: tar.TypeChar}}, want: []string{"x whiteout"}},
		{name: "absolute names are relative", entries: []entry{file("/etc/x", "")}, want: []string{"etc/ 755 0:0", `etc/x 644 0:0 ""`}},
		{name: "traversal", entries: []entry{file("../x", "")}, bad: "leads out of the image"},
		{name: "hidden traversal", entries: []entry{file("a/../../x", "")}, bad: "leads out of the image"},
		{name: "traversal by hard link", entries: []entry{hardlink("x", "../../etc/passwd")}, bad: "leads out of the image"},
		{name: "hard link to itself", entries: []entry{hardlink("x", "./x")}, bad: "names itself"},
		{name: "whiteout of nothing", entries: []entry{wh("a/.wh.")}, bad: "names nothing"},
		{name: "whiteout of the parent", entries: []entry{wh("a/.wh...")}, bad: "names nothing"},
		{name: "file as a directory", entries: []entry{file("a", ""), file("a/b", "")}, bad: "not a directory"},
		{name: "links in a circle", entries: []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, bad: "too many levels"},
		{name: "too large", entries: []entry{file("a", strings.Repeat("x", 1<<20))}, bad: "larger than"},
		{name: "too many", entries: []entry{dir("1"), dir("2"), dir("3"), dir("4"), dir("5"), dir("6"), dir("7"), dir("8"), dir("9"), dir("10"), dir("11"), dir("12"), dir("13")}, bad: "more than 12 files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := t.TempDir()
			_, err := unpack(t.Context(), to, bytes.NewReader(tarOf(t, tt.entries...)), Limits{LayerBytes: 1 << 19, LayerEntries: 12})
			if tt.bad != "" {
				if err == nil || !strings.Contains(err.Error(), tt.bad) {
					t.Fatalf("got %v, want %q", err, tt.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, tree(t, to), tt.want)
		})
	}
}

func TestUnpackAttributes(t *testing.T) {
	to := t.TempDir()
	e := file("x", "x")
	e.pax = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
	d := dir("d")
	d.pax = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
	if _, err := unpack(t.Context(), to, bytes.NewReader(tarOf(t, d, e, file("d/f", ""))), defaultLimits(Limits{})); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Getxattr(filepath.Join(to, "x"), "security.capability", make([]byte, 64)); err != nil || n != 20 {
		t.Errorf("capabilities: %d %v", n, err)
	}
	for f, a := range map[string]string{"x": "trusted.overlay.redirect", "d": "trusted.overlay.opaque"} {
		if _, err := unix.Getxattr(filepath.Join(to, f), a, nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("%s of %s: %v", a, f, err)
		}
	}
	if st, err := os.Stat(filepath.Join(to, "d")); err != nil || st.ModTime().Unix() != 1e9 {
		t.Errorf("time of a directory: %v %v", st, err)
	}
}

func TestUnpackSparse(t *testing.T) {
	to := t.TempDir()
	body := make([]byte, 3<<20)
	body[1<<20] = 'x'
	if _, err := unpack(t.Context(), to, bytes.NewReader(tarOf(t, file("x", string(body)))), defaultLimits(Limits{})); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, "x"))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("content differs (%v)", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "x"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("takes %d bytes (%v)", st.Blocks*512, err)
	}
}

func TestUnpackCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := unpack(ctx, t.TempDir(), bytes.NewReader(tarOf(t, file("x", ""))), defaultLimits(Limits{})); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// FuzzUnpack: whatever the archive, nothing is written outside, and nothing panics.
func FuzzUnpack(f *testing.F) {
	wh := entry{name: "a/.wh.b", kind: tar.TypeReg}
	f.Add(tarOf(f, dir("a"), file("a/b", "x"), wh, symlink("l", "/.."), file("l/x", ""), hardlink("h", "a/b")))
	f.Add(tarOf(f, file("../x", "")))
	f.Add(tarOf(f, symlink("a", "a"), file("a/x", ""), entry{name: "a", kind: tar.TypeChar}, dir("a")))
	f.Add([]byte("not an archive"))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		to := filepath.Join(outer, "in")
		below := filepath.Join(outer, "below")
		for _, d := range []string{to, below} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		u, err := unpack(t.Context(), to, io.LimitReader(bytes.NewReader(b), 1<<20), Limits{LayerBytes: 1 << 20, LayerEntries: 200})
		if err == nil {
			// Errors are what the archive deserves; what counts is what is left outside.
			_ = complete(to, u, []string{below})
		}
		names, err := os.ReadDir(outer)
		if err != nil || len(names) != 2 {
			t.Fatalf("written outside: %v %v", names, err)
		}
		if names, err = os.ReadDir(below); err != nil || len(names) != 0 {
			t.Fatalf("written below: %v %v", names, err)
		}
	})
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"nginx", "localhost:5000/a/b:c@sha256:" + strings.Repeat("a", 64), "[::1]:5000/x", "a//b", "A/b", "", ":", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is %+v, whose own form is %+v (%v)", s, r, again, err)
		}
	})
}

func TestParseReference(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx":                               "docker.io/library/nginx:latest",
		"nginx:1.7.9":                         "docker.io/library/nginx:1.7.9",
		"me/app":                              "docker.io/me/app:latest",
		"index.docker.io/nginx":               "docker.io/library/nginx:latest",
		"localhost/x":                         "localhost/x:latest",
		"localhost:5000/x/y":                  "localhost:5000/x/y:latest",
		"registry.k8s.io/pause:3.10":          "registry.k8s.io/pause:3.10",
		"nginx@sha256:" + hex:                 "docker.io/library/nginx@sha256:" + hex,
		"quay.io/a/b__c.d--e:T@sha256:" + hex: "quay.io/a/b__c.d--e:T@sha256:" + hex,
		"[::1]:5000/x":                        "[::1]:5000/x:latest",
	} {
		r, err := ParseReference(in)
		if err != nil || r.String() != want {
			t.Errorf("%q: got %q (%v), want %q", in, r, err, want)
		}
	}
	for _, in := range []string{"", "Nginx", "nginx:", "nginx:-x", "a//b", "/a", "a/", "a b", "x@sha256:12", "x@", hex, "host.:5/x", "a..b", "host:port/x", strings.Repeat("a", 300), "x:" + strings.Repeat("a", 129), "a___b"} {
		if r, err := ParseReference(in); err == nil || KindOf(err) != KindInvalid || !strings.Contains(err.Error(), "invalid reference format") {
			t.Errorf("%q: got %q, %v", in, r, err)
		}
	}
}
