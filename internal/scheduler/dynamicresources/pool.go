package dynamicresources

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// pool is the devices of the newest generation of a pool.
type pool struct {
	id poolID
	// node is the only one that can reach the devices; empty if there are several, or if the devices differ in that.
	node    string
	devices []*device
	byName  map[string]*device
	// incomplete says that slices are missing, invalid why what they say makes no sense.
	incomplete bool
	invalid    string
	waits      bool // some devices are ready only some time after they are given away
	counters   map[string]map[string]*counter
}

// counter is how much of something there is for the devices of a pool to share.
type counter struct{ total, used resource.Quantity }

// device is one device as it was published.
type device struct {
	*resourcev1.Device
	id     DeviceID
	pool   *pool
	reach  reach
	taints []resourcev1.DeviceTaint
	use    *usage
	// verdicts are what expressions say of it.
	verdicts map[*filter]verdict
	input    map[string]any
}

// reach says which nodes can use a device.
type reach struct {
	node     string
	selector *v1.NodeSelector
	all      bool
}

func (r *reach) covers(n Node) bool {
	switch {
	case r.all:
		return true
	case r.node != "":
		return r.node == n.Name()
	case r.selector != nil:
		return n.Selected(r.selector)
	}
	return false
}

func newReach(node *string, selector *v1.NodeSelector, all *bool) reach {
	return reach{node: value(node), selector: selector, all: value(all)}
}

func (d *device) shared() bool { return value(d.AllowMultipleAllocations) }

// newPool makes a pool of its slices.
func (v *Inventory) newPool(id poolID, from map[string]*resourcev1.ResourceSlice) *pool {
	p := &pool{id: id, byName: map[string]*device{}, counters: map[string]map[string]*counter{}}
	var newest int64
	for _, s := range from {
		newest = max(newest, s.Spec.Pool.Generation)
	}
	var have, want int64
	local, first := true, true
	for _, name := range slices.Sorted(maps.Keys(from)) {
		s := from[name]
		if s.Spec.Pool.Generation != newest {
			continue
		}
		have++
		want = max(want, s.Spec.Pool.ResourceSliceCount)
		for i := range s.Spec.SharedCounters {
			p.addCounters(&s.Spec.SharedCounters[i])
		}
		r := newReach(s.Spec.NodeName, s.Spec.NodeSelector, s.Spec.AllNodes)
		if value(s.Spec.PerDeviceNodeSelection) || r.node == "" || !first && r.node != p.node {
			local = false
		}
		p.node, first = r.node, false
		for i := range s.Spec.Devices {
			d := &device{Device: &s.Spec.Devices[i], pool: p, reach: r}
			if value(s.Spec.PerDeviceNodeSelection) {
				d.reach = newReach(d.NodeName, d.NodeSelector, d.AllNodes)
			}
			d.id = DeviceID{id.driver, id.name, d.Name}
			if p.byName[d.Name] != nil {
				p.invalid = fmt.Sprintf("duplicate device name %s", d.Name)
			}
			p.byName[d.Name] = d
			p.waits = p.waits || d.BindingConditions != nil
			d.taints = v.taintsOf(d)
			if d.use = v.used[d.id]; d.use == nil {
				d.use = &usage{}
				v.used[d.id] = d.use
			}
			p.devices = append(p.devices, d)
		}
	}
	p.incomplete = have < want
	if !local {
		p.node = ""
	}
	for _, d := range p.devices {
		if !p.incomplete {
			p.check(d)
		}
		if d.use.claims > 0 {
			p.count(d, 1)
		}
	}
	return p
}

func (p *pool) addCounters(set *resourcev1.CounterSet) {
	if p.counters[set.Name] != nil {
		p.invalid = fmt.Sprintf("duplicate counter set name %s", set.Name)
		return
	}
	counters := map[string]*counter{}
	for name, c := range set.Counters {
		counters[name] = &counter{total: c.Value}
	}
	p.counters[set.Name] = counters
}

// check finds counters that a device wants and that aren't there.
func (p *pool) check(d *device) {
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		set := p.counters[c.CounterSet]
		if set == nil {
			p.invalid = fmt.Sprintf("counter set %s not found", c.CounterSet)
			continue
		}
		for name := range c.Counters {
			if set[name] == nil {
				p.invalid = fmt.Sprintf("counter %s not found in counter set %s", name, c.CounterSet)
			}
		}
	}
}

// count takes what a device consumes from the pool's counters, or gives it back if sign is negative.
func (p *pool) count(d *device, sign int) {
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		for name, want := range c.Counters {
			have := p.counters[c.CounterSet][name]
			switch {
			case have == nil:
			case sign > 0:
				have.used.Add(want.Value)
			default:
				have.used.Sub(want.Value)
			}
		}
	}
}

// left says whether there is as much of all counters as a device consumes.
func (p *pool) left(d *device) bool {
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		for name, want := range c.Counters {
			have := p.counters[c.CounterSet][name]
			if have == nil {
				return false
			}
			sum := have.used.DeepCopy()
			if sum.Add(want.Value); sum.Cmp(have.total) > 0 {
				return false
			}
		}
	}
	return true
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
