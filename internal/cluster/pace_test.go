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
	pass(time.Second)
	pass(2 * busyInterval)
	pass(time.Second)
	p.collected() // by request
	if want := []int{600, gcPercent, 320, gcPercent, 320, gcPercent}; !slices.Equal(set, want) {
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
	if n := largePercent(64 << 30); n != minGCPercent {
		t.Errorf("of a huge heap: %d", n)
	}
	if n := busyPercent(4 << 30); n != gcPercent {
		t.Errorf("of a large heap: %d", n)
	}
}
