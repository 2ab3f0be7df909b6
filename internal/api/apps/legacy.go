package apps

import (
	"encoding/json"
	"fmt"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The versions before apps/v1 have its fields, and a few more that meant something to controllers long gone; what differs is
// what they took for granted. Each function below reads its version through JSON and fills in the defaults that are this
// version's own, before the hub's are asked.

func readAs[H any](in any) (*H, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("converting %T: %w", in, err)
	}
	out := new(H)
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("converting %T: %w", in, err)
	}
	return out, nil
}

// fromTemplate makes the template's labels the selector and the labels of an object that has none.
func fromTemplate(selector **metav1.LabelSelector, meta *metav1.ObjectMeta, template map[string]string) {
	if len(template) == 0 {
		return
	}
	copied := func() map[string]string {
		m := make(map[string]string, len(template))
		for k, v := range template {
			m[k] = v
		}
		return m
	}
	if *selector == nil {
		*selector = &metav1.LabelSelector{MatchLabels: copied()}
	}
	if len(meta.Labels) == 0 {
		meta.Labels = copied()
	}
}

func deploymentFromV1beta1(in *appsv1beta1.Deployment) (*appsv1.Deployment, error) {
	d, err := readAs[appsv1.Deployment](in)
	if err != nil {
		return nil, err
	}
	fromTemplate(&d.Spec.Selector, &d.ObjectMeta, d.Spec.Template.Labels)
	setInt32(&d.Spec.RevisionHistoryLimit, 2)
	keepRollback(d, in.Spec.RollbackTo != nil, func() int64 { return in.Spec.RollbackTo.Revision })
	return d, nil
}

func deploymentFromExtensions(in *extensionsv1beta1.Deployment) (*appsv1.Deployment, error) {
	d, err := readAs[appsv1.Deployment](in)
	if err != nil {
		return nil, err
	}
	fromTemplate(&d.Spec.Selector, &d.ObjectMeta, d.Spec.Template.Labels)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setSteps(s, intstr.FromInt32(1))
	}
	// No deadline and no limit are written as the largest number.
	setInt32(&d.Spec.ProgressDeadlineSeconds, math.MaxInt32)
	setInt32(&d.Spec.RevisionHistoryLimit, math.MaxInt32)
	keepRollback(d, in.Spec.RollbackTo != nil, func() int64 { return in.Spec.RollbackTo.Revision })
	return d, nil
}

// keepRollback keeps a wish to roll back as the annotation that stands for it since apps/v1.
func keepRollback(d *appsv1.Deployment, wanted bool, revision func() int64) {
	if wanted {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, appsv1.DeprecatedRollbackTo, fmt.Sprint(revision()))
	}
}

func replicaSetFromExtensions(in *extensionsv1beta1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	r, err := readAs[appsv1.ReplicaSet](in)
	if err != nil {
		return nil, err
	}
	fromTemplate(&r.Spec.Selector, &r.ObjectMeta, r.Spec.Template.Labels)
	return r, nil
}

func daemonSetFromExtensions(in *extensionsv1beta1.DaemonSet) (*appsv1.DaemonSet, error) {
	d, err := readAs[appsv1.DaemonSet](in)
	if err != nil {
		return nil, err
	}
	fromTemplate(&d.Spec.Selector, &d.ObjectMeta, d.Spec.Template.Labels)
	if d.Spec.UpdateStrategy.Type == "" {
		d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	}
	if in.Spec.TemplateGeneration > 0 {
		setTemplateGeneration(d, in.Spec.TemplateGeneration)
	}
	return d, nil
}

func statefulSetFromV1beta1(in *appsv1beta1.StatefulSet) (*appsv1.StatefulSet, error) {
	s, err := readAs[appsv1.StatefulSet](in)
	if err != nil {
		return nil, err
	}
	fromTemplate(&s.Spec.Selector, &s.ObjectMeta, s.Spec.Template.Labels)
	if s.Spec.UpdateStrategy.Type == "" {
		s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	}
	return s, nil
}
