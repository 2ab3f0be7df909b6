package job

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// Metrics counts what the controller does, under upstream's names: those that are stable there. A nil *Metrics counts nothing.
type Metrics struct {
	syncs    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	finished *prometheus.CounterVec
	pods     *prometheus.CounterVec
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
	r.MustRegister(m.syncs, m.duration, m.finished, m.pods)
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

// wrote counts what is new in a status.
func (m *Metrics) wrote(before, after *batchv1.Job) {
	if m == nil {
		return
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
