package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// lookAgain is when a namespace is looked at again in which objects were left, should none of their deletions be delivered.
const lookAgain = time.Minute

// gather is how long deletions are gathered until the namespace is looked at again.
const gather = 20 * time.Millisecond

// Controller reconciles namespaces that are being deleted.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	resources  func() ([]schema.GroupVersionResource, error)
	namespaces corelisters.NamespaceLister
	clock      clock.PassiveClock
	loop       *controller.Loop
}

// New makes the controller. resources lists the namespaced resources that can be listed and deleted, one version of each, and says by an error
// that those of another server are not known at the moment: a namespace then stays. contents are informers of them, whose deletions tell when
// to look again.
func New(c kubernetes.Interface, m metadata.Interface, resources func() ([]schema.GroupVersionResource, error), contents []cache.SharedIndexInformer, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, metrics *controller.Metrics) (*Controller, error) {
	namespaces := f.Core().V1().Namespaces()
	ctl := &Controller{client: c, metadata: m, resources: resources, namespaces: namespaces.Lister(), clock: clk}
	ctl.loop = controller.NewLoop("namespace", ctl.Reconcile, controller.Options{
		Workers: 5, Synced: []cache.InformerSynced{namespaces.Informer().HasSynced}, Log: log, Metrics: metrics,
		MaxBackoff: time.Minute, // what is left in a namespace may go without a word
	})
	if err := controller.Watch(namespaces.Informer(), controller.Handlers[*corev1.Namespace]{Changed: func(ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			ctl.loop.AddObject(ns)
		}
	}}); err != nil {
		return nil, fmt.Errorf("namespace: %w", err)
	}
	for _, i := range contents {
		if err := controller.Watch(i, controller.Handlers[metav1.Object]{Delete: ctl.Deleted}); err != nil {
			return nil, fmt.Errorf("namespace: %w", err)
		}
	}
	return ctl, nil
}

// Deleted tells that an object is gone: its namespace may be empty now. Informers of the contents call it, and whoever follows what
// they don't watch.
func (c *Controller) Deleted(obj metav1.Object) {
	if ns, err := c.namespaces.Get(obj.GetNamespace()); err == nil && ns.DeletionTimestamp != nil {
		c.loop.AddAfter(ns.Name, gather)
	}
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile takes one step of the deletion of one namespace.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	ns, err := c.namespaces.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get namespace: %w", err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		updated := ns.DeepCopy()
		updated.Status.Phase = corev1.NamespaceTerminating
		if ns, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return ignoreGone(fmt.Errorf("mark terminating: %w", err))
		}
	}
	resources, unknown := c.resources()
	left, deleteErr := c.empty(ctx, resources, ns.Name)
	if err := c.report(ctx, ns, left, unknown, deleteErr); err != nil {
		return ignoreGone(err)
	}
	if err := errors.Join(unknown, deleteErr); err != nil {
		return err
	}
	if left.total > 0 {
		c.loop.AddAfter(key, lookAgain)
		return nil
	}
	fresh, err := c.client.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
	if err != nil {
		return ignoreGone(fmt.Errorf("get namespace: %w", err))
	}
	if fresh.UID != ns.UID {
		return nil
	}
	fresh.Spec.Finalizers = slices.DeleteFunc(fresh.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, fresh, metav1.UpdateOptions{}); err != nil {
		return ignoreGone(fmt.Errorf("finalize: %w", err))
	}
	return nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// remains is what a namespace still holds.
type remains struct {
	total      int
	resources  []string // "pods. has 2 resource instances"
	finalizers map[string]int
}

// podsFirst is what goes before everything else (KEP-5080): while a pod runs, what limits it is to stay, such as network policies.
var podsFirst = schema.GroupResource{Resource: "pods"}

// empty asks for the deletion of everything in a namespace, once there are no pods any more, and says what is left.
func (c *Controller) empty(ctx context.Context, resources []schema.GroupVersionResource, namespace string) (remains, error) {
	left := remains{finalizers: map[string]int{}}
	rest := make([]schema.GroupVersionResource, 0, len(resources))
	for _, gvr := range resources {
		if gvr.GroupResource() != podsFirst {
			rest = append(rest, gvr)
			continue
		}
		if err := c.emptyOf(ctx, gvr, namespace, &left); err != nil || left.total > 0 {
			return left, err
		}
	}
	var errs []error
	for _, gvr := range rest {
		errs = append(errs, c.emptyOf(ctx, gvr, namespace, &left))
	}
	slices.Sort(left.resources)
	return left, errors.Join(errs...)
}

// emptyOf asks for the deletion of all objects of one resource, and adds those that are there nevertheless to left.
func (c *Controller) emptyOf(ctx context.Context, gvr schema.GroupVersionResource, namespace string, left *remains) error {
	client := c.metadata.Resource(gvr).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	if err := deleteAll(ctx, client, list); err != nil {
		return fmt.Errorf("delete %s: %w", gvr.GroupResource(), err)
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if n := len(list.Items); n > 0 {
		left.total += n
		left.resources = append(left.resources, fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, n))
	}
	for i := range list.Items {
		for _, f := range list.Items[i].Finalizers {
			left.finalizers[f]++
		}
	}
	return nil
}

// deleteAll deletes what was listed: at once, or one by one where another server has no deletion of collections.
func deleteAll(ctx context.Context, client metadata.ResourceInterface, list *metav1.PartialObjectMetadataList) error {
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	err := client.DeleteCollection(ctx, opts, metav1.ListOptions{})
	if !apierrors.IsMethodNotSupported(err) {
		return err
	}
	var errs []error
	for i := range list.Items {
		errs = append(errs, ignoreGone(client.Delete(ctx, list.Items[i].Name, opts)))
	}
	return errors.Join(errs...)
}

// apart is what errors say that were joined.
func apart(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, apart(e)...)
	}
	return out
}

// report writes the conditions that say what the deletion waits for.
func (c *Controller) report(ctx context.Context, ns *corev1.Namespace, left remains, unknown, deleteErr error) error {
	updated := ns.DeepCopy()
	set := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		cond := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: metav1.NewTime(c.clock.Now())}
		if bad {
			cond.Status, cond.Reason, cond.Message = corev1.ConditionTrue, badReason, badMessage
		}
		for i := range updated.Status.Conditions {
			have := &updated.Status.Conditions[i]
			if have.Type != t {
				continue
			}
			if have.Status == cond.Status {
				cond.LastTransitionTime = have.LastTransitionTime
			}
			*have = cond
			return
		}
		updated.Status.Conditions = append(updated.Status.Conditions, cond)
	}
	var finalizers []string
	for f, n := range left.finalizers {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(finalizers)
	failure, missing := "", ""
	if deleteErr != nil {
		failures := apart(deleteErr)
		slices.Sort(failures)
		failure = fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(failures), strings.Join(failures, ", "))
	}
	if unknown != nil {
		missing = unknown.Error()
		if groups, ok := discovery.GroupDiscoveryFailedErrorGroups(unknown); ok {
			missing = fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups), unknown)
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, unknown != nil, "DiscoveryFailed", missing, "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, deleteErr != nil, "ContentDeletionFailed", failure,
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, left.total > 0, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(left.resources, ", "),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(finalizers) > 0, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	if equality.Semantic.DeepEqual(updated.Status, ns.Status) {
		return nil
	}
	// A namespace that empties at once is not worth a write: it is finalized in the same step.
	if left.total == 0 && unknown == nil && deleteErr == nil {
		return nil
	}
	if _, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("report remaining content: %w", err)
	}
	return nil
}
