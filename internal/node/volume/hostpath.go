package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// hostPath checks, or makes, what the volume's type demands.
func hostPath(src *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	info, err := os.Stat(src.Path)
	exists := err == nil
	switch kind {
	case corev1.HostPathUnset:
		if !exists {
			// As the container runtimes always did: a missing source becomes a directory.
			return os.MkdirAll(src.Path, 0o755)
		}
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if !exists {
			return os.MkdirAll(src.Path, 0o755)
		}
		if !info.IsDir() {
			return failed(src.Path, "a directory")
		}
		return nil
	case corev1.HostPathFileOrCreate:
		if !exists {
			f, err := os.OpenFile(src.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		if !info.Mode().IsRegular() {
			return failed(src.Path, "a file")
		}
		return nil
	}
	want := map[corev1.HostPathType]struct {
		text string
		ok   func(fs.FileMode) bool
	}{
		corev1.HostPathDirectory: {"a directory", fs.FileMode.IsDir},
		corev1.HostPathFile:      {"a file", fs.FileMode.IsRegular},
		corev1.HostPathSocket:    {"a socket file", func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 }},
		corev1.HostPathCharDev:   {"a character device", func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 }},
		corev1.HostPathBlockDev:  {"a block device", func(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }},
	}[kind]
	if want.ok == nil {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if !exists || !want.ok(info.Mode()) {
		return failed(src.Path, want.text)
	}
	return nil
}

func failed(path, want string) error {
	return fmt.Errorf("hostPath type check failed: %s is not %s", path, want)
}

// own gives the files of a volume to the pod's fsGroup.
func own(root string, pod *corev1.Pod) error {
	gid := fsGroup(pod)
	if gid == nil {
		return nil
	}
	root, err := filepath.EvalSymlinks(root) // a local volume's path may be a link, which a walk would not follow
	if err != nil {
		return err
	}
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	if p := pod.Spec.SecurityContext.FSGroupChangePolicy; p != nil && *p == corev1.FSGroupChangeOnRootMismatch && group(info) == *gid && info.Mode()&os.ModeSetgid != 0 {
		return nil
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, int(*gid)); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		mode := info.Mode() | 0o660
		if d.IsDir() {
			mode |= 0o110 | os.ModeSetgid
		}
		return os.Chmod(p, mode)
	})
}

// typeName names the field of the volume source that is set.
func typeName(v *corev1.Volume) string {
	s := reflect.ValueOf(v.VolumeSource)
	for i := range s.NumField() {
		if f := s.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name := s.Type().Field(i).Tag.Get("json")
			for j := range name {
				if name[j] == ',' {
					return name[:j]
				}
			}
			return name
		}
	}
	return "unknown"
}
