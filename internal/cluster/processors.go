package cluster

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookInterval is the least time between two looks at how busy the program is.
	lookInterval = 100 * time.Millisecond
	// slowInterval is the time between two looks while nobody asks for anything, and idleInterval while next to nothing is done.
	slowInterval = 200 * time.Millisecond
	idleInterval = time.Second
	// idleCPU is the part of one processor that is next to nothing: a look wakes the program.
	idleCPU = 0.02
	// busyCPU is the part of one processor that a program uses between two looks which is no longer quiet.
	busyCPU = 0.5
	// A program that uses less than quietCPU of one processor for quietTime is quiet.
	quietCPU  = 0.25
	quietTime = 2 * time.Second
	// startTime is how long a program is not quiet after its start whatever it does, because it is to start quickly.
	startTime = 5 * time.Second
)

// processors decides on how many processors the program runs Go's code at a time. A quiet program runs on one: each goroutine that becomes ready while others run has Go wake
// another thread to look for work, and where little is to be done that costs more than the work. On two processors it was a fifth of the CPU time of 50 patches a second
// with 200 watchers, and a seventh of that of starting a pod (docs/benchmarks.md). Its watchdog (watchdogCalmer) is calmer then, too. A program that
// begins to be busy has all of them within a tenth of a second of its next request, or within a second. If the environment says how many processors there are (GOMAXPROCS), the
// program is never quiet.
//
// Its methods may be called by several goroutines at once.
type processors struct {
	cores int  // what a busy program runs on
	fixed bool // by the environment
	born  time.Time
	next  atomic.Int64 // nanoseconds since then, by a clock that nobody sets; before that a look does nothing
	now   func() time.Time
	cpu   func() time.Duration // the program has used
	set   func(int)
	slack func(time.Duration) // of the runtime's watchdog

	mu      sync.Mutex
	running int       // how many there are now
	extra   int       // processors beside the cores
	quiet   bool      // now
	last    usage     // at the last look
	calm    usage     // since when the program may have been quiet
	early   time.Time // until then it is not
	share   float64   // of one processor that was used between the last two looks
}

// usage is how much CPU time the program has used by a time.
type usage struct {
	at  time.Time
	cpu time.Duration
}

// since is the part of one processor that was used since before.
func (u usage) since(before usage) float64 {
	return float64(u.cpu-before.cpu) / max(float64(u.at.Sub(before.at)), 1)
}

func newProcessors() *processors {
	p := &processors{
		cores: runtime.GOMAXPROCS(0), fixed: os.Getenv("GOMAXPROCS") != "", now: time.Now, cpu: cpuTime, set: func(n int) { runtime.GOMAXPROCS(n) }, slack: watchdogCalmer(),
	}
	p.running, p.born = p.cores, p.now()
	p.slack(busySlack)
	p.begin()
	return p
}

// begin has the program not be quiet for some time. It is called with mu, or by newProcessors.
func (p *processors) begin() {
	p.rest(false)
	p.last = usage{p.now(), p.cpu()}
	p.calm, p.early = p.last, p.last.at.Add(startTime)
}

// cpuTime is the CPU time that this process has used, 0 if the kernel doesn't say.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// more lets the program run on n processors more than it would otherwise, or fewer.
func (p *processors) more(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.extra += n
	p.apply()
}

// crowded is told when many begin to write at once, and when they no longer do: the program may run on one processor more meanwhile, unless the environment says on how many.
// The thread that syncs the log keeps its processor until the runtime takes it away, which it does when it happens to look, a fraction of a millisecond later. A few hundred times
// a second that is much of what a small machine has: on two cores a tenth to a fifth of what it gets done (docs/performance.md).
func (p *processors) crowded(now bool) {
	switch {
	case p.fixed:
	case now:
		p.more(1)
	default:
		p.more(-1)
	}
}

// look finds out whether the program is busy or quiet, if it is time to.
func (p *processors) look() {
	now := p.now()
	if p.fixed || p.cores == 1 || int64(now.Sub(p.born)) < p.next.Load() || !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	p.next.Store(int64(now.Sub(p.born) + lookInterval))
	u := usage{now, p.cpu()}
	p.share = u.since(p.last)
	p.last = u
	switch {
	case p.share >= busyCPU:
		p.rest(false)
		p.calm = u
	case p.quiet || now.Before(p.early) || now.Sub(p.calm.at) < quietTime:
	case u.since(p.calm) < quietCPU:
		p.rest(true)
	default:
		p.calm = u
	}
	p.apply()
}

// rest makes the program quiet or not. It is called with mu, and before apply.
func (p *processors) rest(quiet bool) {
	switch {
	case p.quiet == quiet:
		return
	case quiet:
		p.slack(quietSlack)
	default:
		p.slack(busySlack)
	}
	p.quiet = quiet
}

// apply is called with mu.
func (p *processors) apply() {
	n := p.cores
	if p.quiet {
		n = 1
	}
	if n = max(n+p.extra, 1); n != p.running {
		p.running = n
		p.set(n)
	}
}

// follow looks after each collection of garbage, and else slowly, until ctx ends: then the program has all processors.
func (p *processors) follow(ctx context.Context) error {
	afterCollections(ctx, p.look)
	tick := time.NewTimer(slowInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			p.begin()
			p.apply()
			return nil
		case <-tick.C:
			p.look()
			tick.Reset(p.interval())
		}
	}
}

// interval is the time until follow looks again.
func (p *processors) interval() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.share < idleCPU {
		return idleInterval
	}
	return slowInterval
}

// wrap looks at each request to h.
func (p *processors) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p.look()
		h.ServeHTTP(rw, r)
	})
}
