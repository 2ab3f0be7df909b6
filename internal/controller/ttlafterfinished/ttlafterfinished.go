package ttlafterfinished

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Controller deletes Jobs whose time is over.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	clock  clock.PassiveClock
	loop   *controller.Loop

	latency *controller.Histogram
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	jobs := f.Batch().V1().Jobs()
	ctl := &Controller{client: c, jobs: jobs.Lister(), clock: clk}
	ctl.loop = controller.NewLoop("ttlafterfinished", ctl.Reconcile, controller.Options{Workers: 2, Synced: []cache.InformerSynced{jobs.Informer().HasSynced}, Log: log, Metrics: m})
	ctl.latency = m.Histogram("ttl_after_finished_controller_job_deletion_duration_seconds", "From when the time of a Job was over until it was deleted.", prometheus.ExponentialBuckets(0.1, 2, 14))
	return ctl, controller.Watch(jobs.Informer(), controller.Handlers[*batchv1.Job]{Changed: func(j *batchv1.Job) {
		if _, ok := over(j); ok && j.DeletionTimestamp == nil {
			ctl.loop.AddObject(j)
		}
	}})
}

// Run deletes until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// over returns when the time of a Job is over; false if it has not ended or may stay for ever.
func over(j *batchv1.Job) (time.Time, bool) {
	if j.Spec.TTLSecondsAfterFinished == nil {
		return time.Time{}, false
	}
	for i := range j.Status.Conditions {
		c := &j.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}

// Reconcile deletes a Job whose time is over, or comes back when it is.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	j, err := c.jobs.Jobs(namespace).Get(name)
	if err == nil && c.wait(key, j) {
		return nil
	}
	if err == nil {
		// Somebody may have given it more time since the cache saw it: the server's word decides.
		j, err = c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) || err == nil && c.wait(key, j) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get job: %w", err)
	}
	foreground := metav1.DeletePropagationForeground
	err = c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &j.UID, ResourceVersion: &j.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete job: %w", err)
	}
	if at, ok := over(j); ok {
		c.latency.Observe(c.clock.Since(at).Seconds())
	}
	return nil
}

// wait says that it is too early, and comes back in time.
func (c *Controller) wait(key string, j *batchv1.Job) bool {
	at, ok := over(j)
	if !ok || j.DeletionTimestamp != nil {
		return true
	}
	left := at.Sub(c.clock.Now())
	if left > 0 {
		c.loop.AddAfter(key, left)
	}
	return left > 0
}
