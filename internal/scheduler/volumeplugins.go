package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Details of the volume plugins' rejections.
const (
	diskInUse      rejection = 1<<rejectedDetail | filterVolumeRestrictions
	claimInUse     rejection = 2<<rejectedDetail | filterVolumeRestrictions
	tooManyVolumes rejection = 1<<rejectedDetail | filterVolumeLimits
	// Those of volume binding are bits: a node may have several.
	volumeElsewhere rejection = 1<<rejectedDetail | filterVolumeBinding | rejectedForGood
	noVolume        rejection = 2<<rejectedDetail | filterVolumeBinding | rejectedForGood
	noStorage       rejection = 4<<rejectedDetail | filterVolumeBinding | rejectedForGood
	volumeGone      rejection = 8<<rejectedDetail | filterVolumeBinding | rejectedForGood
	otherZone       rejection = 1<<rejectedDetail | filterVolumeZone | rejectedForGood
)

// driverMissing is the rejection of nodes that lack a driver which wants to be waited for.
func (s *Snapshot) driverMissing(name string) rejection {
	return (tooManyVolumes>>rejectedDetail+1+rejection(s.strings.id(name)))<<rejectedDetail | filterVolumeLimits
}

func (s *Snapshot) volumeReason(r rejection) (plugin string, texts []string) {
	if r&rejectedFilter == filterVolumeLimits && r != tooManyVolumes {
		driver := s.strings.values[(r-tooManyVolumes)>>rejectedDetail-1]
		return NameNodeVolumeLimits, []string{driver + " CSI driver is not installed on the node"}
	}
	switch r {
	case diskInUse:
		return NameVolumeRestrictions, []string{"node(s) had no available disk"}
	case claimInUse:
		return NameVolumeRestrictions, []string{"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"}
	case tooManyVolumes:
		return NameNodeVolumeLimits, []string{"node(s) exceed max volume count"}
	case otherZone:
		return NameVolumeZone, []string{"node(s) had no available volume zone"}
	}
	for _, l := range []struct {
		bit  rejection
		text string
	}{
		{volumeElsewhere, "node(s) didn't match PersistentVolume's node affinity"},
		{noVolume, "node(s) didn't find available persistent volumes to bind"},
		{noStorage, "node(s) did not have enough free storage"},
		{volumeGone, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"},
	} {
		if (r&l.bit)>>rejectedDetail != 0 {
			texts = append(texts, l.text)
		}
	}
	return NameVolumeBinding, texts
}

func (s *Snapshot) newZoneRule(key, zones string) zoneRule {
	r := zoneRule{key: s.strings.id(key)}
	for _, z := range strings.Split(zones, "__") { // how several zones are written in one label
		r.values = append(r.values, s.strings.id(z))
	}
	return r
}

// volumeAsk is the four plugins that look at volumes, prepared for one pod.
type volumeAsk struct {
	s  *Snapshot
	p  *Pod
	on map[string]bool
	// exclusive are the pod's claims that only one pod may use at a time.
	exclusive []string
	bound     []*volume
	lost      bool // a bound claim's volume isn't there
	delayed   []delayedClaim
	handles   []handle
	gone      []types.UID // pods on nodes that are to be thought away
	back      []*placed   // and pods to be thought there
}

// delayedClaim gets its volume when the pod's node is known.
type delayedClaim struct {
	key   string
	claim *v1.PersistentVolumeClaim
	class *storagev1.StorageClass
	// on is the node that was chosen for it earlier, if any.
	on    string
	bytes int64
}

// handle is a volume as a driver on a node counts it.
type handle struct{ driver, id string }

// askVolumes prepares the plugins.
func (s *Snapshot) askVolumes(p *Pod) ([]asked, *refusal) {
	on := p.profile.asked
	if !on[NameVolumeBinding] && !on[NameVolumeRestrictions] && !on[NameNodeVolumeLimits] && !on[NameVolumeZone] {
		return nil, nil
	}
	a, no := s.newVolumeAsk(p)
	if no != nil {
		return nil, no
	}
	return []asked{a}, nil
}

func (s *Snapshot) newVolumeAsk(p *Pod) (*volumeAsk, *refusal) {
	a := &volumeAsk{s: s, p: p, on: p.profile.asked}
	no := func(format string, args ...any) (*volumeAsk, *refusal) {
		return nil, &refusal{plugin: NameVolumeBinding, message: fmt.Sprintf(format, args...)}
	}
	waiting, missing := false, ""
	for _, u := range p.volumes.claims {
		c := s.volumes.claims[u.key]
		switch {
		case c == nil && u.ephemeral:
			return no("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", u.name)
		case c == nil:
			return no("persistentvolumeclaim %q not found", u.name)
		case c.Status.Phase == v1.ClaimLost:
			return no("persistentvolumeclaim %q bound to non-existent persistentvolume %q", u.name, c.Spec.VolumeName)
		case c.DeletionTimestamp != nil:
			return no("persistentvolumeclaim %q is being deleted", u.name)
		case u.ephemeral && !metav1.IsControlledBy(c, p.pod):
			return no("PVC %s was not created for pod %s (pod is not owner)", u.key, p.pod.Namespace+"/"+p.pod.Name)
		}
		if slices.Contains(c.Spec.AccessModes, v1.ReadWriteOncePod) {
			a.exclusive = append(a.exclusive, u.key)
		}
		if h, ok := s.handleOf(u.key); ok {
			a.handles = append(a.handles, h)
		}
		if bound(c) {
			if v := s.volumes.byName[c.Spec.VolumeName]; v != nil {
				a.bound = append(a.bound, v)
			} else {
				a.lost = true
				if !u.ephemeral && missing == "" {
					missing = c.Spec.VolumeName
				}
			}
			continue
		}
		class := s.volumes.classes[value(c.Spec.StorageClassName)]
		if c.Spec.VolumeName != "" || class == nil || value(class.VolumeBindingMode) != storagev1.VolumeBindingWaitForFirstConsumer {
			waiting = true
			continue
		}
		d := delayedClaim{key: u.key, claim: c, class: class, on: c.Annotations[annSelectedNode], bytes: storageRequest(c)}
		if d.on == "" {
			d.on = s.volumes.selected[u.key]
		}
		a.delayed = append(a.delayed, d)
	}
	if waiting && a.on[NameVolumeBinding] {
		return no("pod has unbound immediate PersistentVolumeClaims")
	}
	if missing != "" && a.on[NameVolumeZone] {
		return nil, &refusal{plugin: NameVolumeZone, message: fmt.Sprintf("persistentvolume %q not found", missing)}
	}
	// The small ones first, so that they don't take the volumes that only the large ones can't do without.
	slices.SortStableFunc(a.delayed, func(x, y delayedClaim) int { return cmp.Compare(x.bytes, y.bytes) })
	return a, nil
}

func (a *volumeAsk) filter(i int32) rejection {
	n := &a.s.nodes[i]
	if a.on[NameVolumeRestrictions] {
		if r := a.restrictions(n); r != 0 {
			return r
		}
	}
	if a.on[NameNodeVolumeLimits] {
		if r := a.limits(n); r != 0 {
			return r
		}
	}
	if a.on[NameVolumeBinding] {
		var r rejection
		if a.lost {
			r = volumeGone
		} else if slices.ContainsFunc(a.bound, func(v *volume) bool { return !v.selector.matches(a.s, n) }) {
			r = volumeElsewhere
		}
		_, why := a.plan(n)
		if r |= why; r != 0 {
			return r
		}
	}
	if a.on[NameVolumeZone] {
		for _, v := range a.bound {
			if !inZones(v.zones, n) {
				return otherZone
			}
		}
	}
	return 0
}

// inZones: nodes that say nothing of zones have no problem with them.
func inZones(rules []zoneRule, n *node) bool {
	said := false
	for _, r := range rules {
		if _, ok := n.value(r.key); ok {
			said = true
		}
	}
	if !said {
		return true
	}
	return !slices.ContainsFunc(rules, func(r zoneRule) bool {
		v, ok := n.value(r.key)
		return !ok || !slices.Contains(r.values, v)
	})
}

// others calls f with the pods on a node that have volumes, until it returns false.
func (a *volumeAsk) others(n *node, f func(q *Pod) bool) {
	for _, q := range n.pods {
		if q.volumes != nil && q.uid() != a.p.uid() && !slices.Contains(a.gone, q.uid()) && !f(q.Pod) {
			return
		}
	}
	for _, q := range a.back {
		if q.volumes != nil && a.s.nodes[q.node].name == n.name && !f(q.Pod) {
			return
		}
	}
}

func (a *volumeAsk) restrictions(n *node) rejection {
	if r := a.diskConflict(n); r != 0 {
		return r
	}
	for _, key := range a.exclusive {
		users := a.s.volumes.users[key]
		// Those that are thought away use it no more.
		for _, uid := range a.gone {
			if q := a.s.pods[uid]; q != nil && q.uses(key) {
				users--
			}
		}
		for _, q := range a.back {
			if q.uses(key) {
				users++
			}
		}
		if users > 0 {
			return claimInUse
		}
	}
	return 0
}

// diskConflict says whether another pod on the node has a disk of the pod's that they can't share.
func (a *volumeAsk) diskConflict(n *node) rejection {
	if len(a.p.volumes.disks) == 0 {
		return 0
	}
	var r rejection
	a.others(n, func(q *Pod) bool {
		for _, mine := range a.p.volumes.disks {
			for _, d := range q.volumes.disks {
				if d.kind == mine.kind && d.id == mine.id && !(d.readOnly && mine.readOnly) {
					r = diskInUse
				}
			}
		}
		return r == 0
	})
	return r
}

func (p *Pod) uses(claim string) bool {
	return p.volumes != nil && slices.ContainsFunc(p.volumes.claims, func(c podClaim) bool { return c.key == claim })
}

// handleOf is the volume of a claim as its driver counts it.
func (s *Snapshot) handleOf(claim string) (handle, bool) {
	c := s.volumes.claims[claim]
	if c == nil {
		return handle{}, false
	}
	if c.Spec.VolumeName != "" {
		if v := s.volumes.byName[c.Spec.VolumeName]; v != nil {
			if csi := v.obj.Spec.CSI; csi != nil {
				return handle{csi.Driver, csi.VolumeHandle}, true
			}
			return handle{}, false
		}
	}
	if class := s.volumes.classes[value(c.Spec.StorageClassName)]; class != nil {
		return handle{class.Provisioner, claim}, true // it will be one volume, whatever its name
	}
	return handle{}, false
}

// limits says whether a node has the drivers that the pod's volumes need, as far as those insist on it (KEP-5030), and takes as many volumes of them.
func (a *volumeAsk) limits(n *node) rejection {
	limits := a.s.volumes.limits[n.name]
	for _, h := range a.handles {
		if _, there := limits[h.driver]; there {
			continue
		}
		if d := a.s.volumes.drivers[h.driver]; d != nil && value(d.Spec.PreventPodSchedulingIfMissing) {
			return a.s.driverMissing(h.driver)
		}
	}
	if len(limits) == 0 || len(a.handles) == 0 {
		return 0
	}
	attached := map[handle]bool{}
	a.others(n, func(q *Pod) bool {
		for _, c := range q.volumes.claims {
			if h, ok := a.s.handleOf(c.key); ok {
				attached[h] = true
			}
		}
		return true
	})
	counts := map[string]int64{}
	for h := range attached {
		counts[h.driver]++
	}
	more := map[string]int64{}
	for _, h := range a.handles {
		if !attached[h] {
			attached[h] = true
			more[h.driver]++
		}
	}
	for driver, n := range more {
		if limit, ok := limits[driver]; ok && counts[driver]+n > limit {
			return tooManyVolumes
		}
	}
	return 0
}

// plan finds volumes on a node for the claims that have none, or says that they can be made.
func (a *volumeAsk) plan(n *node) (VolumePlan, rejection) {
	var plan VolumePlan
	for k := range a.delayed {
		d := &a.delayed[k]
		if d.on != "" {
			if d.on != n.name {
				return plan, noVolume
			}
			plan.Provision = append(plan.Provision, d.claim) // under way
			continue
		}
		if v, pinned := a.match(d, n, plan.Bind); v != nil {
			plan.Bind = append(plan.Bind, VolumeBinding{v.obj, d.claim})
			continue
		} else if pinned {
			return plan, noVolume
		}
		ok, short := a.s.provisionable(d.claim, d.class, n)
		if short {
			return plan, noStorage
		}
		if !ok {
			return plan, noVolume
		}
		plan.Provision = append(plan.Provision, d.claim)
	}
	return plan, 0
}

// match returns the smallest volume that is there for a claim; pinned says that there is one which must be taken and can't be, here.
func (a *volumeAsk) match(d *delayedClaim, n *node, taken []VolumeBinding) (found *volume, pinned bool) {
	for _, v := range a.s.volumes.byClass[value(d.claim.Spec.StorageClassName)] {
		if !v.suits(a.s, d.claim, d.key) || slices.ContainsFunc(taken, func(b VolumeBinding) bool { return b.Volume == v.obj }) {
			continue
		}
		fits := v.selector.matches(a.s, n)
		if v.obj.Spec.ClaimRef != nil {
			if !fits {
				return nil, true
			}
			return v, false
		}
		if fits && (found == nil || v.bytes < found.bytes || v.bytes == found.bytes && v.obj.Name < found.obj.Name) {
			found = v
		}
	}
	return found, false
}

func (a *volumeAsk) adjust(_ *Snapshot, q *placed, by int64) {
	if q.volumes == nil {
		return
	}
	there := a.s.pods[q.uid()] == q
	switch {
	case there && by < 0:
		a.gone = append(a.gone, q.uid())
	case there:
		a.gone = slices.DeleteFunc(a.gone, func(uid types.UID) bool { return uid == q.uid() })
	case by > 0:
		a.back = append(a.back, q)
	default:
		a.back = slices.DeleteFunc(a.back, func(o *placed) bool { return o == q })
	}
}

// score prefers, by the profile's shape, nodes by what part of their storage the pod asks for: of the volumes that its claims would get there or, if they
// would all be made, of what there is to make them of. All classes count the same (KEP-4049).
func (a *volumeAsk) score(_ *Snapshot, fitting []int32, out []int64) []int64 {
	weight := a.p.profile.volumeWeight
	if len(a.delayed) == 0 || weight == 0 || !a.on[NameVolumeBinding] {
		return out
	}
	for _, i := range fitting {
		out = append(out, weight*a.storageScore(&a.s.nodes[i]))
	}
	return out
}

// storage is what of a class is asked for and there, in bytes.
type storage struct{ requested, capacity int64 }

func (a *volumeAsk) storageScore(n *node) int64 {
	plan, _ := a.plan(n)
	classes := map[string]storage{}
	for _, b := range plan.Bind {
		c := classes[b.Volume.Spec.StorageClassName]
		have := b.Volume.Spec.Capacity[v1.ResourceStorage]
		c.requested += storageRequest(b.Claim)
		c.capacity += have.Value()
		classes[b.Volume.Spec.StorageClassName] = c
	}
	for k := range a.delayed {
		d := &a.delayed[k]
		if len(plan.Bind) > 0 {
			break
		}
		if _, have := a.s.capacityFor(d.claim, d.class, n); have != nil && have.Capacity != nil {
			c := classes[d.class.Name]
			c.requested += d.bytes
			c.capacity = have.Capacity.Value() // one store for all claims of a class
			classes[d.class.Name] = c
		}
	}
	if len(classes) == 0 {
		return 0
	}
	var sum int64
	for _, c := range classes {
		used := int64(100)
		if c.capacity > 0 && c.requested <= c.capacity {
			high, low := bits.Mul64(uint64(c.requested), 100)
			percent, _ := bits.Div64(high, low, uint64(c.capacity))
			used = int64(percent)
		}
		sum += curve(a.p.profile.volumeShape, used)
	}
	return int64(math.Round(float64(sum) / float64(len(classes))))
}

func storageRequest(c *v1.PersistentVolumeClaim) int64 {
	q := c.Spec.Resources.Requests[v1.ResourceStorage]
	return q.Value()
}
