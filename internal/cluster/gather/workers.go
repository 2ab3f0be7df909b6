package gather

import (
	"sync"
	"time"
)

// linger is how long goroutines wait for more to do before most of them end.
const linger = 2 * time.Second

// workers are goroutines that are used again: a handler needs a deep stack, and growing it for each request costs more than serving some. There is no
// bound on how many work at a time; callers have their own.
type workers struct {
	mu      sync.Mutex
	idle    []chan func() // the last one worked last: its stack is in the cache
	timer   *time.Timer   // not nil while there are idle ones
	resting bool          // who has nothing to do ends at once
}

// run has f run soon.
func (w *workers) run(f func()) {
	w.mu.Lock()
	w.resting = false
	if n := len(w.idle); n > 0 {
		ch := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		ch <- f
		return
	}
	w.mu.Unlock()
	go w.work(f)
}

func (w *workers) work(f func()) {
	ch := make(chan func(), 1)
	for f != nil {
		f()
		f = nil
		w.mu.Lock()
		if w.resting {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, ch)
		if w.timer == nil {
			w.timer = time.AfterFunc(linger, w.trim)
		}
		w.mu.Unlock()
		f = <-ch
	}
}

// trim ends three of four of those who have nothing to do.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.idle) / 4
	for _, ch := range w.idle[:len(w.idle)-n] {
		ch <- nil
	}
	w.idle = append([]chan func(){}, w.idle[len(w.idle)-n:]...)
	w.timer = nil
	if n > 0 {
		w.timer = time.AfterFunc(linger, w.trim)
	}
}

// rest ends all who have nothing to do, now or soon.
func (w *workers) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting = true
	for _, ch := range w.idle {
		ch <- nil
	}
	w.idle = nil
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}
