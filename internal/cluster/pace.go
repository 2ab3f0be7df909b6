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
	// busyHeadroom is how much garbage a busy program may gather at least, in bytes, up to maxGCPercent of what lives; and busyGCPercent whatever that comes to.
	// More would not be cheaper where little lives: memory that was never used has to be given by the kernel, page by page.
	busyHeadroom  = 192 << 20
	busyGCPercent = 300
	maxGCPercent  = 800
	// largeHeadroom is how much garbage a program in which much lives may gather, in bytes: where 150,000 pods live, gcPercent of them would be gigabytes. Where more
	// than that lives it is largeGCPercent of it, up to maxHeadroom, because each collection looks at all that lives; and minGCPercent whatever that comes to.
	largeHeadroom  = 768 << 20
	largeGCPercent = 50
	maxHeadroom    = 1 << 30
	minGCPercent   = 25
)

// gcPace lets a program that is busy gather more garbage between two collections than one that is not: what a collection costs depends on
// what lives, not on what is dead, and the little that lives in a small cluster would be looked at several times a second. When the
// load ends, the garbage goes with releaseMemory. A program in which much lives may gather less.
type gcPace struct {
	now     func() time.Time
	read    func() (live, cycles uint64) // bytes that the last collection found alive, and how many the runtime has begun itself
	set     func(percent int)
	last    time.Time
	cycles  uint64
	percent int
}

func newGCPace() *gcPace {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/automatic:gc-cycles"}}
	return &gcPace{
		now: time.Now, percent: gcPercent,
		read: func() (live, cycles uint64) {
			metrics.Read(samples)
			return samples[0].Value.Uint64(), samples[1].Value.Uint64()
		},
		set: func(percent int) { debug.SetGCPercent(percent) },
	}
}

// collected is told of each collection, one at a time.
func (p *gcPace) collected() {
	percent := gcPercent
	live, cycles := p.read()
	if cycles != p.cycles { // else somebody asked for it, who wants the program to be small
		now := p.now()
		if now.Sub(p.last) < busyInterval {
			percent = busyPercent(live)
		}
		p.last, p.cycles = now, cycles
	}
	percent = min(percent, largePercent(live))
	// Setting it stops the world for a moment: not for little.
	if d := percent - p.percent; d > p.percent/8 || -d > p.percent/8 {
		p.percent = percent
		p.set(percent)
	}
}

// busyPercent is the percentage of what lives that a busy program may add.
func busyPercent(live uint64) int {
	if live == 0 {
		return gcPercent
	}
	return int(math.Min(maxGCPercent, math.Max(busyGCPercent, 100*busyHeadroom/float64(live))))
}

// largePercent is the percentage of what lives that a program may add if much lives.
func largePercent(live uint64) int {
	if live == 0 {
		return maxGCPercent
	}
	headroom := math.Min(maxHeadroom, math.Max(largeHeadroom, float64(live)*largeGCPercent/100))
	return int(math.Min(maxGCPercent, math.Max(minGCPercent, 100*headroom/float64(live))))
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

// crowded is told when many begin to write at once, and when they no longer do: the program may run on one processor more meanwhile, unless the environment says on how many.
// The thread that syncs the log keeps its processor until the runtime takes it away, which it does when it happens to look, up to a tenth of a millisecond later. A few hundred times
// a second that is much of what a small machine has: on two cores a tenth to a fifth of what it gets done (docs/performance.md).
func crowded(now bool) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	more := 1
	if !now {
		more = -1
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0)+more, 1))
}

// watchdogSlack is how much longer than it wants to the runtime's watchdog may sleep.
const watchdogSlack = 250 * time.Microsecond

// calmWatchdog lets the kernel wake the runtime's watchdog (sysmon) later than it asks for. Whenever something happens in a program that was idle, that thread sleeps fifty times for 20
// microseconds before it sleeps longer, and each of these costs several: of what a request to an idle server costs it was a sixth. What it is there for (processors that
// wait for the kernel, goroutines that run for 10 ms, a network that nobody looks at) it does a fraction of a millisecond later instead. Where it may not or cannot be told, all is as before.
func calmWatchdog() {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	var threads []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			threads = append(threads, n)
		}
	}
	if tid, ok := watchdog(os.Getpid(), threads); ok {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), strconv.AppendInt(nil, int64(watchdogSlack), 10), 0o644)
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
