package dynamicresources

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Consumable capacity (KEP-5075): a device that may be allocated more than once is shared by what each allocation takes of its capacities.

// offers says whether a device, with nobody using it, has the capacities that a request wants.
func (d *device) offers(want *resourcev1.CapacityRequirements) bool {
	if want != nil {
		for name := range want.Requests {
			if _, ok := d.Capacity[name]; !ok {
				return false
			}
		}
	}
	for name, c := range d.Capacity {
		q, ok := consumed(want, name, &c)
		if !ok || q.Cmp(c.Value) > 0 {
			return false
		}
	}
	return true
}

// consumption is what a request takes of each capacity of a device that offers enough.
func (d *device) consumption(want *resourcev1.CapacityRequirements) map[resourcev1.QualifiedName]resource.Quantity {
	out := make(map[resourcev1.QualifiedName]resource.Quantity, len(d.Capacity))
	for name, c := range d.Capacity {
		out[name], _ = consumed(want, name, &c)
	}
	return out
}

// room says whether there is so much left of all capacities of a device.
func (d *device) room(take map[resourcev1.QualifiedName]resource.Quantity) bool {
	for name, q := range take {
		sum, c := d.use.capacity[name], d.Capacity[name]
		sum = sum.DeepCopy()
		if sum.Add(q); sum.Cmp(c.Value) > 0 {
			return false
		}
	}
	return true
}

// consumed is what a request takes of one capacity: what it asks for, made to fit the device's policy; if it doesn't ask, the policy's default
// or all there is. It is false if the policy doesn't allow as much.
func consumed(want *resourcev1.CapacityRequirements, name resourcev1.QualifiedName, c *resourcev1.DeviceCapacity) (resource.Quantity, bool) {
	policy := c.RequestPolicy
	asked, ok := resource.Quantity{}, false
	if want != nil {
		asked, ok = want.Requests[name]
	}
	switch {
	case !ok && policy != nil && policy.Default != nil:
		return *policy.Default, true
	case !ok:
		return c.Value, true
	case asked.Sign() < 0:
		return asked, false
	case policy == nil:
		return asked, true
	case policy.ValidRange != nil && policy.ValidRange.Min != nil:
		return inRange(asked, policy.ValidRange)
	case len(policy.ValidValues) > 0:
		for _, q := range policy.ValidValues { // ascending, says the API
			if asked.Cmp(q) <= 0 {
				return q, true
			}
		}
		return asked, false
	}
	return asked, true
}

// inRange rounds up to the next step from the minimum. Steps of less than one are counted in thousandths.
func inRange(asked resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) (resource.Quantity, bool) {
	out := asked
	switch {
	case asked.Cmp(*r.Min) < 0:
		out = *r.Min
	case r.Step != nil:
		units, quantity := (*resource.Quantity).Value, resource.NewQuantity
		if fractional(r.Min) || fractional(r.Step) || r.Max != nil && fractional(r.Max) {
			units, quantity = (*resource.Quantity).MilliValue, resource.NewMilliQuantity
		}
		if asked.CmpInt64(1<<53) > 0 {
			return asked, false // cannot be counted exactly
		}
		least, step := units(r.Min), units(r.Step)
		if step <= 0 {
			return asked, false
		}
		n := (units(&asked) - least + step - 1) / step
		out = *quantity(least+n*step, r.Step.Format)
	}
	return out, r.Max == nil || out.Cmp(*r.Max) <= 0
}

func fractional(q *resource.Quantity) bool { return q.MilliValue()%1000 != 0 }
