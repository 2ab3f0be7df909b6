package scheduler

import (
	"context"
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxReports is how many pods are told at once why they have no node.
const maxReports = maxCalls / 4

// report is what is to be told about a pod that has no node.
type report struct {
	pod             *Pod
	reason, message string
	// hint is what follows the message in the event.
	hint string
	// nominate is the node that room is being made on, or "" if that is over; nil leaves it as it is.
	nominate *string
	// next says that it is to be written once more, since it changed while it was being written.
	next bool
	// over says that the pod has got a node meanwhile: its status is somebody else's then.
	over bool
	// written, if the API is being told, is closed when that has been done.
	written chan struct{}
	// held says that it waits for the eviction that makes room for the pod, and said that there was an event about it.
	held, said bool
}

// holdFor is how long after an eviction it isn't told that a pod waits for its victims: where those take no time to end, it has got its node by then.
const holdFor = 100 * time.Millisecond

// heldReport is a report that is told at a time, if the pod has no node by then.
type heldReport struct {
	*report
	due time.Time
}

// holdReport is reportLater for a pod that room is being made for: the event comes at once, and the rest when others have been evicted, unless the pod has its node by then. s.mu must
// be held.
func (s *Scheduler) holdReport(ctx context.Context, p *Pod, r report) {
	if s.reports[p.uid()] != nil {
		s.reportLater(ctx, p, r)
		return
	}
	r.pod, r.held = p, true
	s.say(&r)
	s.reports[p.uid()] = &r
}

// evictedFor says that others have been evicted for a pod: what is held about it may be told soon. s.mu must be held.
func (s *Scheduler) evictedFor(uid types.UID, now time.Time) {
	if r := s.reports[uid]; r != nil && r.held {
		s.held = append(s.held, heldReport{r, now.Add(holdFor)})
	}
}

// release tells what has been held for long enough. It returns when there is more, or zero. s.mu must be held.
func (s *Scheduler) release(ctx context.Context, now time.Time) time.Time {
	for len(s.held) > 0 {
		r := s.held[0].report
		if due := s.held[0].due; due.After(now) {
			return due
		}
		s.held[0] = heldReport{}
		s.held = s.held[1:]
		if uid := r.pod.uid(); r.held && s.reports[uid] == r {
			s.tellNow(ctx, uid, r)
		}
	}
	return time.Time{}
}

// tellNow has a report written. s.mu must be held.
func (s *Scheduler) tellNow(ctx context.Context, uid types.UID, r *report) {
	r.held = false
	s.reporting.do(func() { s.writeReport(ctx, uid, r) }, math.MaxInt)
}

// reportLater tells the user, by an event and the pod's condition, why the pod has no node. s.mu must be held.
func (s *Scheduler) reportLater(ctx context.Context, p *Pod, now report) {
	now.pod = p
	uid := p.uid()
	if r := s.reports[uid]; r != nil {
		if now.nominate == nil {
			now.nominate = r.nominate
		}
		held := r.held
		now.next, now.written = true, r.written
		if *r = now; held {
			s.tellNow(ctx, uid, r)
		}
		return
	}
	r := &now
	s.reports[uid] = r
	s.tellNow(ctx, uid, r)
}

// writeReport writes a report until there is nothing new in it.
func (s *Scheduler) writeReport(ctx context.Context, uid types.UID, r *report) {
	for more := true; more; {
		current, ok := report{}, false
		select {
		case s.calls <- struct{}{}:
			ok = true
			s.mu.Lock()
			r.next, r.written = false, make(chan struct{})
			current = *r
			s.mu.Unlock()
			s.report(ctx, &current)
			<-s.calls
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ok {
			close(current.written)
			r.written = nil
		}
		if more = r.next && ctx.Err() == nil; !more {
			delete(s.reports, uid)
		}
		s.mu.Unlock()
	}
}

// endReport has nothing more told about a pod that has got a node. What is being told at this moment has been when the channel, if there is one, is closed: what
// comes after a binding must not say that there is no node. s.mu must be held.
func (s *Scheduler) endReport(uid types.UID) <-chan struct{} {
	r := s.reports[uid]
	switch {
	case r == nil:
		return nil
	case r.held:
		delete(s.reports, uid)
	}
	r.over = true
	return r.written
}

// say records the event of a report.
func (s *Scheduler) say(r *report) {
	s.recorder(r.pod).Eventf(r.pod.pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s%s", r.message, r.hint)
	r.said = true
}

func (s *Scheduler) report(ctx context.Context, r *report) {
	pod := r.pod.pod
	if !r.said {
		s.say(r)
	}
	if r.over {
		return
	}
	change := statusChange{
		condition: v1.PodCondition{
			Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: r.reason, Message: r.message, ObservedGeneration: pod.Generation, LastTransitionTime: whole(s.clock.Now()),
		},
		nominate: r.nominate,
	}
	if keepTransition(&change.condition, pod) && (r.nominate == nil || *r.nominate == pod.Status.NominatedNodeName) {
		return
	}
	s.writeStatus(ctx, pod, &change)
}
