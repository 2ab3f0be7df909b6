package resourceclaim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Keys say which of the two a name is of.
const (
	podKey   = "pod:"
	claimKey = "claim:"
)

// Indices of the informers.
const (
	podsByTemplate = "resourceclaim.template" // pods by the keys of the templates that they name
	podsByClaim    = "resourceclaim.claim"    // pods by the keys of the claims that they name
	claimsByOwner  = "resourceclaim.owner"    // claims by the uid of the pod that owns them
)

// fieldManager owns what is said in pods' status about their claims.
const fieldManager = "ResourceClaimController"

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	Log       *slog.Logger
	Metrics   *controller.Metrics
	// Registry gets the counter of claims made; nil counts nothing.
	Registry prometheus.Registerer
}

// Controller reconciles pods with claims, and claims.
type Controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	claims    resourcelisters.ResourceClaimLister
	templates resourcelisters.ResourceClaimTemplateLister
	recorder  record.EventRecorder
	created   *prometheus.CounterVec
	pending   *controller.Pending
	loop      *controller.Loop

	podIndex, claimIndex cache.Indexer
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	pods, claims, templates := cfg.Informers.Core().V1().Pods(), cfg.Informers.Resource().V1().ResourceClaims(), cfg.Informers.Resource().V1().ResourceClaimTemplates()
	c := &Controller{
		client: cfg.Client, pods: pods.Lister(), claims: claims.Lister(), templates: templates.Lister(), recorder: cfg.Recorder,
		created: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dynamic_resource_allocation_resourceclaim_creates_total",
			Help: "Number of ResourceClaims creation requests, categorized by creation status, admin access, and owning API group and kind (either Pod or scheduling.k8s.io/PodGroup)"},
			[]string{"status", "admin_access", "owner_api_group", "owner_api_kind"}),
		pending:  controller.NewPending(cfg.Clock),
		podIndex: pods.Informer().GetIndexer(), claimIndex: claims.Informer().GetIndexer(),
	}
	if cfg.Registry != nil {
		if err := errors.Join(cfg.Registry.Register(c.created), cfg.Registry.Register(claimCounts{c.claimIndex})); err != nil {
			return nil, fmt.Errorf("resourceclaim: %w", err)
		}
	}
	c.loop = controller.NewLoop("resource_claim", c.Reconcile, controller.Options{
		Workers: 4, Log: cfg.Log, Metrics: cfg.Metrics,
		Synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced, templates.Informer().HasSynced},
	})
	if err := errors.Join(
		pods.Informer().AddIndexers(cache.Indexers{podsByTemplate: templatesOfPod, podsByClaim: claimsOfPod}),
		claims.Informer().AddIndexers(cache.Indexers{claimsByOwner: ownerOfClaim}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: c.podChanged, Delete: c.podGone}),
		controller.Watch(claims.Informer(), controller.Handlers[*resourcev1.ResourceClaim]{Changed: c.claimChanged, Delete: c.claimGone}),
		controller.Watch(templates.Informer(), controller.Handlers[*resourcev1.ResourceClaimTemplate]{Add: func(t *resourcev1.ResourceClaimTemplate) {
			c.queuePods(podsByTemplate, t.Namespace+"/"+t.Name)
		}}),
	); err != nil {
		return nil, fmt.Errorf("resourceclaim: %w", err)
	}
	return c, nil
}

// Run keeps claims until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func templatesOfPod(obj any) ([]string, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var out []string
	for i := range p.Spec.ResourceClaims {
		if t := p.Spec.ResourceClaims[i].ResourceClaimTemplateName; t != nil {
			out = append(out, p.Namespace+"/"+*t)
		}
	}
	return out, nil
}

func claimsOfPod(obj any) ([]string, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var out []string
	for _, n := range namesOf(p) {
		out = append(out, p.Namespace+"/"+n)
	}
	return out, nil
}

func ownerOfClaim(obj any) ([]string, error) {
	if c, ok := obj.(*resourcev1.ResourceClaim); ok {
		if o := metav1.GetControllerOfNoCopy(c); o != nil && o.Kind == "Pod" {
			return []string{string(o.UID)}, nil
		}
	}
	return nil, nil
}

func (c *Controller) podChanged(p *corev1.Pod) {
	switch {
	case len(p.Spec.ResourceClaims) == 0 && p.Status.ExtendedResourceClaimStatus == nil:
	case done(p):
		c.podGone(p)
	case p.DeletionTimestamp == nil:
		c.loop.Add(podKey + p.Namespace + "/" + p.Name)
	}
}

// podGone has the claims looked at that a pod had, or that were made for it.
func (c *Controller) podGone(p *corev1.Pod) {
	for _, n := range namesOf(p) {
		c.loop.Add(claimKey + p.Namespace + "/" + n)
	}
	if len(p.Spec.ResourceClaims) > 0 {
		for _, o := range c.owned(p.UID) {
			c.loop.Add(claimKey + o.Namespace + "/" + o.Name)
		}
		c.pending.Forget(podKey + p.Namespace + "/" + p.Name)
	}
}

func (c *Controller) claimChanged(claim *resourcev1.ResourceClaim) {
	c.pending.ObserveCreated(claim.UID)
	key := claim.Namespace + "/" + claim.Name
	c.loop.Add(claimKey + key)
	c.queuePods(podsByClaim, key)
	if o := metav1.GetControllerOfNoCopy(claim); o != nil && o.Kind == "Pod" {
		c.loop.Add(podKey + claim.Namespace + "/" + o.Name)
	}
}

func (c *Controller) claimGone(claim *resourcev1.ResourceClaim) {
	c.pending.ObserveDeleted(claim.UID)
	c.queuePods(podsByClaim, claim.Namespace+"/"+claim.Name)
}

func (c *Controller) queuePods(index, value string) {
	keys, _ := c.podIndex.IndexKeys(index, value) // the index is there
	for _, k := range keys {
		c.loop.Add(podKey + k)
	}
}

func (c *Controller) owned(pod types.UID) []*resourcev1.ResourceClaim {
	found, _ := c.claimIndex.ByIndex(claimsByOwner, string(pod)) // the index is there
	var out []*resourcev1.ResourceClaim
	for _, obj := range found {
		if claim, ok := obj.(*resourcev1.ResourceClaim); ok {
			out = append(out, claim)
		}
	}
	return out
}

// Reconcile looks at one pod or one claim.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	if rest, ok := strings.CutPrefix(key, podKey); ok {
		namespace, name, err := cache.SplitMetaNamespaceKey(rest)
		if err != nil {
			return nil // not a key of ours; a retry would not change it
		}
		return c.reconcilePod(ctx, key, namespace, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(strings.TrimPrefix(key, claimKey))
	if err != nil {
		return nil
	}
	return c.reconcileClaim(ctx, namespace, name)
}

func (c *Controller) reconcilePod(ctx context.Context, key, namespace, name string) error {
	p, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pending.Forget(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	if len(p.Spec.ResourceClaims) == 0 || !c.pending.Settled(key) {
		return nil // what was made comes back as an event
	}
	plan := decidePod(p, func(name string) *resourcev1.ResourceClaim {
		claim, err := c.claims.ResourceClaims(namespace).Get(name)
		if err != nil {
			return nil
		}
		return claim
	}, c.owned(p.UID))
	var errs []error
	for _, pc := range plan.create {
		made, err := c.create(ctx, key, p, pc)
		if err != nil {
			c.recorder.Eventf(p, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", pc.Name, err)
			errs = append(errs, fmt.Errorf("pod claim %s: %w", pc.Name, err))
			continue
		}
		plan.found[pc.Name] = made
	}
	if len(plan.found) > 0 {
		errs = append(errs, c.tell(ctx, p, plan.found))
	}
	for _, claim := range plan.reserve {
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		if _, err := c.client.ResourceV1().ResourceClaims(namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			errs = append(errs, fmt.Errorf("reserve claim %s: %w", claim.Name, err))
		}
	}
	return errors.Join(errs...)
}

// create makes the claim of one entry and returns its name.
func (c *Controller) create(ctx context.Context, key string, p *corev1.Pod, pc *corev1.PodResourceClaim) (string, error) {
	t, err := c.templates.ResourceClaimTemplates(p.Namespace).Get(*pc.ResourceClaimTemplateName)
	if err != nil {
		return "", fmt.Errorf("resource claim template %q: %w", *pc.ResourceClaimTemplateName, err)
	}
	want, name := claimFor(p, pc, t), ""
	err = c.pending.Create(key, func() (types.UID, error) {
		made, err := c.client.ResourceV1().ResourceClaims(p.Namespace).Create(ctx, want, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		name = made.Name
		return made.UID, nil
	})
	status := "success"
	if err != nil {
		status = "failure"
		err = fmt.Errorf("create ResourceClaim %s: %w", want.GenerateName, err)
	}
	c.created.WithLabelValues(status, fmt.Sprint(isAdmin(&want.Spec)), "", "Pod").Inc()
	return name, err
}

func isAdmin(s *resourcev1.ResourceClaimSpec) bool {
	return slices.ContainsFunc(s.Devices.Requests, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess
	})
}

// tell writes into the pod's status which claims were made for which of its entries.
func (c *Controller) tell(ctx context.Context, p *corev1.Pod, found map[string]string) error {
	for i := range p.Status.ResourceClaimStatuses {
		// What is applied replaces what was, so all that was made is said again.
		s := &p.Status.ResourceClaimStatuses[i]
		if _, ok := found[s.Name]; !ok && s.ResourceClaimName != nil {
			found[s.Name] = *s.ResourceClaimName
		}
	}
	status := applycorev1.PodStatus()
	for _, entry := range slices.Sorted(maps.Keys(found)) {
		status.WithResourceClaimStatuses(applycorev1.PodResourceClaimStatus().WithName(entry).WithResourceClaimName(found[entry]))
	}
	_, err := c.client.CoreV1().Pods(p.Namespace).ApplyStatus(ctx, applycorev1.Pod(p.Name, p.Namespace).WithUID(p.UID).WithStatus(status),
		metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func (c *Controller) reconcileClaim(ctx context.Context, namespace, name string) error {
	claim, err := c.claims.ResourceClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get claim: %w", err)
	}
	var failed error
	plan := decideClaim(claim, func(name string) *corev1.Pod {
		p, err := c.pods.Pods(namespace).Get(name)
		if apierrors.IsNotFound(err) {
			// What is taken back here cannot be given again, so the API server has the last word.
			p, err = c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("get pod %s/%s: %w", namespace, name, err)
		}
		if err != nil {
			return nil
		}
		return p
	})
	if failed != nil {
		return failed
	}
	api := c.client.ResourceV1().ResourceClaims(namespace)
	if plan.shrink || plan.deallocate {
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = plan.reservedFor
		if plan.deallocate {
			claim.Status.Allocation = nil
		}
		if claim, err = api.UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update status of claim %s/%s: %w", namespace, name, err)
		}
	}
	if plan.unprotect {
		claim = claim.DeepCopy()
		claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		if _, err := api.Update(ctx, claim, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("release claim %s/%s: %w", namespace, name, err)
		}
	}
	if plan.remove {
		err := api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete claim %s/%s: %w", namespace, name, err)
		}
	}
	return nil
}
