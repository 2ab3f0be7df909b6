package volume

import (
	"io/fs"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// Usage is how many bytes the volume takes on the disk.
func (m *Manager) Usage(pod *corev1.Pod, v *corev1.Volume) int64 {
	dir := m.dir(pod, v)
	if dir == "" {
		return 0
	}
	return DiskUsage(dir)
}

// DiskUsage is how many bytes the files in a directory and below take on the disk.
func DiskUsage(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it was removed meanwhile
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += s.Blocks * 512
			}
		}
		return nil
	})
	return sum
}

// group is the owning group of a file.
func group(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(s.Gid)
	}
	return -1
}
