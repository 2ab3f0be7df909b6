package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		return passed("PreBind", fmt.Errorf("running PreBind plugin %q: %w", NameVolumeBinding, err))
	}
	if err := s.bindDevices(ctx, p, node, devices); err != nil {
		return passed("PreBind", fmt.Errorf("running PreBind plugin %q: %w", NameDynamicResources, err))
	}
	_ = passed("PreBind", nil)
	begin = s.clock.Now()
	if err := s.bindPod(ctx, p.pod, node); err != nil {
		return passed("Bind", err)
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
	r := report{reason: v1.PodReasonSchedulerError, message: err.Error()}
	if !plan.Empty() || !devices.Empty() {
		none := ""
		r.nominate = &none // where it was expected
	}
	s.reportLater(ctx, p, r)
}

// expect says where a pod is going to be, before something is waited for that is made ready for it there: whoever adds and removes nodes wants to know (KEP-5278).
func (s *Scheduler) expect(ctx context.Context, pod *v1.Pod, node string) {
	if pod.Status.NominatedNodeName != node {
		s.writeStatus(ctx, pod, &statusChange{nominate: &node})
	}
}

// bindPod writes the binding, or has an extender do so.
func (s *Scheduler) bindPod(ctx context.Context, pod *v1.Pod, node string) error {
	asked := s.interested(pod)
	if s.poster != nil && len(asked) == 0 {
		// The server in this process has a limit itself; one more would be two timers and two contexts per pod.
		return notBound(s.poster.Post(ctx, bindingPath(pod), binding(pod, node)))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, e := range asked {
		if e.Binds() {
			return e.Bind(call, pod, node)
		}
	}
	if s.poster != nil {
		return notBound(s.poster.Post(call, bindingPath(pod), binding(pod, node)))
	}
	return notBound(s.client.CoreV1().Pods(pod.Namespace).Bind(call, binding(pod, node), metav1.CreateOptions{}))
}

// notBound says by upstream's name whose failure it is that a pod could not be bound.
func notBound(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("running Bind plugin %q: %w", NameDefaultBinder, err)
}

func bindingPath(pod *v1.Pod) string {
	return podPath(pod) + "/binding"
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
