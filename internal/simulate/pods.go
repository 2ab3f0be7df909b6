package simulate

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// cpuEvery is how many pods share a look at the CPU time, until the last.
const cpuEvery = 32

// podGroup are the pods that one operation makes. It is guarded by the mutex of pods.
type podGroup struct {
	measured bool
	// churn is for pods that come and go beside the operations, which nobody waits for.
	churn              bool
	scheduled, running int // how many ever had a node, and ever ran
}

// podState is how far a pod has come.
type podState struct {
	uid                         types.UID
	created, scheduled, started time.Time
	node                        string
	unschedulable, running      bool
	group                       *podGroup // nil for those of controllers
}

// pods follows all pods of the simulation by a watch. Times are when the watch said so.
type pods struct {
	hollow *hollow // is told of every change; nil without kubelets

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at the next change after somebody has asked for it
	awaited bool          // that is so
	known   map[string]*podState
	// counts of the pods that are there, churn aside
	there, scheduled, running, attempted int
	everScheduled                        int // all, since the beginning
	measured, measuredScheduled          int
	first, last                          time.Time // of the measured pods: when the first was about to be created, and when the last was scheduled
	firstCPU, lastCPU                    time.Duration
	startup, binding                     histogram
	reason                               string // why some pod fits nowhere
}

func newPods(h *hollow) *pods {
	return &pods{hollow: h, changed: make(chan struct{}), known: map[string]*podState{}}
}

// expect says that a pod is about to be created.
func (p *pods) expect(namespace, name string, group *podGroup) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.know(namespace+"/"+name, &podState{created: now, group: group})
	if group.measured {
		if p.measured++; p.first.IsZero() {
			p.first, p.firstCPU = now, cpuTime()
		}
	}
}

// know begins to follow a pod. mu must be held.
func (p *pods) know(key string, s *podState) {
	p.known[key] = s
	p.there += s.one()
}

// one is what a pod counts for.
func (s *podState) one() int {
	if s.group != nil && s.group.churn {
		return 0
	}
	return 1
}

// trim keeps of a pod what the simulation needs: an informer holds 150,000 of them.
func trim(obj any) (any, error) {
	p, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	out := &v1.Pod{}
	out.Namespace, out.Name, out.UID, out.ResourceVersion, out.DeletionTimestamp = p.Namespace, p.Name, p.UID, p.ResourceVersion, p.DeletionTimestamp
	if v := p.Annotations[runForAnnotation]; v != "" {
		out.Annotations = map[string]string{runForAnnotation: v}
	}
	out.Spec.NodeName = p.Spec.NodeName
	for i := range p.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, v1.Container{Name: p.Spec.Containers[i].Name, Image: p.Spec.Containers[i].Image})
	}
	out.Status.Phase = p.Status.Phase
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled || c.Type == v1.PodReady {
			out.Status.Conditions = append(out.Status.Conditions, v1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
		}
	}
	return out, nil
}

func (p *pods) handler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { p.set(obj.(*v1.Pod)) },
		UpdateFunc: func(_, obj any) { p.set(obj.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				p.remove(pod)
			}
		},
	}
}

func condition(pod *v1.Pod, t v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == t {
			return c
		}
	}
	return nil
}

func (p *pods) set(pod *v1.Pod) {
	now := time.Now()
	p.mu.Lock()
	key := pod.Namespace + "/" + pod.Name
	s := p.known[key]
	if s == nil || s.uid != "" && s.uid != pod.UID {
		p.forget(key)
		s = &podState{created: now}
		p.know(key, s)
	}
	s.uid = pod.UID
	if s.node == "" && pod.Spec.NodeName != "" {
		s.node, s.scheduled = pod.Spec.NodeName, now
		p.scheduled += s.one()
		p.everScheduled++
		if !s.unschedulable {
			p.attempted += s.one()
		}
		p.binding.add(now.Sub(s.created))
		if s.group != nil {
			if s.group.scheduled++; s.group.measured {
				p.measuredScheduled++
				p.last = now
				// Asking the kernel costs as much as all the rest here: it is for the last one, which is known afterwards only.
				if p.measuredScheduled == p.measured || p.measuredScheduled%cpuEvery == 0 {
					p.lastCPU = cpuTime()
				}
			}
		}
	} else if c := condition(pod, v1.PodScheduled); s.node == "" && !s.unschedulable && c != nil && c.Reason == v1.PodReasonUnschedulable {
		s.unschedulable = true
		p.attempted += s.one()
		p.reason = "pod " + key + ": " + c.Message
	}
	running := pod.Status.Phase == v1.PodRunning
	if c := condition(pod, v1.PodReady); running && c != nil && c.Status == v1.ConditionTrue && s.started.IsZero() {
		s.started = now
		if s.group != nil {
			s.group.running++
		}
		p.startup.add(now.Sub(s.created))
	}
	if running && !s.running {
		s.running = true
		p.running += s.one()
	} else if !running && s.running {
		s.running = false
		p.running -= s.one()
	}
	p.wake()
	p.mu.Unlock()
	if p.hollow != nil {
		p.hollow.changed(pod)
	}
}

func (p *pods) remove(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pod.Namespace + "/" + pod.Name
	if s := p.known[key]; s != nil && s.uid == pod.UID {
		p.forget(key)
	}
	p.wake()
}

// forget takes a pod out of the counts. mu must be held.
func (p *pods) forget(key string) {
	s := p.known[key]
	if s == nil {
		return
	}
	delete(p.known, key)
	p.there -= s.one()
	if s.node != "" {
		p.scheduled -= s.one()
	}
	if s.node != "" || s.unschedulable {
		p.attempted -= s.one()
	}
	if s.running {
		p.running -= s.one()
	}
}

func (p *pods) wake() {
	if p.awaited {
		close(p.changed)
		p.changed, p.awaited = make(chan struct{}), false
	}
}

// now returns a channel that closes at the next change, after f has looked at things as they are.
func (p *pods) now(f func()) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.awaited = true
	return p.changed
}
