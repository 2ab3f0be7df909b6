package cluster

import (
	"slices"
	"testing"
	"time"
)

func TestGCPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var set []int
	live, cycles := uint64(32<<20), uint64(0)
	p := &gcPace{now: func() time.Time { return now }, read: func() (uint64, uint64) { return live, cycles }, set: func(n int) { set = append(set, n) }, percent: gcPercent}
	pass := func(d time.Duration) {
		now = now.Add(d)
		cycles++
		p.collected()
	}
	pass(0) // the first: nothing is known of the time before
	pass(time.Minute)
	pass(time.Second)
	pass(time.Second)
	live = 256 << 20
	pass(time.Second)
	live = 60 << 20
	pass(time.Second) // as good as the same
	pass(2 * busyInterval)
	pass(time.Second)
	p.collected() // by request
	if want := []int{600, busyGCPercent, gcPercent, 320, gcPercent}; !slices.Equal(set, want) {
		t.Errorf("percentages %v, want %v", set, want)
	}
	if n := busyPercent(1); n != maxGCPercent {
		t.Errorf("of a tiny heap: %d", n)
	}
	live = 1536 << 20
	pass(2 * busyInterval)
	if n := set[len(set)-1]; n != 50 {
		t.Errorf("of 1.5 GiB: %d", n)
	}
	for live, want := range map[uint64]int{512 << 20: 150, 1 << 30: 75, 2 << 30: 50, 2560 << 20: 40, 64 << 30: minGCPercent} {
		if n := largePercent(live); n != want {
			t.Errorf("of %d MiB: %d %%, want %d", live>>20, n, want)
		}
	}
	if n := busyPercent(4 << 30); n != busyGCPercent {
		t.Errorf("of a large heap: %d", n)
	}
}

func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		pid     int
		threads []int
		want    int
	}{
		{100, []int{100}, 0},
		{100, []int{105, 100, 102}, 102},
		{32760, []int{32760, 305, 32765, 301}, 32765},
		{32767, []int{32767, 305, 301}, 301},
	} {
		if got, ok := watchdog(c.pid, c.threads); got != c.want || ok != (c.want != 0) {
			t.Errorf("of %d among %v: %d %v, want %d", c.pid, c.threads, got, ok, c.want)
		}
	}
}
