package cluster

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-01cc6000 r-xp 00000000 fe:00 7 /bin/celox
Size:              25368 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
01cc7000-04aa1000 r--p 018c6000 fe:00 7 /bin/celox
Anonymous:             0 kB
04aa1000-04aa2000 r--p 046a0000 fe:00 7 /bin/celox
Size:                  4 kB
Anonymous:             4 kB
04aa2000-04b51000 rw-p 046a1000 fe:00 7 /bin/celox
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 8 /lib/libc.so.6
Anonymous:             0 kB
7f1000000000-7f1000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	got := cleanMappings(strings.NewReader(smaps), "/bin/celox")
	if want := []mapping{{0x400000, 0x1cc6000}, {0x1cc7000, 0x4aa1000}}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestReleaseMemoryLeavesTheProgramWhole works on this very process, which the race detector has linked against C.
func TestReleaseMemoryLeavesTheProgramWhole(t *testing.T) {
	for range 3 {
		releaseMemory()
		// A new thread goes through what the dynamic linker made.
		if _, err := os.ReadFile("/proc/self/status"); err != nil {
			t.Fatal(err)
		}
	}
}
