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

// Others reads the scale of any workload from the API. Kinds come and go: one that there is none of now is an error that meta.IsNoMatchError knows.
type Others interface {
	Scale(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error)
	// HasScale says whether the objects of a kind have a scale, and the resource that they are.
	HasScale(ctx context.Context, kind schema.GroupKind) (schema.GroupResource, bool, error)
}

// NewWorkloads makes it over the informers, which the caller starts. Others may be nil: then custom resources have no scale.
func NewWorkloads(f *informers.Factory, others Others) *Workloads {
	return &Workloads{
		sets: f.Apps().V1().ReplicaSets().Lister(), deployments: f.Apps().V1().Deployments().Lister(), stateful: f.Apps().V1().StatefulSets().Lister(),
		replication: f.Core().V1().ReplicationControllers().Lister(), others: others,
	}
}

// Expected implements Scales. What the caches don't have is asked of the API; a controller that is gone, or another than the one that is referred to,
// is not known.
func (w *Workloads) Expected(ctx context.Context, namespace string, ref metav1.OwnerReference) (id string, n int32, known bool, err error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, false, err
	}
	if id, n, known := w.cached(namespace, gv.Group, ref); known {
		return id, n, true, nil
	}
	return w.other(ctx, namespace, gv, ref)
}

// cached finds the scale of a built-in controller. A replica set of a deployment has that of the deployment.
func (w *Workloads) cached(namespace, group string, ref metav1.OwnerReference) (id string, n int32, known bool) {
	var found metav1.Object
	var replicas *int32
	switch (schema.GroupKind{Group: group, Kind: ref.Kind}) {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		if rs, err := w.sets.ReplicaSets(namespace).Get(ref.Name); err == nil {
			found, replicas = rs, rs.Spec.Replicas
		}
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}:
		if d, err := w.deployments.Deployments(namespace).Get(ref.Name); err == nil {
			found, replicas = d, d.Spec.Replicas
		}
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		if set, err := w.stateful.StatefulSets(namespace).Get(ref.Name); err == nil {
			found, replicas = set, set.Spec.Replicas
		}
	case schema.GroupKind{Kind: "ReplicationController"}:
		if rc, err := w.replication.ReplicationControllers(namespace).Get(ref.Name); err == nil {
			found, replicas = rc, rc.Spec.Replicas
		}
	}
	if found == nil || found.GetUID() != ref.UID {
		return "", 0, false // a cache has no other error than that it is not there
	}
	if up := metav1.GetControllerOf(found); up != nil && ref.Kind == "ReplicaSet" && up.Kind == "Deployment" {
		if gv, err := schema.ParseGroupVersion(up.APIVersion); err == nil {
			if id, n, known := w.cached(namespace, gv.Group, *up); known {
				return id, n, true
			}
		}
	}
	return string(ref.UID), ptr.Deref(replicas, 1), true
}

func (w *Workloads) other(ctx context.Context, namespace string, gv schema.GroupVersion, ref metav1.OwnerReference) (string, int32, bool, error) {
	if w.others == nil {
		return "", 0, false, nil
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	s, err := w.others.Scale(ctx, namespace, &autoscalingv2.CrossVersionObjectReference{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name})
	switch {
	case meta.IsNoMatchError(err):
		return "", 0, false, &meta.NoKindMatchError{GroupKind: kind, SearchedVersions: []string{gv.Version}}
	case apierrors.IsNotFound(err): // it, or its scale
		resource, has, err := w.others.HasScale(ctx, kind)
		if err == nil && !has {
			err = noScale{resource}
		}
		return "", 0, false, err
	case err != nil:
		return "", 0, false, fmt.Errorf("get scale of %s %s: %w", ref.Kind, ref.Name, err)
	case s.UID != ref.UID:
		return "", 0, false, nil
	}
	return string(s.UID), s.Spec.Replicas, true, nil
}

// noScale says that objects of a resource have no scale, which asking again doesn't change.
type noScale struct{ resource schema.GroupResource }

func (e noScale) Error() string {
	return e.resource.String() + " does not implement the scale subresource"
}
