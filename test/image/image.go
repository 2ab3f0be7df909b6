// Package image makes small container images out of files on this machine, for the sample and the tests: no registry and no builder
// is needed.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec describes an image of one layer.
type Spec struct {
	// Files are copied: path in the image to path on this machine. They are made executable.
	Files map[string]string
	// Texts are files given by their content.
	Texts map[string]string
	// Links are symbolic links: path to target.
	Links                map[string]string
	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
}

// Build makes the image.
func Build(s Spec) (v1.Image, error) {
	layer, err := s.layer()
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config = v1.Config{Entrypoint: s.Entrypoint, Cmd: s.Cmd, Env: s.Env, User: s.User, WorkingDir: s.WorkingDir}
	return mutate.ConfigFile(img, cfg)
}

// WriteArchive writes images as one docker archive, as `docker save` does.
func WriteArchive(w io.Writer, images map[string]v1.Image) error {
	refs := map[name.Reference]v1.Image{}
	for tag, img := range images {
		ref, err := name.NewTag(tag)
		if err != nil {
			return fmt.Errorf("tag %q: %w", tag, err)
		}
		refs[ref] = img
	}
	return tarball.MultiRefWrite(refs, w)
}

// Busybox is an image of Debian's busybox-static with the given command.
func Busybox(cmd ...string) (v1.Image, error) {
	const bin = "/bin/busybox"
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("install Debian's busybox-static: %w", err)
	}
	links := map[string]string{}
	for _, applet := range []string{
		"sh", "cat", "cp", "date", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ls", "mkdir", "mount", "mv", "nc", "ping", "printf", "ps", "pwd",
		"rm", "sed", "seq", "sleep", "stat", "stty", "tail", "tar", "test", "touch", "tr", "true", "tty", "uname", "wc", "wget", "whoami", "yes", "dd", "httpd", "awk", "find",
		"mkfifo", "nslookup", "od", "sort", "sync", "tee", "timeout", "top", "umask", "vi", "xargs", "md5sum", "chmod", "chown", "df", "du", "free", "netstat", "nproc",
	} {
		links["bin/"+applet] = "busybox"
	}
	return Build(Spec{
		Files: map[string]string{"bin/busybox": bin}, Links: links,
		Texts: map[string]string{
			"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
			"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		},
		Env: []string{"PATH=/bin"}, Cmd: cmd,
	})
}

func (s Spec) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dirs := map[string]bool{".": true}
	var addDir func(string) error
	addDir = func(dir string) error {
		if dirs[dir] {
			return nil
		}
		if err := addDir(path.Dir(dir)); err != nil {
			return err
		}
		dirs[dir] = true
		return w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755})
	}
	add := func(file string, mode int64, data []byte) error {
		if err := addDir(path.Dir(file)); err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for _, dir := range []string{"tmp", "root", "proc", "sys", "dev", "etc"} {
		if err := addDir(dir); err != nil {
			return nil, err
		}
	}
	for _, file := range sorted(s.Files) {
		data, err := os.ReadFile(s.Files[file])
		if err != nil {
			return nil, err
		}
		if err := add(file, 0o755, data); err != nil {
			return nil, err
		}
	}
	for _, file := range sorted(s.Texts) {
		if err := add(file, 0o644, []byte(s.Texts[file])); err != nil {
			return nil, err
		}
	}
	for _, link := range sorted(s.Links) {
		if err := addDir(path.Dir(link)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: s.Links[link], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
