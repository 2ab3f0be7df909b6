package cluster

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestGCPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var set []int
	live, cycles := uint64(32<<20), uint64(0)
	p := &gcPace{memory: 24 << 30, now: func() time.Time { return now }, read: func() (uint64, uint64) { return live, cycles }, set: func(n int) { set = append(set, n) }, percent: gcPercent}
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
	if want := []int{600, busyGCPercent, gcPercent, busyGCPercent, gcPercent}; !slices.Equal(set, want) {
		t.Errorf("percentages %v, want %v", set, want)
	}
	live = 1536 << 20
	pass(2 * busyInterval)
	if n := set[len(set)-1]; n != 50 {
		t.Errorf("of 1.5 GiB: %d", n)
	}
}

func TestGCPercentOf(t *testing.T) {
	for _, c := range []struct {
		memory, live uint64
		busy         bool
		want         int
	}{
		{24 << 30, 0, false, gcPercent},
		{24 << 30, 0, true, maxGCPercent},
		{24 << 30, 1, true, maxGCPercent},
		{24 << 30, 128 << 20, false, gcPercent},
		{24 << 30, 512 << 20, false, 150},
		{24 << 30, 512 << 20, true, 300}, // a twelfth of the memory
		{24 << 30, 1 << 30, false, 75},
		{24 << 30, 1 << 30, true, 100},
		{24 << 30, 2 << 30, true, 50},
		{24 << 30, 2560 << 20, true, 40},
		{24 << 30, 64 << 30, true, minGCPercent},
		{2 << 30, 32 << 20, true, 433}, // a small machine
		{2 << 30, 128 << 20, false, 100},
		{2 << 30, 512 << 20, true, 50},
		{math.MaxInt64, 512 << 20, true, busyGCPercent}, // unknown
	} {
		p := gcPace{memory: float64(c.memory)}
		if n := p.percentOf(float64(c.live), c.busy); n != c.want {
			t.Errorf("of %d MiB in %d GiB, busy %t: %d %%, want %d", c.live>>20, c.memory>>30, c.busy, n, c.want)
		}
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
