package proxy

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Metrics have kube-proxy's names, so that dashboards for it work. A nil *Metrics counts nothing.
type Metrics struct {
	sync, whole, part    prometheus.Histogram
	programming          prometheus.Histogram
	endpoints, services  prometheus.Counter
	failures             prometheus.Counter
	lastSync, lastQueued prometheus.Gauge
	start                time.Time

	mu                                 sync.Mutex  // guards what follows
	pendingEndpoints, pendingServices  int         // changes that are not in place yet
	triggers                           []time.Time // when what led to these happened
	takenEndpoints, takenServices, cut int         // of those, what the sync that runs began with
}

// maxTriggers bounds what is remembered while syncs fail.
const maxTriggers = 10_000

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &Metrics{
		sync:        seconds("kubeproxy_sync_proxy_rules_duration_seconds", "Time that bringing the rules to what the API says took."),
		whole:       seconds("kubeproxy_sync_full_proxy_rules_duration_seconds", "The same, where all rules were made anew."),
		part:        seconds("kubeproxy_sync_partial_proxy_rules_duration_seconds", "The same, where only what had changed was."),
		programming: seconds("kubeproxy_network_programming_duration_seconds", "Time from what changed an endpoint, as its slice says, until the rules followed."),
		endpoints:   count("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of endpoint slices."),
		services:    count("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of services."),
		failures:    count("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Times that the rules could not be brought to what the API says."),
		lastSync:    gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the rules were last what the API says."),
		lastQueued:  gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When something last changed that the rules follow."),
		start:       time.Now(),
	}
	pending := func(name, help string, n *int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			return float64(*n)
		})
	}
	r.MustRegister(m.sync, m.whole, m.part, m.programming, m.endpoints, m.services, m.failures, m.lastSync, m.lastQueued,
		pending("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of endpoint slices that the rules don't follow yet.", &m.pendingEndpoints),
		pending("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of services that the rules don't follow yet.", &m.pendingServices))
	return m
}

// seen counts an object that is new, has changed or is gone.
func (m *Metrics) seen(obj any, gone bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch o := obj.(type) {
	case *corev1.Service:
		m.services.Inc()
		m.pendingServices++
	case *discoveryv1.EndpointSlice:
		m.endpoints.Inc()
		m.pendingEndpoints++
		// What happened before this process began says nothing of it.
		t, err := time.Parse(time.RFC3339Nano, o.Annotations[corev1.EndpointsLastChangeTriggerTime])
		if err == nil && !gone && t.After(m.start) && len(m.triggers) < maxTriggers {
			m.triggers = append(m.triggers, t)
		}
	default:
		return
	}
	m.lastQueued.SetToCurrentTime()
}

// begin is called before a sync looks what changed; what comes later is not in it for sure.
func (m *Metrics) begin() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.takenEndpoints, m.takenServices, m.cut = m.pendingEndpoints, m.pendingServices, len(m.triggers)
}

// end is called when a sync is done that began at since.
func (m *Metrics) end(since time.Time, whole bool, err error) {
	if m == nil {
		return
	}
	took := time.Since(since).Seconds()
	m.sync.Observe(took)
	if whole {
		m.whole.Observe(took)
	} else {
		m.part.Observe(took)
	}
	if err != nil {
		m.failures.Inc()
		return
	}
	m.lastSync.SetToCurrentTime()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.triggers[:m.cut] {
		m.programming.Observe(time.Since(t).Seconds())
	}
	m.triggers = append(m.triggers[:0], m.triggers[m.cut:]...)
	m.pendingEndpoints -= m.takenEndpoints
	m.pendingServices -= m.takenServices
}
