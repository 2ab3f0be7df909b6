package scheduler

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/celox/celox/internal/scheduler/dynamicresources"
)

// Devices (KEP-4381) are claimed. A claim that has devices says which nodes can reach them, and the pod goes only there. One that has none gets them on the
// node that the pod goes to: a node fits only if there are devices for all of them.

// devices is what the snapshot knows of devices.
type devices struct {
	*dynamicresources.Inventory
	// selectors are those of slices and allocations, ready for use.
	selectors map[*v1.NodeSelector]*nodeSelector
	// problem is why devices could not be looked for on a node, the last time that happened.
	problem string
}

// maxNodeSelectors bounds how many of them are kept.
const maxNodeSelectors = 8192

func newDevices() devices {
	return devices{Inventory: dynamicresources.New(uuid.NewUUID), selectors: map[*v1.NodeSelector]*nodeSelector{}}
}

// SetResourceClaim tells of a claim to devices. It says whether devices became free by that.
func (s *Snapshot) SetResourceClaim(c *resourcev1.ResourceClaim) bool { return s.devices.SetClaim(c) }

// RemoveResourceClaim tells that a claim to devices is gone. It says whether devices became free by that.
func (s *Snapshot) RemoveResourceClaim(namespace, name string) bool {
	return s.devices.RemoveClaim(namespace, name)
}

// SetResourceSlice tells of devices.
func (s *Snapshot) SetResourceSlice(r *resourcev1.ResourceSlice) { s.devices.SetSlice(r) }

// RemoveResourceSlice tells that devices are gone.
func (s *Snapshot) RemoveResourceSlice(name string) { s.devices.RemoveSlice(name) }

// SetDeviceClass tells of a class of devices. It says whether other extended resources than before are devices.
func (s *Snapshot) SetDeviceClass(c *resourcev1.DeviceClass) bool {
	return s.reconsider(s.devices.SetClass(c))
}

// RemoveDeviceClass tells that such a class is gone. It says the same.
func (s *Snapshot) RemoveDeviceClass(name string) bool {
	return s.reconsider(s.devices.RemoveClass(name))
}

// reconsider forgets what is kept of pods if other extended resources than before are devices.
func (s *Snapshot) reconsider(other bool) bool {
	if other {
		clear(s.classes)
		clear(s.evictions)
	}
	return other
}

// SetDeviceTaintRule tells of a rule that taints devices.
func (s *Snapshot) SetDeviceTaintRule(r *resourcev1.DeviceTaintRule) { s.devices.SetRule(r) }

// RemoveDeviceTaintRule tells that such a rule is gone.
func (s *Snapshot) RemoveDeviceTaintRule(name string) { s.devices.RemoveRule(name) }

// deviceNode is a node as the inventory sees it.
type deviceNode struct {
	s *Snapshot
	i int32
}

func (n deviceNode) Name() string { return n.s.nodes[n.i].name }

func (n deviceNode) Selected(sel *v1.NodeSelector) bool {
	return n.s.deviceSelector(sel).matches(n.s, &n.s.nodes[n.i])
}

func (s *Snapshot) deviceSelector(sel *v1.NodeSelector) *nodeSelector {
	have := s.devices.selectors[sel]
	if have == nil {
		made := s.newNodeSelector(nil, &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: sel})
		have = &made
		if len(s.devices.selectors) >= maxNodeSelectors {
			clear(s.devices.selectors)
		}
		s.devices.selectors[sel] = have
	}
	return have
}

// Details of the plugin's rejections. Evicting others frees no device: they belong to claims, which outlive pods.
const (
	claimElsewhere     rejection = 1<<rejectedDetail | filterClaims | rejectedForGood
	claimUnsatisfiable rejection = 2<<rejectedDetail | filterClaims | rejectedForGood
	claimProblem       rejection = 3<<rejectedDetail | filterClaims | rejectedForGood
)

// claimNotHere is why a node doesn't fit that can't reach the devices of a claim.
const claimNotHere = "resourceclaim not available on the node"

func (s *Snapshot) claimReason(r rejection) string {
	switch r {
	case claimElsewhere:
		return claimNotHere
	case claimUnsatisfiable:
		return "cannot allocate all claims"
	}
	return s.devices.problem
}

// deviceAsk is the plugin, prepared for one pod.
type deviceAsk struct {
	s *Snapshot
	p *Pod
	// have are the claims that have devices, and want those that get them with the pod.
	have, want []*resourcev1.ResourceClaim
	// ask is for those that want some; extended, if it isn't nil, are devices that the pod asks for as extended resources.
	ask      *dynamicresources.Ask
	extended *extendedClaim
}

// errClaimNotMade says that a claim has yet to be made from its template.
var errClaimNotMade = errors.New("ResourceClaim not created yet")

// claimsOf are the claims to devices that a pod needs, or why they can't be used.
func (s *Snapshot) claimsOf(pod *v1.Pod) ([]*resourcev1.ResourceClaim, error) {
	var out []*resourcev1.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		ref := &pod.Spec.ResourceClaims[i]
		name, made := claimName(pod, ref)
		if !made {
			return nil, fmt.Errorf(`pod "%s/%s": %w`, pod.Namespace, pod.Name, errClaimNotMade)
		}
		if name == "" {
			continue // none is needed
		}
		c := s.devices.Claim(pod.Namespace, name)
		switch {
		case c == nil:
			return nil, fmt.Errorf("resourceclaim %q not found", name)
		case c.DeletionTimestamp != nil:
			return nil, fmt.Errorf("resourceclaim %q is being deleted", name)
		case ref.ResourceClaimTemplateName != nil && !metav1.IsControlledBy(c, pod):
			return nil, fmt.Errorf("ResourceClaim %s/%s was not created for Pod %s/%s (Pod is not owner)", pod.Namespace, name, pod.Namespace, pod.Name)
		}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// askDevices is nil for a pod without claims to devices.
func (s *Snapshot) askDevices(p *Pod) (*deviceAsk, *refusal) {
	if len(p.pod.Spec.ResourceClaims)+len(p.requests.extended) == 0 || !p.profile.asked[NameDynamicResources] {
		return nil, nil
	}
	extended := s.newExtendedClaim(p)
	if len(p.pod.Spec.ResourceClaims) == 0 && extended == nil {
		return nil, nil
	}
	no := func(err error) (*deviceAsk, *refusal) {
		return nil, &refusal{plugin: NameDynamicResources, message: err.Error(), quiet: errors.Is(err, errClaimNotMade)}
	}
	claims, err := s.claimsOf(p.pod)
	if err != nil {
		return no(err)
	}
	a := &deviceAsk{s: s, p: p, extended: extended}
	if left := s.devices.Extended(p.uid()); extended != nil && left != nil && left.Status.Allocation != nil && left.DeletionTimestamp == nil {
		claims, a.extended = append(claims, left), nil // made for the pod by a scheduler that didn't get to bind it
	}
	for _, c := range claims {
		switch {
		case c.Status.Allocation == nil && s.devices.Promised(c.UID):
			return no(fmt.Errorf("resource claim %s/%s is in the process of being allocated", c.Namespace, c.Name))
		case c.Status.Allocation == nil:
			a.want = append(a.want, c)
		case len(c.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize && !reservedFor(c, p.pod):
			return no(errors.New("resourceclaim in use"))
		default:
			a.have = append(a.have, c)
		}
	}
	if len(a.want) > 0 {
		if a.ask, err = s.devices.Prepare(a.want); err != nil {
			return no(err)
		}
	}
	return a, nil
}

func reservedFor(c *resourcev1.ResourceClaim, p *v1.Pod) bool {
	return slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
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

// names says whether a pod needs a claim.
func names(p *v1.Pod, namespace, claim string) bool {
	return p.Namespace == namespace && slices.ContainsFunc(p.Spec.ResourceClaims, func(ref v1.PodResourceClaim) bool {
		name, _ := claimName(p, &ref)
		return name == claim
	})
}

// reaches says whether a node can reach the devices of a claim that has some.
func (s *Snapshot) reaches(c *resourcev1.ResourceClaim, i int32) bool {
	sel := c.Status.Allocation.NodeSelector
	return sel == nil || s.deviceSelector(sel).matches(s, &s.nodes[i])
}

func (a *deviceAsk) filter(i int32) rejection {
	ask, err := a.on(i)
	if err != nil {
		a.s.devices.problem = err.Error()
		return claimProblem
	}
	if ask != nil && !ask.Fits(deviceNode{a.s, i}) {
		if why := ask.Problem(); why != "" {
			a.s.devices.problem = why
			return claimProblem
		}
		return claimUnsatisfiable
	}
	for _, c := range a.have {
		if !a.s.reaches(c, i) {
			return claimElsewhere
		}
	}
	return 0
}

func (*deviceAsk) adjust(*Snapshot, *placed, int64) {}

// score prefers nodes on which the claims get what is named first among their alternatives (KEP-4816).
func (a *deviceAsk) score(_ *Snapshot, nodes []int32, out []int64) []int64 {
	weight := a.p.profile.deviceWeight
	if weight == 0 || a.ask == nil && a.extended == nil {
		return out
	}
	var have, most int64
	for _, c := range a.have {
		have += dynamicresources.RankOf(c)
	}
	from := len(out)
	for _, i := range nodes {
		rank := have
		if ask, err := a.on(i); err == nil && ask != nil {
			rank += ask.Rank(deviceNode{a.s, i})
		}
		most = max(most, rank)
		out = append(out, rank)
	}
	for k, v := range out[from:] {
		out[from+k] = weight * normalize(largestIsBest, v, most)
	}
	return out
}

// DevicePlan is what must be done for a pod's claims to devices before it can be bound to its node.
type DevicePlan struct{ Claims []PlannedClaim }

// PlannedClaim is a claim that is to be reserved for the pod.
type PlannedClaim struct {
	Claim *resourcev1.ResourceClaim
	// Allocation is what it gets; nil if it has devices.
	Allocation *resourcev1.AllocationResult
	// Mappings say what the claim's requests are for if it is one for extended resources, which is yet to be made.
	Mappings []v1.ContainerExtendedResourceRequest
	created  *resourcev1.ResourceClaim
}

// Empty says that there is nothing to do.
func (p *DevicePlan) Empty() bool { return len(p.Claims) == 0 }

// PlanDevices chooses devices for a pod on the node that Decide chose, and promises them to its claims. ok is false if there are none.
func (s *Snapshot) PlanDevices(p *Pod, nodeName string) (plan DevicePlan, ok bool) {
	i, there := s.byName[nodeName]
	a, no := s.askDevices(p)
	if a == nil || !there {
		return plan, no == nil
	}
	for _, c := range a.have {
		plan.Claims = append(plan.Claims, PlannedClaim{Claim: c})
	}
	ask, err := a.on(int32(i))
	if err != nil || ask == nil {
		return plan, err == nil
	}
	got := ask.Allocate(deviceNode{s, int32(i)})
	if got == nil {
		return DevicePlan{}, false
	}
	for k, c := range a.want {
		plan.Claims = append(plan.Claims, PlannedClaim{Claim: c, Allocation: got[k]})
		s.devices.Promise(c.UID, got[k])
	}
	if len(got) > len(a.want) {
		c, mappings := a.extended.claim(s, a.extended.missing(&s.nodes[i]))
		one := PlannedClaim{Claim: c, Allocation: got[len(a.want)], Mappings: mappings}
		plan.Claims = append(plan.Claims, one)
		s.devices.PromiseNew(c, one.Allocation)
	}
	return plan, true
}

// Deallocatable is a claim of a pod that fits nowhere that nobody uses, and whose devices are out of reach of some node: without them it might fit. Nil if there is none.
func (s *Snapshot) Deallocatable(p *Pod) *resourcev1.ResourceClaim {
	a, _ := s.askDevices(p)
	if a == nil {
		return nil
	}
	var found []*resourcev1.ResourceClaim
	for _, c := range a.have {
		users := len(c.Status.ReservedFor)
		if users > 1 || users == 1 && !reservedFor(c, p.pod) {
			continue
		}
		for i := range s.nodes {
			if s.nodes[i].exists && !s.reaches(c, int32(i)) {
				found = append(found, c)
				break
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[s.rand.IntN(len(found))]
}
