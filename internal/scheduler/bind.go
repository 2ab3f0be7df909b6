package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bind tells the API what was decided. If that fails the pod is taken off the node again and comes back to the queue.
func (s *Scheduler) bind(ctx context.Context, it *item, p *Pod, node string) {
	pod := p.pod
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(call, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		// The pod stays booked as assumed until the informer shows it on its node.
		s.mu.Lock()
		if s.queue.items[pod.UID] == it {
			s.queue.drop(pod.UID)
		}
		s.mu.Unlock()
		s.recorder.Eventf(pod, nil, v1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if on, assumed := s.snapshot.On(pod.UID); !assumed || on != node {
		return // the informer knows better: it is bound, or gone
	}
	s.snapshot.Remove(pod.UID)
	s.eased(node, p)
	if s.queue.items[pod.UID] != it {
		return // deleted meanwhile
	}
	if apierrors.IsNotFound(err) {
		s.queue.drop(pod.UID) // its deletion is on the way; if the node is what wasn't found, the pod's next change brings it back
		if s.nodeMissing(err) {
			s.queue.put(pod, p, s.clock.Now(), true)
		}
		return
	}
	if ctx.Err() != nil {
		return // we end; the next process decides anew
	}
	s.queue.retry(it, s.clock.Now())
	s.signal()
	s.reportLater(ctx, it.pod, v1.PodReasonSchedulerError, fmt.Sprintf("running Bind plugin %q: %v", NameDefaultBinder, err))
}

// nodeMissing says whether an error is about a node rather than a pod.
func (s *Scheduler) nodeMissing(err error) bool {
	st, ok := err.(apierrors.APIStatus)
	return ok && st.Status().Details != nil && st.Status().Details.Kind == "nodes"
}

// report is a failure that is being written, and perhaps a newer one to write after it.
type report struct {
	pod             *v1.Pod
	reason, message string
	next            bool
}

// reportLater tells the user, by an event and the pod's condition, why the pod has no node. s.mu must be held.
func (s *Scheduler) reportLater(ctx context.Context, pod *v1.Pod, reason, message string) {
	if r := s.reports[pod.UID]; r != nil {
		r.pod, r.reason, r.message, r.next = pod, reason, message, true
		return
	}
	r := &report{pod: pod, reason: reason, message: message}
	s.reports[pod.UID] = r
	s.wg.Go(func() {
		for {
			s.mu.Lock()
			pod, reason, message := r.pod, r.reason, r.message
			r.next = false
			s.mu.Unlock()
			select {
			case s.calls <- struct{}{}:
				s.report(ctx, pod, reason, message)
				<-s.calls
			case <-ctx.Done():
			}
			s.mu.Lock()
			if !r.next || ctx.Err() != nil {
				delete(s.reports, pod.UID)
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
		}
	})
}

func (s *Scheduler) report(ctx context.Context, pod *v1.Pod, reason, message string) {
	s.recorder.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	want := v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: pod.Generation}
	now := metav1.NewTime(s.clock.Now())
	want.LastTransitionTime = now
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != want.Type {
			continue
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
			if have.Reason == want.Reason && have.Message == want.Message {
				return
			}
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, // of this pod, not of another with its name
		"status":   map[string]any{"conditions": []v1.PodCondition{want}},
	})
	if err != nil {
		s.log.Error("scheduler: encode condition", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(call, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.log.Error("scheduler: write condition", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}
