package pvcprotection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	finalizer = "kubernetes.io/pvc-protection"
	// byClaim is the index of pods by the keys of their claims.
	byClaim = "pvcprotection.claim"
)

// Controller reconciles claims.
type Controller struct {
	client kubernetes.Interface
	claims corelisters.PersistentVolumeClaimLister
	pods   cache.Indexer
	clock  clock.PassiveClock
	loop   *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	claims, pods := f.Core().V1().PersistentVolumeClaims(), f.Core().V1().Pods()
	ctl := &Controller{client: c, claims: claims.Lister(), pods: pods.Informer().GetIndexer(), clock: clk}
	ctl.loop = controller.NewLoop("pvcprotection", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{claims.Informer().HasSynced, pods.Informer().HasSynced}, Log: log, Metrics: m,
	})
	queue := func(p *corev1.Pod) {
		for _, k := range claimsOf(p) {
			ctl.loop.Add(k)
		}
	}
	if err := errors.Join(
		pods.Informer().AddIndexers(cache.Indexers{byClaim: func(obj any) ([]string, error) {
			p, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, nil
			}
			return claimsOf(p), nil
		}}),
		controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{Changed: func(c *corev1.PersistentVolumeClaim) { ctl.loop.AddObject(c) }}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Add: queue, Delete: queue,
			Update: func(old, p *corev1.Pod) {
				if old.UID != p.UID {
					queue(old)
				}
				if old.UID != p.UID || old.Spec.NodeName != p.Spec.NodeName || ended(old) != ended(p) || shutDown(old) != shutDown(p) {
					queue(p)
				}
			},
		}),
	); err != nil {
		return nil, fmt.Errorf("pvcprotection: %w", err)
	}
	return ctl, nil
}

// Run protects until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// claimsOf are the keys of the claims behind a pod's volumes.
func claimsOf(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			out = append(out, p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, p.Namespace+"/"+ephemeral.VolumeClaimName(p, v))
		}
	}
	return out
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// shutDown says that the node is done with a pod and only finalizers keep it.
func shutDown(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

// names says that a volume of the pod is the claim. A claim of the name that an ephemeral volume would have may be somebody else's.
func names(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) (direct, ephemerally bool) {
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name:
			direct = true
		case v.Ephemeral != nil && ephemeral.VolumeClaimName(p, v) == claim.Name && ephemeral.VolumeIsForPod(p, claim) == nil:
			ephemerally = true
		}
	}
	return direct, ephemerally
}

// holds says that a pod keeps the claim from going. One without a node does not: no node starts a pod whose claim is being deleted.
func holds(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" || p.Namespace != claim.Namespace {
		return false
	}
	direct, ephemerally := names(p, claim)
	return direct || ephemerally && !shutDown(p)
}

// uses says that a pod has not ended and names the claim, whether it has a node or not.
func uses(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	direct, ephemerally := names(p, claim)
	return !ended(p) && p.Namespace == claim.Namespace && (direct || ephemerally)
}

// decision is what is to be done about a claim.
type decision struct {
	protect bool // add the finalizer
	release bool // remove it, if the API server agrees that no pod holds the claim
	unused  *metav1.Condition
}

// decide looks at a claim and the pods that name it.
func decide(claim *corev1.PersistentVolumeClaim, pods []*corev1.Pod, now metav1.Time) decision {
	var d decision
	has := slices.Contains(claim.Finalizers, finalizer)
	if claim.DeletionTimestamp != nil {
		d.release = has && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return holds(p, claim) })
		return d
	}
	d.protect = !has
	if claim.Status.Phase != corev1.ClaimBound {
		return d
	}
	want := metav1.Condition{Status: metav1.ConditionTrue, Reason: "NoPodsUsingPVC", Message: "No pods are currently referencing this PVC", LastTransitionTime: now}
	if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return uses(p, claim) }) {
		want.Status, want.Reason, want.Message = metav1.ConditionFalse, "PodUsingPVC", "A pod is currently referencing this PVC"
	}
	for i := range claim.Status.Conditions {
		if c := &claim.Status.Conditions[i]; c.Type == corev1.PersistentVolumeClaimUnused && string(c.Status) == string(want.Status) {
			return d
		}
	}
	d.unused = &want
	return d
}

// Reconcile does what is to be done about one claim.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get claim: %w", err)
	}
	found, err := c.pods.ByIndex(byClaim, key)
	if err != nil {
		return fmt.Errorf("pods of claim %s: %w", key, err)
	}
	var pods []*corev1.Pod
	for _, obj := range found {
		if p, ok := obj.(*corev1.Pod); ok {
			pods = append(pods, p)
		}
	}
	d := decide(claim, pods, metav1.NewTime(c.clock.Now()))
	api := c.client.CoreV1().PersistentVolumeClaims(namespace)
	switch {
	case d.release:
		held, err := c.live(ctx, claim, holds)
		if err != nil || held {
			return err // the pod is on its way to the cache
		}
		claim = claim.DeepCopy()
		claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == finalizer })
		_, err = api.Update(ctx, claim, metav1.UpdateOptions{})
		return gone(err, "release claim "+key)
	case d.protect:
		claim = claim.DeepCopy()
		claim.Finalizers = append(claim.Finalizers, finalizer)
		if claim, err = api.Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return gone(err, "protect claim "+key)
		}
	}
	if d.unused == nil {
		return nil
	}
	if d.unused.Status == metav1.ConditionTrue {
		if used, err := c.live(ctx, claim, uses); err != nil || used {
			return err
		}
	}
	claim = claim.DeepCopy()
	setUnused(claim, d.unused)
	_, err = api.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return gone(err, "update status of claim "+key)
}

// gone turns an error that says that the claim is no more into none.
func gone(err error, doing string) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func setUnused(claim *corev1.PersistentVolumeClaim, want *metav1.Condition) {
	set := corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimUnused, Status: corev1.ConditionStatus(want.Status), Reason: want.Reason, Message: want.Message, LastTransitionTime: want.LastTransitionTime,
	}
	for i := range claim.Status.Conditions {
		if c := &claim.Status.Conditions[i]; c.Type == set.Type {
			*c = set
			return
		}
	}
	claim.Status.Conditions = append(claim.Status.Conditions, set)
}

// live says that a pod of those that the API server knows has to do with the claim in a way. The cache may be behind.
func (c *Controller) live(ctx context.Context, claim *corev1.PersistentVolumeClaim, does func(*corev1.Pod, *corev1.PersistentVolumeClaim) bool) (bool, error) {
	pods, err := c.client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		if does(&pods.Items[i], claim) {
			return true, nil
		}
	}
	return false, nil
}
