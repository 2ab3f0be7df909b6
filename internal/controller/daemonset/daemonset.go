package daemonset

import (
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
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/pods"
	"github.com/celox/celox/internal/controller/revision"
)

const (
	// burst is the most pods that one reconciliation creates or deletes.
	burst = 250
	// Failed pods of one set on one node are replaced after a second, then two, up to a quarter of an hour.
	minBackoff = time.Second
	maxBackoff = 15 * time.Minute
)

// hashLabel carries the hash of a template, on revisions and pods.
const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// Controller reconciles DaemonSets.
type Controller struct {
	client   kubernetes.Interface
	sets     appslisters.DaemonSetLister
	nodes    corelisters.NodeLister
	history  *revision.History
	pods     *pods.Keeper
	recorder record.EventRecorder
	clock    clock.PassiveClock
	backoff  *flowcontrol.Backoff
	stale    controller.Stale
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.Clock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	sets, nodes, revisions := f.Apps().V1().DaemonSets(), f.Core().V1().Nodes(), f.Apps().V1().ControllerRevisions()
	ctl := &Controller{
		client: c, sets: sets.Lister(), nodes: nodes.Lister(), recorder: recorder, clock: clk,
		history: &revision.History{Client: c, Lister: revisions.Lister(), Kind: kind},
		backoff: flowcontrol.NewBackOff(minBackoff, maxBackoff), stale: m.Stale("daemonset_controller"),
	}
	ctl.backoff.Clock = clk
	var err error
	ctl.pods, err = pods.New(pods.Config{
		Client: c, Informers: f, Recorder: recorder, Clock: clk, Kind: kind,
		Queue:    func(key string) { ctl.loop.Add(key) },
		Matching: ctl.matching,
		Fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return c.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("daemonset: %w", err)
	}
	ctl.loop = controller.NewLoop("daemonset", ctl.Reconcile, controller.Options{
		Workers: 2, Log: log, Metrics: m,
		Synced: []cache.InformerSynced{sets.Informer().HasSynced, nodes.Informer().HasSynced, revisions.Informer().HasSynced, ctl.pods.HasSynced},
	})
	queue := func(ds *appsv1.DaemonSet) { ctl.loop.AddObject(ds) }
	queueAll := func(*corev1.Node) { ctl.queueAll() }
	lost := func(r *appsv1.ControllerRevision) {
		if metav1.GetControllerOfNoCopy(r) != nil {
			ctl.revisionSeen(r)
		}
	}
	return ctl, errors.Join(
		controller.Watch(sets.Informer(), controller.Handlers[*appsv1.DaemonSet]{Changed: queue, Delete: queue}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{Add: queueAll, Delete: queueAll, Update: func(old, n *corev1.Node) {
			// Heartbeats and images change nothing for a set.
			if !equality.Semantic.DeepEqual(old.Labels, n.Labels) || !equality.Semantic.DeepEqual(old.Spec, n.Spec) {
				ctl.queueAll()
			}
		}}),
		controller.Watch(revisions.Informer(), controller.Handlers[*appsv1.ControllerRevision]{
			Add: func(r *appsv1.ControllerRevision) {
				if metav1.GetControllerOfNoCopy(r) == nil { // else somebody has made it just now, and knows
					ctl.revisionSeen(r)
				}
			},
			Update: func(old, r *appsv1.ControllerRevision) {
				lost(old)
				ctl.revisionSeen(r)
			},
			Delete: lost,
		}),
	)
}

// revisionSeen has the set of a revision looked at, or those that may want to adopt it.
func (c *Controller) revisionSeen(r *appsv1.ControllerRevision) {
	if ref := metav1.GetControllerOfNoCopy(r); ref != nil {
		if ref.Kind == kind.Kind && ref.APIVersion == kind.GroupVersion().String() {
			c.loop.Add(r.Namespace + "/" + ref.Name)
		}
		return
	}
	all, err := c.sets.DaemonSets(r.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, ds := range all {
		if selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(r.Labels)) {
			c.loop.AddObject(ds)
		}
	}
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) queueAll() {
	all, err := c.sets.List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, ds := range all {
		c.loop.AddObject(ds)
	}
}

func (c *Controller) matching(pod *corev1.Pod) []metav1.Object {
	all, err := c.sets.DaemonSets(pod.Namespace).List(labels.Everything())
	return pods.Matching(pod, all, err, func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector })
}

// Reconcile brings the pods of one DaemonSet to what its spec and the nodes ask for.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	ds, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pods.Forget(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get daemon set: %w", err)
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of %s: %w", key, err)
	}
	if selector.Empty() {
		c.recorder.Eventf(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	revisions, err := c.history.List(ctx, ds, selector)
	if err != nil {
		return err
	}
	settled := c.stale.Look(c.pods.Settled(key))
	all, err := c.pods.Claim(ctx, ds, selector, pods.All)
	if err != nil {
		return err
	}
	if revisions, err = c.tidy(ctx, ds, revisions, all); err != nil {
		return err
	}
	current, revisions, collisions, err := c.history.Ensure(ctx, revisions, revision.Request{
		Owner: ds, Template: &ds.Spec.Template, HashLabel: hashLabel, Collisions: ds.Status.CollisionCount,
		Hash: func(_ []byte, n *int32) string { return revision.TemplateHash(&ds.Spec.Template, n) },
	})
	if err != nil {
		return err
	}
	r := &round{c: c, key: key, ds: ds, nodes: nodes, hash: current.Labels[hashLabel], now: c.clock.Now(), on: map[string][]*corev1.Pod{}}
	for _, p := range all {
		if pods.Ended(p) && p.DeletionTimestamp != nil {
			continue // its successor need not wait until it is out of the API
		}
		if node := nodeOf(p); node != "" { // one that is bound for nowhere, as an orphan may be, is no daemon's
			r.on[node] = append(r.on[node], p)
		}
	}
	var manageErr error
	if settled {
		r.place()
		// What a rollout may do depends on what place does, and waits for its effect.
		if len(r.create)+len(r.remove) == 0 && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			r.roll()
		}
		manageErr = r.act(ctx)
	}
	return errors.Join(manageErr, c.writeStatus(ctx, key, ds, r.status(collisions, settled)), c.truncate(ctx, ds, revisions, current.Name, all))
}

// tidy sees that every revision has a hash, and that none says what a newer one says: pods of the older become the newer one's. There are such after
// orphans were adopted.
func (c *Controller) tidy(ctx context.Context, ds *appsv1.DaemonSet, revisions []*appsv1.ControllerRevision, all []*corev1.Pod) ([]*appsv1.ControllerRevision, error) {
	api := c.client.AppsV1().ControllerRevisions(ds.Namespace)
	revisions = slices.Clone(revisions)
	var same []*appsv1.ControllerRevision
	data, err := revision.Data(&ds.Spec.Template)
	if err != nil {
		return nil, err
	}
	for i, r := range revisions {
		if _, there := r.Labels[hashLabel]; !there {
			r = r.DeepCopy()
			metav1.SetMetaDataLabel(&r.ObjectMeta, hashLabel, r.Name)
			if r, err = api.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
				return nil, fmt.Errorf("label revision %s: %w", revisions[i].Name, err)
			}
			revisions[i] = r
		}
		if len(revisions) > 1 && revision.Says(r, data) {
			same = append(same, r)
		}
	}
	if len(same) < 2 {
		return revisions, nil
	}
	keep := same[len(same)-1] // the oldest is first
	for _, r := range same[:len(same)-1] {
		for _, p := range all {
			if p.Labels[hashLabel] != r.Labels[hashLabel] || r.Labels[hashLabel] == keep.Labels[hashLabel] {
				continue
			}
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"labels":{%q:%q}}}`, p.UID, hashLabel, keep.Labels[hashLabel])
			if _, err := c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("label pod %s: %w", p.Name, err)
			}
		}
		if err := api.Delete(ctx, r.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("delete revision %s: %w", r.Name, err)
		}
		revisions = slices.DeleteFunc(revisions, func(o *appsv1.ControllerRevision) bool { return o.Name == r.Name })
	}
	return revisions, nil
}

// truncate drops the oldest revisions beyond the limit, but those that a pod still has. These count.
func (c *Controller) truncate(ctx context.Context, ds *appsv1.DaemonSet, revisions []*appsv1.ControllerRevision, current string, all []*corev1.Pod) error {
	hashes := map[string]bool{}
	for _, p := range all {
		hashes[p.Labels[hashLabel]] = true
	}
	live, limit := map[string]bool{current: true}, int(ptr.Deref(ds.Spec.RevisionHistoryLimit, 10))
	for _, r := range revisions {
		if r.Name != current && r.Labels[hashLabel] != "" && hashes[r.Labels[hashLabel]] {
			live[r.Name] = true
			limit--
		}
	}
	return c.history.Truncate(ctx, revisions, live, max(0, limit))
}

func (c *Controller) writeStatus(ctx context.Context, key string, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	// A pod becomes available by the passing of time alone.
	if ds.Spec.MinReadySeconds > 0 && status.NumberReady != status.NumberAvailable {
		c.loop.AddAfter(key, time.Duration(ds.Spec.MinReadySeconds)*time.Second)
	}
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	updated := ds.DeepCopy()
	updated.Status = status
	if _, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
