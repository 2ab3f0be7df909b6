package cluster

import (
	"net/http"
	"sync/atomic"
	"time"
)

// quiet is how long nothing must have been asked until the server counts as idle.
const quiet = 10 * time.Second

// idleWatch calls a function each time the server has become idle. It costs an atomic write per request, one timer while there are requests, and
// nothing while there are none.
type idleWatch struct {
	now   func() time.Time
	after func(time.Duration, func())
	idle  func()
	last  atomic.Int64 // unix nanoseconds of the newest request
	armed atomic.Bool
}

func newIdleWatch(idle func()) *idleWatch {
	return &idleWatch{now: time.Now, after: func(d time.Duration, f func()) { time.AfterFunc(d, f) }, idle: idle}
}

// touch notes that something happens.
func (w *idleWatch) touch() {
	w.last.Store(w.now().UnixNano())
	if w.armed.CompareAndSwap(false, true) {
		w.after(quiet, w.look)
	}
}

func (w *idleWatch) look() {
	if left := quiet - w.now().Sub(time.Unix(0, w.last.Load())); left > 0 {
		w.after(left, w.look)
		return
	}
	w.armed.Store(false)
	w.idle()
}

// wrap notes every request to h.
func (w *idleWatch) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.touch()
		h.ServeHTTP(rw, r)
	})
}
