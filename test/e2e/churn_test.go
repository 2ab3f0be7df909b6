package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/e2e/machine"
)

var (
	churnClients = flag.Int("churn-clients", 1000, "clients of TestChurn")
	churnTime    = flag.Duration("churn-time", 12*time.Second, "how long they come and go")
)

const (
	churnWriters = 10
	churnObjects = 20
	// churnPause is how long a writer rests between writes.
	churnPause = 250 * time.Millisecond
	// churnGrowth is what memory may be above what it was, and churnGoroutines how many more goroutines there may be: a leak of one per client, or of a
	// stream's state, is a multiple.
	churnGrowth     = 12 << 20
	churnGoroutines = 50
	churnPath       = "/api/v1/namespaces/default/configmaps"
)

// TestChurn has a thousand clients list, watch, write and vanish, politely and not. None may see a revision twice, out of order or not at all, and when they
// have gone the server is what it was before.
func TestChurn(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	if err := m.Start("--disable-node"); err != nil {
		t.Fatal(err)
	}
	config, err := m.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	c := &churn{m: m, config: config}
	observer := c.newClient(t)
	defer observer.close()
	if err := c.warmUp(t.Context(), observer); err != nil {
		t.Fatal(err)
	}
	goroutines, memory := c.settle(t, observer, 0, 0)
	_, start, err := observer.list(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	c.run(t)
	c.compare(t, observer, start)
	observer.hang() // its own idle connection is counted as before
	c.settle(t, observer, goroutines, memory)
	t.Logf("%d lives, %d events, %d writes; %d goroutines and %d MB before", c.lives.Load(), c.events.Load(), len(c.acknowledged), goroutines, memory>>20)
}

// churn is the state of the test.
type churn struct {
	m      *machine.Machine
	config *rest.Config

	lives, events atomic.Int64

	mu           sync.Mutex
	acknowledged []int64 // guarded by mu: revisions of writes that were answered
	seen         []span  // guarded by mu
}

// span is what one watch of everything has seen: all changes after from, up to the last.
type span struct {
	from int64
	revs []int64
}

// churnClient is one client with a connection of its own.
type churnClient struct {
	http  *http.Client
	base  string
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func (c *churn) newClient(t testing.TB) *churnClient {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	cl := &churnClient{base: strings.TrimSuffix(c.config.Host, "/")}
	cl.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.m.NS.Dial(ctx, network, address)
			if err == nil {
				cl.mu.Lock()
				cl.conns = append(cl.conns, conn)
				cl.mu.Unlock()
			}
			return conn, err
		},
	}}
	return cl
}

// close ends idle connections politely, hang cuts all.
func (cl *churnClient) close() { cl.http.CloseIdleConnections() }

func (cl *churnClient) hang() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, c := range cl.conns {
		_ = c.Close() // it may be closed already
	}
	cl.conns = nil
}

func (cl *churnClient) do(ctx context.Context, method, path string, body any, contentType string) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, cl.base+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := cl.http.Do(req)
	if err == nil && resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusConflict {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what can be read explains the status
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, err
}

type partial struct {
	Metadata struct{ Name, ResourceVersion string }
	Items    []partial
}

// decode reads an answer; what was asked for may be missing.
func decode(resp *http.Response) (p partial, rev int64, err error) {
	defer func() { _ = resp.Body.Close() }() // all of it has been read
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		return p, 0, err
	}
	if p.Metadata.ResourceVersion == "" {
		return p, 0, nil
	}
	rev, err = strconv.ParseInt(p.Metadata.ResourceVersion, 10, 64)
	return p, rev, err
}

func (cl *churnClient) list(ctx context.Context, query string) (partial, int64, error) {
	resp, err := cl.do(ctx, http.MethodGet, churnPath+query, nil, "")
	if err != nil {
		return partial{}, 0, err
	}
	return decode(resp)
}

// warmUp has the server do once what it will do often, so that what stays for good is there before memory is looked at.
func (c *churn) warmUp(ctx context.Context, cl *churnClient) error {
	for i := range churnObjects {
		if err := c.write(ctx, cl, i, 0); err != nil {
			return err
		}
	}
	return c.live(ctx, cl, time.Second)
}

// run lets clients come and go.
func (c *churn) run(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), *churnTime)
	defer cancel()
	var wg sync.WaitGroup
	for range churnWriters {
		wg.Go(func() {
			cl := c.newClient(t)
			defer cl.close()
			for n := 0; ctx.Err() == nil; n++ {
				if err := c.write(ctx, cl, rand.IntN(churnObjects), n); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				sleep(ctx, churnPause)
			}
		})
	}
	for range *churnClients {
		wg.Go(func() {
			sleep(ctx, rand.N(*churnTime/4)) // not all at one instant
			cl := c.newClient(t)
			for ctx.Err() == nil {
				if err := c.live(ctx, cl, time.Second+rand.N(8*time.Second)); err != nil && ctx.Err() == nil {
					t.Error(err)
					break
				}
				if rand.IntN(3) == 0 {
					cl.hang()
					cl = c.newClient(t)
				}
			}
			cl.hang()
		})
	}
	wg.Wait()
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// write changes an object: mostly its data, sometimes its label, and now and then it goes and comes again.
func (c *churn) write(ctx context.Context, cl *churnClient, i, n int) error {
	name := fmt.Sprintf("churn-%d", i)
	object := map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"side": []string{"left", "right"}[rand.IntN(2)]}}, "data": map[string]any{"n": fmt.Sprint(n, rand.Int64())}}
	method, path, contentType := http.MethodPatch, churnPath+"/"+name, "application/merge-patch+json"
	switch {
	case n == 0 || rand.IntN(10) == 0:
		method, path, contentType = http.MethodPost, churnPath, "application/json"
	case rand.IntN(10) == 0:
		method, object = http.MethodDelete, nil
	}
	var body any
	if object != nil {
		body = object
	}
	resp, err := cl.do(ctx, method, path, body, contentType)
	if err != nil {
		return err
	}
	_, rev, err := decode(resp)
	if err == nil && resp.StatusCode/100 == 2 && method != http.MethodDelete {
		c.mu.Lock()
		c.acknowledged = append(c.acknowledged, rev)
		c.mu.Unlock()
	}
	return err
}

var versionOf = regexp.MustCompile(`"resourceVersion":"(\d+)"`)

// live is one life of a client: a list, watches that go on where the one before ended, and a death.
func (c *churn) live(ctx context.Context, cl *churnClient, age time.Duration) error {
	c.lives.Add(1)
	query := []string{"", "", "", "&fieldSelector=metadata.name%3Dchurn-1", "&labelSelector=side%3Dleft"}[rand.IntN(5)]
	list, from, err := cl.list(ctx, "?"+strings.TrimPrefix(query, "&"))
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, it := range list.Items {
		known[it.Metadata.Name] = true
	}
	s := span{from: from}
	at := from
	life, cancel := context.WithTimeout(ctx, age) // ends in the middle of things
	defer cancel()
	for life.Err() == nil {
		timeout := 1 + rand.IntN(4)
		resp, err := cl.do(life, http.MethodGet, fmt.Sprintf("%s?watch=1&allowWatchBookmarks=true&timeoutSeconds=%d&resourceVersion=%d%s", churnPath, timeout, at, query), nil, "")
		if err != nil {
			if life.Err() != nil {
				break
			}
			return err
		}
		lines := bufio.NewReaderSize(resp.Body, 4<<10)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break // a part of a line is none
			}
			rev, err := see(line, known, at)
			if err != nil {
				_ = resp.Body.Close()
				return fmt.Errorf("a watch (%q) from %d, at %d: %w", query, from, at, err)
			}
			at = rev
			if !bytes.HasPrefix(line, []byte(`{"type":"BOOKMARK"`)) {
				s.revs = append(s.revs, rev)
			}
		}
		_ = resp.Body.Close() // it has ended, or is given up
	}
	c.events.Add(int64(len(s.revs)))
	if query == "" {
		c.mu.Lock()
		c.seen = append(c.seen, s)
		c.mu.Unlock()
	}
	return nil
}

// see looks whether an event can be, after what is known at a revision.
func see(line []byte, known map[string]bool, at int64) (int64, error) {
	var e struct {
		Type   string
		Object partial
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, fmt.Errorf("%w: %.200s", err, line)
	}
	rev, err := strconv.ParseInt(e.Object.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("no revision in %.200s", line)
	}
	name := e.Object.Metadata.Name
	switch {
	case e.Type == "BOOKMARK":
		if rev < at {
			return 0, fmt.Errorf("a bookmark goes back to %d", rev)
		}
		return rev, nil
	case rev <= at:
		return 0, fmt.Errorf("%s of %s at %d: twice, or back in time", e.Type, name, rev)
	case e.Type == "ERROR" || known[name] == (e.Type == "ADDED"):
		return 0, fmt.Errorf("%.200s, while it is known: %v", line, known[name])
	}
	known[name] = e.Type != "DELETED"
	return rev, nil
}

// compare holds what the watches have seen against the history.
func (c *churn) compare(t *testing.T, cl *churnClient, start int64) {
	t.Helper()
	_, end, err := cl.list(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cl.do(t.Context(), http.MethodGet, fmt.Sprintf("%s?watch=1&timeoutSeconds=3&resourceVersion=%d", churnPath, start), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // all of it has been read
	if err != nil {
		t.Fatal(err)
	}
	var history []int64
	for line := range bytes.Lines(data) {
		if v := versionOf.FindSubmatch(line); v != nil {
			rev, _ := strconv.ParseInt(string(v[1]), 10, 64) // digits
			history = append(history, rev)
		}
	}
	if !slices.IsSorted(history) {
		t.Error("the history is not in order")
	}
	for _, rev := range c.acknowledged {
		if _, found := slices.BinarySearch(history, rev); !found && rev > start && rev <= end {
			t.Errorf("the write at %d was answered and is not in the history", rev)
		}
	}
	bad := 0
	for _, s := range c.seen {
		if len(s.revs) == 0 || s.from < start {
			continue
		}
		first, found := slices.BinarySearch(history, s.from)
		if found {
			first++
		}
		if want := history[first:min(first+len(s.revs), len(history))]; !slices.Equal(s.revs, want) {
			if bad++; bad <= 5 {
				t.Errorf("a watch from %d saw %v, the history is %v", s.from, s.revs, want)
			}
		}
	}
	t.Logf("%d of %d watches of everything differ from a history of %d changes", bad, len(c.seen), len(history))
}

// settle waits until the server is at rest. With a limit, it must come down to about what it was.
func (c *churn) settle(t *testing.T, cl *churnClient, goroutines, memory int64) (g, m int64) {
	t.Helper()
	limit := time.Now().Add(patience)
	for {
		cl.hang()
		time.Sleep(12 * time.Second) // the server counts as idle after ten seconds, and gives memory back
		m = c.memory(t, cl)
		g = c.goroutines(t, cl)
		if goroutines == 0 || g <= goroutines+churnGoroutines && m <= memory+churnGrowth {
			return g, m
		}
		if time.Now().After(limit) {
			t.Errorf("%d goroutines and %d MB, before there were %d and %d", g, m>>20, goroutines, memory>>20)
			return g, m
		}
	}
}

var heapOf = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)`)

// memory is what the server's objects take after a collection. Its pages are no measure: those of the file are shared with servers of other tests, and those of the
// heap stay half empty where many objects were.
func (c *churn) memory(t *testing.T, cl *churnClient) int64 {
	t.Helper()
	return c.number(t, cl, "/debug/pprof/heap?gc=1&debug=1", heapOf)
}

var goroutinesOf = regexp.MustCompile(`(?m)^go_goroutines (\d+)`)

func (c *churn) goroutines(t *testing.T, cl *churnClient) int64 {
	t.Helper()
	return c.number(t, cl, "/metrics", goroutinesOf)
}

// number is the one that a page of the server says.
func (c *churn) number(t *testing.T, cl *churnClient, path string, of *regexp.Regexp) int64 {
	t.Helper()
	resp, err := cl.do(t.Context(), http.MethodGet, path, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // all of it has been read
	v := of.FindSubmatch(data)
	if err != nil || v == nil {
		t.Fatalf("%s does not say it, %v", path, err)
	}
	n, _ := strconv.ParseInt(string(v[1]), 10, 64) // digits
	return n
}
