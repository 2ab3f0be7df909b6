package kv

import (
	"sync"
	"time"
)

// Blind is how long a write waits for its own news without a look at the end of its request or of the store: most need no more, and a look costs a timer for the request and a
// lock for each thing that is waited for.
const Blind = 20 * time.Millisecond

// Timers are timers that are used again. The zero value is ready for use, by several goroutines.
type Timers struct{ pool sync.Pool }

// Start returns a timer that fires after d. It is to be given to Stop.
func (t *Timers) Start(d time.Duration) *time.Timer {
	if timer, ok := t.pool.Get().(*time.Timer); ok {
		timer.Reset(d)
		return timer
	}
	return time.NewTimer(d)
}

// Stop takes a timer back.
func (t *Timers) Stop(timer *time.Timer) {
	timer.Stop()
	t.pool.Put(timer)
}
