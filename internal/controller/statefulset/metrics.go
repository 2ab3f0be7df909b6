package statefulset

import (
	"sync"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/celox/celox/internal/controller"
)

// metrics are what is shown of each set, under upstream's names. What belongs to a set goes with it.
type metrics struct {
	limit, away *controller.Gauge
	stale       controller.Stale

	mu     sync.Mutex        // guards all below
	policy map[string]string // of the sets that are shown, by key: a label of what is shown
}

func newMetrics(m *controller.Metrics) *metrics {
	labels := []string{"statefulset_namespace", "statefulset_name", "pod_management_policy"}
	return &metrics{
		limit:  m.Gauge("statefulset_controller_statefulset_max_unavailable", "Maximum number of unavailable pods allowed during StatefulSet rolling updates", labels...),
		away:   m.Gauge("statefulset_controller_statefulset_unavailable_replicas", "Current number of unavailable pods in StatefulSet", labels...),
		stale:  m.Stale("statefulset_controller"),
		policy: map[string]string{},
	}
}

func (m *metrics) show(g *controller.Gauge, set *appsv1.StatefulSet, n int) {
	policy := string(set.Spec.PodManagementPolicy)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policy[set.Namespace+"/"+set.Name] = policy
	g.Set(float64(n), set.Namespace, set.Name, policy)
}

func (m *metrics) showUnavailable(set *appsv1.StatefulSet, n int) { m.show(m.away, set, n) }

// showLimit shows how many pods of a set may be away.
func (m *metrics) showLimit(set *appsv1.StatefulSet) {
	if n, err := maxUnavailable(set); err == nil {
		m.show(m.limit, set, n)
	}
}

// forget takes back what was shown of a set.
func (m *metrics) forget(namespace, name string) {
	key := namespace + "/" + name
	m.mu.Lock()
	defer m.mu.Unlock()
	if policy, shown := m.policy[key]; shown {
		m.limit.Delete(namespace, name, policy)
		m.away.Delete(namespace, name, policy)
		delete(m.policy, key)
	}
}
