package cluster

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/cluster/join"
)

// watchServer says when the API server cannot be reached any more, and when it can again. It makes no requests of its own: a node's lease alone is a
// request every few seconds.
func watchServer(server *url.URL, say Say) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper { return &reach{next: next, server: server, say: say} }
}

type reach struct {
	next   http.RoundTripper
	server *url.URL
	say    Say
	lost   atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (r *reach) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req)
	switch {
	case err == nil:
		if r.lost.CompareAndSwap(true, false) {
			r.say("the server at %s is back", r.server.Host)
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
