package resourcemetrics

import "time"

const (
	// resolution is how often readings are taken while somebody wants to know.
	resolution = 15 * time.Second
	// fresh is how long a container has to run before anything is said of it: what it uses while it starts says little.
	fresh = 10 * time.Second
)

// usage is what something used of late.
type usage struct {
	nanocores, bytes int64
	// at is the end of the time that the CPU's figure is about, window its length.
	at     time.Time
	window time.Duration
}

// between computes usage from two readings of the same thing; earlier is nil if there is one reading only. False: nothing can be said.
func between(earlier, later *counted) (usage, bool) {
	if later == nil || !later.whole() {
		return usage{}, false
	}
	known := !later.started.IsZero()
	age := later.at.Sub(later.started)
	if known && age < fresh {
		return usage{}, false
	}
	from := counted{at: later.started}
	switch {
	case earlier != nil && earlier.hasCPU && later.cpu >= earlier.cpu && !(known && later.started.After(earlier.at)):
		from = *earlier
	case known && age < resolution: // it began after the last reading: with nothing used
	default:
		return usage{}, false
	}
	window := later.at.Sub(from.at)
	if window <= 0 {
		return usage{}, false
	}
	return usage{
		nanocores: int64(float64(later.cpu-from.cpu) / window.Seconds()), bytes: later.memory, at: later.at, window: window,
	}, true
}

// pair are the last two readings of a node.
type pair struct{ earlier, later *reading }

// node is what the node used.
func (p *pair) node() (usage, bool) {
	if p == nil || p.earlier == nil {
		return usage{}, false
	}
	return between(&p.earlier.node, &p.later.node)
}

// containerUsage is the usage of a container by name.
type containerUsage struct {
	name string
	usage
}

// pod is what the containers of a pod used, in no order. False if of any of those that run nothing can be said.
func (p *pair) pod(key podKey) ([]containerUsage, bool) {
	if p == nil {
		return nil, false
	}
	all := p.later.pods[key]
	out := make([]containerUsage, 0, len(all))
	for name, later := range all {
		var earlier *counted
		if p.earlier != nil {
			earlier = p.earlier.pods[key][name]
		}
		u, ok := between(earlier, later)
		if !ok {
			return nil, false
		}
		out = append(out, containerUsage{name, u})
	}
	return out, len(out) > 0
}
