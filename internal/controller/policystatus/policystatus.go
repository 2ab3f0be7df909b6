package policystatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// fieldManager is whose the status is.
const fieldManager = "validatingadmissionpolicy-status"

// Controller reconciles policies; its keys are their names.
type Controller struct {
	client   kubernetes.Interface
	policies listers.ValidatingAdmissionPolicyLister
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	policies := f.Admissionregistration().V1().ValidatingAdmissionPolicies()
	ctl := &Controller{client: c, policies: policies.Lister()}
	ctl.loop = controller.NewLoop("validatingadmissionpolicy-status", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{policies.Informer().HasSynced}, Log: log, Metrics: m,
	})
	err := controller.Watch(policies.Informer(), controller.Handlers[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		Changed: func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			if p.Status.ObservedGeneration < p.Generation {
				ctl.loop.AddObject(p)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("policystatus: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile checks one policy and writes down what was found.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	p, err := c.policies.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get policy: %w", err)
	}
	if p.Status.ObservedGeneration >= p.Generation {
		return nil
	}
	warnings, err := check(ctx, &p.Spec, newSchemas(c.client.Discovery()))
	if err != nil {
		return fmt.Errorf("check types: %w", err)
	}
	checked := applyv1.TypeChecking()
	for _, w := range warnings {
		checked.WithExpressionWarnings(applyv1.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	status := applyv1.ValidatingAdmissionPolicy(p.Name).WithStatus(
		applyv1.ValidatingAdmissionPolicyStatus().WithObservedGeneration(p.Generation).WithTypeChecking(checked))
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// errUnknown says that there is no schema.
var errUnknown = errors.New("schema not found")
