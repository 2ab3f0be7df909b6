package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// Status is what the machine itself may ask about the proxy, where kube-proxy answers by default.
type Status struct {
	// Address is where to listen; "" is nowhere. Whoever reaches it is answered, so it should be of the loopback interface.
	Address string
	// Mode is the answer to /proxyMode: "nftables" or "userspace".
	Mode string
	// Metrics has the proxy's; what else it has is not told. Nil has none.
	Metrics prometheus.Gatherer
}

// own are the metrics of the proxy alone.
type own struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g own) Gather() ([]*dto.MetricFamily, error) {
	all, err := g.Gatherer.Gather()
	var out []*dto.MetricFamily
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "kubeproxy_") {
			out = append(out, f)
		}
	}
	return out, err
}

// handler answers /healthz, which says that there is a process, /proxyMode and /metrics.
func (s *Status) handler() http.Handler {
	text := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = io.WriteString(w, answer) // a client that is gone
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", text("ok"))
	mux.HandleFunc("/proxyMode", text(s.Mode))
	if s.Metrics != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(own{s.Metrics}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	}
	return mux
}

// listenAlways answers on an address until ctx ends. While it is somebody else's, it is tried again; services work all the same.
func listenAlways(ctx context.Context, address string, h http.Handler, what string, log *slog.Logger) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // there is nobody left to tell
	defer stop()
	said := false
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if err == nil {
			err = srv.Serve(l)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return
		}
		if !said {
			said = true
			log.Error(what+" cannot be asked for; will try again", "address", address, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}
