package cluster

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// busyInterval is the time between two collections below which the program counts as busy.
	busyInterval = 4 * time.Second
	// busyHeadroom is how much garbage a busy program may gather at most, in bytes, if more than gcPercent would let it.
	busyHeadroom = 192 << 20
	maxGCPercent = 800
	// maxHeadroom is how much garbage a program may gather at most, in bytes: where 150,000 pods live, gcPercent of them would be gigabytes.
	maxHeadroom  = 768 << 20
	minGCPercent = 25
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
	return int(math.Min(maxGCPercent, math.Max(gcPercent, 100*busyHeadroom/float64(live))))
}

// largePercent is the percentage of what lives that a program may add if much lives.
func largePercent(live uint64) int {
	if live == 0 {
		return maxGCPercent
	}
	return int(math.Min(maxGCPercent, math.Max(minGCPercent, 100*maxHeadroom/float64(live))))
}

// follow calls collected after each collection for as long as the program lives. It needs no goroutine: a dead object tells.
func (p *gcPace) follow() {
	type tick struct{ _ [64]byte } // not so small that it shares its block with others
	runtime.AddCleanup(new(tick), func(p *gcPace) {
		p.collected()
		p.follow()
	}, p)
}
