package scheduler

import (
	"context"
	"math"

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
}

// reportLater tells the user, by an event and the pod's condition, why the pod has no node. s.mu must be held.
func (s *Scheduler) reportLater(ctx context.Context, p *Pod, now report) {
	now.pod = p
	uid := p.uid()
	if r := s.reports[uid]; r != nil {
		if now.nominate == nil {
			now.nominate = r.nominate
		}
		now.next, now.written = true, r.written
		*r = now
		return
	}
	r := &now
	s.reports[uid] = r
	s.reporting.do(func() { s.writeReport(ctx, uid, r) }, math.MaxInt)
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
	if r == nil {
		return nil
	}
	r.over = true
	return r.written
}

func (s *Scheduler) report(ctx context.Context, r *report) {
	pod := r.pod.pod
	s.recorder(r.pod).Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s%s", r.message, r.hint)
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
