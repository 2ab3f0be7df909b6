package volume

import (
	"io/fs"
	"syscall"
)

// group is the owning group of a file.
func group(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(s.Gid)
	}
	return -1
}
