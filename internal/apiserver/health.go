package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// healthChecks are the lines of one health path.
type healthChecks struct {
	name   string
	checks []Check
}

// outcomes count what health checks said, for /metrics/slis (KEP-3466).
type outcomes struct {
	registry *prometheus.Registry
	last     *prometheus.GaugeVec
	total    *prometheus.CounterVec
}

func newOutcomes(started time.Time) *outcomes {
	o := &outcomes{
		registry: prometheus.NewRegistry(),
		last:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubernetes_healthcheck", Help: "What each health check said last: 1 is that all is well."}, []string{"name", "type"}),
		total:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubernetes_healthchecks_total", Help: "What health checks said, by how it went."}, []string{"name", "type", "status"}),
	}
	start := prometheus.NewGauge(prometheus.GaugeOpts{Name: "process_start_time_seconds", Help: "When this server was started, in seconds since 1970."})
	start.Set(float64(started.UnixNano()) / 1e9)
	o.registry.MustRegister(o.last, o.total, start)
	return o
}

func (o *outcomes) count(check, path string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	o.last.WithLabelValues(check, path).Set(value)
	o.total.WithLabelValues(check, path, status).Inc()
}

// handler tells the counts, and begins anew when it is asked to delete them.
func (o *outcomes) handler() http.Handler {
	tell := promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodDelete {
			tell.ServeHTTP(w, r)
			return
		}
		o.last.Reset()
		o.total.Reset()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("metrics reset\n")) // a client that is gone
	})
}

// health prepares /livez, /readyz and /healthz. Each begins with "ping", which always succeeds, and has the checks of the
// configuration.
func (s *Server) health() {
	s.outcomes = newOutcomes(s.started)
	ping := Check{Name: "ping", Run: func(context.Context) error { return nil }}
	s.live = healthChecks{name: "livez", checks: []Check{ping}}
	s.ready = healthChecks{name: "readyz", checks: []Check{ping}}
	for _, c := range s.cfg.Checks {
		if !c.ReadyOnly {
			s.live.checks = append(s.live.checks, c)
		}
		s.ready.checks = append(s.ready.checks, c)
	}
}

func (h *healthChecks) named(name string) *healthChecks {
	return &healthChecks{name: name, checks: h.checks}
}

// serve answers "ok", or which check failed. With ?verbose every check is told; ?exclude leaves some out; a path below is one check.
func (h *healthChecks) serve(s *Server, w http.ResponseWriter, r *http.Request) {
	plain := func(code int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.WriteHeader(code)
		if r.Method != http.MethodHead {
			_, _ = w.Write([]byte(text)) // a client that is gone
		}
	}
	if rest, below := strings.CutPrefix(r.URL.Path, "/"+h.name+"/"); below {
		i := slices.IndexFunc(h.checks, func(c Check) bool { return c.Name == rest })
		if i < 0 {
			notFoundPage(w)
			return
		}
		if err := h.checks[i].Run(r.Context()); err != nil {
			s.log.Warn("health check failed", "path", r.URL.Path, "error", err)
			plain(http.StatusInternalServerError, fmt.Sprintf("internal server error: %v\n", err))
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Content-Length", "2")
		_, _ = w.Write([]byte("ok")) // a client that is gone
		return
	}
	q := r.URL.Query()
	exclude := q["exclude"]
	var out bytes.Buffer
	var failed []string
	for _, c := range h.checks {
		if i := slices.Index(exclude, c.Name); i >= 0 {
			exclude = slices.Delete(slices.Clone(exclude), i, i+1)
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		err := c.Run(r.Context())
		s.outcomes.count(c.Name, h.name, err)
		if err != nil {
			s.log.Warn("health check failed", "path", r.URL.Path, "check", c.Name, "error", err)
			failed = append(failed, c.Name)
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.Name)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.Name)
	}
	if len(exclude) > 0 {
		quoted := make([]string, len(exclude))
		for i, e := range exclude {
			quoted[i] = strconv.Quote(e)
		}
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(quoted, ", "))
	}
	switch {
	case len(failed) > 0:
		fmt.Fprintf(&out, "%s check failed\n", h.name)
		plain(http.StatusInternalServerError, out.String())
	case q.Has("verbose"):
		fmt.Fprintf(&out, "%s check passed\n", h.name)
		plain(http.StatusOK, out.String())
	default:
		plain(http.StatusOK, "ok")
	}
}
