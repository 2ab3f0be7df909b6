package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trimMemory gives back what a burst of work has touched: free heap, and the
// pages of the program itself, which come back from the page cache when they
// are needed. A holder sleeps most of its life.
func trimMemory() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, r := range programMappings(string(maps), exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED)
	}
}

// programMappings finds in /proc/PID/maps the read-only mappings of a file: to
// drop their pages loses nothing.
func programMappings(maps, file string) [][2]uintptr {
	var all [][2]uintptr
	for line := range strings.Lines(maps) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 6)
		if len(fields) < 6 || strings.TrimSpace(fields[5]) != file || strings.Contains(fields[1], "w") {
			continue
		}
		from, to, ok := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if ok && err1 == nil && err2 == nil && start < end {
			all = append(all, [2]uintptr{uintptr(start), uintptr(end)})
		}
	}
	return all
}
