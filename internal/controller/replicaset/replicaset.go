package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/owner"
)

const (
	// burst is the most pods that one reconciliation creates or deletes; the rest follows when those were seen.
	burst = 500
	// firstBatch is how many creations are tried at first; each success doubles the batch (a quota that refuses one refuses all).
	firstBatch = 4
	// byController indexes pods by the uid of their controller; pods without one are found under orphans.
	byController = "celox.replicaset/controller"
	orphans      = "-"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Controller reconciles ReplicaSets.
type Controller struct {
	client   kubernetes.Interface
	sets     appslisters.ReplicaSetLister
	pods     cache.Indexer
	recorder record.EventRecorder
	clock    clock.PassiveClock
	pending  *controller.Pending
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f informers.SharedInformerFactory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	sets, pods := f.Apps().V1().ReplicaSets(), f.Core().V1().Pods()
	ctl := &Controller{
		client: c, sets: sets.Lister(), pods: pods.Informer().GetIndexer(), recorder: recorder, clock: clk, pending: controller.NewPending(clk),
	}
	ctl.loop = controller.NewLoop("replicaset", ctl.Reconcile, controller.Options{
		Workers: 5, Synced: []cache.InformerSynced{sets.Informer().HasSynced, pods.Informer().HasSynced}, Log: log, Metrics: m,
	})
	if err := pods.Informer().AddIndexers(cache.Indexers{byController: controllerUID}); err != nil {
		return nil, fmt.Errorf("replicaset: index pods: %w", err)
	}
	queue := func(rs *appsv1.ReplicaSet) { ctl.loop.AddObject(rs) }
	if err := errors.Join(
		controller.Watch(sets.Informer(), controller.Handlers[*appsv1.ReplicaSet]{Changed: queue, Delete: queue}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Add:    func(pod *corev1.Pod) { ctl.podSeen(nil, pod) },
			Update: ctl.podSeen,
			Delete: func(pod *corev1.Pod) {
				ctl.pending.ObserveDeleted(pod.UID)
				ctl.queueOwner(pod)
			},
		}),
	); err != nil {
		return nil, fmt.Errorf("replicaset: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func controllerUID(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOf(pod); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{pod.Namespace + "/" + orphans}, nil
}

func (c *Controller) podSeen(old, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.pending.ObserveDeleted(pod.UID)
	} else {
		c.pending.ObserveCreated(pod.UID)
	}
	if old != nil {
		was, is := metav1.GetControllerOf(old), metav1.GetControllerOf(pod)
		if was != nil && (is == nil || is.UID != was.UID) {
			c.queueOwner(old)
		}
	}
	if metav1.GetControllerOf(pod) != nil {
		c.queueOwner(pod)
		return
	}
	// An orphan may fit a selector: whoever matches should have a look. An update matters only if labels or owners changed.
	if old != nil && equality.Semantic.DeepEqual(old.Labels, pod.Labels) && metav1.GetControllerOf(old) == nil {
		return
	}
	sets, err := c.sets.GetPodReplicaSets(pod)
	if err != nil {
		return // no set matches
	}
	for _, rs := range sets {
		c.loop.AddObject(rs)
	}
}

func (c *Controller) queueOwner(pod *corev1.Pod) {
	if ref := metav1.GetControllerOf(pod); ref != nil && ref.Kind == kind.Kind {
		c.loop.Add(pod.Namespace + "/" + ref.Name)
	}
}

// Reconcile makes the number of pods of one ReplicaSet what its spec says and its status what the pods are.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	rs, err := c.sets.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pending.Forget(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get replica set: %w", err)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of %s: %w", key, err)
	}
	settled := c.pending.Settled(key)
	pods, err := c.claim(ctx, rs, selector)
	if err != nil {
		return err
	}
	active := make([]*corev1.Pod, 0, len(pods))
	for _, p := range pods {
		if isActive(p) {
			active = append(active, p)
		}
	}
	var manageErr error
	if settled && rs.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, key, rs, active)
	}
	status := computeStatus(rs, active, len(c.owned(rs.UID, isTerminating)), manageErr, c.clock.Now())
	if err := c.writeStatus(ctx, rs, status); err != nil {
		return errors.Join(manageErr, err)
	}
	// A pod becomes available by the passing of time alone: come back when the next one does.
	if rs.Spec.MinReadySeconds > 0 && status.ReadyReplicas != status.AvailableReplicas {
		c.loop.AddAfter(key, time.Duration(rs.Spec.MinReadySeconds)*time.Second)
	}
	return manageErr
}

// claim returns the set's pods after adopting and releasing.
func (c *Controller) claim(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	orphaned := types.UID(rs.Namespace + "/" + orphans)
	claim := owner.Decide(rs, selector, append(c.owned(rs.UID, isActive), c.owned(orphaned, isActive)...))
	pods := claim.Owned
	if len(claim.Adopt) > 0 {
		// The cached set may be gone or replaced; adopting for it would leak. Ask the server once.
		fresh, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("confirm replica set before adopting: %w", err)
		}
		if fresh.UID != rs.UID || fresh.DeletionTimestamp != nil {
			return nil, fmt.Errorf("replica set %s/%s was replaced or is being deleted: not adopting", rs.Namespace, rs.Name)
		}
	}
	for _, p := range claim.Adopt {
		patch, err := owner.AdoptPatch(p, *metav1.NewControllerRef(rs, kind))
		if err != nil {
			return nil, err
		}
		adopted, err := c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("adopt pod %s: %w", p.Name, err)
		}
		pods = append(pods, adopted)
	}
	for _, p := range claim.Release {
		patch, err := owner.ReleasePatch(p, rs.UID)
		if err != nil {
			return nil, err
		}
		_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		// Gone, or replaced by a namesake: nothing is left to release.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release pod %s: %w", p.Name, err)
		}
	}
	return pods, nil
}

// manage creates or deletes pods.
func (c *Controller) manage(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := len(active) - int(ptr.Deref(rs.Spec.Replicas, 1))
	switch {
	case diff < 0:
		return c.createPods(ctx, key, rs, min(-diff, burst))
	case diff > 0:
		return c.deletePods(ctx, key, rs, victims(active, c.related(rs), min(diff, burst), c.clock.Now()))
	}
	return nil
}

// createPods creates n pods in growing batches and stops at the first batch with an error.
func (c *Controller) createPods(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	for batch := min(n, firstBatch); n > 0; batch = min(2*batch, n) {
		errs := make([]error, batch)
		var calls sync.WaitGroup
		for i := range batch {
			calls.Go(func() { errs[i] = c.createPod(ctx, key, rs) })
		}
		calls.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		n -= batch
	}
	return nil
}

func (c *Controller) createPod(ctx context.Context, key string, rs *appsv1.ReplicaSet) error {
	pod := podFor(rs)
	var created *corev1.Pod
	err := c.pending.Create(key, func() (types.UID, error) {
		var err error
		created, err = c.client.CoreV1().Pods(rs.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return created.UID, nil
	})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
			return fmt.Errorf("create pod: %w", err)
		}
		return nil // the namespace goes, and the set with it
	}
	c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return nil
}

// podFor makes the pod that the template describes.
func podFor(rs *appsv1.ReplicaSet) *corev1.Pod {
	template := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    rs.Name + "-",
			Namespace:       rs.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
		Spec: template.Spec,
	}
}

func (c *Controller) deletePods(ctx context.Context, key string, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var calls sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i, p := range pods {
		limit <- struct{}{}
		calls.Go(func() {
			defer func() { <-limit }()
			err := c.pending.Delete(key, p.UID, func() error {
				return c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
			})
			switch {
			case err == nil:
				c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
			case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone already, or a namesake
			default:
				c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				errs[i] = fmt.Errorf("delete pod %s: %w", p.Name, err)
			}
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// related returns the active pods of all sets with the same controller: doubling up on a node with pods of an older
// revision counts when victims are chosen.
func (c *Controller) related(rs *appsv1.ReplicaSet) []*corev1.Pod {
	ref := metav1.GetControllerOf(rs)
	uids := []types.UID{rs.UID}
	if ref != nil {
		sets, err := c.sets.ReplicaSets(rs.Namespace).List(labels.Everything())
		if err == nil {
			for _, s := range sets {
				if r := metav1.GetControllerOf(s); r != nil && r.UID == ref.UID && s.UID != rs.UID {
					uids = append(uids, s.UID)
				}
			}
		}
	}
	var pods []*corev1.Pod
	for _, uid := range uids {
		pods = append(pods, c.owned(uid, isActive)...)
	}
	return pods
}

// owned returns the cached pods that uid controls and that are as asked.
func (c *Controller) owned(uid types.UID, is func(*corev1.Pod) bool) []*corev1.Pod {
	found, err := c.pods.ByIndex(byController, string(uid))
	if err != nil {
		return nil // cannot be: New registered the index
	}
	var pods []*corev1.Pod
	for _, obj := range found {
		if p := obj.(*corev1.Pod); is(p) {
			pods = append(pods, p)
		}
	}
	return pods
}

func (c *Controller) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	updated := rs.DeepCopy()
	updated.Status = status
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
