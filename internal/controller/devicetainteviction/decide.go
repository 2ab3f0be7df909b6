package devicetainteviction

import (
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

// taintsOf are the taints of a device that end pods.
func taintsOf(d device, slices []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) []resourcev1.DeviceTaint {
	var out []resourcev1.DeviceTaint
	// Of a pool only the slices of the newest generation count.
	newest := int64(-1)
	for _, s := range slices {
		if s.Spec.Driver == d.driver && s.Spec.Pool.Name == d.pool {
			newest = max(newest, s.Spec.Pool.Generation)
		}
	}
	for _, s := range slices {
		if s.Spec.Driver != d.driver || s.Spec.Pool.Name != d.pool || s.Spec.Pool.Generation != newest {
			continue
		}
		for i := range s.Spec.Devices {
			if s.Spec.Devices[i].Name == d.name {
				out = append(out, s.Spec.Devices[i].Taints...)
			}
		}
	}
	for _, r := range rules {
		if selects(r, d) {
			out = append(out, r.Spec.Taint)
		}
	}
	kept := out[:0]
	for _, t := range out {
		if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
			kept = append(kept, t)
		}
	}
	return kept
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

// patience says until when a device may be used under its taints; forever is false. The time runs from when a taint was added.
func patience(tolerations []resourcev1.DeviceToleration, taints []resourcev1.DeviceTaint, now time.Time) (deadline time.Time, ends bool) {
	earlier := func(t time.Time) {
		if !ends || t.Before(deadline) {
			deadline, ends = t, true
		}
	}
	for i := range taints {
		t, added := &taints[i], now
		if t.TimeAdded != nil {
			added = t.TimeAdded.Time
		}
		tolerated, forever, longest := false, false, time.Duration(0)
		for j := range tolerations {
			if tol := &tolerations[j]; tolerates(tol, t) {
				tolerated = true
				if tol.TolerationSeconds == nil {
					forever = true
				} else {
					longest = max(longest, time.Duration(*tol.TolerationSeconds)*time.Second)
				}
			}
		}
		if !tolerated || !forever {
			earlier(added.Add(longest))
		}
	}
	return deadline, ends
}
