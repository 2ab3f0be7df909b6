package etcd

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// TrimMapped gives back the pages of the database that are mapped, if the process has more than limit bytes of files mapped. etcd maps all of its database and
// nearly never reads it again: each page stays mapped once it was written and looked at, so that they would count as the process's memory until the database is closed. They
// stay in the system's cache, and are mapped again when they are read. Failing costs memory, nothing else.
func (e *Engine) TrimMapped(limit int64) {
	if e.ctx.Err() != nil || mappedFiles() <= limit {
		return
	}
	path, err := filepath.Abs(filepath.Join(e.dir, "member", "snap", "db"))
	if err != nil {
		return
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return
	}
	// As long as somebody reads, nobody maps the database elsewhere: there may soon be something else at this place.
	tx := e.server.Backend().ReadTx()
	tx.RLock()
	defer tx.RUnlock()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }() // read only
	for _, m := range mappingsOf(maps, path) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m[0], m[1]-m[0], unix.MADV_DONTNEED)
	}
}

// mappedFiles is how many bytes of files the process has mapped and looked at; 0 if that isn't known.
func mappedFiles() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) < 3 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[2], 10, 64)
	return pages * int64(os.Getpagesize())
}

// mappingsOf reads, in the form of /proc/PID/maps, where a file is mapped for reading only, and shared: beginnings and ends.
func mappingsOf(maps io.Reader, file string) [][2]uintptr {
	var found [][2]uintptr
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 6 || f[5] != file || f[1] != "r--s" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil {
			found = append(found, [2]uintptr{uintptr(start), uintptr(end)})
		}
	}
	return found
}
