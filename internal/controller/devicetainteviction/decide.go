package devicetainteviction

import (
	"cmp"
	"math"
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
)

// device names one device.
type device struct{ driver, pool, name string }

func deviceOf(r *resourcev1.DeviceRequestAllocationResult) device {
	return device{r.Driver, r.Pool, r.Device}
}

// selects says that a rule is about a device. A rule without a selector is about none, one with an empty selector about all.
func selects(r *resourcev1.DeviceTaintRule, d device) bool {
	s := r.Spec.DeviceSelector
	is := func(want *string, have string) bool { return want == nil || *want == have }
	return s != nil && is(s.Driver, d.driver) && is(s.Pool, d.pool) && is(s.Device, d.name)
}

// cause is a taint, and the rule that it comes from; nil if it is the driver's own.
type cause struct {
	resourcev1.DeviceTaint
	rule *resourcev1.DeviceTaintRule
}

// taintsOf are the taints of a device that end pods.
func taintsOf(d device, slices []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) []cause {
	var out []cause
	add := func(t resourcev1.DeviceTaint, r *resourcev1.DeviceTaintRule) {
		if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
			out = append(out, cause{t, r})
		}
	}
	newest := newestOf(slices, d.driver, d.pool)
	for _, s := range slices {
		if s.Spec.Driver != d.driver || s.Spec.Pool.Name != d.pool || s.Spec.Pool.Generation != newest {
			continue
		}
		for i := range s.Spec.Devices {
			if s.Spec.Devices[i].Name == d.name {
				for _, t := range s.Spec.Devices[i].Taints {
					add(t, nil)
				}
			}
		}
	}
	for _, r := range rules {
		if selects(r, d) {
			add(r.Spec.Taint, r)
		}
	}
	return out
}

// newestOf is the generation of a pool whose slices count.
func newestOf(slices []*resourcev1.ResourceSlice, driver, pool string) int64 {
	newest := int64(-1)
	for _, s := range slices {
		if s.Spec.Driver == driver && s.Spec.Pool.Name == pool {
			newest = max(newest, s.Spec.Pool.Generation)
		}
	}
	return newest
}

func tolerates(tol *resourcev1.DeviceToleration, t *resourcev1.DeviceTaint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	if tol.Operator == resourcev1.DeviceTolerationOpExists {
		return true
	}
	return tol.Key != "" && (tol.Operator == "" || tol.Operator == resourcev1.DeviceTolerationOpEqual) && tol.Value == t.Value
}

// end is when a pod has to go, and the rules that say so; others may be the cause as well.
type end struct {
	at    time.Time
	rules []*resourcev1.DeviceTaintRule
}

// and is the end of somebody who has both.
func (e *end) and(other *end) *end {
	if e == nil || other == nil {
		return cmp.Or(e, other)
	}
	out := &end{at: e.at, rules: slices.Clone(e.rules)}
	if other.at.Before(e.at) {
		out.at = other.at
	}
	for _, r := range other.rules {
		if !slices.Contains(out.rules, r) {
			out.rules = append(out.rules, r)
		}
	}
	return out
}

// patience says until when a device may be used under its taints; nil is forever. The time runs from when a taint was added. Of tolerations
// for a time the shortest counts.
func patience(tolerations []resourcev1.DeviceToleration, taints []cause, now time.Time) *end {
	var out *end
	for i := range taints {
		t, e := &taints[i], &end{at: now}
		if t.TimeAdded != nil {
			e.at = t.TimeAdded.Time
		}
		forever, shortest := false, int64(math.MaxInt64)
		for j := range tolerations {
			switch tol := &tolerations[j]; {
			case !tolerates(tol, &t.DeviceTaint):
			case tol.TolerationSeconds == nil:
				forever = true
			default:
				shortest = min(shortest, max(*tol.TolerationSeconds, 0))
			}
		}
		if forever {
			continue
		}
		if shortest < math.MaxInt64 {
			e.at = e.at.Add(time.Duration(shortest) * time.Second)
		}
		if t.rule != nil {
			e.rules = []*resourcev1.DeviceTaintRule{t.rule}
		}
		out = out.and(e)
	}
	return out
}
