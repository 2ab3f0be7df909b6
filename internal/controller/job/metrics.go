package job

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Metrics counts what the controller does, under upstream's names. A nil *Metrics counts nothing.
type Metrics struct {
	syncs    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	finished *prometheus.CounterVec
	pods     *prometheus.CounterVec
	created  *prometheus.CounterVec
	external *prometheus.CounterVec
	policies *prometheus.CounterVec
	indexes  *prometheus.CounterVec
	waiting  *prometheus.CounterVec
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	const subsystem = "job_controller"
	m := &Metrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "job_syncs_total", Help: "Looks at a Job, by what was done."}, []string{"completion_mode", "result", "action"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "job_sync_duration_seconds", Help: "How long a look at a Job took.", Buckets: prometheus.ExponentialBuckets(0.004, 2, 15)},
			[]string{"completion_mode", "result", "action"}),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "jobs_finished_total", Help: "Jobs that have ended, by how."}, []string{"completion_mode", "result", "reason"}),
		pods: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "job_pods_finished_total", Help: "Pods that have ended and are counted in the status of their Job."}, []string{"completion_mode", "result"}),
	}
	m.created = prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: subsystem, Name: "job_pods_creation_total", Help: "Pods that were made, or should have been, by why."}, []string{"reason", "status"})
	m.external = prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: subsystem, Name: "jobs_by_external_controller_total", Help: "Jobs that somebody else looks after."}, []string{"controller_name"})
	m.policies = prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: subsystem, Name: "pod_failures_handled_by_failure_policy_total", Help: "Failed pods that a rule of the failure policy was for, by what it does."}, []string{"action"})
	m.indexes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: subsystem, Name: "job_finished_indexes_total", Help: "Indexes that have ended, by whether each has a limit of its own."}, []string{"status", "backoffLimit"})
	m.waiting = prometheus.NewCounterVec(prometheus.CounterOpts{
		Subsystem: subsystem, Name: "terminated_pods_tracking_finalizer_total", Help: "Pods that ended while the finalizer of jobs was on them, and those of them that lost it."}, []string{"event"})
	r.MustRegister(m.syncs, m.duration, m.finished, m.pods, m.created, m.external, m.policies, m.indexes, m.waiting)
	return m
}

// What a look at a Job did.
const (
	reconciling = "reconciling"
	tracking    = "tracking"
	podsCreated = "pods_created"
	podsDeleted = "pods_deleted"
)

func mode(j *batchv1.Job) string {
	if isIndexed(j) {
		return string(batchv1.IndexedCompletion)
	}
	return string(batchv1.NonIndexedCompletion)
}

func (m *Metrics) synced(j *batchv1.Job, action string, took time.Duration, err error) {
	if m == nil {
		return
	}
	result := "success"
	if err != nil {
		result = "error"
	}
	m.syncs.WithLabelValues(mode(j), result, action).Inc()
	m.duration.WithLabelValues(mode(j), result, action).Observe(took.Seconds())
}

// made counts pods that a look was to make.
func (m *Metrics) made(j *batchv1.Job, failed, terminating bool, created int, err error) {
	if m == nil {
		return
	}
	reason := "new"
	switch {
	case replacesOnlyFailed(j) && failed:
		reason = "recreate_failed"
	case failed || terminating:
		reason = "recreate_terminating_or_failed"
	}
	if created > 0 {
		m.created.WithLabelValues(reason, "succeeded").Add(float64(created))
	}
	if err != nil {
		m.created.WithLabelValues(reason, "failed").Inc() // the rest was not tried
	}
}

// ruled counts failed pods that rules of the failure policy were for.
func (m *Metrics) ruled(actions []batchv1.PodFailurePolicyAction) {
	if m != nil {
		for _, a := range actions {
			m.policies.WithLabelValues(string(a)).Inc()
		}
	}
}

// foreign counts a Job that somebody else looks after, once.
// waits counts pods that have ended and still have the finalizer, and those that lost it. Before or after may be nil.
func (m *Metrics) waits(before, after *corev1.Pod) {
	if m == nil {
		return
	}
	does := func(p *corev1.Pod) bool {
		return p != nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed) && hasFinalizer(p)
	}
	switch was, is := does(before), does(after); {
	case is && !was:
		m.waiting.WithLabelValues("add").Inc()
	case was && !is:
		m.waiting.WithLabelValues("delete").Inc()
	}
}

func (m *Metrics) foreign(by string) {
	if m != nil {
		m.external.WithLabelValues(by).Inc()
	}
}

// wrote counts what is new in a status.
func (m *Metrics) wrote(before, after *batchv1.Job) {
	if m == nil {
		return
	}
	if isIndexed(after) {
		n := int(ptr.Deref(after.Spec.Completions, 0))
		limit := "global"
		if after.Spec.BackoffLimitPerIndex != nil {
			limit = "perIndex"
		}
		if more := parseIndexes(after.Status.CompletedIndexes, n).total() - parseIndexes(before.Status.CompletedIndexes, n).total(); more > 0 {
			m.indexes.WithLabelValues("succeeded", limit).Add(float64(more))
		}
		if more := parseIndexes(ptr.Deref(after.Status.FailedIndexes, ""), n).total() - parseIndexes(ptr.Deref(before.Status.FailedIndexes, ""), n).total(); more > 0 {
			m.indexes.WithLabelValues("failed", limit).Add(float64(more))
		}
	}
	for result, n := range map[string]int32{"succeeded": after.Status.Succeeded - before.Status.Succeeded, "failed": after.Status.Failed - before.Status.Failed} {
		if n > 0 { // a Job that is resumed may count from the beginning
			m.pods.WithLabelValues(mode(after), result).Add(float64(n))
		}
	}
	for t, result := range map[batchv1.JobConditionType]string{batchv1.JobComplete: "succeeded", batchv1.JobFailed: "failed"} {
		if c := condition(&after.Status, t); c != nil && c.Status == corev1.ConditionTrue && !isTrue(&before.Status, t) {
			m.finished.WithLabelValues(mode(after), result, c.Reason).Inc()
		}
	}
}
