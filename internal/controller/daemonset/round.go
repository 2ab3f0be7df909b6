package daemonset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/celox/celox/internal/controller/pods"
)

// round is one look at a DaemonSet: its nodes, the pods on each, and what is to be done.
type round struct {
	c     *Controller
	key   string
	ds    *appsv1.DaemonSet
	nodes []*corev1.Node
	on    map[string][]*corev1.Pod
	hash  string // of the template as it is
	now   time.Time

	create []string // nodes
	remove []*corev1.Pod
}

func (r *round) available(p *corev1.Pod) bool {
	return pods.Available(p, time.Duration(r.ds.Spec.MinReadySeconds)*time.Second, r.now)
}

// isNew says that a pod is of the template as it is: by its hash, or by the number that templates had before.
func (r *round) isNew(p *corev1.Pod) bool {
	generation, ok := generationOf(r.ds)
	return p.Labels[hashLabel] == r.hash || ok && p.Labels[generationLabel] == generation
}

// place decides where pods are missing or in the way, whatever their revision.
func (r *round) place() {
	known := map[string]bool{}
	for _, n := range r.nodes {
		known[n.Name] = true
		run, stay := shouldRun(r.ds, n)
		switch here := r.on[n.Name]; {
		case run && len(here) == 0:
			r.create = append(r.create, n.Name)
		case stay:
			r.keepOne(n.Name, here, run)
		default:
			r.drop(here...)
		}
	}
	for node, there := range r.on {
		if !known[node] {
			// Its node is gone, and it never got there: nobody else deletes it.
			r.drop(slices.DeleteFunc(slices.Clone(there), func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })...)
		}
	}
}

// drop deletes pods that are not on their way out yet.
func (r *round) drop(all ...*corev1.Pod) {
	for _, p := range all {
		if p.DeletionTimestamp == nil {
			r.remove = append(r.remove, p)
		}
	}
}

// keepOne deletes pods that have ended, and all but one of the others on a node; with a surge, but one of each template, and the old one as soon as it
// is not ready or the new one can do its work.
func (r *round) keepOne(node string, here []*corev1.Pod, run bool) {
	var alive []*corev1.Pod
	for _, p := range here {
		switch {
		case p.DeletionTimestamp != nil:
		case p.Status.Phase == corev1.PodFailed:
			id := fmt.Sprintf("%s/%d/%s", r.ds.UID, r.ds.Status.ObservedGeneration, node)
			if r.c.backoff.IsInBackOffSinceUpdate(id, r.now) {
				r.c.loop.AddAfter(r.key, r.c.backoff.Get(id))
				continue
			}
			r.c.backoff.GC() // those of sets and nodes that are gone
			r.c.backoff.Next(id, r.now)
			r.c.recorder.Eventf(r.ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, node)
			r.remove = append(r.remove, p)
		case p.Status.Phase == corev1.PodSucceeded:
			r.c.recorder.Eventf(r.ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, node)
			r.remove = append(r.remove, p)
		default:
			alive = append(alive, p)
		}
	}
	surge, _ := r.limits(1)
	if surge == 0 {
		oldestFirst(alive)
		if len(alive) > 1 {
			r.drop(alive[1:]...)
		}
		return
	}
	if len(alive) == 0 {
		if run { // those that are on their way out need not be gone: the node may have two
			r.create = append(r.create, node)
		}
		return
	}
	var older, newer []*corev1.Pod
	for _, p := range alive {
		if p.Labels[hashLabel] == r.hash {
			newer = append(newer, p)
		} else {
			older = append(older, p)
		}
	}
	oldestFirst(older)
	oldestFirst(newer)
	r.drop(older[min(1, len(older)):]...)
	r.drop(newer[min(1, len(newer)):]...)
	if len(older) > 0 && len(newer) > 0 && (!pods.Ready(older[0]) || r.available(newer[0])) {
		r.drop(older[0])
	}
}

// oldestFirst puts the pod to keep first: one that is on the node, then the older.
func oldestFirst(all []*corev1.Pod) {
	waits := func(p *corev1.Pod) int {
		if p.Spec.NodeName == "" {
			return 1
		}
		return 0
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(waits(a), waits(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// limits returns how many more pods than nodes, and how many nodes without an available pod, an update may make.
func (r *round) limits(desired int) (surge, unavailable int) {
	if r.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r.ds.Spec.UpdateStrategy.RollingUpdate == nil {
		return 0, 1
	}
	scaled := func(v *intstr.IntOrString) int {
		if v == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, desired, true)
		if err != nil {
			return 0 // refused by validation
		}
		return n
	}
	u := r.ds.Spec.UpdateStrategy.RollingUpdate
	surge, unavailable = scaled(u.MaxSurge), scaled(u.MaxUnavailable)
	if surge == 0 && unavailable == 0 {
		unavailable = 1 // percentages of few nodes: a rollout must move
	}
	return surge, unavailable
}

// place is a node in a rollout; run says that pods may begin there, and not only stay.
type place struct {
	name string
	run  bool
}

// roll replaces pods of older templates as far as the strategy allows. It comes after place, when that has nothing left to do.
func (r *round) roll() {
	var places []place
	wanted := 0
	known := map[string]bool{}
	for _, n := range r.nodes {
		known[n.Name] = true
		run, _ := shouldRun(r.ds, n)
		if run {
			wanted++
		}
		if run || len(r.on[n.Name]) > 0 {
			places = append(places, place{n.Name, run})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.on)) {
		if !known[name] { // the node is gone, its pods are not yet
			places = append(places, place{name, false})
		}
	}
	surge, unavailable := r.limits(wanted)
	if surge > 0 {
		r.rollWithSurge(places, wanted, surge)
		return
	}
	var free, candidates []*corev1.Pod
	down := 0
	for _, n := range places {
		older, newer, many := r.pair(n.name)
		switch {
		case many || (older == nil) == (newer == nil): // nothing there yet, or too much: that is place's to settle
			down++
		case newer != nil:
			if !r.available(newer) {
				down++
			}
		case !r.available(older):
			// It serves nobody: replacing it costs nothing.
			free = append(free, older)
			down++
		default:
			candidates = append(candidates, older)
		}
	}
	slices.SortFunc(candidates, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	r.drop(free...)
	r.drop(candidates[:min(len(candidates), max(0, unavailable-down))]...)
}

// rollWithSurge starts the new pod beside the old one, and deletes the old one when the new one is available.
func (r *round) rollWithSurge(places []place, wanted, surge int) {
	var free, candidates []string
	var closed []*corev1.Pod // available, where none will follow
	available := 0
	for _, n := range places {
		older, newer, many := r.pair(n.name)
		if many {
			surge--
			continue
		}
		if p := cmp.Or(older, newer); p != nil && r.available(p) {
			available++
		}
		switch {
		case older == nil: // nothing to replace
		case newer == nil && !n.run && r.available(older):
			closed = append(closed, older)
		case newer == nil && !n.run:
			r.drop(older)
		case newer == nil && !r.available(older):
			free = append(free, n.name)
		case newer == nil:
			candidates = append(candidates, n.name)
		case r.available(newer):
			r.drop(older)
		default:
			surge--
		}
	}
	// Where no pod may begin any more the old one goes when as many as should run do so elsewhere.
	r.drop(closed[:min(len(closed), max(0, available-wanted))]...)
	r.create = append(r.create, free...)
	r.create = append(r.create, candidates[:min(len(candidates), max(0, surge))]...)
}

// pair returns the old and the new pod on a node, of those that stay; many says that there are several of a kind.
func (r *round) pair(node string) (older, newer *corev1.Pod, many bool) {
	for _, p := range r.on[node] {
		switch {
		case p.DeletionTimestamp != nil:
		case r.isNew(p):
			many = many || newer != nil
			newer = p
		default:
			many = many || older != nil
			older = p
		}
	}
	return older, newer, many
}

// act does what was decided.
func (r *round) act(ctx context.Context) error {
	var made []*corev1.Pod
	for _, node := range r.create[:min(len(r.create), burst)] {
		p := podFor(r.ds, node, r.hash)
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(r.ds, kind)}
		made = append(made, p)
	}
	_, err := r.c.pods.CreateAll(ctx, r.key, r.ds, made)
	seen := map[types.UID]bool{}
	remove := slices.DeleteFunc(r.remove, func(p *corev1.Pod) bool {
		twice := seen[p.UID]
		seen[p.UID] = true
		return twice
	})
	return errors.Join(err, r.c.pods.DeleteAll(ctx, r.key, r.ds, remove[:min(len(remove), burst)]))
}

// status counts nodes.
func (r *round) status(collisions *int32, settled bool) appsv1.DaemonSetStatus {
	s := *r.ds.Status.DeepCopy()
	s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled = 0, 0, 0
	s.NumberReady, s.NumberAvailable, s.UpdatedNumberScheduled = 0, 0, 0
	for _, n := range r.nodes {
		run, _ := shouldRun(r.ds, n)
		here := slices.Clone(r.on[n.Name])
		if !run {
			if len(here) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(here) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		// The best pod stands for the node.
		oldestFirst(here)
		if p := here[0]; pods.Ready(p) {
			s.NumberReady++
			if r.available(p) {
				s.NumberAvailable++
			}
		}
		if r.isNew(here[0]) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	if settled {
		s.ObservedGeneration = r.ds.Generation // else nothing has been done for it yet
	}
	s.CollisionCount = collisions
	return s
}
