package disruption

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
)

// Workloads finds the scale of the built-in controllers in the caches, and that of others through their scale subresource.
type Workloads struct {
	sets        appslisters.ReplicaSetLister
	deployments appslisters.DeploymentLister
	stateful    appslisters.StatefulSetLister
	replication corelisters.ReplicationControllerLister
	others      Others
}

// Others reads the scale of workloads that are not built in. Their kinds come and go: a kind that there is none of now is an error that
// meta.IsNoMatchError knows.
type Others interface {
	Scale(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error)
}

// NewWorkloads makes it over the informers, which the caller starts. Others may be nil: then custom resources have no scale.
func NewWorkloads(f *informers.Factory, others Others) *Workloads {
	return &Workloads{
		sets: f.Apps().V1().ReplicaSets().Lister(), deployments: f.Apps().V1().Deployments().Lister(), stateful: f.Apps().V1().StatefulSets().Lister(),
		replication: f.Core().V1().ReplicationControllers().Lister(), others: others,
	}
}

// Expected implements Scales. A controller that is gone, or another than the one that is referred to, means to have none.
func (w *Workloads) Expected(ctx context.Context, namespace string, ref metav1.OwnerReference) (id string, n int32, known bool, err error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, false, nil // no kind that we could ask about
	}
	switch gk := (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}); gk {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		rs, err := w.sets.ReplicaSets(namespace).Get(ref.Name)
		if err != nil || rs.UID != ref.UID {
			return none(ref, err)
		}
		if up := metav1.GetControllerOf(rs); up != nil && up.Kind == "Deployment" {
			return w.Expected(ctx, namespace, *up)
		}
		return string(rs.UID), ptr.Deref(rs.Spec.Replicas, 1), true, nil
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}:
		d, err := w.deployments.Deployments(namespace).Get(ref.Name)
		if err != nil || d.UID != ref.UID {
			return none(ref, err)
		}
		return string(d.UID), ptr.Deref(d.Spec.Replicas, 1), true, nil
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		s, err := w.stateful.StatefulSets(namespace).Get(ref.Name)
		if err != nil || s.UID != ref.UID {
			return none(ref, err)
		}
		return string(s.UID), ptr.Deref(s.Spec.Replicas, 1), true, nil
	case schema.GroupKind{Kind: "ReplicationController"}:
		rc, err := w.replication.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil || rc.UID != ref.UID {
			return none(ref, err)
		}
		return string(rc.UID), ptr.Deref(rc.Spec.Replicas, 1), true, nil
	default:
		return w.other(ctx, namespace, ref)
	}
}

func none(ref metav1.OwnerReference, err error) (string, int32, bool, error) {
	if err != nil && !apierrors.IsNotFound(err) {
		return "", 0, false, fmt.Errorf("get %s %s: %w", ref.Kind, ref.Name, err)
	}
	return string(ref.UID), 0, true, nil
}

func (w *Workloads) other(ctx context.Context, namespace string, ref metav1.OwnerReference) (string, int32, bool, error) {
	if w.others == nil {
		return "", 0, false, nil
	}
	s, err := w.others.Scale(ctx, namespace, &autoscalingv2.CrossVersionObjectReference{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name})
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return "", 0, false, nil // no such kind, gone, or without a scale
	} else if err != nil {
		return "", 0, false, fmt.Errorf("get scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	if s.UID != ref.UID {
		return none(ref, nil)
	}
	return string(s.UID), s.Spec.Replicas, true, nil
}
