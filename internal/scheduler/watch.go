package scheduler

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// object takes an informer's object out of the wrapping that some deletions have.
func object[T any](obj any) (T, bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	t, ok := obj.(T)
	return t, ok
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
		s.snapshot.SetNamespace(n.Name, l)
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
		s.leave(pod)
	case pod.Spec.NodeName != "":
		s.queue.drop(pod.UID)
		if q := s.snapshot.pods[pod.UID]; q != nil && !q.assumed && !countsDifferently(q.pod, pod) {
			q.Pod.pod = pod // most changes of a pod on a node are of its status
			return
		}
		p := s.snapshot.NewPod(pod)
		was := s.snapshot.pods[pod.UID]
		s.snapshot.Place(p, pod.Spec.NodeName, false)
		if was != nil && !was.assumed {
			s.eased(pod.Spec.NodeName, p) // it may need less than before
		} else {
			s.easedOthers(p) // somebody may have waited for such a pod
		}
	case pod.Spec.SchedulerName != s.name:
	case pod.DeletionTimestamp != nil:
		s.queue.drop(pod.UID)
	default:
		if _, assumed := s.snapshot.On(pod.UID); assumed && s.queue.items[pod.UID] == nil {
			return // bound; what came is older than that
		}
		s.queue.put(pod, s.snapshot.NewPod(pod), s.clock.Now(), old == nil || mayFitNow(old, pod))
		s.signal()
	}
}

// countsDifferently says whether a pod on a node has changed in what is counted.
func countsDifferently(a, b *v1.Pod) bool {
	return a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || !maps.Equal(a.Labels, b.Labels) ||
		a.Spec.NodeName != b.Spec.NodeName || resizing(a) || resizing(b)
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
		len(old.Spec.Tolerations) != len(pod.Spec.Tolerations)
}

func (s *Scheduler) removePod(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(pod)
}

// leave forgets a pod that is over or gone. s.mu must be held.
func (s *Scheduler) leave(pod *v1.Pod) {
	s.queue.drop(pod.UID)
	if q := s.snapshot.pods[pod.UID]; q != nil {
		s.eased(s.snapshot.Remove(pod.UID), q.Pod)
	}
}

// eased wakes the pods that fit on a node on which something changed, as many as there is room for. pod is the one that made the change by leaving
// or shrinking; nil if the node itself changed. s.mu must be held.
func (s *Scheduler) eased(node string, pod *Pod) {
	now := s.clock.Now()
	for key, class := range s.queue.classes {
		if n := s.snapshot.FitsOn((*class)[0].p, node, maxWoken); n > 0 {
			s.queue.wakeClass(key, n, now)
		}
	}
	s.easedOthers(pod)
	s.signal()
}

// easedOthers wakes the pods that were refused for where other pods are and that pod, which came or went, concerns; all of them if it is nil. s.mu
// must be held.
func (s *Scheduler) easedOthers(pod *Pod) {
	now := s.clock.Now()
	for it := range s.queue.social {
		if pod == nil || s.snapshot.concerns(it.p, pod) {
			s.queue.wake(it, now)
			s.signal()
		}
	}
}
