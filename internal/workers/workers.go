package workers

import (
	"sync"
	"time"
)

// linger is how long goroutines wait for more to do before most of them end.
const linger = 2 * time.Second

// Pool is a number of goroutines, as many as were needed at once lately. Its zero value is ready for use; it must not be copied then. Its methods may be called by
// several goroutines at once.
type Pool struct {
	all sync.WaitGroup

	mu      sync.Mutex
	idle    []chan func() // guarded by mu; the last one worked last: its stack is in the cache
	timer   *time.Timer   // guarded by mu; not nil while there are idle ones
	resting bool          // guarded by mu; who has nothing to do ends at once
	closed  bool          // guarded by mu
}

// Run has f run soon, in a goroutine that does nothing else meanwhile.
func (p *Pool) Run(f func()) {
	p.mu.Lock()
	p.resting = p.closed
	if n := len(p.idle); n > 0 {
		ch := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		ch <- f
		return
	}
	p.mu.Unlock()
	p.all.Go(func() { p.work(f) })
}

func (p *Pool) work(f func()) {
	ch := make(chan func(), 1)
	for f != nil {
		f()
		f = nil
		p.mu.Lock()
		if p.resting {
			p.mu.Unlock()
			return
		}
		p.idle = append(p.idle, ch)
		if p.timer == nil {
			p.timer = time.AfterFunc(linger, p.trim)
		}
		p.mu.Unlock()
		f = <-ch
	}
}

// trim ends three of four of those who have nothing to do.
func (p *Pool) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) / 4
	for _, ch := range p.idle[:len(p.idle)-n] {
		ch <- nil
	}
	p.idle = append([]chan func(){}, p.idle[len(p.idle)-n:]...)
	p.timer = nil
	if n > 0 {
		p.timer = time.AfterFunc(linger, p.trim)
	}
}

// Rest ends all who have nothing to do, now or soon, until there is more to do.
func (p *Pool) Rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest()
}

// rest is Rest with mu.
func (p *Pool) rest() {
	p.resting = true
	for _, ch := range p.idle {
		ch <- nil
	}
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// Close is Rest for good, and waits until all have ended. From then on only what is being done may have more done.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.rest()
	p.mu.Unlock()
	p.all.Wait()
}
