package apiserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store"
)

// TestWatchWebSocket reads the same events in every framing.
func TestWatchWebSocket(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	srv := httptest.NewServer(h)
	defer srv.Close()
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	const protobuf = "application/vnd.kubernetes.protobuf"
	for _, tt := range []struct {
		name, accept, protocol, got string
		kind                        int
		read                        func([]byte) ([]byte, error)
	}{
		{name: "text", kind: websocket.TextMessage},
		{name: "protobuf", accept: protobuf, kind: websocket.BinaryMessage},
		{name: "binary", protocol: "binary.k8s.io", got: "binary.k8s.io", kind: websocket.BinaryMessage},
		{name: "base64", protocol: "base64.binary.k8s.io", got: "base64.binary.k8s.io", kind: websocket.TextMessage, read: func(b []byte) ([]byte, error) {
			return base64.StdEncoding.AppendDecode(nil, b)
		}},
		{name: "a browser's token", protocol: "base64url.bearer.authorization.k8s.io.dG9rZW4", got: "base64url.bearer.authorization.k8s.io.dG9rZW4", kind: websocket.TextMessage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := websocket.Dialer{}
			if tt.protocol != "" {
				d.Subprotocols = []string{tt.protocol}
			}
			header := http.Header{}
			if tt.accept != "" {
				header.Set("Accept", tt.accept)
			}
			c, resp, err := d.DialContext(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+configMaps+"?watch=1", header)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != tt.got {
				t.Errorf("protocol %q", got)
			}
			kind, data, err := c.ReadMessage()
			if err == nil && tt.read != nil {
				data, err = tt.read(data)
			}
			if err != nil || kind != tt.kind {
				t.Fatalf("kind %d, %v", kind, err)
			}
			if tt.accept == protobuf {
				var e metav1.WatchEvent
				if err := e.Unmarshal(data); err != nil || e.Type != "ADDED" || !bytes.HasPrefix(e.Object.Raw, []byte("k8s\x00")) {
					t.Errorf("%v %.100q", err, data)
				}
				return
			}
			var e map[string]any
			if err := json.Unmarshal(data, &e); err != nil || e["type"] != "ADDED" || at(e, "object", "metadata", "name") != "a" {
				t.Errorf("%v %.100s", err, data)
			}
		})
	}
	// The server says goodbye when the time is over.
	now, _ := at(want(t, s.Handler(), 200, "GET", configMaps, ""), "metadata", "resourceVersion").(string)
	c, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+configMaps+"?watch=1&timeoutSeconds=1&resourceVersion="+now, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("ended by %v", err)
	}
}

// taker is a client's connection that takes what it is offered.
type taker struct {
	httptest.ResponseRecorder
	mu      sync.Mutex
	offered [][]byte
	kicked  chan struct{}
	refuse  bool
}

func (k *taker) Offer(p []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse = !k.refuse; k.refuse {
		return false // every other time
	}
	k.offered = append(k.offered, p)
	return true
}

func (k *taker) Kick() { k.kicked <- struct{}{} }

// Write stands for the handler's own way, after a refusal.
func (k *taker) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.offered = append(k.offered, bytes.Clone(p))
	return len(p), nil
}

// TestWatchOffers: watchers in the same form are given the same bytes, without their handlers, and each gets every event once and in order.
func TestWatchOffers(t *testing.T) {
	h := newServer(t).Handler()
	made := want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	ctx, cancel := context.WithCancel(t.Context())
	takers := make([]*taker, 3)
	var wg sync.WaitGroup
	for i := range takers {
		takers[i] = &taker{ResponseRecorder: *httptest.NewRecorder(), kicked: make(chan struct{}, 1000)}
		wg.Go(func() {
			path := configMaps + "?watch=1&fieldSelector=metadata.name%3Da&resourceVersion=" + fmt.Sprint(at(made, "metadata", "resourceVersion"))
			h.ServeHTTP(takers[i], httptest.NewRequestWithContext(ctx, "GET", path, nil))
		})
	}
	all := func(k *taker) []string {
		k.mu.Lock()
		defer k.mu.Unlock()
		return strings.SplitAfter(string(bytes.Join(k.offered, nil)), "\n")
	}
	const events = 20
	for i := range events {
		want(t, h, 200, "PATCH", configMaps+"/a", fmt.Sprintf(`{"data":{"i":"%02d"}}`, i), "Content-Type", "application/merge-patch+json")
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if len(all(takers[0])) > i+1 && len(all(takers[1])) > i+1 && len(all(takers[2])) > i+1 {
				break
			}
		}
	}
	cancel()
	wg.Wait()
	for i, k := range takers {
		lines := all(k)
		if len(lines) != events+1 {
			t.Fatalf("watcher %d: %d events", i, len(lines)-1)
		}
		for n, line := range lines[:events] {
			if !strings.HasPrefix(line, `{"type":"MODIFIED","object":{"kind":"ConfigMap"`) || !strings.Contains(line, fmt.Sprintf(`"data":{"i":"%02d"}`, n)) {
				t.Errorf("watcher %d, event %d: %.200s", i, n, line)
			}
		}
		if len(k.kicked) == 0 {
			t.Errorf("watcher %d was never told to send", i)
		}
	}
}

// TestBigList: a list that is too large to be kept is the same as one that is, but for its missing length.
func TestBigList(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	const size = 900 << 10
	n := cachedList/size + 2
	for i := range n {
		want(t, h, 201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"m%03d"},"data":{"k":%q}}`, i, strings.Repeat("x", size)))
	}
	w := call(t, h, "GET", configMaps, "")
	if w.Header().Get("Content-Length") != "" {
		t.Error("a length that nobody can know")
	}
	var list struct {
		Kind     string
		Metadata metav1.ListMeta
		Items    []map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || list.Kind != "ConfigMapList" || list.Metadata.ResourceVersion == "" || len(list.Items) != n {
		t.Fatalf("%v, %d items", err, len(list.Items))
	}
	for i, it := range list.Items {
		if at(it, "metadata", "name") != fmt.Sprintf("m%03d", i) || it["kind"] != nil {
			t.Errorf("item %d is %v, a %v", i, at(it, "metadata", "name"), it["kind"])
		}
	}
	col, _ := s.cfg.Store.Collection(schema.GroupResource{Resource: "configmaps"})
	item := col.Peek("n/m001")
	if _, cached := item.Cached(store.Form{MediaType: "application/json;x", GroupVersion: schema.GroupVersion{Version: "v1"}}); cached {
		t.Error("a form that nobody asked for is cached")
	}
	packed := call(t, h, "GET", configMaps, "", "Accept-Encoding", "gzip")
	if packed.Header().Get("Content-Encoding") != "gzip" || packed.Body.Len() > w.Body.Len()/10 {
		t.Errorf("%v, %d bytes", packed.Header(), packed.Body.Len())
	}
}

// TestRow compares rows with what encoding/json makes of them.
func TestRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.String(), func(s string) any { return s }), rapid.Map(rapid.Int64(), func(n int64) any { return n }),
			rapid.Map(rapid.Int32(), func(n int32) any { return n }), rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Map(rapid.Float64(), func(f float64) any { return f }))
		r := metav1.TableRow{Cells: rapid.SliceOfN(cell, 1, 5).Draw(t, "cells")}
		if rapid.Bool().Draw(t, "marked") {
			r.Conditions = []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: "<r>"}}
		}
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := appendRow(nil, r)
		if got = append(got, "null}"...); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s\nshould be\n%s, %v", got, want, err)
		}
	})
}
