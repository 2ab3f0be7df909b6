package dynamicresources

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node as far as it matters for devices.
type Node interface {
	Name() string
	// Selected says whether a selector of nodes means this one.
	Selected(*v1.NodeSelector) bool
}

// DeviceID names a device among all of the cluster.
type DeviceID struct{ Driver, Pool, Device string }

func (d DeviceID) String() string { return d.Driver + "/" + d.Pool + "/" + d.Device }

type poolID struct{ driver, name string }

func (p poolID) String() string { return p.driver + "/" + p.name }

// Inventory is what is known of devices and of who has them.
type Inventory struct {
	slices  map[string]*resourcev1.ResourceSlice
	byPool  map[poolID]map[string]*resourcev1.ResourceSlice
	classes map[string]*resourcev1.DeviceClass
	rules   map[string]*resourcev1.DeviceTaintRule
	// resources are the names of classes by the extended resources that they stand for.
	resources map[string]string

	pools map[poolID]*pool
	dirty map[poolID]bool // pools whose slices changed
	// local are the pools by the node that alone can reach their devices; wide are all others, ordered.
	local map[string]*nodePools
	wide  []*pool
	// widely counts changes of what can concern every node.
	widely uint64

	claims map[types.UID]*claim
	byName map[string]*claim
	// extended are the claims for extended resources, by the uid of their pod.
	extended map[types.UID]*claim
	used     map[DeviceID]*usage
	filters  filters
	answers  answers
	newID    func() types.UID
}

// nodePools are the pools of one node, and version counts the changes of what is in them and of the node itself.
type nodePools struct {
	pools   []*pool
	version uint64
}

// New returns an inventory of nothing. newID makes the identities of shares of devices that several claims use.
func New(newID func() types.UID) *Inventory {
	return &Inventory{
		slices: map[string]*resourcev1.ResourceSlice{}, byPool: map[poolID]map[string]*resourcev1.ResourceSlice{},
		classes: map[string]*resourcev1.DeviceClass{}, rules: map[string]*resourcev1.DeviceTaintRule{},
		pools: map[poolID]*pool{}, dirty: map[poolID]bool{}, local: map[string]*nodePools{},
		claims: map[types.UID]*claim{}, byName: map[string]*claim{}, extended: map[types.UID]*claim{}, used: map[DeviceID]*usage{}, newID: newID,
	}
}

// SetSlice tells of a slice.
func (v *Inventory) SetSlice(s *resourcev1.ResourceSlice) {
	if old := v.slices[s.Name]; old != nil && poolOf(old) != poolOf(s) {
		v.RemoveSlice(s.Name)
	}
	id := poolOf(s)
	v.slices[s.Name] = s
	if v.byPool[id] == nil {
		v.byPool[id] = map[string]*resourcev1.ResourceSlice{}
	}
	v.byPool[id][s.Name] = s
	v.dirty[id] = true
}

// RemoveSlice tells that a slice is gone.
func (v *Inventory) RemoveSlice(name string) {
	s := v.slices[name]
	if s == nil {
		return
	}
	id := poolOf(s)
	delete(v.slices, name)
	if delete(v.byPool[id], name); len(v.byPool[id]) == 0 {
		delete(v.byPool, id)
	}
	v.dirty[id] = true
}

func poolOf(s *resourcev1.ResourceSlice) poolID { return poolID{s.Spec.Driver, s.Spec.Pool.Name} }

// SetClass tells of a class. It says whether it stands for another extended resource than before.
func (v *Inventory) SetClass(c *resourcev1.DeviceClass) bool {
	old := v.classes[c.Name]
	v.classes[c.Name] = c
	v.widely++
	if old != nil && value(old.Spec.ExtendedResourceName) == value(c.Spec.ExtendedResourceName) && old.UID == c.UID {
		return false
	}
	v.mapResources()
	return true
}

// RemoveClass tells that a class is gone. It says whether there was one.
func (v *Inventory) RemoveClass(name string) bool {
	_, there := v.classes[name]
	delete(v.classes, name)
	v.widely++
	v.mapResources()
	return there
}

// mapResources finds the classes that stand for extended resources: of several the youngest, or the first by name.
func (v *Inventory) mapResources() {
	v.resources = map[string]string{}
	for _, c := range v.classes {
		name := value(c.Spec.ExtendedResourceName)
		if name == "" {
			continue
		}
		if have, ok := v.resources[name]; ok {
			o := v.classes[have]
			if o.CreationTimestamp.After(c.CreationTimestamp.Time) || o.CreationTimestamp.Equal(&c.CreationTimestamp) && o.Name < c.Name {
				continue
			}
		}
		v.resources[name] = c.Name
	}
}

// ClassFor is the class that stands for an extended resource, nil if there is none.
func (v *Inventory) ClassFor(resource string) *resourcev1.DeviceClass {
	if len(v.classes) == 0 {
		return nil
	}
	if name, ok := strings.CutPrefix(resource, resourcev1.ResourceDeviceClassPrefix); ok {
		return v.classes[name]
	}
	return v.classes[v.resources[resource]]
}

// SetRule tells of a rule that taints devices.
func (v *Inventory) SetRule(r *resourcev1.DeviceTaintRule) {
	v.rules[r.Name] = r
	v.taint()
}

// RemoveRule tells that such a rule is gone.
func (v *Inventory) RemoveRule(name string) {
	delete(v.rules, name)
	v.taint()
}

// SetNode tells that a node's labels may have changed.
func (v *Inventory) SetNode(name string) {
	if n := v.local[name]; n != nil {
		n.version++
	} else {
		v.local[name] = &nodePools{}
	}
}

// RemoveNode tells that a node is gone.
func (v *Inventory) RemoveNode(name string) {
	if n := v.local[name]; n != nil {
		if n.version++; len(n.pools) == 0 {
			delete(v.local, name)
			v.widely++ // a node of that name that comes back begins to count anew
		}
	}
}

// taint gives all devices the taints that they have now.
func (v *Inventory) taint() {
	for _, p := range v.pools {
		for _, d := range p.devices {
			d.taints = v.taintsOf(d)
		}
	}
	v.widely++
}

// taintsOf are those that the driver gave a device, and those of rules, in an order of their names.
func (v *Inventory) taintsOf(d *device) []resourcev1.DeviceTaint {
	out := d.Taints
	for _, name := range slices.Sorted(maps.Keys(v.rules)) {
		r := v.rules[name]
		sel := r.Spec.DeviceSelector
		if sel == nil {
			continue
		}
		if differs(sel.Driver, d.id.Driver) || differs(sel.Pool, d.id.Pool) || differs(sel.Device, d.id.Device) {
			continue
		}
		out = append(slices.Clip(out), r.Spec.Taint)
	}
	return out
}

func differs(want *string, have string) bool { return want != nil && *want != have }

// refresh builds the pools anew whose slices changed.
func (v *Inventory) refresh() {
	if len(v.dirty) == 0 {
		return
	}
	for id := range v.dirty {
		if old := v.pools[id]; old != nil {
			v.unlink(old)
			v.changed(old)
			delete(v.pools, id)
			for _, d := range old.devices {
				if d.use.claims == 0 {
					delete(v.used, d.id)
				}
			}
		}
		if len(v.byPool[id]) == 0 {
			continue
		}
		p := v.newPool(id, v.byPool[id])
		v.pools[id] = p
		v.link(p)
		v.changed(p)
	}
	clear(v.dirty)
}

// link makes a pool known to the nodes that can reach it.
func (v *Inventory) link(p *pool) {
	if p.node == "" {
		at, _ := slices.BinarySearchFunc(v.wide, p, comparePools)
		v.wide = slices.Insert(v.wide, at, p)
		return
	}
	n := v.local[p.node]
	if n == nil {
		n = &nodePools{}
		v.local[p.node] = n
	}
	at, _ := slices.BinarySearchFunc(n.pools, p, comparePools)
	n.pools = slices.Insert(n.pools, at, p)
}

func (v *Inventory) unlink(p *pool) {
	is := func(o *pool) bool { return o == p }
	if p.node == "" {
		v.wide = slices.DeleteFunc(v.wide, is)
	} else if n := v.local[p.node]; n != nil {
		n.pools = slices.DeleteFunc(n.pools, is)
	}
}

// comparePools orders pools by what drivers named them, as upstream does: the search takes the first devices that will do. Those that have to be waited for come last.
func comparePools(a, b *pool) int {
	return cmp.Or(boolCompare(a.waits, b.waits), cmp.Compare(a.id.driver, b.id.driver), cmp.Compare(a.id.name, b.id.name))
}

// boolCompare puts false first.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// changed notes that something about a pool's devices, or who has them, is different.
func (v *Inventory) changed(p *pool) {
	if p.node == "" {
		v.widely++
	} else if n := v.local[p.node]; n != nil {
		n.version++
	}
}

// poolsFor calls f with the pools of which a node can reach a device, perhaps, in their order, until it says no.
func (v *Inventory) poolsFor(node string, f func(*pool) bool) {
	var local []*pool
	if n := v.local[node]; n != nil {
		local = n.pools
	}
	wide := v.wide
	for len(local)+len(wide) > 0 {
		from := &local
		if len(local) == 0 || len(wide) > 0 && comparePools(wide[0], local[0]) < 0 {
			from = &wide
		}
		if !f((*from)[0]) {
			return
		}
		*from = (*from)[1:]
	}
}
