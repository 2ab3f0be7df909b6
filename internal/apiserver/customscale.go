package apiserver

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/custom"
)

// scaleOf shows an object of the resource as a Scale.
func (x *exchange) scaleOf(obj api.Object) (*autoscalingv1.Scale, error) {
	o, ok := obj.(*custom.Object)
	if !ok || x.res.custom == nil {
		return scaleOf(obj)
	}
	want, have, selector, _, err := custom.Replicas(o, x.res.custom.Scale())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: scaleKind.Kind, APIVersion: scaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion, CreationTimestamp: o.CreationTimestamp,
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: want},
		Status: autoscalingv1.ScaleStatus{Replicas: have, Selector: selector},
	}, nil
}

// hasReplicas refuses to show a custom object that does not say how many replicas it wants.
func (x *exchange) hasReplicas(obj api.Object) error {
	o, ok := obj.(*custom.Object)
	if !ok || x.res.custom == nil {
		return nil
	}
	s := x.res.custom.Scale()
	_, _, _, found, err := custom.Replicas(o, s)
	if err == nil && !found {
		err = fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath)
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// setReplicas sets how many replicas an object wants.
func (x *exchange) setReplicas(obj api.Object, n int32) error {
	if o, ok := obj.(*custom.Object); ok && x.res.custom != nil {
		if err := custom.SetReplicas(o, x.res.custom.Scale(), n); err != nil {
			return apierrors.NewInternalError(err)
		}
		return nil
	}
	want, _, _, err := replicas(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	*want = &n
	return nil
}

// scaleEntries translates the managed fields of an object and its Scale.
func (x *exchange) scaleEntries(live api.Object) *managedfields.ScaleHandler {
	if x.res.custom != nil {
		return managedfields.NewScaleHandler(live.GetManagedFields(), x.res.forms.gv, x.res.served.ReplicaPaths())
	}
	return apply.ScaleEntries(live.GetManagedFields(), x.res.kind, x.res.version)
}
