package proxy

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// staleAfter is how old a change may get that the datapath has not taken before the proxy counts as ill, as of kube-proxy.
	staleAfter = time.Minute
	// listenAgain is how long the health server waits when its port is taken.
	listenAgain = 10 * time.Second
	// leavingTaint is the cluster autoscaler's on nodes that are about to go (KEP-3836).
	leavingTaint = "ToBeDeletedByClusterAutoscaler"
)

// health is what load balancers and others may know about the proxy.
type health struct {
	mu      sync.Mutex
	updated time.Time // guarded by mu: when the datapath last was what the API says
	waiting time.Time // guarded by mu: since when a change waits for the datapath; zero is that none does
	leaving bool      // guarded by mu: the node is about to go, and wants no new connections from outside
}

// changed notes that there is something to do.
func (h *health) changed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting.IsZero() {
		h.waiting = time.Now()
	}
}

// begin returns since when what is done now has been waiting. What changes from here on waits anew.
func (h *health) begin() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	since := h.waiting
	h.waiting = time.Time{}
	return since
}

// end says how it went.
func (h *health) end(since time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch now := time.Now(); {
	case err == nil:
		h.updated = now
	case since.IsZero():
		h.waiting = now
	default:
		h.waiting = since
	}
}

// look takes what matters of the node; nil is one that isn't there.
func (h *health) look(n *corev1.Node) {
	leaving := n != nil && n.DeletionTimestamp != nil
	if n != nil {
		for _, t := range n.Spec.Taints {
			leaving = leaving || t.Key == leavingTaint
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = leaving
}

// well reports whether services work as the API says, or will soon.
func (h *health) well() (ok, leaving bool, updated time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ok = !h.updated.IsZero() && (h.waiting.IsZero() || time.Since(h.waiting) < staleAfter)
	return ok, h.leaving, h.updated
}

// ServeHTTP answers /healthz, for load balancers that ask whether they may send to this node, and /livez, for those who look after the proxy, whom it
// does not matter that the node is about to go.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ok, leaving, updated := h.well()
	answer := map[string]any{"lastUpdated": updated, "currentTime": time.Now()}
	switch r.URL.Path {
	case "/healthz":
		ok = ok && !leaving
		answer["nodeEligible"] = !leaving
	case "/livez":
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// A client that does not read is its own problem.
	_ = json.NewEncoder(w).Encode(answer)
}
