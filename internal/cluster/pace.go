package cluster

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"time"
)

const (
	// busyInterval is the time between two collections below which the program counts as busy.
	busyInterval = 4 * time.Second
	// busyHeadroom is how much garbage a busy program may gather at least, in bytes, up to maxGCPercent of what lives; else it is busyGCPercent of it, as long as the heap is
	// no more than a twelfth of the machine's memory (busyShare) with it. More would not be cheaper where little lives: memory that was never used has to be given by the
	// kernel, page by page.
	busyHeadroom  = 192 << 20
	busyGCPercent = 450
	busyShare     = 12
	maxGCPercent  = 800
	// largeHeadroom is how much garbage a program in which much lives may gather, in bytes: where 150,000 pods live, gcPercent of them would be gigabytes. Where more
	// than that lives it is largeGCPercent of it, up to maxHeadroom, because each collection looks at all that lives; and minGCPercent whatever that comes to.
	// On a small machine a sixteenth of the memory (largeShare) takes the place of largeHeadroom.
	largeHeadroom  = 768 << 20
	largeGCPercent = 50
	largeShare     = 16
	maxHeadroom    = 1 << 30
	minGCPercent   = 25
)

// gcPace lets a program that is busy gather more garbage between two collections than one that is not: what a collection costs depends on
// what lives, not on what is dead, and the little that lives in a small cluster would be looked at several times a second. When the
// load ends, the garbage goes with releaseMemory. A program in which much lives may gather less.
type gcPace struct {
	memory  float64 // bytes of the machine
	now     func() time.Time
	read    func() (live, cycles uint64) // bytes that the last collection found alive, and how many the runtime has begun itself
	set     func(percent int)
	last    time.Time
	cycles  uint64
	percent int
}

// newGCPace is for a machine with that many bytes of memory; 0 is for one that doesn't say.
func newGCPace(memory uint64) *gcPace {
	if memory == 0 {
		memory = math.MaxInt64
	}
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/automatic:gc-cycles"}}
	return &gcPace{
		memory: float64(memory), now: time.Now, percent: gcPercent,
		read: func() (live, cycles uint64) {
			metrics.Read(samples)
			return samples[0].Value.Uint64(), samples[1].Value.Uint64()
		},
		set: func(percent int) { debug.SetGCPercent(percent) },
	}
}

// collected is told of each collection, one at a time.
func (p *gcPace) collected() {
	busy := false
	live, cycles := p.read()
	if cycles != p.cycles { // else somebody asked for it, who wants the program to be small
		now := p.now()
		busy = now.Sub(p.last) < busyInterval
		p.last, p.cycles = now, cycles
	}
	percent := p.percentOf(float64(live), busy)
	// Setting it stops the world for a moment: not for little.
	if d := percent - p.percent; d > p.percent/8 || -d > p.percent/8 {
		p.percent = percent
		p.set(percent)
	}
}

// percentOf is the percentage of the bytes that live which the program may gather until they are looked at again.
func (p *gcPace) percentOf(live float64, busy bool) int {
	live = max(live, 1)
	headroom := live * gcPercent / 100
	limit := min(max(min(largeHeadroom, p.memory/largeShare), live*largeGCPercent/100), maxHeadroom)
	if busy {
		headroom = max(busyHeadroom, live*busyGCPercent/100)
		limit = max(limit, p.memory/busyShare-live)
	}
	return int(max(minGCPercent, min(maxGCPercent, 100*min(headroom, limit)/live)))
}

// follow calls collected after each collection for as long as the program lives.
func (p *gcPace) follow() { afterCollections(context.Background(), p.collected) }

// afterCollections calls f after each collection of garbage until ctx ends. It needs no goroutine: a dead object tells.
func afterCollections(ctx context.Context, f func()) {
	type tick struct{ _ [64]byte } // not so small that it shares its block with others
	runtime.AddCleanup(new(tick), func(f func()) {
		if ctx.Err() == nil {
			f()
			afterCollections(ctx, f)
		}
	}, f)
}

// How much longer than it wants to the runtime's watchdog may sleep in a busy program and in a quiet one.
const (
	busySlack  = 250 * time.Microsecond
	quietSlack = 10 * time.Millisecond
)

// watchdogCalmer returns what lets the kernel wake the runtime's watchdog (sysmon) later than it asks for. Whenever something happens in a program that was idle, that thread
// sleeps fifty times for 20 microseconds before it sleeps longer, and each of these costs several: of what a request to an idle server costs it was a sixth. What it is there
// for (processors that wait for the kernel, goroutines that run for 10 ms, a network that nobody looks at) it does that much later instead. Where it may not or cannot be told,
// all is as before.
func watchdogCalmer() func(slack time.Duration) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return func(time.Duration) {}
	}
	var threads []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			threads = append(threads, n)
		}
	}
	tid, ok := watchdog(os.Getpid(), threads)
	if !ok {
		return func(time.Duration) {}
	}
	return func(slack time.Duration) {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), strconv.AppendInt(nil, int64(slack), 10), 0o644)
	}
}

// watchdog is the first thread that the runtime has made: the one whose number comes next after the program's, where numbers begin again at the end.
func watchdog(pid int, threads []int) (int, bool) {
	others := slices.DeleteFunc(slices.Sorted(slices.Values(threads)), func(n int) bool { return n == pid })
	if len(others) == 0 {
		return 0, false
	}
	after, _ := slices.BinarySearch(others, pid)
	return others[after%len(others)], true
}
