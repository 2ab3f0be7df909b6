package apiserver

import (
	"fmt"
	"net/http"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/negotiate"
)

var scaleKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}

// replicas finds where a workload keeps what its Scale shows.
func replicas(obj api.Object) (want **int32, have int32, selector string, err error) {
	var ls *metav1.LabelSelector
	switch o := obj.(type) {
	case *appsv1.Deployment:
		want, have, ls = &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		want, have, ls = &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.StatefulSet:
		want, have, ls = &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *corev1.ReplicationController:
		return &o.Spec.Replicas, o.Status.Replicas, labels.SelectorFromSet(o.Spec.Selector).String(), nil
	default:
		return nil, 0, "", fmt.Errorf("a %T has no scale", obj)
	}
	s, err := metav1.LabelSelectorAsSelector(ls)
	if err != nil {
		return nil, 0, "", fmt.Errorf("its selector can't be read: %w", err)
	}
	return want, have, s.String(), nil
}

// scaleOf shows a workload as a Scale.
func scaleOf(obj api.Object) (*autoscalingv1.Scale, error) {
	want, have, selector, err := replicas(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	s := &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: scaleKind.Kind, APIVersion: scaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: have, Selector: selector},
	}
	if *want != nil {
		s.Spec.Replicas = **want
	}
	return s, nil
}

var scaleTarget = negotiate.Target{Kind: scaleKind, New: func() runtime.Object { return &autoscalingv1.Scale{} }, Internal: "autoscaling"}

// scale serves a workload as a number of replicas.
func (x *exchange) scale() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	if x.info.Verb == "get" {
		item, err := x.load(x.info.Name, getNewest)
		if err != nil {
			return err
		}
		if err := x.hasReplicas(item.Object); err != nil {
			return err
		}
		return x.showScale(accept, item.Object)
	}
	var up *updating
	if x.info.Verb == "patch" {
		if up, err = x.patchScale(); err != nil {
			return err
		}
	} else {
		o, err := x.updateOptions()
		if err != nil {
			return err
		}
		obj, err := x.decode(scaleTarget, o.validation)
		if err != nil {
			return err
		}
		s, ok := obj.(*autoscalingv1.Scale)
		if !ok {
			return apierrors.NewBadRequest("the body is no Scale")
		}
		if err := x.ensureNamespace(s); err != nil {
			return err
		}
		if err := x.checkName(s); err != nil {
			return err
		}
		up = &updating{options: o, uid: s.UID, admitOptions: o.forUpdate()}
		up.change = func(live api.Object) (api.Object, error) { return x.scaled(live, s, o, false) }
	}
	up.sub, up.tracked = "scale", true
	up.prepare = func(obj, old api.Object) {
		if k := x.res.kind; k.PrepareForUpdate != nil {
			k.PrepareForUpdate(obj, old)
		}
	}
	up.attributes = func(a *admission.Attributes) {
		a.Kind = scaleKind
		if obj, ok := a.Object.(api.Object); ok {
			if s, err := x.scaleOf(obj); err == nil {
				a.Object = s
			}
		}
		if old, ok := a.OldObject.(api.Object); ok {
			if s, err := x.scaleOf(old); err == nil {
				a.OldObject = s
			}
		}
	}
	up.admitted = func(a *admission.Attributes, obj api.Object) {
		if s, ok := a.Object.(*autoscalingv1.Scale); ok {
			_ = x.setReplicas(obj, s.Spec.Replicas) // it went well before
		}
	}
	result, _, err := x.updateObject(up)
	if err != nil {
		return err
	}
	return x.showScale(accept, result.obj)
}

func (x *exchange) showScale(a negotiate.Accept, obj api.Object) error {
	s, err := x.scaleOf(obj)
	if err != nil {
		return err
	}
	switch a.Shape {
	case negotiate.Table:
		doc, spec, status := metav1.ObjectMeta{}.SwaggerDoc(), autoscalingv1.ScaleSpec{}.SwaggerDoc(), autoscalingv1.ScaleStatus{}.SwaggerDoc()
		columns := []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Description: doc["name"]},
			{Name: "Desired", Type: "integer", Description: spec["replicas"]},
			{Name: "Available", Type: "integer", Description: status["replicas"]},
			{Name: "Age", Type: "string", Description: doc["creationTimestamp"]},
		}
		if x.res.custom != nil {
			columns = x.res.custom.ScaleColumns()
		}
		t := plainTable(a.MetaVersion, columns, []any{s.Name, s.Spec.Replicas, s.Status.Replicas, age(s, x.s.clock.Now())}, partial(s, a.MetaVersion), metav1.ListMeta{ResourceVersion: s.ResourceVersion})
		x.send(http.StatusOK, a, t)
		return nil
	case negotiate.Metadata:
		x.send(http.StatusOK, a, partial(s, a.MetaVersion))
		return nil
	}
	x.send(http.StatusOK, a, s)
	return nil
}

// scaled is a copy of the workload with the number of replicas of s.
func (x *exchange) scaled(live api.Object, s *autoscalingv1.Scale, o writeOptions, applied bool) (api.Object, error) {
	// What a custom object may say is checked with the object.
	if errs := apivalidation.ValidateNonnegativeField(int64(s.Spec.Replicas), field.NewPath("spec", "replicas")); len(errs) > 0 && x.res.custom == nil {
		return nil, apierrors.NewInvalid(scaleKind.GroupKind(), s.Name, errs)
	}
	if err := x.sameScaled(live, s); err != nil && x.res.custom == nil {
		return nil, err
	}
	if s.ResourceVersion != "" && s.ResourceVersion != "0" {
		if _, err := strconv.ParseUint(s.ResourceVersion, 10, 64); err != nil {
			return nil, err
		}
		if s.ResourceVersion != live.GetResourceVersion() {
			return nil, x.conflict(live.GetName())
		}
	}
	if err := x.sameScaled(live, s); err != nil {
		return nil, err
	}
	obj, ok := live.DeepCopyObject().(api.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("copying made no object"))
	}
	n := s.Spec.Replicas
	if err := x.setReplicas(obj, n); err != nil {
		return nil, err
	}
	handler := x.scaleEntries(live)
	if !applied {
		before, err := x.trackedScale(live, handler)
		if err != nil {
			return nil, err
		}
		fm, err := x.res.tracker.ScaleManager()
		if err != nil {
			return nil, err
		}
		after := before.DeepCopy()
		after.Spec.Replicas = n
		out, ok := fm.UpdateNoErrors(before, after, x.manager(o)).(*autoscalingv1.Scale)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("recording managed fields made no Scale"))
		}
		s = out
	}
	entries, err := handler.ToParent(s.ManagedFields)
	if err != nil {
		return nil, err
	}
	obj.SetManagedFields(entries)
	return obj, nil
}

// sameScaled refuses a Scale of another object of the name. Of what is built in, this is asked before the version is.
func (x *exchange) sameScaled(live api.Object, s *autoscalingv1.Scale) error {
	if s.UID == "" || s.UID == live.GetUID() {
		return nil
	}
	gr := schema.GroupResource{Group: x.res.gr.Group, Resource: x.res.gr.Resource + "/scale"}
	//lint:ignore ST1005 clients know these words
	return apierrors.NewConflict(gr, live.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", s.UID, live.GetUID()))
}

// trackedScale is the workload's Scale with the managed fields that speak of it.
func (x *exchange) trackedScale(live api.Object, h interface {
	ToSubresource() ([]metav1.ManagedFieldsEntry, error)
}) (*autoscalingv1.Scale, error) {
	s, err := x.scaleOf(live)
	if err != nil {
		return nil, err
	}
	s.ManagedFields, err = h.ToSubresource()
	return s, err
}

// patchScale applies a patch to the Scale of a workload.
func (x *exchange) patchScale() (*updating, error) {
	p, o, err := x.readPatch()
	if err != nil {
		return nil, err
	}
	up := &updating{options: o, admitOptions: o.forUpdate()}
	if p.Type == types.ApplyYAMLPatchType {
		config, done, err := p.Configuration()
		if err != nil {
			return nil, err
		}
		up.change = func(live api.Object) (api.Object, error) {
			if config.GroupVersionKind() != scaleKind {
				return nil, apierrors.NewBadRequest("invalid object type: " + config.GroupVersionKind().String())
			}
			before, err := x.trackedScale(live, x.scaleEntries(live))
			if err != nil {
				return nil, err
			}
			fm, err := x.res.tracker.ScaleManager()
			if err != nil {
				return nil, err
			}
			out, err := fm.Apply(before, config, o.fieldManager, o.force != nil && *o.force)
			if err != nil {
				return nil, err
			}
			if err := done(); err != nil {
				return nil, err
			}
			s, ok := out.(*autoscalingv1.Scale)
			if !ok {
				return nil, apierrors.NewInternalError(fmt.Errorf("applying made a %T", out))
			}
			if err := x.checkPatched(s); err != nil {
				return nil, err
			}
			return x.scaled(live, s, o, true)
		}
		return up, nil
	}
	up.change = func(live api.Object) (api.Object, error) {
		before, err := x.trackedScale(live, x.scaleEntries(live))
		if err != nil {
			return nil, err
		}
		t := apply.Target{Target: scaleTarget, Types: x.s.cfg.Catalogue.Scheme(), Object: before}
		t.JSON = func() ([]byte, error) { return encodeObject(before, negotiate.JSON) }
		out, err := p.Apply(t)
		if err != nil {
			return nil, err
		}
		s, ok := out.(*autoscalingv1.Scale)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("the patch made a %T", out))
		}
		if err := x.checkPatched(s); err != nil {
			return nil, err
		}
		return x.scaled(live, s, o, false)
	}
	return up, nil
}
