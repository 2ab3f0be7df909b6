package cluster

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// gcPercent trades memory under load for less time in the garbage collector: the heap of a small cluster is small, and would be collected
// many times a second while requests come. What the heap has grown by goes back when the server is idle.
const gcPercent = 200

// memoryShare is the part of the machine's memory, in percent, from which on the collector works harder rather than let the program grow.
const memoryShare = 75

// tuneGC sets the collector's pace and its soft limit, unless the environment does.
func tuneGC() {
	memory := machineMemory()
	if os.Getenv("GOMEMLIMIT") == "" && memory > 0 {
		debug.SetMemoryLimit(softLimit(memory))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		newGCPace(memory).follow()
	}
}

// machineMemory is how many bytes the machine has, 0 if it doesn't say.
func machineMemory() uint64 {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return 0
	}
	return uint64(machine.Totalram) * uint64(machine.Unit)
}

// softLimit is the limit for a machine with this many bytes.
func softLimit(memory uint64) int64 { return int64(memory / 100 * memoryShare) }

// mappedFiles is how many bytes of mapped files, of which etcd's database is most, may count as the program's memory when a collection ends.
const mappedFiles = 256 << 20

// releaseMemory gives back what is not needed now: garbage, and the pages of the program file that were read. The latter
// are clean and come back by themselves when they are needed; without this they count as ours for ever. Failing costs memory, nothing else.
func releaseMemory() {
	runtime.GC()
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }() // read only
	for _, m := range cleanMappings(maps, exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings reads, in the form of /proc/PID/smaps, which mappings of a file hold nothing but what is in the file. A mapping that cannot be
// written now may have been written before: the dynamic linker relocates a part of a program that is linked against C, and then protects it.
func cleanMappings(smaps io.Reader, file string) []mapping {
	var found []mapping
	var m mapping
	candidate := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			from, to, _ := strings.Cut(f[0], "-")
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			m = mapping{uintptr(start), uintptr(end)}
			candidate = len(f) == 6 && f[5] == file && !strings.Contains(f[1], "w") && err1 == nil && err2 == nil
		case len(f) == 3 && f[0] == "Anonymous:":
			if candidate && f[1] == "0" {
				found = append(found, m)
			}
			candidate = false
		}
	}
	return found
}
