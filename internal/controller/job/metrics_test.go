package job

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// counts are the counters and the numbers of observations, as name{labels} value.
func counts(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			n := m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				n = float64(h.GetSampleCount())
			}
			out = append(out, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), n))
		}
	}
	return strings.Join(out, "\n")
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r)
	plain := aJob(func(*batchv1.JobSpec) {})
	indexed := aJob(func(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.IndexedCompletion) })
	with := func(j *batchv1.Job, succeeded, failed int32, conditions ...batchv1.JobCondition) *batchv1.Job {
		j = j.DeepCopy()
		j.Status.Succeeded, j.Status.Failed, j.Status.Conditions = succeeded, failed, conditions
		return j
	}
	complete := batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, Reason: "CompletionsReached"}
	failed := batchv1.JobCondition{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}
	m.wrote(plain, with(plain, 1, 2))
	m.wrote(with(plain, 1, 2), with(plain, 4, 2, complete))
	m.wrote(with(plain, 4, 2, complete), with(plain, 4, 2, complete))
	m.wrote(with(indexed, 3, 0), with(indexed, 0, 1, failed))
	m.synced(plain, podsCreated, time.Second, nil)
	m.synced(plain, tracking, time.Second, errors.New("x"))
	(*Metrics)(nil).wrote(plain, plain)
	(*Metrics)(nil).synced(plain, tracking, 0, nil)
	m.made(plain, false, false, 2, nil)
	m.made(plain, true, false, 1, errors.New("x"))
	m.made(plain, false, true, 1, nil)
	m.made(aJob(func(s *batchv1.JobSpec) { s.PodReplacementPolicy = ptr.To(batchv1.Failed) }), true, true, 3, nil)
	ended := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{batchv1.JobTrackingFinalizer}}, Status: corev1.PodStatus{Phase: corev1.PodFailed}}
	m.waits(nil, ended)
	m.waits(ended, ended)
	m.waits(ended, &corev1.Pod{Status: ended.Status})
	(*Metrics)(nil).waits(nil, ended)
	m.foreign("example.com/queue")
	m.ruled([]batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionIgnore})
	more := indexed.DeepCopy()
	more.Spec.Completions, more.Status.CompletedIndexes = ptr.To(int32(5)), "0-2"
	m.wrote(indexed, more)
	want := `job_controller_job_finished_indexes_total{global,succeeded} 3
job_controller_job_pods_creation_total{new,succeeded} 2
job_controller_job_pods_creation_total{recreate_failed,succeeded} 3
job_controller_job_pods_creation_total{recreate_terminating_or_failed,failed} 1
job_controller_job_pods_creation_total{recreate_terminating_or_failed,succeeded} 2
job_controller_job_pods_finished_total{Indexed,failed} 1
job_controller_job_pods_finished_total{NonIndexed,failed} 2
job_controller_job_pods_finished_total{NonIndexed,succeeded} 4
job_controller_job_sync_duration_seconds{pods_created,NonIndexed,success} 1
job_controller_job_sync_duration_seconds{tracking,NonIndexed,error} 1
job_controller_job_syncs_total{pods_created,NonIndexed,success} 1
job_controller_job_syncs_total{tracking,NonIndexed,error} 1
job_controller_jobs_by_external_controller_total{example.com/queue} 1
job_controller_jobs_finished_total{Indexed,BackoffLimitExceeded,failed} 1
job_controller_jobs_finished_total{NonIndexed,CompletionsReached,succeeded} 1
job_controller_pod_failures_handled_by_failure_policy_total{Ignore} 1
job_controller_terminated_pods_tracking_finalizer_total{add} 1
job_controller_terminated_pods_tracking_finalizer_total{delete} 1`
	if got := counts(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
