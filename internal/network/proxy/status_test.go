package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestStatus(t *testing.T) {
	r := prometheus.NewRegistry()
	NewMetrics(r)
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "others_total", Help: "Somebody else's."}))
	h := (&Status{Mode: "nftables", Metrics: r}).handler()
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	for path, want := range map[string]string{"/healthz": "ok", "/proxyMode": "nftables"} {
		if code, body := get(path); code != 200 || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "kubeproxy_sync_proxy_rules_duration_seconds_count") || strings.Contains(body, "others_total") {
		t.Errorf("/metrics: %d %.2000s", code, body)
	}
	if code, _ := get("/secrets"); code != 404 {
		t.Errorf("what is not there: %d", code)
	}
}

// TestAddressTaken: somebody else's process on the port is said once, and is in nobody's way.
func TestAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	said := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		listenAlways(ctx, taken.Addr().String(), http.NotFoundHandler(), "status", slog.New(slog.NewTextHandler(tell(said), nil)))
	}()
	if line := <-said; !strings.Contains(line, "address already in use") {
		t.Error(line)
	}
	cancel()
	<-ended
}

// TestListens: it answers, and is gone when it should be.
func TestListens(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		listenAlways(ctx, address, (&Status{Mode: "userspace"}).handler(), "status", slog.New(slog.DiscardHandler))
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body []byte
	// Nothing tells that a port is open but that it answers.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		res, err := client.Get("http://" + address + "/proxyMode")
		if err != nil {
			continue
		}
		body, _ = io.ReadAll(res.Body)
		_ = res.Body.Close()
		break
	}
	if string(body) != "userspace" {
		t.Errorf("got %q", body)
	}
	cancel()
	<-ended
}

// tell passes on what is written.
type tell chan string

func (c tell) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}
