package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	clients     = 16 // work at the same time where a scenario says so
	connections = 16 // HTTP/2 connections that they and the watchers share

	typeJSON     = "application/json"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
	typeMerge    = "application/merge-patch+json"
	typeApply    = "application/apply-patch+yaml"
)

// client sends prepared requests over several connections, so that little of the machine goes into making requests.
type client struct {
	base  string
	conns []*http.Client
}

func newClient(m *machine.Machine, connections int) (*client, error) {
	cfg, err := m.RESTConfig()
	if err != nil {
		return nil, err
	}
	cfg.DisableCompression = true
	c := &client{base: strings.TrimSuffix(cfg.Host, "/")}
	for range connections {
		own := rest.CopyConfig(cfg)
		own.Dial = func(ctx context.Context, network, address string) (net.Conn, error) { // client-go shares a connection among equal dialers
			return m.NS.Dial(ctx, network, address)
		}
		hc, err := rest.HTTPClientFor(own)
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, hc)
	}
	return c, nil
}

func (c *client) close() {
	for _, hc := range c.conns {
		hc.CloseIdleConnections()
	}
}

// call is one request.
type call struct {
	method, path string
	contentType  string // of the body; JSON if empty
	accept       string // JSON if empty
	encoding     string // Accept-Encoding
	body         []byte
}

// open sends the request on one of the connections. An answer that is not a success is an error.
func (c *client) open(ctx context.Context, conn int, r call) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", or(r.contentType, typeJSON))
	}
	req.Header.Set("Accept", or(r.accept, typeJSON))
	if r.encoding != "" {
		req.Header.Set("Accept-Encoding", r.encoding)
	}
	resp, err := c.conns[conn%len(c.conns)].Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what can be read of it explains the status
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", r.method, r.path, resp.Status, text)
	}
	return resp, nil
}

// do sends the request and reads the whole answer.
func (c *client) do(ctx context.Context, conn int, r call) ([]byte, error) {
	resp, err := c.open(ctx, conn, r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // nothing is left to go wrong
	return data, err
}

// drain is do without keeping the answer; it counts its bytes.
func (c *client) drain(ctx context.Context, conn int, r call) (int64, error) {
	resp, err := c.open(ctx, conn, r)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close() // nothing is left to go wrong
	return n, err
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// parallel calls f for 0 to n-1 from several workers and returns the first error, after which nothing new begins.
func parallel(ctx context.Context, workers, n int, f func(ctx context.Context, worker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := f(ctx, worker, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// namespace is where the scenarios keep their objects.
const namespace = "bench"

// inNamespace is the path of a resource of the core group.
func inNamespace(resource string) string { return "/api/v1/namespaces/" + namespace + "/" + resource }

// makeNamespace makes the namespace and waits for its service account, without which no pod is admitted.
func (c *client) makeNamespace(ctx context.Context) error {
	body := encode(object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": namespace}})
	if _, err := c.do(ctx, 0, call{method: http.MethodPost, path: "/api/v1/namespaces", body: body}); err != nil {
		return err
	}
	resp, err := c.open(ctx, 0, call{method: http.MethodGet, path: inNamespace("serviceaccounts?watch=true&fieldSelector=metadata.name%3Ddefault")})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the watch is given up, not ended
	var event struct{ Type string }
	if err := json.NewDecoder(resp.Body).Decode(&event); err != nil {
		return fmt.Errorf("wait for the default service account: %w", err)
	}
	return nil
}

type object = map[string]any

// encode encodes what this program has made of strings, numbers, maps and slices.
func encode(o object) []byte {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err) // cannot be, see above
	}
	return data
}

// resourceVersion finds an object's resource version in its JSON.
func resourceVersion(data []byte) (string, error) {
	var o struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return "", err
	}
	if o.Metadata.ResourceVersion == "" {
		return "", fmt.Errorf("no resourceVersion in %.100s", data)
	}
	return o.Metadata.ResourceVersion, nil
}
