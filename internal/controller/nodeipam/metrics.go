package nodeipam

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/celox/celox/internal/controller"
)

// counters are what the controller counts of each range, under upstream's names.
type counters struct {
	given, returned *controller.Counter
	usage           *controller.Gauge
	tries           *controller.Histogram
}

func newCounters(m *controller.Metrics, pools []*pool) counters {
	const subsystem, label = "node_ipam_controller_", "clusterCIDR"
	c := counters{
		given:    m.Counter(subsystem+"cidrset_cidrs_allocations_total", "Networks that were given to nodes.", label),
		returned: m.Counter(subsystem+"cidrset_cidrs_releases_total", "Networks that nodes gave back.", label),
		usage:    m.Gauge(subsystem+"cidrset_usage_cidrs", "The part of a range that nodes have, of 1.", label),
		tries:    m.Histogram(subsystem+"cidrset_allocation_tries_per_request", "How many networks were looked at until one was free.", prometheus.ExponentialBuckets(1, 5, 5), label),
	}
	most := m.Gauge(subsystem+"cirdset_max_cidrs", "How many networks a range has.", label) // upstream's spelling
	for _, p := range pools {
		most.Set(float64(p.count), p.Prefix.String())
		c.usage.Set(0, p.Prefix.String())
	}
	return c
}

// changed counts networks of a range that were given and returned.
func (c counters) changed(p *pool, given, returned int) {
	name := p.Prefix.String()
	if given > 0 {
		c.given.Add(float64(given), name)
	}
	if returned > 0 {
		c.returned.Add(float64(returned), name)
	}
	c.usage.Set(float64(len(p.used))/float64(p.count), name)
}
