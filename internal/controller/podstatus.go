package controller

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// PatchPodStatus sets conditions of a pod, and its phase unless that is empty, by a patch that leaves what others write alone. A pod that
// is gone is no error. A conflict is one: a namesake may be in its place, of which the next look knows, but it may also be worth another try.
func PatchPodStatus(ctx context.Context, c kubernetes.Interface, p *corev1.Pod, phase corev1.PodPhase, conditions ...corev1.PodCondition) error {
	patch := struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
		Status struct {
			ObservedGeneration int64                 `json:"observedGeneration,omitempty"`
			Phase              corev1.PodPhase       `json:"phase,omitempty"`
			Conditions         []corev1.PodCondition `json:"conditions,omitempty"`
		} `json:"status"`
	}{}
	patch.Metadata.UID, patch.Status.Phase, patch.Status.Conditions = p.UID, phase, conditions
	if phase != "" {
		patch.Status.ObservedGeneration = p.Generation
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode status of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	_, err = c.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
		return fmt.Errorf("patch status of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}
