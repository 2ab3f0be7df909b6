package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of conditions and events, as upstream names them: kubectl and dashboards read them.
const (
	reasonSetUpdated      = "ReplicaSetUpdated"
	reasonFailedCreate    = "ReplicaSetCreateError"
	reasonNewSet          = "NewReplicaSetCreated"
	reasonFoundSet        = "FoundNewReplicaSet"
	reasonNewSetAvailable = "NewReplicaSetAvailable"
	reasonTimedOut        = "ProgressDeadlineExceeded"
	reasonPaused          = "DeploymentPaused"
	reasonResumed         = "DeploymentResumed"
	reasonAvailable       = "MinimumReplicasAvailable"
	reasonUnavailable     = "MinimumReplicasUnavailable"
)

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	if i := slices.IndexFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t }); i >= 0 {
		return &s.Conditions[i]
	}
	return nil
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// setCondition sets a condition unless it stands with the same status and reason. Its transition time moves only with the status.
func (r *round) setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.clock.Now())
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if old := condition(s, t); old != nil {
		if old.Status == status && old.Reason == reason {
			return
		}
		if old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	removeCondition(s, t)
	s.Conditions = append(s.Conditions, c)
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// markPaused notes in the conditions that the deployment was paused or resumed, so that the time it is paused is not counted as being stuck.
func (r *round) markPaused() {
	if !hasDeadline(r.d) {
		return
	}
	progressing := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if progressing != nil && progressing.Reason == reasonTimedOut {
		return
	}
	isPaused := progressing != nil && progressing.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !isPaused:
		r.pauseChanged = ptr.To(true)
	case !r.d.Spec.Paused && isPaused:
		r.pauseChanged = ptr.To(false)
	}
}

// status computes the deployment's status from its sets.
func (r *round) status() appsv1.DeploymentStatus {
	s := *r.d.Status.DeepCopy()
	s.ObservedGeneration = r.d.Generation
	s.Replicas, s.ReadyReplicas, s.AvailableReplicas = 0, 0, 0
	var specified, terminating int32
	for _, rs := range r.all {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		terminating += ptr.Deref(rs.Status.TerminatingReplicas, 0)
		specified += *rs.Spec.Replicas
	}
	s.TerminatingReplicas = &terminating
	s.UpdatedReplicas = 0
	if r.newSet != nil {
		s.UpdatedReplicas = r.newSet.Status.Replicas
	}
	s.UnavailableReplicas = max(0, specified-s.AvailableReplicas)
	if r.pauseChanged != nil {
		if *r.pauseChanged {
			r.setCondition(&s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
		} else {
			r.setCondition(&s, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
		}
	}
	if s.AvailableReplicas >= *r.d.Spec.Replicas-maxUnavailable(r.d) {
		r.setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonAvailable, "Deployment has minimum availability.")
	} else {
		r.setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonUnavailable, "Deployment does not have minimum availability.")
	}
	return s
}

// complete says that the rollout is over: all replicas are of the new revision and available, and no old ones run.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas &&
		s.AvailableReplicas == *d.Spec.Replicas && s.ObservedGeneration >= d.Generation
}

// progressed says that something moved since the last status.
func progressed(old, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > old.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

// timedOut says that nothing has moved for longer than the progress deadline.
func timedOut(d *appsv1.Deployment, s *appsv1.DeploymentStatus, now time.Time) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonNewSetAvailable {
		return false
	}
	if c.Reason == reasonTimedOut {
		return true
	}
	return c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Before(now)
}

// progress ends a round of a rollout: it judges how the rollout gets on and writes the status.
func (r *round) progress(ctx context.Context) error {
	s := r.status()
	if hasDeadline(r.d) {
		r.judge(&s)
	} else {
		removeCondition(&s, appsv1.DeploymentProgressing)
	}
	if c := r.replicaFailure(); c != nil {
		r.setCondition(&s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
	} else {
		removeCondition(&s, appsv1.DeploymentReplicaFailure)
	}
	if err := r.writeStatus(ctx, s); err != nil {
		return err
	}
	r.comeBack()
	return nil
}

func (r *round) judge(s *appsv1.DeploymentStatus) {
	what, name := "Deployment", r.d.Name
	if r.newSet != nil {
		what, name = "ReplicaSet", r.newSet.Name
	}
	current := condition(&r.d.Status, appsv1.DeploymentProgressing)
	// A finished rollout stays finished until the template changes: pods that die later are not its business.
	if s.Replicas == s.UpdatedReplicas && current != nil && current.Reason == reasonNewSetAvailable {
		return
	}
	switch {
	case complete(r.d, s):
		r.setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonNewSetAvailable,
			fmt.Sprintf("%s %q has successfully progressed.", what, name))
	case progressed(&r.d.Status, s):
		message := fmt.Sprintf("%s %q is progressing.", what, name)
		// Even if it stands like that already: the time of the update is what the deadline counts from.
		removeCondition(s, appsv1.DeploymentProgressing)
		r.setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated, message)
		if current != nil && current.Status == corev1.ConditionTrue {
			condition(s, appsv1.DeploymentProgressing).LastTransitionTime = current.LastTransitionTime
		}
	case timedOut(r.d, s, r.clock.Now()):
		r.setCondition(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut,
			fmt.Sprintf("%s %q has timed out progressing.", what, name))
	}
}

// replicaFailure returns the failure of the new set, or else of an old one.
func (r *round) replicaFailure() *appsv1.ReplicaSetCondition {
	sets := r.old
	if r.newSet != nil {
		sets = append([]*appsv1.ReplicaSet{r.newSet}, r.old...)
	}
	for _, rs := range sets {
		for i := range rs.Status.Conditions {
			if c := &rs.Status.Conditions[i]; c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return c
			}
		}
	}
	return nil
}
