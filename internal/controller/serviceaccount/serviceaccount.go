package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const name = "default"

// Controller reconciles namespaces; its keys are their names.
type Controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	loop       *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	namespaces, accounts := f.Core().V1().Namespaces(), f.Core().V1().ServiceAccounts()
	ctl := &Controller{client: c, namespaces: namespaces.Lister(), accounts: accounts.Lister()}
	ctl.loop = controller.NewLoop("serviceaccount", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{namespaces.Informer().HasSynced, accounts.Informer().HasSynced}, Log: log, Metrics: m,
	})
	if err := errors.Join(
		controller.Watch(namespaces.Informer(), controller.Handlers[*corev1.Namespace]{Changed: func(ns *corev1.Namespace) { ctl.loop.AddObject(ns) }}),
		controller.Watch(accounts.Informer(), controller.Handlers[*corev1.ServiceAccount]{Delete: func(account *corev1.ServiceAccount) {
			if account.Name == name {
				ctl.loop.Add(account.Namespace)
			}
		}}),
	); err != nil {
		return nil, fmt.Errorf("serviceaccount: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile makes the default account of one namespace.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get namespace: %w", err)
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return nil
	}
	if _, err := c.accounts.ServiceAccounts(ns.Name).Get(name); !apierrors.IsNotFound(err) {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns.Name}}
	_, err = c.client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("create default service account: %w", err)
	}
	return nil
}
