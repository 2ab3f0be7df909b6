package cronjob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// slack is added to a timer, so that it does not fire just before its time.
const slack = 100 * time.Millisecond

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Controller reconciles CronJobs.
type Controller struct {
	// Metrics, if set before Run, measures.
	Metrics  *Metrics
	client   kubernetes.Interface
	crons    batchlisters.CronJobLister
	jobs     batchlisters.JobLister
	recorder record.EventRecorder
	clock    clock.PassiveClock
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	crons, jobs := f.Batch().V1().CronJobs(), f.Batch().V1().Jobs()
	ctl := &Controller{client: c, crons: crons.Lister(), jobs: jobs.Lister(), recorder: recorder, clock: clk}
	ctl.loop = controller.NewLoop("cronjob", ctl.Reconcile, controller.Options{
		Synced: []cache.InformerSynced{crons.Informer().HasSynced, jobs.Informer().HasSynced}, Log: log, Metrics: m,
	})
	queue := func(cj *batchv1.CronJob) { ctl.loop.AddObject(cj) }
	owner := func(j *batchv1.Job) {
		if ref := metav1.GetControllerOf(j); ref != nil && ref.Kind == kind.Kind && ref.APIVersion == kind.GroupVersion().String() {
			ctl.loop.Add(j.Namespace + "/" + ref.Name)
		}
	}
	return ctl, errors.Join(
		controller.Watch(crons.Informer(), controller.Handlers[*batchv1.CronJob]{Changed: queue}),
		controller.Watch(jobs.Informer(), controller.Handlers[*batchv1.Job]{Changed: owner, Delete: owner}),
	)
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile starts the Job that is due, if one is, and comes back at the next time.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	cached, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get cron job: %w", err)
	}
	all, err := c.jobs.Jobs(namespace).List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	jobs := slices.DeleteFunc(slices.Clone(all), func(j *batchv1.Job) bool {
		ref := metav1.GetControllerOf(j)
		return ref == nil || ref.UID != cached.UID
	})
	known, err := c.newest(ctx, cached, jobs)
	if known == nil || err != nil {
		return err
	}
	cj := known.DeepCopy()
	return errors.Join(
		c.look(ctx, cj, jobs),
		c.start(ctx, key, cj),
		c.writeStatus(ctx, known, cj),
		c.tidy(ctx, cj, jobs),
	)
}

// newest returns the CronJob as it is; nil if it is gone. One of its Jobs may come into sight before the status that names it: then only the server's word counts.
func (c *Controller) newest(ctx context.Context, cached *batchv1.CronJob, jobs []*batchv1.Job) (*batchv1.CronJob, error) {
	if !slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return ended(j) == nil && !isActive(cached, j) }) {
		return cached, nil
	}
	fresh, err := c.client.BatchV1().CronJobs(cached.Namespace).Get(ctx, cached.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && fresh.UID != cached.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get cron job: %w", err)
	}
	return fresh, nil
}

func isActive(cj *batchv1.CronJob, j *batchv1.Job) bool {
	return slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
}

func (c *Controller) writeStatus(ctx context.Context, known, cj *batchv1.CronJob) error {
	if equality.Semantic.DeepEqual(known.Status, cj.Status) {
		return nil
	}
	if _, err := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}

// ended returns how a Job ended, or nil.
func ended(j *batchv1.Job) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// look brings the list of active Jobs up to date.
func (c *Controller) look(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	known := map[string]bool{}
	for _, j := range jobs {
		known[string(j.UID)] = true
		i := slices.IndexFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		end := ended(j)
		switch {
		case i < 0 && end == nil:
			c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case i >= 0 && end != nil:
			cj.Status.Active = slices.Delete(cj.Status.Active, i, i+1)
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, end.Type)
		}
		if end != nil && end.Type == batchv1.JobComplete && j.Status.CompletionTime != nil {
			if cj.Status.LastSuccessfulTime == nil || cj.Status.LastSuccessfulTime.Before(j.Status.CompletionTime) {
				cj.Status.LastSuccessfulTime = j.Status.CompletionTime
			}
		}
	}
	for _, ref := range slices.Clone(cj.Status.Active) {
		if known[string(ref.UID)] {
			continue
		}
		// The informer of Jobs may be behind: only the server's word counts.
		j, err := c.client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("get job %s: %w", ref.Name, err)
		}
		if err != nil || j.UID != ref.UID {
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == ref.UID })
		}
	}
	return nil
}

// start starts the Job that is due.
func (c *Controller) start(ctx context.Context, key string, cj *batchv1.CronJob) error {
	if cj.DeletionTimestamp != nil {
		return nil
	}
	now := c.clock.Now()
	s, err := parse(cj)
	if zoneErr := (*zoneError)(nil); ptr.Deref(cj.Spec.Suspend, false) && !errors.As(err, &zoneErr) {
		return nil
	}
	if err != nil {
		reason := "UnparseableSchedule"
		if zoneErr := (*zoneError)(nil); errors.As(err, &zoneErr) {
			reason = "UnknownTimeZone"
		}
		c.recorder.Event(cj, corev1.EventTypeWarning, reason, err.Error())
		return nil // an update of the object may help, a retry does not
	}
	d, ok := nextIn(cj, s, now)
	if !ok {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : time difference between two schedules is less than 1 second", cj.Spec.Schedule)
		return nil
	}
	c.loop.AddAfter(key, d+slack)
	at, many := due(cj, s, now)
	if many {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if at.IsZero() {
		return nil
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && at.Add(time.Duration(*d)*time.Second).Before(now) {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return nil
	}
	name := nameFor(cj, at)
	if slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) {
		return nil
	}
	switch {
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0:
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return nil
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, ref := range slices.Clone(cj.Status.Active) {
			if err := c.remove(ctx, cj, ref.Name, &ref.UID); err != nil {
				return err
			}
			cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == ref.UID })
		}
	}
	j, err := c.client.BatchV1().Jobs(cj.Namespace).Create(ctx, jobFor(cj, at), metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		// Made before a restart or by a lost answer: ours if it says so.
		if j, err = c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("get job %s: %w", name, err)
		}
		if !metav1.IsControlledBy(j, cj) {
			return nil // the next has another name
		}
		if ended(j) != nil {
			cj.Status.LastScheduleTime = &metav1.Time{Time: at}
			return nil
		}
	case err != nil:
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job: %w", err)
	default:
		c.Metrics.created(j.CreationTimestamp.Sub(at))
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", j.Name)
	}
	ref, err := reference.GetReference(scheme.Scheme, j)
	if err != nil {
		return fmt.Errorf("refer to job %s: %w", j.Name, err)
	}
	cj.Status.Active = append(cj.Status.Active, *ref)
	cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	return nil
}

// remove deletes a Job with its pods.
func (c *Controller) remove(ctx context.Context, cj *batchv1.CronJob, name string, uid *types.UID) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cj.Namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: uid}})
	switch {
	case err == nil:
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	case apierrors.IsNotFound(err):
	case apierrors.IsConflict(err):
		return fmt.Errorf("delete job %s: %w", name, err)
	default:
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job %s: %w", name, err)
	}
	return nil
}

// tidy deletes the oldest of the ended Jobs beyond the limits of the history.
func (c *Controller) tidy(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	var good, bad []*batchv1.Job
	for _, j := range jobs {
		if end := ended(j); end != nil && end.Type == batchv1.JobComplete {
			good = append(good, j)
		} else if end != nil {
			bad = append(bad, j)
		}
	}
	var errs []error
	for _, h := range []struct {
		jobs  []*batchv1.Job
		limit *int32
	}{{good, cj.Spec.SuccessfulJobsHistoryLimit}, {bad, cj.Spec.FailedJobsHistoryLimit}} {
		if h.limit == nil || len(h.jobs) <= int(*h.limit) {
			continue
		}
		slices.SortFunc(h.jobs, byStart)
		for _, j := range h.jobs[:len(h.jobs)-int(*h.limit)] {
			errs = append(errs, c.remove(ctx, cj, j.Name, &j.UID))
		}
	}
	return errors.Join(errs...)
}

// byStart puts the Job that started first first; one that never did goes before all.
func byStart(a, b *batchv1.Job) int {
	if a.Status.StartTime == nil || b.Status.StartTime == nil {
		switch {
		case a.Status.StartTime != nil:
			return 1
		case b.Status.StartTime != nil:
			return -1
		}
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Or(a.Status.StartTime.Compare(b.Status.StartTime.Time), cmp.Compare(a.Name, b.Name))
}
