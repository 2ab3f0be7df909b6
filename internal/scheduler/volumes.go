package scheduler

import (
	"cmp"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Annotations by which the scheduler, the volume binder and provisioners agree, as upstream has them.
const (
	annSelectedNode  = "volume.kubernetes.io/selected-node"
	annBindCompleted = "pv.kubernetes.io/bind-completed"
	annBoundByUs     = "pv.kubernetes.io/bound-by-controller"
	noProvisioner    = "kubernetes.io/no-provisioner"
)

// podVolumes is what matters of a pod's volumes; nil if nothing does.
type podVolumes struct {
	claims []podClaim
	disks  []disk
}

// podClaim is a claim that a pod uses.
type podClaim struct {
	key       string // namespace/name
	name      string
	ephemeral bool // made for the pod
}

// disk is a volume without a claim that pods on one node can't share.
type disk struct {
	kind, id string
	readOnly bool // sharing is fine if all only read
}

func newPodVolumes(pod *v1.Pod) *podVolumes {
	if len(pod.Spec.Volumes) == 0 {
		return nil
	}
	var out podVolumes
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out.addClaim(pod.Namespace, v.PersistentVolumeClaim.ClaimName, false)
		case v.Ephemeral != nil:
			out.addClaim(pod.Namespace, pod.Name+"-"+v.Name, true)
		case v.GCEPersistentDisk != nil:
			out.disks = append(out.disks, disk{"gce", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.ReadOnly})
		case v.AWSElasticBlockStore != nil:
			out.disks = append(out.disks, disk{"ebs", v.AWSElasticBlockStore.VolumeID, false})
		case v.ISCSI != nil:
			out.disks = append(out.disks, disk{"iscsi", v.ISCSI.IQN, v.ISCSI.ReadOnly})
		case v.RBD != nil:
			for _, m := range v.RBD.CephMonitors {
				out.disks = append(out.disks, disk{"rbd", m + "/" + v.RBD.RBDPool + "/" + v.RBD.RBDImage, v.RBD.ReadOnly})
			}
		}
	}
	if len(out.claims)+len(out.disks) == 0 {
		return nil
	}
	return &out
}

func (v *podVolumes) addClaim(namespace, name string, ephemeral bool) {
	key := namespace + "/" + name
	if !slices.ContainsFunc(v.claims, func(c podClaim) bool { return c.key == key }) {
		v.claims = append(v.claims, podClaim{key, name, ephemeral})
	}
}

// volume is a persistent volume.
type volume struct {
	obj      *v1.PersistentVolume
	selector nodeSelector
	zones    []zoneRule
	bytes    int64
}

// zoneRule is a label that nodes for a volume must have, if they say anything about it.
type zoneRule struct {
	key    uint32
	values []uint32
}

// volumes is what the snapshot knows of storage.
type volumes struct {
	claims     map[string]*v1.PersistentVolumeClaim
	byName     map[string]*volume
	byClass    map[string]map[string]*volume
	classes    map[string]*storagev1.StorageClass
	limits     map[string]map[string]int64 // by node, then driver; noLimit if it is there and has none
	drivers    map[string]*storagev1.CSIDriver
	capacities map[string]*storagev1.CSIStorageCapacity
	// users counts the pods on nodes that use a claim.
	users map[string]int
	// reserved are volumes that are promised to a claim, and selected the nodes for which claims are being provisioned, until the API shows it.
	reserved map[string]string
	selected map[string]string
}

func newVolumes() volumes {
	return volumes{
		claims: map[string]*v1.PersistentVolumeClaim{}, byName: map[string]*volume{}, byClass: map[string]map[string]*volume{},
		classes: map[string]*storagev1.StorageClass{}, limits: map[string]map[string]int64{}, drivers: map[string]*storagev1.CSIDriver{},
		capacities: map[string]*storagev1.CSIStorageCapacity{}, users: map[string]int{}, reserved: map[string]string{}, selected: map[string]string{},
	}
}

// use counts a pod that comes to a node or leaves one.
func (v *volumes) use(p *Pod, by int) {
	if p.volumes == nil {
		return
	}
	for _, c := range p.volumes.claims {
		if v.users[c.key] += by; v.users[c.key] == 0 {
			delete(v.users, c.key)
		}
	}
}

// SetClaim tells of a claim.
func (s *Snapshot) SetClaim(c *v1.PersistentVolumeClaim) {
	key := c.Namespace + "/" + c.Name
	s.volumes.claims[key] = c
	if bound(c) {
		delete(s.volumes.selected, key)
	}
}

// RemoveClaim tells that a claim is gone.
func (s *Snapshot) RemoveClaim(namespace, name string) {
	key := namespace + "/" + name
	delete(s.volumes.claims, key)
	delete(s.volumes.selected, key)
}

// SetVolume tells of a persistent volume.
func (s *Snapshot) SetVolume(pv *v1.PersistentVolume) {
	s.RemoveVolume(pv.Name)
	v := &volume{obj: pv}
	if pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil {
		v.selector = s.newNodeSelector(nil, &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: pv.Spec.NodeAffinity.Required})
	}
	for _, key := range []string{v1.LabelTopologyZone, v1.LabelTopologyRegion, v1.LabelFailureDomainBetaZone, v1.LabelFailureDomainBetaRegion} {
		if zones, ok := pv.Labels[key]; ok {
			v.zones = append(v.zones, s.newZoneRule(key, zones))
		}
	}
	q := pv.Spec.Capacity[v1.ResourceStorage]
	v.bytes = q.Value()
	s.volumes.byName[pv.Name] = v
	class := pv.Spec.StorageClassName
	if s.volumes.byClass[class] == nil {
		s.volumes.byClass[class] = map[string]*volume{}
	}
	s.volumes.byClass[class][pv.Name] = v
	if pv.Spec.ClaimRef != nil {
		delete(s.volumes.reserved, pv.Name)
	}
}

// RemoveVolume tells that a persistent volume is gone.
func (s *Snapshot) RemoveVolume(name string) {
	v := s.volumes.byName[name]
	if v == nil {
		return
	}
	delete(s.volumes.byName, name)
	class := v.obj.Spec.StorageClassName
	if delete(s.volumes.byClass[class], name); len(s.volumes.byClass[class]) == 0 {
		delete(s.volumes.byClass, class)
	}
}

// SetStorageClass tells of a storage class.
func (s *Snapshot) SetStorageClass(c *storagev1.StorageClass) { s.volumes.classes[c.Name] = c }

// RemoveStorageClass tells that a storage class is gone.
func (s *Snapshot) RemoveStorageClass(name string) { delete(s.volumes.classes, name) }

// noLimit is of drivers that don't say how many volumes a node can have.
const noLimit = math.MaxInt64

// SetCSINode tells which drivers a node has, and how many volumes of each it can have.
func (s *Snapshot) SetCSINode(n *storagev1.CSINode) {
	limits := map[string]int64{}
	for _, d := range n.Spec.Drivers {
		limits[d.Name] = noLimit
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = int64(*d.Allocatable.Count)
		}
	}
	s.volumes.limits[n.Name] = limits
}

// RemoveCSINode tells that nothing is known of a node's drivers any more.
func (s *Snapshot) RemoveCSINode(name string) { delete(s.volumes.limits, name) }

// SetCSIDriver tells of a driver.
func (s *Snapshot) SetCSIDriver(d *storagev1.CSIDriver) { s.volumes.drivers[d.Name] = d }

// RemoveCSIDriver tells that a driver is gone.
func (s *Snapshot) RemoveCSIDriver(name string) { delete(s.volumes.drivers, name) }

// SetStorageCapacity tells how much storage there is for some nodes.
func (s *Snapshot) SetStorageCapacity(c *storagev1.CSIStorageCapacity) {
	s.volumes.capacities[c.Namespace+"/"+c.Name] = c
}

// RemoveStorageCapacity tells that such a report is gone.
func (s *Snapshot) RemoveStorageCapacity(namespace, name string) {
	delete(s.volumes.capacities, namespace+"/"+name)
}

// bound says that a claim has its volume.
func bound(c *v1.PersistentVolumeClaim) bool {
	_, done := c.Annotations[annBindCompleted]
	return c.Spec.VolumeName != "" && done
}

// VolumePlan is what must be done for a pod's claims before it can be bound to its node.
type VolumePlan struct {
	// Bind gives volumes that are there to claims.
	Bind []VolumeBinding
	// Provision are claims for which volumes must be made that can be reached from the node.
	Provision []*v1.PersistentVolumeClaim
}

// VolumeBinding is a volume for a claim.
type VolumeBinding struct {
	Volume *v1.PersistentVolume
	Claim  *v1.PersistentVolumeClaim
}

// Empty says that there is nothing to do.
func (p *VolumePlan) Empty() bool { return len(p.Bind)+len(p.Provision) == 0 }

// PlanVolumes says what must be done so that a pod has its volumes on the node that Decide chose, and reserves them for it.
func (s *Snapshot) PlanVolumes(p *Pod, nodeName string) VolumePlan {
	var plan VolumePlan
	i, ok := s.byName[nodeName]
	if p.volumes == nil || !ok || !p.profile.asked[NameVolumeBinding] {
		return plan
	}
	a, no := s.newVolumeAsk(p)
	if no != nil {
		return plan
	}
	plan, _ = a.plan(&s.nodes[i])
	for _, b := range plan.Bind {
		s.volumes.reserved[b.Volume.Name] = b.Claim.Namespace + "/" + b.Claim.Name
	}
	for _, c := range plan.Provision {
		s.volumes.selected[c.Namespace+"/"+c.Name] = nodeName
	}
	return plan
}

// DropVolumes ends the reservations of a plan that isn't carried out.
func (s *Snapshot) DropVolumes(plan VolumePlan) {
	for _, b := range plan.Bind {
		delete(s.volumes.reserved, b.Volume.Name)
	}
	for _, c := range plan.Provision {
		delete(s.volumes.selected, c.Namespace+"/"+c.Name)
	}
}

// Bound says whether all claims of a pod have their volumes; gone is the name of one that isn't there any more or whose provisioner wants another node.
func (s *Snapshot) Bound(p *Pod, plan VolumePlan) (done bool, gone string) {
	done = true
	check := func(c *v1.PersistentVolumeClaim, selected bool) {
		now := s.volumes.claims[c.Namespace+"/"+c.Name]
		switch {
		case now == nil || now.UID != c.UID:
			gone = c.Name
		case bound(now):
		case selected && now.ResourceVersion != c.ResourceVersion && now.Annotations[annSelectedNode] == "":
			gone = c.Name
		default:
			done = false
		}
	}
	for _, b := range plan.Bind {
		check(b.Claim, false)
	}
	for _, c := range plan.Provision {
		check(c, true)
	}
	return done && gone == "", gone
}

// suits says whether a volume that is there can be given to a claim.
func (v *volume) suits(s *Snapshot, c *v1.PersistentVolumeClaim, key string) bool {
	pv := v.obj
	if pv.DeletionTimestamp != nil || cmp.Or(value(pv.Spec.VolumeMode), v1.PersistentVolumeFilesystem) != cmp.Or(value(c.Spec.VolumeMode), v1.PersistentVolumeFilesystem) {
		return false
	}
	if by, ok := s.volumes.reserved[pv.Name]; ok && by != key {
		return false
	}
	if c.Spec.VolumeName != "" && c.Spec.VolumeName != pv.Name {
		return false
	}
	if ref := pv.Spec.ClaimRef; ref != nil {
		return ref.Namespace == c.Namespace && ref.Name == c.Name && (ref.UID == "" || ref.UID == c.UID)
	}
	if pv.Status.Phase != v1.VolumeAvailable {
		return false
	}
	want := c.Spec.Resources.Requests[v1.ResourceStorage]
	if v.bytes < want.Value() || value(c.Spec.VolumeAttributesClassName) != value(pv.Spec.VolumeAttributesClassName) {
		return false
	}
	if c.Spec.Selector != nil && !selectorOf(c.Spec.Selector).Matches(labels.Set(pv.Labels)) {
		return false
	}
	return !slices.ContainsFunc(c.Spec.AccessModes, func(m v1.PersistentVolumeAccessMode) bool { return !slices.Contains(pv.Spec.AccessModes, m) })
}

// provisionable says whether a volume of a class can be made for a claim that is reached from a node; short says that there isn't enough storage.
func (s *Snapshot) provisionable(c *v1.PersistentVolumeClaim, class *storagev1.StorageClass, n *node) (ok, short bool) {
	if class.Provisioner == "" || class.Provisioner == noProvisioner {
		return false, false
	}
	if len(class.AllowedTopologies) > 0 && !slices.ContainsFunc(class.AllowedTopologies, func(t v1.TopologySelectorTerm) bool { return s.inTopology(t, n) }) {
		return false, false
	}
	reported, have := s.capacityFor(c, class, n)
	return !reported || have != nil, reported && have == nil
}

// capacityFor returns what a driver reports of the storage near a node, if that is enough for a claim: the largest, if there are several. Reported is
// false if the driver says nothing of its storage.
func (s *Snapshot) capacityFor(c *v1.PersistentVolumeClaim, class *storagev1.StorageClass, n *node) (reported bool, found *storagev1.CSIStorageCapacity) {
	d := s.volumes.drivers[class.Provisioner]
	if d == nil || !value(d.Spec.StorageCapacity) {
		return false, nil
	}
	want := c.Spec.Resources.Requests[v1.ResourceStorage]
	for _, have := range s.volumes.capacities {
		limit := have.MaximumVolumeSize
		if limit == nil {
			limit = have.Capacity
		}
		if have.StorageClassName != class.Name || limit == nil || limit.Cmp(want) < 0 || !s.selectsNode(have.NodeTopology, n) {
			continue
		}
		if found == nil || have.Capacity != nil && (found.Capacity == nil || have.Capacity.Cmp(*found.Capacity) > 0) {
			found = have
		}
	}
	return true, found
}

func (s *Snapshot) inTopology(t v1.TopologySelectorTerm, n *node) bool {
	return !slices.ContainsFunc(t.MatchLabelExpressions, func(e v1.TopologySelectorLabelRequirement) bool {
		v, ok := n.value(s.strings.id(e.Key))
		return !ok || !slices.Contains(e.Values, s.strings.values[v])
	})
}

// selectsNode says whether a selector matches a node's labels; one that isn't there matches none.
func (s *Snapshot) selectsNode(sel *metav1.LabelSelector, n *node) bool {
	if sel == nil {
		return false
	}
	set := labels.Set{}
	for _, l := range n.labels {
		set[s.strings.values[l.key]] = s.strings.values[l.value]
	}
	return selectorOf(sel).Matches(set)
}
