package deployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/owner"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller reconciles Deployments.
type Controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	pods        corelisters.PodLister
	recorder    record.EventRecorder
	clock       clock.PassiveClock
	loop        *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	deployments, sets, pods := f.Apps().V1().Deployments(), f.Apps().V1().ReplicaSets(), f.Core().V1().Pods()
	ctl := &Controller{client: c, deployments: deployments.Lister(), sets: sets.Lister(), pods: pods.Lister(), recorder: recorder, clock: clk}
	ctl.loop = controller.NewLoop("deployment", ctl.Reconcile, controller.Options{
		Workers: 5, Log: log, Metrics: m,
		Synced: []cache.InformerSynced{deployments.Informer().HasSynced, sets.Informer().HasSynced, pods.Informer().HasSynced},
	})
	queue := func(d *appsv1.Deployment) { ctl.loop.AddObject(d) }
	if err := errors.Join(
		controller.Watch(deployments.Informer(), controller.Handlers[*appsv1.Deployment]{Changed: queue, Delete: queue}),
		controller.Watch(sets.Informer(), controller.Handlers[*appsv1.ReplicaSet]{
			Add: ctl.setSeen,
			Update: func(old, rs *appsv1.ReplicaSet) {
				if metav1.GetControllerOf(old) != nil {
					ctl.setSeen(old)
				}
				ctl.setSeen(rs)
			},
			Delete: ctl.setSeen,
		}),
		// Recreate waits for the last old pod to be gone, and nothing but that pod's deletion tells.
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Delete: ctl.podGone}),
	); err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) setSeen(rs *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOf(rs); ref != nil {
		if ref.Kind == kind.Kind {
			c.loop.Add(rs.Namespace + "/" + ref.Name)
		}
		return
	}
	all, err := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		return // a lister over memory does not fail
	}
	for _, d := range all {
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(rs.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

func (c *Controller) podGone(pod *corev1.Pod) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	if up := metav1.GetControllerOf(rs); up != nil && up.Kind == kind.Kind {
		if d, err := c.deployments.Deployments(rs.Namespace).Get(up.Name); err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			c.loop.AddObject(d)
		}
	}
}

// round is one reconciliation: the deployment as it is now and its sets, the new one (nil while there is none) and the old ones.
type round struct {
	*Controller
	d      *appsv1.Deployment // a copy: the round may change it
	all    []*appsv1.ReplicaSet
	newSet *appsv1.ReplicaSet
	old    []*appsv1.ReplicaSet
	// pauseChanged tells status that the deployment was paused (true) or resumed (false) since the last round.
	pauseChanged *bool
}

// Reconcile takes one step of one Deployment's rollout.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	cached, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get deployment: %w", err)
	}
	r := &round{Controller: c, d: cached.DeepCopy()}
	everything := metav1.LabelSelector{}
	if equality.Semantic.DeepEqual(r.d.Spec.Selector, &everything) {
		c.recorder.Eventf(r.d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		status := *r.d.Status.DeepCopy()
		status.ObservedGeneration = max(status.ObservedGeneration, r.d.Generation)
		return r.writeStatus(ctx, status)
	}
	if err := r.claim(ctx); err != nil {
		return err
	}
	r.newSet = findNew(r.d, r.all)
	r.old = without(r.all, r.newSet)
	if r.d.DeletionTimestamp != nil {
		return r.writeStatus(ctx, r.status())
	}
	r.markPaused()
	switch {
	case r.d.Spec.Paused:
		return r.paused(ctx)
	case rollbackWanted(r.d):
		return r.rollBack(ctx)
	case scaling(r.d, r.all):
		return r.sync(ctx)
	case r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return r.recreate(ctx)
	default:
		return r.rolling(ctx)
	}
}

// claim finds the deployment's sets, after adopting and releasing.
func (r *round) claim(ctx context.Context) error {
	selector, err := metav1.LabelSelectorAsSelector(r.d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of deployment %s/%s: %w", r.d.Namespace, r.d.Name, err)
	}
	candidates, err := r.sets.ReplicaSets(r.d.Namespace).List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list replica sets: %w", err)
	}
	claim := owner.Decide(r.d, selector, candidates)
	r.all = claim.Owned
	if len(claim.Adopt) > 0 {
		fresh, err := r.client.AppsV1().Deployments(r.d.Namespace).Get(ctx, r.d.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("confirm deployment before adopting: %w", err)
		}
		if fresh.UID != r.d.UID || fresh.DeletionTimestamp != nil {
			return fmt.Errorf("deployment %s/%s was replaced or is being deleted: not adopting", r.d.Namespace, r.d.Name)
		}
	}
	for _, rs := range claim.Adopt {
		patch, err := owner.AdoptPatch(rs, *metav1.NewControllerRef(r.d, kind), "")
		if err != nil {
			return err
		}
		adopted, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("adopt replica set %s: %w", rs.Name, err)
		}
		r.all = append(r.all, adopted)
	}
	for _, rs := range claim.Release {
		patch, err := owner.ReleasePatch(rs, r.d.UID)
		if err != nil {
			return err
		}
		_, err = r.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return fmt.Errorf("release replica set %s: %w", rs.Name, err)
		}
	}
	return nil
}

// paused keeps the deployment at its size without rolling out, and tidies the history.
func (r *round) paused(ctx context.Context) error {
	if err := r.ensureNew(ctx, false); err != nil {
		return err
	}
	if err := r.scaleProportionally(ctx); err != nil {
		return err
	}
	return errors.Join(r.cleanUp(ctx), r.writeStatus(ctx, r.status()))
}

// sync brings the sets to a changed size before the rollout goes on.
func (r *round) sync(ctx context.Context) error {
	if err := r.ensureNew(ctx, false); err != nil {
		return err
	}
	return errors.Join(r.scaleProportionally(ctx), r.writeStatus(ctx, r.status()))
}

func (r *round) rolling(ctx context.Context) error {
	if err := r.ensureNew(ctx, true); err != nil {
		return err
	}
	if want := newReplicas(r.d, r.all, r.newSet); want != *r.newSet.Spec.Replicas {
		if err := r.scale(ctx, &r.newSet, want); err != nil {
			return err
		}
		return r.progress(ctx)
	}
	scaled, err := r.shrinkOld(ctx)
	if err != nil {
		return err
	}
	if !scaled && complete(r.d, &r.d.Status) {
		if err := r.cleanUp(ctx); err != nil {
			return err
		}
	}
	return r.progress(ctx)
}

func (r *round) recreate(ctx context.Context) error {
	if err := r.ensureNew(ctx, false); err != nil {
		return err
	}
	scaled := false
	for i, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			if err := r.scale(ctx, &r.old[i], 0); err != nil {
				return err
			}
			scaled = true
		}
	}
	if scaled {
		return r.progress(ctx) // its pods may be more than were seen; the set itself says when it has none
	}
	running, err := r.oldPodsRunning()
	if err != nil {
		return err
	}
	if running {
		return r.progress(ctx)
	}
	if err := r.ensureNew(ctx, true); err != nil {
		return err
	}
	if want := *r.d.Spec.Replicas; want != *r.newSet.Spec.Replicas {
		if err := r.scale(ctx, &r.newSet, want); err != nil {
			return err
		}
	}
	if complete(r.d, &r.d.Status) {
		if err := r.cleanUp(ctx); err != nil {
			return err
		}
	}
	return r.progress(ctx)
}

// oldPodsRunning says whether a pod of an old revision has not ended yet.
func (r *round) oldPodsRunning() (bool, error) {
	selector, err := metav1.LabelSelectorAsSelector(r.d.Spec.Selector)
	if err != nil {
		return false, fmt.Errorf("selector: %w", err)
	}
	pods, err := r.pods.Pods(r.d.Namespace).List(selector)
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	for _, p := range pods {
		ref := metav1.GetControllerOf(p)
		if ref == nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		for _, rs := range r.old {
			if rs.UID == ref.UID {
				return true, nil
			}
		}
	}
	return false, nil
}

// scale sets the replicas of *rs and the annotations that record the deployment's size, and replaces *rs with the answer.
func (r *round) scale(ctx context.Context, rs **appsv1.ReplicaSet, replicas int32) error {
	old := *rs
	from := *old.Spec.Replicas
	annotated := sizeAnnotations(r.d)
	same := from == replicas
	for k, v := range annotated {
		same = same && old.Annotations[k] == v
	}
	if same {
		return nil
	}
	updated := old.DeepCopy()
	updated.Spec.Replicas = &replicas
	setAnnotations(updated, annotated)
	got, err := r.client.AppsV1().ReplicaSets(old.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("scale replica set %s: %w", old.Name, err)
	}
	*rs = got
	r.replace(got)
	if from != replicas {
		direction := "up"
		if replicas < from {
			direction = "down"
		}
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, old.Name, from, replicas)
	}
	return nil
}

// replace puts a newer state of a set into the round.
func (r *round) replace(rs *appsv1.ReplicaSet) {
	for _, list := range [][]*appsv1.ReplicaSet{r.all, r.old} {
		for i := range list {
			if list[i].UID == rs.UID {
				list[i] = rs
			}
		}
	}
	if r.newSet != nil && r.newSet.UID == rs.UID {
		r.newSet = rs
	}
}

// shrinkOld takes replicas from the old sets as far as the strategy allows, unhealthy ones first.
func (r *round) shrinkOld(ctx context.Context) (bool, error) {
	plan := shrinkPlan(r.d, r.all, r.newSet, r.old)
	for i, rs := range r.old {
		if want, ok := plan[rs.UID]; ok {
			if err := r.scale(ctx, &r.old[i], want); err != nil {
				return false, err
			}
		}
	}
	return len(plan) > 0, nil
}

// scaleProportionally spreads a changed size: to the only active set, or over all of them while a rollout is under way. The largest comes first; of
// equals the newer one when they grow, the older one when they shrink.
func (r *round) scaleProportionally(ctx context.Context) error {
	plan := proportionalPlan(r.d, r.all, r.newSet, r.old)
	growth := int32(0)
	for _, rs := range r.all {
		if want, ok := plan[rs.UID]; ok {
			growth += want - *rs.Spec.Replicas
		}
	}
	for _, rs := range slices.SortedFunc(slices.Values(r.all), func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if growth > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	}) {
		if want, ok := plan[rs.UID]; ok {
			if err := r.scale(ctx, &rs, want); err != nil {
				return err
			}
		}
	}
	return nil
}

// cleanUp deletes old sets beyond the history limit.
func (r *round) cleanUp(ctx context.Context) error {
	for _, rs := range beyondHistory(r.d, r.old) {
		err := r.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s: %w", rs.Name, err)
		}
	}
	return nil
}

// comeBack makes sure that the deployment is looked at when its progress deadline passes: nothing else may happen by then.
func (r *round) comeBack() {
	deadline := r.d.Spec.ProgressDeadlineSeconds
	if !hasDeadline(r.d) || complete(r.d, &r.d.Status) {
		return
	}
	progressing := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if progressing == nil || progressing.Reason == reasonTimedOut || progressing.Reason == reasonNewSetAvailable {
		return
	}
	after := progressing.LastUpdateTime.Add(time.Duration(*deadline) * time.Second).Sub(r.clock.Now())
	r.loop.AddAfter(r.d.Namespace+"/"+r.d.Name, max(after, 0)+time.Second)
}

func (r *round) writeStatus(ctx context.Context, status appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(r.d.Status, status) {
		return nil
	}
	updated := r.d.DeepCopy()
	updated.Status = status
	got, err := r.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	r.d = got
	return nil
}
