package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
)

// Fields of features that are off by default in the release that Celox follows are dropped unless the stored object (nil on
// create) uses one of them: DRADerivedAttributes, DRAOptionalNodeOperations, DRAPartitionableDevicesType,
// DRADeviceCompatibilityGroups, DRANodeAllocatableResources, DRAListTypeAttributes.

// derived calls f with the derived attributes of each request of a claim.
func derived(s *resourcev1.ResourceClaimSpec, f func(*[]resourcev1.DeviceDerivedAttribute)) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			f(&r.Exactly.DerivedAttributes)
		}
		for n := range r.FirstAvailable {
			f(&r.FirstAvailable[n].DerivedAttributes)
		}
	}
}

func dropFromClaim(s, old *resourcev1.ResourceClaimSpec) {
	used := false
	if old != nil {
		derived(old, func(d *[]resourcev1.DeviceDerivedAttribute) { used = used || len(*d) > 0 })
	}
	if !used {
		derived(s, func(d *[]resourcev1.DeviceDerivedAttribute) { *d = nil })
	}
}

func dropFromSlice(s, old *resourcev1.ResourceSliceSpec) {
	if old != nil && usesDisabled(old) {
		return
	}
	s.SkipNodeOperations, s.PartitionTypeAttribute = nil, nil
	for i := range s.Devices {
		d := &s.Devices[i]
		d.NodeAllocatableResources = nil
		for n := range d.ConsumesCounters {
			d.ConsumesCounters[n].CompatibilityGroups = nil
		}
		for k, a := range d.Attributes {
			if a.IntValues != nil || a.BoolValues != nil || a.StringValues != nil || a.VersionValues != nil {
				a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[k] = a
			}
		}
	}
}

func usesDisabled(s *resourcev1.ResourceSliceSpec) bool {
	if len(s.SkipNodeOperations) > 0 || s.PartitionTypeAttribute != nil {
		return true
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if len(d.NodeAllocatableResources) > 0 {
			return true
		}
		for n := range d.ConsumesCounters {
			if len(d.ConsumesCounters[n].CompatibilityGroups) > 0 {
				return true
			}
		}
		for _, a := range d.Attributes {
			if len(a.IntValues)+len(a.BoolValues)+len(a.StringValues)+len(a.VersionValues) > 0 {
				return true
			}
		}
	}
	return false
}
