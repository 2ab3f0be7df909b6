package apiserver

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what dashboards made for upstream's API server look for. The series of a request are looked up once per kind of
// request and then remembered: hashing labels for each one would cost more than serving some.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.HistogramVec
	readOnly prometheus.Gauge
	mutating prometheus.Gauge
	watchers prometheus.Gauge

	series sync.Map // seriesKey to *series
}

type seriesKey struct {
	verb, group, version, resource, subresource, scope string
	code                                               int
	dryRun                                             bool
}

type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
	bytes    prometheus.Observer
}

func newMetrics(r *prometheus.Registry) *metrics {
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_current_inflight_requests",
		Help: "Requests that are being served, by kind: readOnly or mutating.",
	}, []string{"request_kind"})
	labels := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	m := &metrics{
		registry: r,
		readOnly: inflight.WithLabelValues("readOnly"),
		mutating: inflight.WithLabelValues("mutating"),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Requests by verb, resource, dry run and HTTP response code.",
		}, append([]string{"dry_run", "code"}, labels...)),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "How long requests took, by verb, resource and dry run.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, append([]string{"dry_run"}, labels...)),
		bytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_response_sizes",
			Help:    "Size of answers in bytes, by verb and resource.",
			Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, labels),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Watches that are open.",
		}),
	}
	r.MustRegister(m.requests, m.seconds, m.bytes, inflight, m.watchers)
	return m
}

// handler serves the metrics of the registry.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// observe counts a finished request.
func (m *metrics) observe(x *exchange, took time.Duration) {
	i := x.info
	k := seriesKey{verb: metricVerb(x), code: x.w.code}
	if i.IsResource {
		k.group, k.version, k.resource, k.subresource = i.Group, i.Version, i.Resource, i.Subresource
		switch {
		case i.Name != "":
			k.scope = "resource"
		case i.Namespace != "":
			k.scope = "namespace"
		default:
			k.scope = "cluster"
		}
		k.dryRun = x.query != nil && len(x.query["dryRun"]) > 0
	} else {
		k.subresource = x.s.plainName(i.Path)
	}
	v, ok := m.series.Load(k)
	if !ok {
		v, _ = m.series.LoadOrStore(k, m.make(k))
	}
	s := v.(*series) //nolint:forcetypeassert // nothing else is stored
	s.requests.Inc()
	if k.verb != "WATCH" && k.verb != "CONNECT" {
		s.seconds.Observe(took.Seconds())
		s.bytes.Observe(float64(x.w.size))
	}
}

func (m *metrics) make(k seriesKey) *series {
	dry := ""
	if k.dryRun {
		dry = "All"
	}
	labels := []string{k.verb, k.group, k.version, k.resource, k.subresource, k.scope, "apiserver"}
	return &series{
		requests: m.requests.WithLabelValues(append([]string{dry, strconv.Itoa(k.code)}, labels...)...),
		seconds:  m.seconds.WithLabelValues(append([]string{dry}, labels...)...),
		bytes:    m.bytes.WithLabelValues(labels...),
	}
}

// plainName is a path in the words of a metric: those that exist are few, all others are one.
func (s *Server) plainName(p string) string {
	if s.plain[p] != nil {
		return p
	}
	for _, known := range [...]string{"/healthz", "/livez", "/readyz", "/openapi", "/apis", "/api"} {
		if len(p) >= len(known) && p[:len(known)] == known {
			return known
		}
	}
	return "other"
}

func metricVerb(x *exchange) string {
	if x.info.IsResource {
		if streams(x.info.Subresource) {
			return "CONNECT"
		}
		switch x.info.Verb {
		case "get":
			return "GET"
		case "list":
			return "LIST"
		case "watch":
			return "WATCH"
		case "create":
			return "POST"
		case "update":
			return "PUT"
		case "patch":
			if x.r.Header.Get("Content-Type") == "application/apply-patch+yaml" {
				return "APPLY"
			}
			return "PATCH"
		case "delete":
			return "DELETE"
		case "deletecollection":
			return "DELETECOLLECTION"
		}
		return "other"
	}
	switch m := x.r.Method; m {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch, http.MethodOptions:
		return m
	}
	return "other"
}
