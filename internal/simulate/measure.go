package simulate

import (
	"math"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// firstBucket is the upper end of the first bucket, step how much larger each is than the one before: figures are exact to 5 %.
	firstBucket = 10 * time.Microsecond
	step        = 1.05
	buckets     = 340 // up to about 150 s
)

// histogram counts durations in buckets. It isn't safe for concurrent use.
type histogram struct {
	counts [buckets]uint32
	n      uint64
	sum    time.Duration
	most   time.Duration
}

func (h *histogram) add(d time.Duration) {
	i := 0
	if d > firstBucket {
		i = min(int(math.Ceil(math.Log(float64(d)/float64(firstBucket))/math.Log(step))), buckets-1)
	}
	h.counts[i]++
	h.n++
	h.sum += d
	h.most = max(h.most, d)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.sum += o.sum
	h.most = max(h.most, o.most)
}

// quantile is the duration that this part of all were not longer than.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	left := uint64(math.Ceil(q * float64(h.n)))
	for i, n := range h.counts {
		if left <= uint64(n) {
			return min(time.Duration(float64(firstBucket)*math.Pow(step, float64(i))), h.most)
		}
		left -= uint64(n)
	}
	return h.most
}

// call is a kind of request.
type call struct{ verb, resource string }

// requests measures the requests of a client, in total and by kind.
type requests struct {
	next http.RoundTripper

	mu      sync.Mutex
	kinds   map[call]*kindOfCall
	current histogram // since the last sample
}

type kindOfCall struct {
	histogram
	errors int
}

// RoundTrip measures until the answer's header is there, which in one process is the whole of it.
func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	c, watch := classify(req)
	if watch {
		return r.next.RoundTrip(req)
	}
	begin := time.Now()
	resp, err := r.next.RoundTrip(req)
	r.note(c, time.Since(begin), err != nil || resp.StatusCode >= http.StatusBadRequest)
	return resp, err
}

// note counts a request that took so long.
func (r *requests) note(c call, took time.Duration, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[c]
	if k == nil {
		k = &kindOfCall{}
		r.kinds[c] = k
	}
	k.add(took)
	if failed {
		k.errors++
	}
	r.current.add(took)
}

// sample returns what was measured since it was called last.
func (r *requests) sample() histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.current
	r.current = histogram{}
	return h
}

// classify says what a request does, in the words of the API, and whether it is a watch.
func classify(r *http.Request) (c call, watch bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		parts = parts[3:]
	default:
		return call{strings.ToLower(r.Method), "other"}, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	c.resource = parts[0]
	if len(parts) > 2 {
		c.resource += "/" + parts[2]
	}
	switch r.Method {
	case http.MethodGet:
		if r.URL.Query().Get("watch") != "" {
			return c, true
		}
		if c.verb = "list"; len(parts) > 1 {
			c.verb = "get"
		}
	case http.MethodPost:
		c.verb = "create"
	case http.MethodPut:
		c.verb = "update"
	case http.MethodDelete:
		if c.verb = "delete"; len(parts) == 1 {
			c.verb = "deletecollection"
		}
	default:
		c.verb = strings.ToLower(r.Method)
	}
	return c, false
}
