package statefulset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/pods"
	"github.com/celox/celox/internal/controller/revision"
)

// hashLabel carries the hash of a revision's data.
const hashLabel = "controller.kubernetes.io/hash"

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Controller reconciles StatefulSets.
type Controller struct {
	client   kubernetes.Interface
	sets     appslisters.StatefulSetLister
	claims   corelisters.PersistentVolumeClaimLister
	history  *revision.History
	pods     *pods.Keeper
	recorder record.EventRecorder
	clock    clock.PassiveClock
	loop     *controller.Loop
	metrics  *metrics

	warned sync.Map // claims that somebody else controls, of which was told, after the keys of their sets
}

// warnOnce tells that the retention policy does not apply to a claim that somebody else controls.
func (c *Controller) warnOnce(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim) {
	if _, told := c.warned.LoadOrStore(set.Namespace+"/"+set.Name+"/"+claim.Name, true); !told {
		c.recorder.Eventf(set, corev1.EventTypeWarning, "ConflictingController",
			"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)
	}
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	sets, claims, revisions := f.Apps().V1().StatefulSets(), f.Core().V1().PersistentVolumeClaims(), f.Apps().V1().ControllerRevisions()
	ctl := &Controller{
		client: c, sets: sets.Lister(), claims: claims.Lister(), recorder: recorder, clock: clk, metrics: newMetrics(m),
		history: &revision.History{Client: c, Lister: revisions.Lister(), Kind: kind},
	}
	var err error
	ctl.pods, err = pods.New(pods.Config{
		Client: c, Informers: f, Recorder: recorder, Clock: clk, Kind: kind,
		Queue:    func(key string) { ctl.loop.Add(key) },
		Matching: ctl.matching,
		Say: func(o pods.Owner, verb, pod string, err error) string {
			if apierrors.IsAlreadyExists(err) {
				return "" // it usually is the one before it, on its way out
			}
			return podEvent(o, verb, pod, err)
		},
		Fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return c.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("statefulset: %w", err)
	}
	ctl.loop = controller.NewLoop("statefulset", ctl.Reconcile, controller.Options{
		Workers: 5, Log: log, Metrics: m,
		Synced: []cache.InformerSynced{sets.Informer().HasSynced, claims.Informer().HasSynced, revisions.Informer().HasSynced, ctl.pods.HasSynced},
	})
	queue := func(set *appsv1.StatefulSet) { ctl.loop.AddObject(set) }
	return ctl, controller.Watch(sets.Informer(), controller.Handlers[*appsv1.StatefulSet]{Changed: queue, Delete: queue})
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) matching(pod *corev1.Pod) []metav1.Object {
	all, err := c.sets.StatefulSets(pod.Namespace).List(labels.Everything())
	all = slices.DeleteFunc(all, func(set *appsv1.StatefulSet) bool {
		_, ours := ordinalOf(set, pod.Name)
		return !ours
	})
	return pods.Matching(pod, all, err, func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector })
}

// Reconcile takes the next steps of one StatefulSet.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pods.Forget(key)
		c.metrics.forget(namespace, name)
		c.warned.Range(func(told, _ any) bool {
			if strings.HasPrefix(told.(string), key+"/") {
				c.warned.Delete(told)
			}
			return true
		})
		return nil
	} else if err != nil {
		return fmt.Errorf("get stateful set: %w", err)
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil // the API lets none through; another spec comes as an event
	}
	if !c.metrics.stale.Look(c.pods.Settled(key)) {
		return nil // what was created or deleted comes back as an event
	}
	all, err := c.pods.Claim(ctx, set, selector, func(p *corev1.Pod) bool {
		_, ours := ordinalOf(set, p.Name)
		return ours
	})
	if err != nil {
		return err
	}
	revisions, err := c.history.List(ctx, set, selector)
	if err != nil {
		return err
	}
	update, revisions, collisions, err := c.history.Ensure(ctx, revisions, revision.Request{
		Owner: set, Template: &set.Spec.Template, HashLabel: hashLabel, Hash: revision.DataHash, FirstHash: true,
		Collisions: ptr.To(ptr.Deref(set.Status.CollisionCount, 0)), // never nil, as upstream: the first revision is to have one name before and after the first status
	})
	if err != nil {
		return err
	}
	current := update
	for _, r := range revisions {
		if r.Name == set.Status.CurrentRevision {
			current = r
		}
	}
	r, err := newRound(c, key, set, all, current, update)
	if err != nil {
		return err
	}
	var stepErr error
	if set.DeletionTimestamp == nil {
		stepErr = r.step(ctx)
	}
	r.status.CollisionCount = collisions
	r.conclude()
	c.metrics.showLimit(set)
	return errors.Join(stepErr, c.writeStatus(ctx, key, set, r.status), c.truncate(ctx, set, revisions, all, current.Name, update.Name))
}

func (c *Controller) truncate(ctx context.Context, set *appsv1.StatefulSet, revisions []*appsv1.ControllerRevision, all []*corev1.Pod, used ...string) error {
	live := map[string]bool{}
	for _, name := range used {
		live[name] = true
	}
	for _, p := range all {
		live[p.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	return c.history.Truncate(ctx, revisions, live, int(ptr.Deref(set.Spec.RevisionHistoryLimit, 10)))
}

func (c *Controller) writeStatus(ctx context.Context, key string, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	// A pod becomes available by the passing of time alone.
	if set.Spec.MinReadySeconds > 0 && status.ReadyReplicas != status.AvailableReplicas {
		c.loop.AddAfter(key, time.Duration(set.Spec.MinReadySeconds)*time.Second)
	}
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	updated := set.DeepCopy()
	updated.Status = status
	if _, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
