package apiserver

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// continuing is a connection that goes on after the handler.
type continuing struct {
	sink
	rest   func()
	events chan string
}

func (c *continuing) Continue(f func()) { c.rest = f }

func (c *continuing) Write(p []byte) (int, error) {
	c.events <- string(p)
	return len(p), nil
}

// A watch on a connection that can go on without the handler does, until it ends; the request ends with it and not before.
func TestWatchGoesOn(t *testing.T) {
	h := newServer(t).Handler()
	send := func(name string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, benchMaps, strings.NewReader(configMapJSON(name, "0")))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", jsonType)
		w := &sink{header: http.Header{}}
		if h.ServeHTTP(w, req); w.code != http.StatusCreated {
			t.Fatalf("creating %s: %d", name, w.code)
		}
	}
	send("before")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, benchMaps+"?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &continuing{sink: sink{header: http.Header{}}, events: make(chan string, 10)}
	h.ServeHTTP(w, req)
	if w.rest == nil {
		t.Fatal("the handler has returned, and nothing goes on")
	}
	var wg sync.WaitGroup
	wg.Go(w.rest)
	next := func(want string) {
		t.Helper()
		select {
		case e := <-w.events:
			if !strings.Contains(e, want) {
				t.Errorf("%s, not %s", e, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("no event of %s", want)
		}
	}
	next(`"name":"before"`)
	send("after")
	next(`"name":"after"`)
	cancel()
	wg.Wait() // the watch ends with its client
	if w.code != http.StatusOK {
		t.Errorf("answered %d", w.code)
	}

	// What is refused is answered by the handler.
	req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, benchMaps+"?watch=1&resourceVersion=x", nil)
	if err != nil {
		t.Fatal(err)
	}
	w = &continuing{sink: sink{header: http.Header{}}, events: make(chan string, 10)}
	if h.ServeHTTP(w, req); w.rest != nil || w.code < http.StatusBadRequest {
		t.Errorf("a request that is refused goes on, or is answered %d", w.code)
	}
}
