package scheduler

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// Devices (KEP-4381) are claimed, and a claim's allocation says which nodes can reach its devices. A pod goes only where all its claims are; one with a claim that has no allocation waits for it:
// devices are not allocated here, but whoever does it is obeyed.

// deviceClaim is a claim, ready for use.
type deviceClaim struct {
	obj      *resourcev1.ResourceClaim
	selector nodeSelector
}

// SetResourceClaim tells of a claim to devices.
func (s *Snapshot) SetResourceClaim(c *resourcev1.ResourceClaim) {
	d := &deviceClaim{obj: c}
	if a := c.Status.Allocation; a != nil && a.NodeSelector != nil {
		d.selector = s.newNodeSelector(nil, &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: a.NodeSelector})
	}
	s.devices[c.Namespace+"/"+c.Name] = d
}

// RemoveResourceClaim tells that a claim to devices is gone.
func (s *Snapshot) RemoveResourceClaim(namespace, name string) { delete(s.devices, namespace+"/"+name) }

// claimElsewhere is the detail of the plugin's only rejection.
const claimElsewhere rejection = 1<<rejectedDetail | filterClaims | rejectedForGood

// deviceAsk is the plugin, prepared for one pod.
type deviceAsk struct {
	s      *Snapshot
	claims []*deviceClaim
}

// askDevices is nil for a pod without claims to devices.
func (s *Snapshot) askDevices(p *Pod) (*deviceAsk, *refusal) {
	if len(p.pod.Spec.ResourceClaims) == 0 || !p.profile.asked[NameDynamicResources] {
		return nil, nil
	}
	no := func(format string, args ...any) (*deviceAsk, *refusal) {
		return nil, &refusal{NameDynamicResources, fmt.Sprintf(format, args...)}
	}
	a := &deviceAsk{s: s}
	for i := range p.pod.Spec.ResourceClaims {
		ref := &p.pod.Spec.ResourceClaims[i]
		name, made := claimName(p.pod, ref)
		if !made {
			return no("waiting for the resourceclaim of %q to be created", ref.Name)
		}
		if name == "" {
			continue // none is needed
		}
		c := s.devices[p.pod.Namespace+"/"+name]
		switch {
		case c == nil:
			return no("resourceclaim %q not found", name)
		case c.obj.DeletionTimestamp != nil:
			return no("resourceclaim %q is being deleted", name)
		case c.obj.Status.Allocation == nil:
			return no("resourceclaim %q has no devices allocated", name)
		case len(c.obj.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize && !reservedFor(c.obj, p.pod):
			return no("resourceclaim %q is in use by as many pods as can", name)
		}
		a.claims = append(a.claims, c)
	}
	return a, nil
}

func reservedFor(c *resourcev1.ResourceClaim, p *v1.Pod) bool {
	for i := range c.Status.ReservedFor {
		if c.Status.ReservedFor[i].UID == p.UID {
			return true
		}
	}
	return false
}

// claimName is the name of the claim that a pod means, "" if it needs none; made is false as long as it is to be made from a template.
func claimName(p *v1.Pod, ref *v1.PodResourceClaim) (name string, made bool) {
	if ref.ResourceClaimName != nil {
		return *ref.ResourceClaimName, true
	}
	for i := range p.Status.ResourceClaimStatuses {
		if st := &p.Status.ResourceClaimStatuses[i]; st.Name == ref.Name {
			return value(st.ResourceClaimName), true
		}
	}
	return "", false
}

func (a *deviceAsk) filter(i int32) rejection {
	for _, c := range a.claims {
		if !c.selector.matches(a.s, &a.s.nodes[i]) {
			return claimElsewhere
		}
	}
	return 0
}

func (*deviceAsk) adjust(*Snapshot, *placed, int64)                  {}
func (*deviceAsk) score(_ *Snapshot, _ []int32, out []int64) []int64 { return out }
