package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/pods"
)

// managedBy is the value of spec.managedBy that means this controller.
const managedBy = "kubernetes.io/job-controller"

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Controller reconciles Jobs.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	// Metrics, if set before Run, counts.
	Metrics  *Metrics
	allPods  corelisters.PodLister
	pods     *pods.Keeper
	recorder record.EventRecorder
	clock    clock.PassiveClock
	stale    controller.Stale
	loop     *controller.Loop
	strays   *controller.Loop // keys of pods with our finalizer whom no Job counts

	mu       sync.Mutex           // guards the maps
	released map[types.UID]string // pods whose finalizer is gone while the informer still shows it, with the key of their Job
	written  map[string]uint64    // the revision of the last status written, by key: an older Job in the cache is not acted on
	failures map[string]*failures // of the Jobs that have not ended, by key
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	jobs := f.Batch().V1().Jobs()
	ctl := &Controller{
		client: c, jobs: jobs.Lister(), allPods: f.Core().V1().Pods().Lister(), recorder: recorder, clock: clk,
		released: map[types.UID]string{}, written: map[string]uint64{}, failures: map[string]*failures{},
		stale: m.Stale("job_controller"),
	}
	var err error
	ctl.pods, err = pods.New(pods.Config{
		Client: c, Informers: f, Recorder: recorder, Clock: clk, Kind: kind, Finalizer: batchv1.JobTrackingFinalizer,
		Queue:    func(key string) { ctl.loop.Add(key) },
		Matching: ctl.matching,
		Fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return c.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	synced := []cache.InformerSynced{jobs.Informer().HasSynced, ctl.pods.HasSynced}
	options := controller.Options{Workers: 5, Synced: synced, Log: log, Metrics: m, MinBackoff: minAPIBackoff, MaxBackoff: maxAPIBackoff}
	ctl.loop = controller.NewLoop("job", ctl.Reconcile, options)
	options.Workers = 1
	ctl.strays = controller.NewLoop("job_orphan_pod", ctl.releaseStray, options)
	queue := func(j *batchv1.Job) { ctl.loop.AddObject(j) }
	stray := func(p *corev1.Pod) {
		if hasFinalizer(p) && !ctl.isCounted(p) {
			ctl.strays.AddObject(p)
		}
	}
	arrived := func(j *batchv1.Job) {
		if by := j.Spec.ManagedBy; by != nil && *by != managedBy {
			ctl.Metrics.foreign(*by)
		}
		queue(j)
	}
	return ctl, errors.Join(
		controller.Watch(jobs.Informer(), controller.Handlers[*batchv1.Job]{Add: arrived, Delete: queue, Update: func(old, j *batchv1.Job) {
			queue(j)
			_, before := Finished(old)
			if _, finished := Finished(j); finished && !before {
				ctl.queueStrays(j)
			}
		}}),
		controller.Watch(f.Core().V1().Pods().Informer(), controller.Handlers[*corev1.Pod]{
			Add: func(p *corev1.Pod) {
				ctl.Metrics.waits(nil, p)
				stray(p)
			},
			Update: func(old, p *corev1.Pod) {
				ctl.Metrics.waits(old, p)
				stray(p)
			},
			Delete: func(p *corev1.Pod) { ctl.Metrics.waits(p, nil) },
		}),
	)
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var strays sync.WaitGroup
	var strayErr error
	strays.Go(func() { strayErr = c.strays.Run(ctx) })
	err := c.loop.Run(ctx)
	strays.Wait()
	return errors.Join(err, strayErr)
}

func (c *Controller) matching(pod *corev1.Pod) []metav1.Object {
	all, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	return pods.Matching(pod, all, err, func(j *batchv1.Job) *metav1.LabelSelector { return j.Spec.Selector })
}

// Reconcile brings one Job a step further.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	cached, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return c.releaseOwned(ctx, namespace, name)
	} else if err != nil {
		return fmt.Errorf("get job: %w", err)
	}
	if cached.Spec.ManagedBy != nil && *cached.Spec.ManagedBy != managedBy {
		return nil
	}
	if _, finished := Finished(cached); finished {
		c.forgetFailures(key)
		return nil
	}
	if c.isStale(key, cached) {
		return nil // an event of the newer state queues the key again
	}
	selector, err := metav1.LabelSelectorAsSelector(cached.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of %s: %w", key, err)
	}
	settled := c.stale.Look(c.pods.Settled(key))
	all, err := c.pods.Claim(ctx, cached, selector, pods.All)
	if err != nil {
		return err
	}
	if m := cached.Spec.CompletionMode; m != nil && *m != batchv1.NonIndexedCompletion && *m != batchv1.IndexedCompletion {
		c.recorder.Event(cached, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return nil
	}
	r := c.count(key, cached.DeepCopy(), all)
	r.settled = settled
	var manageErr error
	if end := r.end(); end != nil {
		manageErr = r.finish(ctx, end)
	} else {
		managed := settled && cached.DeletionTimestamp == nil
		if managed {
			r.action = tracking
			manageErr = r.manage(ctx)
		}
		if end := r.complete(); end != nil {
			r.note(end)
		} else if managed {
			r.suspension()
		}
	}
	if cached.DeletionTimestamp != nil {
		r.releaseRest(false)
	}
	err = errors.Join(manageErr, r.write(ctx, cached))
	c.Metrics.synced(cached, r.action, c.clock.Since(r.now), err)
	return err
}

func (c *Controller) forget(key string) {
	c.pods.Forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.written, key)
	delete(c.failures, key)
	for uid, k := range c.released {
		if k == key {
			delete(c.released, uid)
		}
	}
}

func (c *Controller) forgetFailures(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failures, key)
}

// failuresOf returns what is remembered of a Job's failures. Only who reconciles the Job uses it.
func (c *Controller) failuresOf(key string) *failures {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.failures[key]
	if f == nil {
		f = &failures{}
		c.failures[key] = f
	}
	return f
}

func (c *Controller) isStale(key string, j *batchv1.Job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return revision(j) < c.written[key]
}

// revision reads a resource version, which the API lets one compare since v1.35 (KEP-5504).
func revision(j *batchv1.Job) uint64 {
	n, err := strconv.ParseUint(j.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *Controller) updateStatus(ctx context.Context, key string, j *batchv1.Job) (*batchv1.Job, error) {
	got, err := c.client.BatchV1().Jobs(j.Namespace).UpdateStatus(ctx, j, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update status: %w", err)
	}
	c.mu.Lock()
	c.written[key] = revision(got)
	c.mu.Unlock()
	return got, nil
}

// isCounted says that the Job which controls a pod exists and has not ended. What was created unnoticed, because its answer was lost, may outlast the
// Job's end: nobody will count it.
func (c *Controller) isCounted(p *corev1.Pod) bool {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return false
	}
	j, err := c.jobs.Jobs(p.Namespace).Get(ref.Name)
	if err != nil || j.UID != ref.UID {
		return false
	}
	_, finished := Finished(j)
	return !finished
}

// queueStrays looks at the pods that a Job leaves behind when it ends.
func (c *Controller) queueStrays(j *batchv1.Job) {
	all, err := c.allPods.Pods(j.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, p := range all {
		if hasFinalizer(p) && metav1.IsControlledBy(p, j) {
			c.strays.AddObject(p)
		}
	}
}

// releaseOwned removes the finalizer of the pods of a Job that is gone.
func (c *Controller) releaseOwned(ctx context.Context, namespace, name string) error {
	all, err := c.allPods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, p := range all {
		ref := metav1.GetControllerOf(p)
		if ref != nil && ref.Kind == kind.Kind && ref.Name == name && hasFinalizer(p) {
			errs = append(errs, c.release(ctx, p))
		}
	}
	return errors.Join(errs...)
}

// releaseStray removes the finalizer of a pod that no Job counts any more.
func (c *Controller) releaseStray(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	p, err := c.allPods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (c.isCounted(p) || !hasFinalizer(p)) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	if metav1.GetControllerOf(p) == nil && p.DeletionTimestamp == nil && len(c.matching(p)) > 0 {
		return nil // a Job is about to adopt it
	}
	if ref := metav1.GetControllerOf(p); ref != nil && ref.Kind == kind.Kind && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		if j, err := c.jobs.Jobs(namespace).Get(ref.Name); err == nil && j.UID == ref.UID { // it has ended, and so have its pods
			err := c.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete pod %s: %w", name, err)
			}
		}
	}
	return c.release(ctx, p)
}

func hasFinalizer(p *corev1.Pod) bool {
	for _, f := range p.Finalizers {
		if f == batchv1.JobTrackingFinalizer {
			return true
		}
	}
	return false
}

// release removes our finalizer from a pod. A pod that is gone is no error.
func (c *Controller) release(ctx context.Context, p *corev1.Pod) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, p.UID, batchv1.JobTrackingFinalizer)
	_, err := c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
		return fmt.Errorf("remove finalizer of pod %s: %w", p.Name, err)
	}
	return nil
}

// isReleased says that we have removed the finalizer that the cached pod still shows.
func (c *Controller) isReleased(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, is := c.released[uid]
	return is
}

// manage creates and deletes pods so that as many run as should.
func (r *round) manage(ctx context.Context) error {
	j := r.job
	if isSuspended(j) {
		return r.retire(ctx, r.active)
	}
	wanted := r.wanted()
	if remove := surplus(j, r.active, max(0, len(r.active)-wanted)); len(remove) > 0 {
		return r.retire(ctx, remove[:min(len(remove), burst)])
	}
	missing := wanted - len(r.active)
	if replacesOnlyFailed(j) {
		missing -= len(r.terminating)
	}
	if missing <= 0 {
		return nil
	}
	r.action = podsCreated
	if j.Spec.BackoffLimitPerIndex == nil {
		if wait := r.failures.backoff(r.now); wait > 0 {
			r.c.loop.AddAfter(r.key, wait)
			return nil
		}
	}
	missing = min(missing, burst)
	var made []*corev1.Pod
	if isIndexed(j) {
		made = r.indexedPods(missing)
	} else {
		for range missing {
			made = append(made, r.pod())
		}
	}
	created, err := r.c.pods.CreateAll(ctx, r.key, j, made)
	r.created = created
	r.c.Metrics.made(j, r.failed() > 0, len(r.terminating) > 0, created, err)
	return err
}

// suspension says in the status whether the Job is suspended, whatever else is to be done: a status that could not be written is made again.
func (r *round) suspension() {
	s := &r.job.Status
	if isSuspended(r.job) {
		// The deadline counts from the resumption (see count); a start time can be changed only while the Job is suspended.
		s.StartTime = nil
		if setCondition(s, batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", r.now) {
			r.events = append(r.events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
		}
		return
	}
	if setCondition(s, batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", r.now) {
		r.events = append(r.events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	}
}

// minAPIBackoff and maxAPIBackoff are the pauses after requests that failed: more than others take, because each look may make many.
const (
	minAPIBackoff = time.Second
	maxAPIBackoff = time.Minute
)

// burst is the most pods that one reconciliation creates; the rest follows when those were seen.
const burst = 500

// wanted is how many pods should be active.
func (r *round) wanted() int {
	parallel := int(ptr.Deref(r.job.Spec.Parallelism, 1))
	if r.job.Spec.Completions == nil {
		// A work queue: once a pod has succeeded the others know that the work is done, and none is started.
		if r.succeeded() > 0 {
			return len(r.active) // those that work may end
		}
		return parallel
	}
	return max(0, min(parallel, int(*r.job.Spec.Completions)-r.succeeded()))
}

func (r *round) pod() *corev1.Pod {
	p := r.c.pods.FromTemplate(r.job, &r.job.Spec.Template)
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	return p
}

// indexedPods makes pods for the first n indexes that have none and may have one now.
func (r *round) indexedPods(n int) []*corev1.Pod {
	busy := map[int]bool{}
	for _, p := range r.active {
		busy[indexOf(p)] = true
	}
	if replacesOnlyFailed(r.job) {
		for _, p := range r.terminating {
			busy[indexOf(p)] = true
		}
	}
	perIndex := r.job.Spec.BackoffLimitPerIndex != nil
	soonest := time.Duration(0)
	next := pending(n, int(*r.job.Spec.Completions), func(i int) bool {
		return busy[i] || r.completed.has(i) || r.failedIndexes.has(i)
	})
	// An index that waits keeps its place: those after it don't go before.
	free := slices.DeleteFunc(next, func(i int) bool {
		failed := r.lastFailed[i]
		if !perIndex || failed == nil {
			return false
		}
		counted, ignored := failuresBefore(failed)
		wait := finishedAt(failed).Add(delay(counted + ignored + 1)).Sub(r.now)
		if wait > 0 && (soonest == 0 || wait < soonest) {
			soonest = wait
		}
		return wait > 0
	})
	if soonest > 0 {
		r.c.loop.AddAfter(r.key, soonest)
	}
	var made []*corev1.Pod
	for _, i := range free {
		p := r.pod()
		giveIndex(p, r.job, i)
		if perIndex {
			counted, ignored := 0, 0
			if failed := r.lastFailed[i]; failed != nil {
				counted, ignored = failuresBefore(failed)
				if judge(r.job, failed).action == batchv1.PodFailurePolicyActionIgnore {
					ignored++
				} else {
					counted++
				}
			}
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(counted)
			if ignored > 0 {
				p.Annotations[ignoredFailures] = strconv.Itoa(ignored)
			}
		}
		made = append(made, p)
	}
	return made
}

// retire deletes pods that are in the way: they lose the finalizer first, so that they do not count as failed.
func (r *round) retire(ctx context.Context, remove []*corev1.Pod) error {
	if len(remove) > 0 {
		r.action = podsDeleted
	}
	if err := r.releaseAll(ctx, remove); err != nil {
		return err
	}
	return r.deleteActive(ctx, remove)
}

// deleteActive deletes pods; they are on their way out from then on.
func (r *round) deleteActive(ctx context.Context, remove []*corev1.Pod) error {
	err := r.c.pods.DeleteAll(ctx, r.key, r.job, remove)
	if err != nil {
		return err
	}
	gone := map[types.UID]bool{}
	for _, p := range remove {
		gone[p.UID] = true
	}
	kept := r.active[:0:0]
	for _, p := range r.active {
		if !gone[p.UID] {
			kept = append(kept, p)
		}
	}
	r.active, r.terminating = kept, append(r.terminating, remove...)
	return nil
}
