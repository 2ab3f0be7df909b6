package dynamicresources

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// usage is who has a device.
type usage struct {
	// claims is how many allocations of it there are; those for administrators don't count.
	claims int
	// whole says that one of them has all of it.
	whole int
	// capacity is what the others consume.
	capacity map[resourcev1.QualifiedName]resource.Quantity
}

// claim is a claim, and what it holds.
type claim struct {
	obj *resourcev1.ResourceClaim
	// promised is what it gets, as long as the API doesn't show it.
	promised *resourcev1.AllocationResult
	booked   *resourcev1.AllocationResult // what is counted for it
	unmade   bool                         // the API doesn't have it yet
}

// SetClaim tells of a claim. It says whether devices became free by that.
func (v *Inventory) SetClaim(obj *resourcev1.ResourceClaim) (freed bool) {
	key := obj.Namespace + "/" + obj.Name
	if old := v.byName[key]; old != nil && old.obj.UID != obj.UID {
		freed = v.RemoveClaim(obj.Namespace, obj.Name)
	}
	c := v.byName[key]
	if c == nil {
		c = &claim{}
		v.byName[key], v.claims[obj.UID] = c, c
	}
	c.obj = obj
	if obj.Status.Allocation != nil {
		c.promised = nil
	}
	freed = v.book(c) || freed
	if pod := extendedFor(obj); pod != "" {
		v.extended[pod] = c
		if obj.Status.Allocation != nil {
			v.Withdraw("extended-resources/" + pod) // what was promised before it had a name
		}
	}
	return freed
}

// RemoveClaim tells that a claim is gone. It says whether devices became free by that.
func (v *Inventory) RemoveClaim(namespace, name string) (freed bool) {
	key := namespace + "/" + name
	c := v.byName[key]
	if c == nil {
		return false
	}
	delete(v.byName, key)
	delete(v.claims, c.obj.UID)
	if pod := extendedFor(c.obj); pod != "" && v.extended[pod] == c {
		delete(v.extended, pod)
	}
	c.promised = nil
	gone := *c.obj
	gone.Status.Allocation = nil
	c.obj = &gone
	return v.book(c)
}

// Claim returns a claim, nil if there is none. It must not be changed.
func (v *Inventory) Claim(namespace, name string) *resourcev1.ResourceClaim {
	if c := v.byName[namespace+"/"+name]; c != nil {
		return c.obj
	}
	return nil
}

// Promised says whether devices were promised to a claim that the API doesn't show yet.
func (v *Inventory) Promised(uid types.UID) bool {
	c := v.claims[uid]
	return c != nil && c.promised != nil
}

// Promise gives devices to a claim before the API shows it.
func (v *Inventory) Promise(uid types.UID, a *resourcev1.AllocationResult) {
	if c := v.claims[uid]; c != nil && c.obj.Status.Allocation == nil {
		c.promised = a
		v.book(c)
	}
}

// PromiseNew gives devices to a claim that is yet to be made. Its uid is one that no other has.
func (v *Inventory) PromiseNew(obj *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) {
	v.claims[obj.UID] = &claim{obj: obj, unmade: true}
	v.Promise(obj.UID, a)
}

// Extended is the claim that was made for the extended resources of a pod, nil if there is none.
func (v *Inventory) Extended(pod types.UID) *resourcev1.ResourceClaim {
	if c := v.extended[pod]; c != nil {
		return c.obj
	}
	return nil
}

// extendedFor is the pod for whose extended resources a claim was made, if it was.
func extendedFor(c *resourcev1.ResourceClaim) types.UID {
	if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return ""
	}
	if o := metav1.GetControllerOfNoCopy(c); o != nil {
		return o.UID
	}
	return ""
}

// Withdraw ends a promise that isn't kept. It says whether devices became free by that.
func (v *Inventory) Withdraw(uid types.UID) (freed bool) {
	c := v.claims[uid]
	if c == nil || c.promised == nil {
		return false
	}
	c.promised = nil
	if c.unmade {
		delete(v.claims, uid)
	}
	return v.book(c)
}

// book counts what a claim has now instead of what it had.
func (v *Inventory) book(c *claim) (freed bool) {
	now := c.obj.Status.Allocation
	if now == nil {
		now = c.promised
	}
	if now == c.booked || now != nil && c.booked != nil && sameDevices(now, c.booked) {
		c.booked = now
		return false
	}
	old := c.booked
	c.booked = now
	v.tally(old, -1)
	v.tally(now, 1)
	return old != nil
}

func sameDevices(a, b *resourcev1.AllocationResult) bool {
	if len(a.Devices.Results) != len(b.Devices.Results) {
		return false
	}
	for i := range a.Devices.Results {
		x, y := &a.Devices.Results[i], &b.Devices.Results[i]
		if x.Driver != y.Driver || x.Pool != y.Pool || x.Device != y.Device || value(x.ShareID) != value(y.ShareID) || value(x.AdminAccess) != value(y.AdminAccess) {
			return false
		}
	}
	return true
}

// tally counts an allocation, or takes it back.
func (v *Inventory) tally(a *resourcev1.AllocationResult, sign int) {
	if a == nil {
		return
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if value(r.AdminAccess) {
			continue
		}
		id := DeviceID{r.Driver, r.Pool, r.Device}
		u := v.used[id]
		if u == nil {
			u = &usage{}
			v.used[id] = u
		}
		u.add(r, sign)
		p := v.pools[poolID{r.Driver, r.Pool}]
		if p != nil && (sign > 0 && u.claims == 1 || sign < 0 && u.claims == 0) {
			if d := p.byName[r.Device]; d != nil {
				p.count(d, sign)
			}
		}
		if p != nil {
			v.changed(p)
		} else if u.claims == 0 {
			delete(v.used, id)
		}
	}
}

func (u *usage) add(r *resourcev1.DeviceRequestAllocationResult, sign int) {
	u.claims += sign
	if r.ShareID == nil && len(r.ConsumedCapacity) == 0 {
		u.whole += sign
		return
	}
	u.consume(r.ConsumedCapacity, sign)
}

func (u *usage) consume(capacity map[resourcev1.QualifiedName]resource.Quantity, sign int) {
	if u.capacity == nil {
		u.capacity = map[resourcev1.QualifiedName]resource.Quantity{}
	}
	for name, q := range capacity {
		sum := u.capacity[name]
		if sign > 0 {
			sum.Add(q)
		} else {
			sum.Sub(q)
		}
		u.capacity[name] = sum
	}
}
