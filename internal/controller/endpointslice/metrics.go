package endpointslice

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/endpointslice/metrics"

	"github.com/celox/celox/internal/controller"
)

// libraryMetric is one of upstream's library: it counts nothing before it is created.
type libraryMetric[V any] interface {
	prometheus.Collector
	Create(*V) bool
}

// count has the library count for m. Its counters belong to the whole process.
func count(m *controller.Metrics) {
	if m == nil {
		return
	}
	register(m, metrics.EndpointsAddedPerSync)
	register(m, metrics.EndpointsRemovedPerSync)
	register(m, metrics.EndpointsDesired)
	register(m, metrics.NumEndpointSlices)
	register(m, metrics.DesiredEndpointSlices)
	register(m, metrics.EndpointSliceChanges)
	register(m, metrics.EndpointSlicesChangedPerSync)
	register(m, metrics.EndpointSliceSyncs)
	register(m, metrics.ServicesCountByTrafficDistribution)
}

func register[V any](m *controller.Metrics, c libraryMetric[V]) {
	c.Create(nil)
	m.Register(c)
}

// synced counts a look at a service by its outcome.
func synced(outcome string) { metrics.EndpointSliceSyncs.WithLabelValues(outcome).Inc() }
