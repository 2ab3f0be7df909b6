package controllertest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Through returns a client of the API whose requests refuse sees before they are carried out: one for which it returns an error of the API's is answered
// with that. Refuse may be called from many goroutines.
func (e *Env) Through(t *testing.T, refuse func(*http.Request) error) kubernetes.Interface {
	t.Helper()
	cfg := rest.CopyConfig(e.API)
	cfg.Transport = refusing{e.API.Transport, refuse}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type refusing struct {
	inner  http.RoundTripper
	refuse func(*http.Request) error
}

// RoundTrip implements http.RoundTripper.
func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	var status apierrors.APIStatus
	if !errors.As(r.refuse(req), &status) {
		return r.inner.RoundTrip(req)
	}
	s := status.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: int(s.Code), Status: http.StatusText(int(s.Code)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(body))), ContentLength: int64(len(body)),
	}, nil
}

// Conflicts is a refusal for Through: every write, by its method and path, is answered with a conflict the first time.
type Conflicts struct {
	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

// Refuse refuses what was not refused before.
func (c *Conflicts) Refuse(r *http.Request) error {
	if r.Method == http.MethodGet {
		return nil
	}
	what := r.Method + " " + r.URL.Path
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[what] {
		return nil
	}
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	c.seen[what] = true
	return apierrors.NewConflict(schema.GroupResource{Resource: "things"}, what, errors.New("injected"))
}

// Refused are the writes that were refused, as "METHOD /path".
func (c *Conflicts) Refused() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for what := range c.seen {
		out = append(out, what)
	}
	return out
}
