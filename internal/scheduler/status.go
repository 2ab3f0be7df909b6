package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// statusChange is what the scheduler writes into a pod's status: a condition, if it has a type, and the nominated node, if it isn't nil.
type statusChange struct {
	condition v1.PodCondition
	nominate  *string
}

// patch is the change as a strategic merge patch of this pod, not of another with its name.
func (c *statusChange) patch(uid types.UID) ([]byte, error) {
	status := map[string]any{}
	if c.condition.Type != "" {
		status["conditions"] = []v1.PodCondition{c.condition}
	}
	if c.nominate != nil {
		status["nominatedNodeName"] = *c.nominate
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": status})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	return data, nil
}

// edited is what the patch makes of a pod. What it doesn't change, but for the list of conditions, is shared with the pod.
func (c *statusChange) edited(uid types.UID, old *v1.Pod) *v1.Pod {
	next := *old
	pod := &next
	pod.UID = uid
	pod.Status.Conditions = append(make([]v1.PodCondition, 0, len(old.Status.Conditions)+1), old.Status.Conditions...)
	if c.nominate != nil {
		pod.Status.NominatedNodeName = *c.nominate
	}
	want := c.condition
	if want.Type == "" {
		if len(old.Status.Conditions) == 0 {
			pod.Status.Conditions = nil
		}
		return pod
	}
	i := slices.IndexFunc(pod.Status.Conditions, func(have v1.PodCondition) bool { return have.Type == want.Type })
	if i < 0 {
		pod.Status.Conditions = slices.Insert(pod.Status.Conditions, 0, want) // what is new comes first
		return pod
	}
	have := &pod.Status.Conditions[i]
	if want.ObservedGeneration == 0 {
		want.ObservedGeneration = have.ObservedGeneration
	}
	if want.Reason == "" {
		want.Reason = have.Reason
	}
	if want.Message == "" {
		want.Message = have.Message
	}
	*have = want
	return pod
}

// edit is edited for who knows objects only.
func (c *statusChange) edit(uid types.UID) func(runtime.Object) (runtime.Object, error) {
	return func(obj runtime.Object) (runtime.Object, error) {
		p, ok := obj.(*v1.Pod)
		if !ok {
			return nil, fmt.Errorf("%T is no pod", obj)
		}
		return c.edited(uid, p), nil
	}
}

// keepTransition makes a condition's time that of the pod's own if only words differ, and says whether nothing does.
func keepTransition(want *v1.PodCondition, pod *v1.Pod) (same bool) {
	for i := range pod.Status.Conditions {
		have := &pod.Status.Conditions[i]
		if have.Type == want.Type && have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
			return have.Reason == want.Reason && have.Message == want.Message
		}
	}
	return false
}

// whole is a time as the API has it, in whole seconds.
func whole(t time.Time) metav1.Time { return metav1.Unix(t.Unix(), 0) }

// writeStatus changes a pod's status. Failure is logged: whoever needs it comes again.
func (s *Scheduler) writeStatus(ctx context.Context, pod *v1.Pod, c *statusChange) {
	err := s.tryWriteStatus(ctx, pod, c)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.log.Error("scheduler: write status", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

func (s *Scheduler) tryWriteStatus(ctx context.Context, pod *v1.Pod, c *statusChange) error {
	encode := func() ([]byte, error) { return c.patch(pod.UID) }
	if s.poster != nil {
		return s.poster.Patch(ctx, podPath(pod)+"/status", c.edit(pod.UID), encode) // which ends in time by itself
	}
	data, err := encode()
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(call, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}

// deletePod tells this pod, and not another of its name, why it must go, unless why is nil, and deletes it with the grace that it asked for.
func (s *Scheduler) deletePod(ctx context.Context, pod *v1.Pod, why *statusChange) error {
	options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	if s.poster != nil {
		var edit func(runtime.Object) (runtime.Object, error)
		if why != nil {
			edit = why.edit(pod.UID)
		}
		return s.poster.Delete(ctx, podPath(pod), &options, edit)
	}
	if why != nil {
		if err := s.tryWriteStatus(ctx, pod, why); err != nil {
			return err
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.client.CoreV1().Pods(pod.Namespace).Delete(call, pod.Name, options)
}

func podPath(pod *v1.Pod) string { return "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name }
