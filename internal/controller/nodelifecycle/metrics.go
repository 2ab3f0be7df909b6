package nodelifecycle

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// counters are what the controller counts, under upstream's names: those that are stable there. A nil *counters counts nothing.
type counters struct{ evictions *prometheus.CounterVec }

func newCounters(r prometheus.Registerer) *counters {
	if r == nil {
		return nil
	}
	m := &counters{prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: "node_collector", Name: "evictions_total", Help: "Nodes that pods were sent away from since this process started, by zone.",
	}, []string{"zone"})}
	r.MustRegister(m.evictions)
	return m
}

// tainted counts a node that has got the first taint that sends pods away.
func (m *counters) tainted(before, after *corev1.Node) {
	evicts := func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && slices.Contains(ruled, t.Key)
	}
	if m != nil && !slices.ContainsFunc(before.Spec.Taints, evicts) && slices.ContainsFunc(after.Spec.Taints, evicts) {
		m.evictions.WithLabelValues(zoneOf(after)).Inc()
	}
}
