package cluster

import (
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/cluster/join"
)

// watchServer says when the API server cannot be reached any more, and when it can again, which it also tells back. It makes no requests of its own: a node's
// lease alone is a request every few seconds.
func watchServer(server *url.URL, say Say, back *signal) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return &reach{next: next, server: server, say: say, back: back}
	}
}

type reach struct {
	next   http.RoundTripper
	server *url.URL
	say    Say
	back   *signal
	lost   atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (r *reach) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	switch {
	case err == nil:
		if r.lost.CompareAndSwap(true, false) {
			r.say("the server at %s is back", r.server.Host)
			r.back.give()
		}
	case req.Context().Err() != nil: // somebody did not want to wait
	default:
		if r.lost.CompareAndSwap(false, true) {
			r.say("%v; pods and services go on as they are", join.Explain(err, r.server, time.Now()))
		}
	}
	return resp, err
}

// WrappedRoundTripper is below.
func (r *reach) WrappedRoundTripper() http.RoundTripper { return r.next }

// signal wakes everybody who waits for it.
type signal struct {
	mu sync.Mutex
	c  chan struct{} // guarded by mu; closed the next time
}

func newSignal() *signal { return &signal{c: make(chan struct{})} }

// next is closed when the signal is given the next time.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

func (s *signal) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.c)
	s.c = make(chan struct{})
}
