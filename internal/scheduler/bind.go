package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tell carries out what was decided, and observes how long the extension points took.
func (s *Scheduler) tell(ctx context.Context, p *Pod, node string, plan VolumePlan, devices DevicePlan) error {
	begin := s.clock.Now()
	passed := func(point string, err error) error {
		status := "Success"
		if err != nil {
			status = "Error"
		}
		s.metrics.passed(p, point, s.clock.Since(begin), status)
		return err
	}
	if err := s.bindVolumes(ctx, p, node, plan); err != nil {
		return passed("PreBind", fmt.Errorf("running PreBind plugin %q: binding volumes: %w", NameVolumeBinding, err))
	}
	if err := s.bindDevices(ctx, p, devices); err != nil {
		return passed("PreBind", fmt.Errorf("running PreBind plugin %q: %w", NameDynamicResources, err))
	}
	_ = passed("PreBind", nil)
	begin = s.clock.Now()
	if err := s.bindPod(ctx, p.pod, node); err != nil {
		return passed("Bind", fmt.Errorf("running Bind plugin %q: %w", NameDefaultBinder, err))
	}
	return passed("Bind", nil)
}

// bind tells the API what was decided: first the volumes and devices, then the node. If that fails the pod is taken off the node again and comes back to the queue.
func (s *Scheduler) bind(ctx context.Context, it *item, p *Pod, node string, plan VolumePlan, devices DevicePlan, since time.Time) {
	pod := p.pod
	err := s.tell(ctx, p, node, plan, devices)
	if err == nil {
		// The pod stays booked as assumed until the informer shows it on its node.
		s.mu.Lock()
		if s.queue.items[pod.UID] == it {
			s.queue.drop(pod.UID)
		}
		s.metrics.scheduled(p, it, s.clock.Now(), since)
		s.mu.Unlock()
		s.recorder(p).Eventf(pod, nil, v1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	s.mu.Lock()
	if on, assumed := s.snapshot.On(pod.UID); !devices.Empty() && (on == "" || assumed) {
		s.mu.Unlock()
		s.dropDevices(ctx, p, devices)
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	s.metrics.attempted(p, resultError, s.clock.Since(since))
	s.snapshot.DropVolumes(plan)
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
		if nodeMissing(err) {
			s.queue.put(pod, p, s.clock.Now(), true)
		}
		return
	}
	if ctx.Err() != nil {
		return // we end; the next process decides anew
	}
	s.queue.retry(it, s.clock.Now())
	s.signal()
	s.reportLater(ctx, p, report{reason: v1.PodReasonSchedulerError, message: err.Error()})
}

// bindPod writes the binding, or has an extender do so.
func (s *Scheduler) bindPod(ctx context.Context, pod *v1.Pod, node string) error {
	asked := s.interested(pod)
	if s.poster != nil && len(asked) == 0 {
		// The server in this process has a limit itself; one more would be two timers and two contexts per pod.
		return s.poster.Post(ctx, bindingPath(pod), binding(pod, node))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, e := range asked {
		if e.Binds() {
			return e.Bind(call, pod, node)
		}
	}
	if s.poster != nil {
		return s.poster.Post(call, bindingPath(pod), binding(pod, node))
	}
	return s.client.CoreV1().Pods(pod.Namespace).Bind(call, binding(pod, node), metav1.CreateOptions{})
}

func bindingPath(pod *v1.Pod) string {
	return "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name + "/binding"
}

// binding puts this pod, and not another of its name, on a node.
func binding(pod *v1.Pod, node string) *v1.Binding {
	return &v1.Binding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}
}

// nodeMissing says whether an error is about a node rather than a pod.
func nodeMissing(err error) bool {
	var st apierrors.APIStatus
	return errors.As(err, &st) && st.Status().Details != nil && st.Status().Details.Kind == "nodes"
}

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
}

// reportLater tells the user, by an event and the pod's condition, why the pod has no node. s.mu must be held.
func (s *Scheduler) reportLater(ctx context.Context, p *Pod, now report) {
	now.pod = p
	uid := p.uid()
	if r := s.reports[uid]; r != nil {
		if now.nominate == nil {
			now.nominate = r.nominate
		}
		now.next = true
		*r = now
		return
	}
	r := &now
	s.reports[uid] = r
	s.wg.Go(func() {
		for {
			s.mu.Lock()
			r.next = false
			current := *r
			s.mu.Unlock()
			select {
			case s.calls <- struct{}{}:
				s.report(ctx, &current)
				<-s.calls
			case <-ctx.Done():
			}
			s.mu.Lock()
			if !r.next || ctx.Err() != nil {
				delete(s.reports, uid)
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
		}
	})
}

func (s *Scheduler) report(ctx context.Context, r *report) {
	pod := r.pod.pod
	s.recorder(r.pod).Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s%s", r.message, r.hint)
	want := v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: r.reason, Message: r.message, ObservedGeneration: pod.Generation}
	now := metav1.NewTime(s.clock.Now())
	want.LastTransitionTime = now
	same := r.nominate == nil || *r.nominate == pod.Status.NominatedNodeName
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type != want.Type {
			continue
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
			if same && have.Reason == want.Reason && have.Message == want.Message {
				return
			}
		}
	}
	status := map[string]any{"conditions": []v1.PodCondition{want}}
	if r.nominate != nil {
		status["nominatedNodeName"] = *r.nominate
	}
	s.patchStatus(ctx, pod, status)
}

// patchStatus writes parts of a pod's status. Failure is logged: whoever needs it comes again.
func (s *Scheduler) patchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) {
	err := s.tryPatchStatus(ctx, pod, status)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.log.Error("scheduler: write status", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

func (s *Scheduler) tryPatchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID}, // of this pod, not of another with its name
		"status":   status,
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(call, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
