package endpointslicemirroring

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/celox/celox/internal/controller"
)

// counters are what the controller counts, under upstream's names.
type counters struct {
	changes                          *controller.Counter
	added, removed, updated, skipped *controller.Histogram
	took                             *controller.Histogram
	endpoints, slices, needed        *controller.Gauge

	mu sync.Mutex
	// of is what each Endpoints object asks for, by key; sum adds it up. Both are guarded by mu.
	of  map[string]amount
	sum amount
}

// amount is how much is mirrored.
type amount struct{ endpoints, slices int }

func newCounters(m *controller.Metrics) *counters {
	const subsystem = "endpoint_slice_mirroring_controller_"
	per := func(name, help string) *controller.Histogram {
		return m.Histogram(subsystem+name, help, prometheus.ExponentialBuckets(2, 2, 15))
	}
	return &counters{
		of:        map[string]amount{},
		changes:   m.Counter(subsystem+"changes", "Slices that were written, by how.", "operation"),
		added:     per("endpoints_added_per_sync", "Endpoints that a look at Endpoints added."),
		removed:   per("endpoints_removed_per_sync", "Endpoints that a look at Endpoints removed."),
		updated:   per("endpoints_updated_per_sync", "Endpoints that a look at Endpoints changed."),
		skipped:   per("addresses_skipped_per_sync", "Addresses that a look at Endpoints left out, as they are none or too many."),
		took:      m.Histogram(subsystem+"endpoints_sync_duration", "How long a look at Endpoints took, in seconds.", prometheus.ExponentialBuckets(0.001, 2, 15)),
		endpoints: m.Gauge(subsystem+"endpoints_desired", "Endpoints that there should be."),
		slices:    m.Gauge(subsystem+"num_endpoint_slices", "Slices that there should be."),
		needed:    m.Gauge(subsystem+"desired_endpoint_slices", "Slices that there would be with the fewest."),
	}
}

func (c *counters) note(key string, is amount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.of[key]
	c.sum.endpoints += is.endpoints - was.endpoints
	c.sum.slices += is.slices - was.slices
	if is == (amount{}) {
		delete(c.of, key)
	} else {
		c.of[key] = is
	}
	c.endpoints.Set(float64(c.sum.endpoints))
	c.slices.Set(float64(c.sum.slices))
	c.needed.Set(float64(c.sum.slices)) // one for each family and set of ports is the fewest
}

// none notes that nothing of an Endpoints object is mirrored.
func (c *counters) none(key string) { c.note(key, amount{}) }

// wanted notes what is to be mirrored, and observes how far that is from what there is.
func (c *counters) wanted(key string, want mirrored, have []*discoveryv1.EndpointSlice) {
	is := amount{slices: len(want.slices)}
	type address struct {
		family discoveryv1.AddressType
		ip     string
	}
	was := map[address]*discoveryv1.Endpoint{}
	for _, s := range have {
		for i := range s.Endpoints {
			for _, ip := range s.Endpoints[i].Addresses {
				was[address{s.AddressType, ip}] = &s.Endpoints[i]
			}
		}
	}
	added, updated, kept := 0, 0, map[address]bool{}
	for at, content := range want.slices {
		is.endpoints += len(content.endpoints)
		for i := range content.endpoints {
			e := &content.endpoints[i]
			a := address{at.family, e.Addresses[0]}
			before := was[a]
			switch {
			case kept[a]:
			case before == nil:
				added++
			case !equality.Semantic.DeepEqual(before, e):
				updated++
			}
			kept[a] = true
		}
	}
	removed := 0
	for a := range was {
		if !kept[a] {
			removed++
		}
	}
	c.note(key, is)
	c.added.Observe(float64(added))
	c.updated.Observe(float64(updated))
	c.removed.Observe(float64(removed))
	c.skipped.Observe(float64(want.invalid + want.skipped))
}
