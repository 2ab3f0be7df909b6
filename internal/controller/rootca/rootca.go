package rootca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// Name is the ConfigMap's name in every namespace.
	Name           = "kube-root-ca.crt"
	descriptionKey = "kubernetes.io/description"
	description    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller reconciles namespaces; its keys are their names.
type Controller struct {
	client     kubernetes.Interface
	ca         []byte
	namespaces corelisters.NamespaceLister
	configMaps corelisters.ConfigMapLister
	loop       *controller.Loop
	syncs      controller.Syncs
}

// New makes the controller, which publishes ca (PEM), and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, ca []byte, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	namespaces, configMaps := f.Core().V1().Namespaces(), f.Core().V1().ConfigMaps()
	ctl := &Controller{client: c, ca: ca, namespaces: namespaces.Lister(), configMaps: configMaps.Lister()}
	ctl.syncs = m.Syncs("root_ca_cert_publisher")
	ctl.loop = controller.NewLoop("root-ca-certificate-publisher", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{namespaces.Informer().HasSynced, configMaps.Informer().HasSynced}, Log: log, Metrics: m,
	})
	changed := func(cm *corev1.ConfigMap) {
		if cm.Name == Name {
			ctl.loop.Add(cm.Namespace)
		}
	}
	if err := errors.Join(
		controller.Watch(namespaces.Informer(), controller.Handlers[*corev1.Namespace]{Changed: func(ns *corev1.Namespace) { ctl.loop.AddObject(ns) }}),
		controller.Watch(configMaps.Informer(), controller.Handlers[*corev1.ConfigMap]{
			Update: func(_, cm *corev1.ConfigMap) { changed(cm) }, Delete: changed,
		}),
	); err != nil {
		return nil, fmt.Errorf("rootca: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile makes or mends the ConfigMap of one namespace.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	begin := time.Now()
	err := c.publish(ctx, key)
	c.syncs.Done(time.Since(begin), err)
	return err
}

func (c *Controller) publish(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get namespace: %w", err)
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return nil
	}
	data := map[string]string{"ca.crt": string(c.ca)}
	have, err := c.configMaps.ConfigMaps(ns.Name).Get(Name)
	if apierrors.IsNotFound(err) {
		cm := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: ns.Name, Annotations: map[string]string{descriptionKey: description}},
			Data:       data,
		}
		_, err := c.client.CoreV1().ConfigMaps(ns.Name).Create(ctx, cm, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return fmt.Errorf("publish root CA: %w", err)
		}
		return nil
	} else if err != nil {
		return fmt.Errorf("get config map: %w", err)
	}
	if maps.Equal(have.Data, data) && have.Annotations[descriptionKey] != "" { // who says it in other words may
		return nil
	}
	mended := have.DeepCopy()
	mended.Data = data
	if mended.Annotations == nil {
		mended.Annotations = map[string]string{}
	}
	mended.Annotations[descriptionKey] = description
	if _, err := c.client.CoreV1().ConfigMaps(ns.Name).Update(ctx, mended, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("mend root CA: %w", err)
	}
	return nil
}
