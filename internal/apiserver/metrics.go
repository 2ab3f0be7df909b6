package apiserver

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what dashboards made for upstream's API server look for.
type metrics struct {
	registry *prometheus.Registry
	requests *requestFamilies
	readOnly prometheus.Gauge
	mutating prometheus.Gauge
	// running are watches and streams, events what watches were told.
	running    *prometheus.GaugeVec
	events     *prometheus.CounterVec
	deprecated *prometheus.GaugeVec
	// calls and callSeconds are what clients in this process see.
	calls       *prometheus.CounterVec
	callSeconds *prometheus.HistogramVec

	// own are the series of clients in this process. They are looked up once and remembered: hashing labels for each request would cost more than serving some.
	own sync.Map // callKey to *callSeries
}

// callKey is what the series of clients in this process differ in.
type callKey struct {
	verb string
	code int
}

type callSeries struct {
	calls   prometheus.Counter
	seconds prometheus.Observer
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
		requests: newRequestFamilies(),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Watches and streams that are open.",
		}, labels),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_watch_events_total",
			Help: "Events that were sent to watches.",
		}, []string{"group", "version", "resource"}),
		deprecated: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_requested_deprecated_apis",
			Help: "Deprecated APIs that have been asked for, with the release that removes them.",
		}, []string{"group", "version", "resource", "subresource", "removed_release"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_client_requests_total",
			Help: "Requests of this process's own clients, by HTTP response code, method and host.",
		}, []string{"code", "method", "host"}),
		callSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rest_client_request_duration_seconds",
			Help:    "How long requests of this process's own clients took.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60},
		}, []string{"verb", "host"}),
	}
	r.MustRegister(m.requests, inflight, m.running, m.events, m.deprecated, m.calls, m.callSeconds)
	return m
}

// handler serves the metrics of the registry.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// observe counts a finished request.
func (m *metrics) observe(x *exchange, took time.Duration) {
	i := x.info
	k := requestKey{verb: metricVerb(x)}
	dry := false
	if i.IsResource {
		k.group, k.version, k.resource, k.subresource = i.Group, i.Version, i.Resource, i.Subresource
		k.scope = metricScope(x)
		dry = x.query != nil && len(x.query["dryRun"]) > 0
	} else {
		k.subresource = x.s.plainName(i.Path)
	}
	timed := k.verb != "WATCH" && k.verb != "CONNECT"
	s := m.requests.of(k)
	s.count(x.w.code, dry)
	if timed {
		m.requests.observe(s, dry, took.Seconds(), (took - x.waited).Seconds(), float64(x.w.size))
	}
	if !x.scope.InProcess {
		return
	}
	own := m.call(callKey{k.verb, x.w.code})
	own.calls.Inc()
	if timed {
		own.seconds.Observe(took.Seconds())
	}
}

// metricScope is how much of a resource a request is about.
func metricScope(x *exchange) string {
	switch {
	case x.info.Name != "":
		return "resource"
	case x.info.Namespace != "":
		return "namespace"
	}
	return "cluster"
}

// longRunning is the number of open requests like this one.
func (m *metrics) longRunning(x *exchange) prometheus.Gauge {
	i := x.info
	return m.running.WithLabelValues(metricVerb(x), i.Group, i.Version, i.Resource, i.Subresource, metricScope(x), "apiserver")
}

// askedForDeprecated notes a request for something that will be gone.
func (m *metrics) askedForDeprecated(x *exchange) {
	i := x.info
	m.deprecated.WithLabelValues(i.Group, i.Version, i.Resource, i.Subresource, x.res.removed).Set(1)
}

// ownHost is the host that clients in this process believe to speak to.
const ownHost = "celox.invalid"

// call returns the series of requests of clients in this process.
func (m *metrics) call(k callKey) *callSeries {
	v, ok := m.own.Load(k)
	if !ok {
		method := methodOf(k.verb)
		v, _ = m.own.LoadOrStore(k, &callSeries{calls: m.calls.WithLabelValues(strconv.Itoa(k.code), method, ownHost), seconds: m.callSeconds.WithLabelValues(method, ownHost)})
	}
	return v.(*callSeries) //nolint:forcetypeassert // nothing else is stored
}

// methodOf is the HTTP method of a verb in a metric.
func methodOf(verb string) string {
	switch verb {
	case "LIST", "WATCH", "CONNECT":
		return http.MethodGet
	case "APPLY":
		return http.MethodPatch
	case "DELETECOLLECTION":
		return http.MethodDelete
	}
	return verb
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
