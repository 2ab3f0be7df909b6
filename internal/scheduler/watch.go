package scheduler

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

// object takes an informer's object out of the wrapping that some deletions have.
func object[T any](obj any) (T, bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

// register follows what the snapshot and the queue must know of.
func (s *Scheduler) register(f *informers.Factory) error {
	core, storage, apps, resource := f.Core().V1(), f.Storage().V1(), f.Apps().V1(), f.Resource().V1()
	sel := &selectors{
		services: core.Services().Lister(), controllers: core.ReplicationControllers().Lister(), sets: apps.ReplicaSets().Lister(), stateful: apps.StatefulSets().Lister(),
	}
	s.snapshot.SetSelectors(sel.of)
	nothing := cache.ResourceEventHandlerFuncs{}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Nodes().Informer(), s.nodeHandler()},
		{core.Namespaces().Informer(), s.namespaceHandler()},
		{f.Policy().V1().PodDisruptionBudgets().Informer(), follow(s, nil, s.snapshot.SetBudget, func(b *policyv1.PodDisruptionBudget) { s.snapshot.RemoveBudget(b.Namespace, b.Name) })},
		{core.PersistentVolumeClaims().Informer(), follow(s, s.storageEased, s.snapshot.SetClaim, func(c *v1.PersistentVolumeClaim) { s.snapshot.RemoveClaim(c.Namespace, c.Name) })},
		{core.PersistentVolumes().Informer(), follow(s, s.storageEased, s.snapshot.SetVolume, func(v *v1.PersistentVolume) { s.snapshot.RemoveVolume(v.Name) })},
		{storage.StorageClasses().Informer(), follow(s, s.storageEased, s.snapshot.SetStorageClass, func(c *storagev1.StorageClass) { s.snapshot.RemoveStorageClass(c.Name) })},
		{storage.CSINodes().Informer(), follow(s, s.storageEased, s.snapshot.SetCSINode, func(n *storagev1.CSINode) { s.snapshot.RemoveCSINode(n.Name) })},
		{storage.CSIDrivers().Informer(), follow(s, s.storageEased, s.snapshot.SetCSIDriver, func(d *storagev1.CSIDriver) { s.snapshot.RemoveCSIDriver(d.Name) })},
		{storage.CSIStorageCapacities().Informer(), follow(s, s.storageEased, s.snapshot.SetStorageCapacity, func(c *storagev1.CSIStorageCapacity) {
			s.snapshot.RemoveStorageCapacity(c.Namespace, c.Name)
		})},
		{resource.ResourceClaims().Informer(), follow(s, nil, s.setDeviceClaim, s.removeDeviceClaim)},
		{resource.ResourceSlices().Informer(), follow(s, s.devicesEased, s.snapshot.SetResourceSlice, func(r *resourcev1.ResourceSlice) { s.snapshot.RemoveResourceSlice(r.Name) })},
		{resource.DeviceClasses().Informer(), follow(s, s.devicesEased, func(c *resourcev1.DeviceClass) { s.remapped(s.snapshot.SetDeviceClass(c)) }, func(c *resourcev1.DeviceClass) {
			s.remapped(s.snapshot.RemoveDeviceClass(c.Name))
		})},
		{resource.DeviceTaintRules().Informer(), follow(s, s.devicesEased, s.snapshot.SetDeviceTaintRule, func(r *resourcev1.DeviceTaintRule) { s.snapshot.RemoveDeviceTaintRule(r.Name) })},
		{core.Services().Informer(), nothing},
		{core.ReplicationControllers().Informer(), nothing},
		{apps.ReplicaSets().Informer(), nothing},
		{apps.StatefulSets().Informer(), nothing},
		{core.Pods().Informer(), s.podHandler()},
	} {
		r, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return err
		}
		s.synced = append(s.synced, r.HasSyncedChecker())
	}
	return nil
}

// follow tells the snapshot of objects of a kind, and then, if eased isn't nil, whoever may wait for them.
func follow[T any](s *Scheduler, eased func(), set, remove func(T)) cache.ResourceEventHandler {
	tell := func(obj any, f func(T)) {
		o, ok := object[T](obj)
		if !ok {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		f(o)
		if eased != nil {
			eased()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { tell(obj, set) },
		UpdateFunc: func(_, obj any) { tell(obj, set) },
		DeleteFunc: func(obj any) { tell(obj, remove) },
	}
}

// storageEased wakes the pods that were refused for their volumes, and whoever waits for claims. s.mu must be held.
func (s *Scheduler) storageEased() {
	s.storageChanged()
	s.wakeStuck(stuckVolumes, func(*item) bool { return true })
}

// devicesEased wakes the pods that were refused for their claims to devices. s.mu must be held.
func (s *Scheduler) devicesEased() { s.wakeStuck(stuckDevices, func(*item) bool { return true }) }

// setDeviceClaim tells the snapshot of a claim, and wakes the pods that wait for it; if it gave devices back, all that wait for devices. s.mu must be held.
func (s *Scheduler) setDeviceClaim(c *resourcev1.ResourceClaim) {
	s.claimEased(c, s.snapshot.SetResourceClaim(c))
}

func (s *Scheduler) removeDeviceClaim(c *resourcev1.ResourceClaim) {
	s.claimEased(c, s.snapshot.RemoveResourceClaim(c.Namespace, c.Name))
}

// remapped wakes the pods that wait for extended resources of nodes, if other ones than before are devices. s.mu must be held.
func (s *Scheduler) remapped(other bool) {
	if !other {
		return
	}
	now := s.clock.Now()
	for key, class := range s.queue.classes {
		if len((*class)[0].p.requests.extended) > 0 {
			s.queue.wakeClass(key, maxWoken, now)
		}
	}
	s.signal()
}

func (s *Scheduler) claimEased(c *resourcev1.ResourceClaim, freed bool) {
	s.storageChanged()
	s.wakeStuck(stuckDevices, func(it *item) bool { return freed || names(it.pod, c.Namespace, c.Name) })
}

// wakeStuck wakes the pods that wait for something of a kind and that f says yes to. s.mu must be held.
func (s *Scheduler) wakeStuck(kind stuck, f func(*item) bool) {
	now := s.clock.Now()
	for it := range s.queue.stuck[kind] {
		if f(it) {
			s.queue.wake(it, now)
			s.signal()
		}
	}
}

func (s *Scheduler) nodeHandler() cache.ResourceEventHandlerFuncs {
	set := func(obj any) {
		n, ok := object[*v1.Node](obj)
		if !ok {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.snapshot.SetNode(n) {
			s.eased(n.Name, nil)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, obj any) { set(obj) },
		DeleteFunc: func(obj any) {
			if n, ok := object[*v1.Node](obj); ok {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.snapshot.RemoveNode(n.Name)
				// With a node less the places of a topology may be even again.
				s.easedOthers(nil)
			}
		},
	}
}

func (s *Scheduler) namespaceHandler() cache.ResourceEventHandlerFuncs {
	set := func(obj any, gone bool) {
		n, ok := object[*v1.Namespace](obj)
		if !ok {
			return
		}
		l := n.Labels
		if gone {
			l = nil
		} else if l == nil {
			l = map[string]string{}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.snapshot.SetNamespace(n.Name, l) {
			s.easedNamespace()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj, false) },
		UpdateFunc: func(_, obj any) { set(obj, false) },
		DeleteFunc: func(obj any) { set(obj, true) },
	}
}

func (s *Scheduler) podHandler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if p, ok := object[*v1.Pod](obj); ok {
				s.setPod(nil, p)
			}
		},
		UpdateFunc: func(old, obj any) {
			o, _ := object[*v1.Pod](old)
			if p, ok := object[*v1.Pod](obj); ok {
				if o != nil && o.UID != p.UID {
					s.removePod(o)
					o = nil
				}
				s.setPod(o, p)
			}
		},
		DeleteFunc: func(obj any) {
			if p, ok := object[*v1.Pod](obj); ok {
				s.removePod(p)
			}
		},
	}
}

// over says that a pod's containers run no more, so that it takes nothing from its node.
func over(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed }

func (s *Scheduler) setPod(old, pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case over(pod):
		s.noteCrash(old, pod)
		s.leave(pod)
	case pod.Spec.NodeName != "":
		s.queue.drop(pod.UID)
		s.noteCrash(old, pod)
		if q := s.snapshot.pods[pod.UID]; q != nil && !q.assumed && !countsDifferently(q.pod, pod) {
			q.Pod.pod = pod // most changes of a pod on a node are of its status
			return
		}
		p := s.snapshot.NewPod(pod)
		// What it was before, which Place may write over.
		var was *Pod
		if q := s.snapshot.pods[pod.UID]; q != nil && !q.assumed {
			was = q.Pod
		}
		freed := s.snapshot.NominatedFor(pod.UID)
		s.snapshot.Place(p, pod.Spec.NodeName, false)
		if freed != "" && freed != pod.Spec.NodeName {
			s.eased(freed, nil) // somebody else has bound it elsewhere
		}
		if was != nil && onlyEnds(was, p) {
			// It takes what it took before, but those that must keep their distance don't count it any more.
			s.wakeStuck(stuckPods, func(it *item) bool { return s.snapshot.spreadsWith(it.p, p) })
		} else if was != nil {
			if !maps.Equal(was.pod.Labels, pod.Labels) {
				s.easedOthers(was) // somebody may have waited for there being no such pod
			}
			s.eased(pod.Spec.NodeName, p) // it may need less than before
		} else {
			s.easedOthers(p) // it is new, or what was expected has come about: somebody may have waited for such a pod
		}
	case !s.snapshot.cares(pod.Spec.SchedulerName):
	case pod.DeletionTimestamp != nil:
		s.forget(pod)
	default:
		if _, assumed := s.snapshot.On(pod.UID); assumed && s.queue.items[pod.UID] == nil {
			return // bound; what came is older than that
		}
		p := s.snapshot.NewPod(pod)
		if _, assumed := s.snapshot.On(pod.UID); !assumed {
			s.nominate(old, p)
		}
		s.queue.put(pod, p, s.clock.Now(), old == nil || mayFitNow(old, pod))
		s.signal()
	}
}

// countsDifferently says whether a pod on a node has changed in what is counted.
func countsDifferently(a, b *v1.Pod) bool {
	return a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || !maps.Equal(a.Labels, b.Labels) ||
		a.Spec.NodeName != b.Spec.NodeName || resizing(a) || resizing(b)
}

// onlyEnds says of a pod's newer form that nothing but its deletion has begun.
func onlyEnds(was, is *Pod) bool {
	return was.pod.DeletionTimestamp == nil && is.pod.DeletionTimestamp != nil && was.pod.Spec.NodeName == is.pod.Spec.NodeName &&
		maps.Equal(was.pod.Labels, is.pod.Labels) && was.requests.equal(&is.requests)
}

// resizing says that a pod's resources are being changed, during which its status counts (KEP-1287).
func resizing(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress
	})
}

// mayFitNow says whether a change of a pending pod is one that can let it fit: not one of its status, which we make ourselves.
func mayFitNow(old, pod *v1.Pod) bool {
	return old.Generation != pod.Generation || !maps.Equal(old.Labels, pod.Labels) || len(old.Spec.SchedulingGates) != len(pod.Spec.SchedulingGates) ||
		len(old.Spec.Tolerations) != len(pod.Spec.Tolerations) || len(old.Status.ResourceClaimStatuses) != len(pod.Status.ResourceClaimStatuses)
}

func (s *Scheduler) removePod(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(pod)
}

// nominate follows what the API says of a pending pod's nomination. Ours is older than the API knows at first: only what changed counts.
func (s *Scheduler) nominate(old *v1.Pod, p *Pod) {
	was, is := "", p.pod.Status.NominatedNodeName
	if old != nil {
		was = old.Status.NominatedNodeName
	}
	switch have := s.snapshot.NominatedFor(p.uid()); {
	case is != "" && is != was:
		s.snapshot.Nominate(p, is)
		if have != "" && have != is {
			s.eased(have, nil)
		}
	case is == "" && was != "" && have == was:
		s.snapshot.Unnominate(p.uid())
		s.eased(have, nil)
	case have != "":
		s.snapshot.Nominate(p, have) // its newest form
	}
}

// forget takes a pod without a node out of the queue. s.mu must be held.
func (s *Scheduler) forget(pod *v1.Pod) {
	s.queue.drop(pod.UID)
	if node := s.snapshot.Unnominate(pod.UID); node != "" {
		s.eased(node, nil)
	}
	s.storageChanged()
}

// leave forgets a pod that is over or gone. s.mu must be held.
func (s *Scheduler) leave(pod *v1.Pod) {
	s.forget(pod)
	if q := s.snapshot.pods[pod.UID]; q != nil {
		s.eased(s.snapshot.Remove(pod.UID), q.Pod)
	}
}

// eased wakes the pods that fit on a node on which something changed, as many as there is room for besides those that are nominated for it: whoever ends a
// nomination calls it too. pod is the one that made the change by leaving
// or shrinking; nil if the node itself changed. s.mu must be held.
func (s *Scheduler) eased(node string, pod *Pod) {
	now := s.clock.Now()
	s.wakeNominated(node)
	for key, class := range s.queue.classes {
		if n := s.snapshot.RoomFor((*class)[0].p, node, maxWoken); n > 0 {
			s.queue.wakeClass(key, n, now)
		}
	}
	s.easedOthers(pod)
	s.signal()
}

// easedOthers wakes the pods that were refused for where other pods are and that pod, which came or went, concerns; all of them if it is nil. s.mu
// must be held.
func (s *Scheduler) easedOthers(pod *Pod) {
	s.wakeStuck(stuckPods, func(it *item) bool { return pod == nil || s.snapshot.concerns(it.p, pod) })
	if pod == nil {
		s.devicesEased()
	}
	if pod == nil || pod.volumes != nil {
		s.wakeStuck(stuckVolumes, func(*item) bool { return true })
	}
}

// easedNamespace wakes the pods that were refused for where other pods are: what the labels of a namespace select may be others now. s.mu must be held.
func (s *Scheduler) easedNamespace() {
	s.wakeStuck(stuckPods, func(*item) bool { return true })
}

// noteCrash remembers that a pod's containers failed on its node, if that is new. s.mu must be held.
func (s *Scheduler) noteCrash(old, pod *v1.Pod) {
	if s.snapshot.crashes.halfLife <= 0 || old == nil || crashesOf(pod) <= crashesOf(old) {
		return
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		s.snapshot.Advance(s.clock.Now())
		s.snapshot.Crashed(owner.UID, pod.Spec.NodeName)
	}
}

// crashesOf counts how often a pod's containers failed. A pod that was evicted or preempted hasn't crashed.
func crashesOf(p *v1.Pod) int32 {
	var n int32
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			st := &list[i]
			n += st.RestartCount
			if t := st.State.Terminated; t != nil && t.ExitCode != 0 && p.DeletionTimestamp == nil {
				n++
			}
		}
	}
	return n
}
