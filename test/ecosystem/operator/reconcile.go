package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// decommission is the finalizer: a fleet that goes leaves a log behind.
const decommission = "harbor.celox.test/decommission"

// reconciler makes a Deployment of each Fleet.
type reconciler struct {
	client.Client
	events events.EventRecorder
	image  string
}

func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var fleet Fleet
	if err := r.Get(ctx, req.NamespacedName, &fleet); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !fleet.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.decommission(ctx, &fleet)
	}
	if controllerutil.AddFinalizer(&fleet, decommission) {
		if err := r.Update(ctx, &fleet); err != nil {
			return ctrl.Result{}, err
		}
	}
	ships := map[string]string{"fleet": fleet.Name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: fleet.Name}}
	did, err := controllerutil.CreateOrUpdate(ctx, r.Client, d, func() error {
		d.Spec.Replicas = &fleet.Spec.Ships
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: ships}
		d.Spec.Template.Labels = ships
		if len(d.Spec.Template.Spec.Containers) == 0 {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "ship"}}
		}
		grace := int64(0)
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
		c := &d.Spec.Template.Spec.Containers[0]
		c.Image, c.Command = r.image, []string{"sh", "-c", "echo " + fleet.Spec.Class + " afloat; exec sleep 3600"}
		return controllerutil.SetControllerReference(&fleet, d, r.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	if did == controllerutil.OperationResultCreated {
		r.events.Eventf(&fleet, d, corev1.EventTypeNormal, "Launched", "Launch", "%d ships of class %s", fleet.Spec.Ships, fleet.Spec.Class)
	}
	before := fleet.DeepCopyObject().(*Fleet)
	fleet.Status.Afloat = d.Status.ReadyReplicas
	fleet.Status.Selector = "fleet=" + fleet.Name
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Launching", ObservedGeneration: fleet.Generation,
		Message: fmt.Sprintf("%d of %d ships are afloat", d.Status.ReadyReplicas, fleet.Spec.Ships)}
	if d.Status.ReadyReplicas == fleet.Spec.Ships {
		ready.Status, ready.Reason = metav1.ConditionTrue, "AllAfloat"
	}
	if !meta.SetStatusCondition(&fleet.Status.Conditions, ready) && before.Status.Afloat == fleet.Status.Afloat {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.Status().Patch(ctx, &fleet, client.MergeFrom(before))
}

// decommission writes the log, and lets the fleet go.
func (r *reconciler) decommission(ctx context.Context, fleet *Fleet) error {
	log := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Namespace, Name: "log-of-" + fleet.Name}}
	if _, err := controllerutil.CreateOrPatch(ctx, r.Client, log, func() error {
		log.Data = map[string]string{"last": fmt.Sprintf("%d ships of class %s", fleet.Spec.Ships, fleet.Spec.Class)}
		return nil
	}); err != nil {
		return err
	}
	if controllerutil.RemoveFinalizer(fleet, decommission) {
		return r.Update(ctx, fleet)
	}
	return nil
}

// port defaults and validates fleets, as the webhooks.
type port struct{}

// Default fills in the class.
func (port) Default(_ context.Context, f *Fleet) error {
	if f.Spec.Class == "" {
		f.Spec.Class = "liburna"
	}
	return nil
}

// ValidateCreate refuses what no harbor can hold.
func (port) ValidateCreate(_ context.Context, f *Fleet) (warnings admission.Warnings, err error) {
	if f.Spec.Ships > 10 {
		return nil, fmt.Errorf("%s holds ten ships, not %d", f.Spec.Harbor, f.Spec.Ships)
	}
	if f.Spec.Ships == 0 {
		warnings = append(warnings, "a fleet without ships")
	}
	return warnings, nil
}

// ValidateUpdate is the same.
func (p port) ValidateUpdate(ctx context.Context, _, f *Fleet) (warnings admission.Warnings, err error) {
	return p.ValidateCreate(ctx, f)
}

// ValidateDelete keeps what is labelled so.
func (port) ValidateDelete(_ context.Context, f *Fleet) (warnings admission.Warnings, err error) {
	if f.Labels["keep"] == "true" {
		return nil, fmt.Errorf("fleet %s is to be kept", f.Name)
	}
	return nil, nil
}
