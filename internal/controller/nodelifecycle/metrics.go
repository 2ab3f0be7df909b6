package nodelifecycle

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// counters are what the controller counts, under upstream's names. A nil *counters counts nothing.
type counters struct {
	evictions *prometheus.CounterVec
	took      prometheus.Histogram
}

func newCounters(r prometheus.Registerer, z *zones) *counters {
	if r == nil {
		return nil
	}
	m := &counters{prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: "node_collector", Name: "evictions_total", Help: "Nodes that pods were sent away from since this process started, by zone.",
	}, []string{"zone"}), prometheus.NewHistogram(prometheus.HistogramOpts{
		Subsystem: "node_collector", Name: "update_node_health_duration_seconds", Help: "How long a look at one node took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	})}
	r.MustRegister(m.evictions, m.took, z)
	return m
}

// judged observes how long a look at a node took.
func (m *counters) judged(took time.Duration) {
	if m != nil {
		m.took.Observe(took.Seconds())
	}
}

// Describe implements prometheus.Collector: how the zones are, looked up when somebody asks.
func (s *zones) Describe(out chan<- *prometheus.Desc) {
	for _, d := range zoneDescs() {
		out <- d
	}
}

func zoneDescs() [3]*prometheus.Desc {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("node_collector_"+name, help, []string{"zone"}, nil)
	}
	return [3]*prometheus.Desc{
		desc("zone_size", "Nodes of a zone."), desc("zone_health", "How much of a zone is ready, in percent."), desc("unhealthy_nodes_in_zone", "Nodes of a zone that are not ready."),
	}
}

// Collect implements prometheus.Collector.
func (s *zones) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	descs := zoneDescs()
	for name, z := range s.zones {
		all := float64(z.ready + z.notReady)
		for i, v := range [3]float64{all, 100 * float64(z.ready) / all, float64(z.notReady)} {
			out <- prometheus.MustNewConstMetric(descs[i], prometheus.GaugeValue, v, name)
		}
	}
}

// tainted counts a node that has got the first taint that sends pods away.
func (m *counters) tainted(before, after *corev1.Node) {
	if m != nil && !slices.ContainsFunc(before.Spec.Taints, evicts) && slices.ContainsFunc(after.Spec.Taints, evicts) {
		m.evictions.WithLabelValues(zoneOf(after)).Inc()
	}
}
