package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
)

// evict carries out a plan: each victim is told why, in its conditions, and deleted with the grace that it asked for. The pod waits in the queue meanwhile;
// afterwards it is woken when the victims have gone. No decision waits for any of this.
func (s *Scheduler) evict(ctx context.Context, it *item, p *Pod, e Eviction) {
	begin := s.clock.Now()
	errs := make([]error, len(e.Victims))
	var victims sync.WaitGroup
	victims.Add(len(e.Victims))
	for i, v := range e.Victims {
		one := func() {
			defer victims.Done()
			errs[i] = s.evictOne(ctx, p, v, e.Node)
		}
		if i == len(e.Victims)-1 {
			one() // here; the others are under way
		} else {
			s.evictions.do(one, math.MaxInt)
		}
	}
	victims.Wait()
	err := errors.Join(errs...)
	s.metrics.carriedOut(s.clock.Since(begin), err)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if err != nil && ctx.Err() == nil {
		s.log.Error("scheduler: evict", "pod", p.pod.Namespace+"/"+p.pod.Name, "node", e.Node, "err", err)
		it.woken, it.patient = true, true // it isn't known who is still there: decide again, but not at once
		if s.snapshot.NominatedFor(p.uid()) == e.Node {
			s.snapshot.Unnominate(p.uid())
			defer s.eased(e.Node, nil)
			none := ""
			s.reportLater(ctx, p, report{reason: v1.PodReasonSchedulerError, message: fmt.Sprintf("preemption: %v", err), nominate: &none})
		}
	}
	if s.snapshot.FitsOn(it.p, e.Node, 1) > 0 && (!it.waitsForOthers() || s.left(e.Victims)) {
		it.woken = true // they were gone before they were deleted
	}
	s.queue.evicted(it, now)
	s.evictedFor(p.uid(), now)
	s.signal()
}

// left says that none of some pods is on a node any more. s.mu must be held.
func (s *Scheduler) left(pods []*v1.Pod) bool {
	return !slices.ContainsFunc(pods, func(p *v1.Pod) bool { return s.snapshot.pods[p.UID] != nil })
}

func (s *Scheduler) evictOne(ctx context.Context, p *Pod, victim *v1.Pod, node string) error {
	if victim.DeletionTimestamp != nil {
		return nil // it is going already
	}
	why := &statusChange{condition: v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler, ObservedGeneration: victim.Generation,
		Message: p.profile.name + ": preempting to accommodate a higher priority pod", LastTransitionTime: whole(s.clock.Now()),
	}}
	if keepTransition(&why.condition, victim) {
		why = nil // it knows
	}
	err := s.deletePod(ctx, victim, why)
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) && s.isGone(ctx, victim):
		return nil
	case err != nil:
		return fmt.Errorf("pod %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.recorder(p).Eventf(victim, p.pod, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", p.uid(), node)
	s.metrics.evicted()
	return nil
}

// isGone says that a pod is not there any more, or is about to go; a namesake may have its place.
func (s *Scheduler) isGone(ctx context.Context, p *v1.Pod) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := s.client.CoreV1().Pods(p.Namespace).Get(call, p.Name, metav1.GetOptions{})
	return apierrors.IsNotFound(err) || err == nil && (now.UID != p.UID || now.DeletionTimestamp != nil)
}

// yield ends the nominations of less important pods for a node, and has them try anew. s.mu must be held.
func (s *Scheduler) yield(ctx context.Context, e Eviction) {
	for _, uid := range e.Yielding {
		s.snapshot.Unnominate(uid)
		it := s.queue.items[uid]
		if it == nil {
			continue
		}
		pod := it.pod
		if r := s.reports[uid]; r != nil && r.nominate != nil {
			none := ""
			r.nominate = &none // what has not been told is over
		}
		s.wg.Go(func() {
			select {
			case s.calls <- struct{}{}:
				none := ""
				s.writeStatus(ctx, pod, &statusChange{nominate: &none})
				<-s.calls
			case <-ctx.Done():
			}
		})
		if it.stage == stageUnschedulable {
			s.queue.wake(it, s.clock.Now())
		}
	}
}

// agree has extenders say which of the plans suit them, and chooses among those. If there is none, f says why. s.mu must be held; it is released
// meanwhile.
func (s *Scheduler) agree(ctx context.Context, p *Pod, f *Failure, plans []Eviction, extenders []Extender) (Eviction, bool) {
	s.mu.Unlock()
	defer s.mu.Lock()
	for _, x := range extenders {
		next, err := x.Preempt(ctx, p.pod, plans)
		empty := -1
		if err == nil {
			empty = slices.IndexFunc(next, func(e Eviction) bool { return len(e.Victims) == 0 })
		}
		switch {
		case err != nil && x.Ignorable():
			s.log.Warn("scheduler: an extender has no answer about preemption", "extender", x.Name(), "err", err)
			continue
		case err != nil:
			f.Never = err.Error()
			return Eviction{}, false
		case empty >= 0 && x.Ignorable():
			next = slices.DeleteFunc(next, func(e Eviction) bool { return len(e.Victims) == 0 })
		case empty >= 0:
			f.Never = fmt.Sprintf("expected at least one victim pod on node %q", next[empty].Node)
			return Eviction{}, false
		}
		if plans = next; len(plans) == 0 {
			break
		}
	}
	// Whatever extenders say: nobody is evicted who isn't less important.
	plans = slices.DeleteFunc(plans, func(e Eviction) bool {
		return slices.ContainsFunc(e.Victims, func(v *v1.Pod) bool { return corev1.PodPriority(v) >= p.priority })
	})
	if len(plans) == 0 {
		f.Never = "no candidate node for preemption"
		return Eviction{}, false
	}
	return leastOf(plans), true
}

// wakeNominated wakes the pods that are nominated for a node. s.mu must be held.
func (s *Scheduler) wakeNominated(node string) {
	i, ok := s.snapshot.byName[node]
	if !ok {
		return
	}
	var uids []types.UID
	for _, p := range s.snapshot.nodes[i].nominated {
		if s.snapshot.FitsOn(p.Pod, node, 1) > 0 {
			uids = append(uids, p.uid())
		}
	}
	for _, uid := range uids {
		if it := s.queue.items[uid]; it != nil && (it.stage == stageUnschedulable || it.evicting) {
			s.queue.wake(it, s.clock.Now())
		}
	}
}
