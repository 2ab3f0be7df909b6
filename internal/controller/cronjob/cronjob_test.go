package cronjob

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
)

func aCron(text string, created time.Time, change func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "c", CreationTimestamp: metav1.NewTime(created)},
		Spec: batchv1.CronJobSpec{
			Schedule: text, TimeZone: ptr.To("Etc/UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: ptr.To(int32(3)), FailedJobsHistoryLimit: ptr.To(int32(1)),
		},
	}
	if change != nil {
		change(cj)
	}
	return cj
}

func TestDue(t *testing.T) {
	day := time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC) // Europe/Berlin goes from 2 to 3 o'clock
	tests := []struct {
		name, schedule, zone string
		created, now         time.Time
		change               func(*batchv1.CronJob)
		want                 time.Time
		many                 bool
	}{
		{"not yet", "0 * * * *", "Etc/UTC", day.Add(time.Minute), day.Add(time.Hour - 1), nil, time.Time{}, false},
		{"now", "0 * * * *", "Etc/UTC", day.Add(time.Minute), day.Add(time.Hour), nil, day.Add(time.Hour), false},
		{"the last of several", "*/10 * * * *", "Etc/UTC", day, day.Add(35 * time.Minute), nil, day.Add(30 * time.Minute), false},
		{"since the last", "0 * * * *", "Etc/UTC", day, day.Add(90 * time.Minute), func(cj *batchv1.CronJob) {
			cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(day.Add(time.Hour)))
		}, time.Time{}, false},
		{"beyond the deadline", "0 * * * *", "Etc/UTC", day.Add(time.Minute), day.Add(90 * time.Minute), func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = ptr.To(int64(60)) }, time.Time{}, false},
		{"missed for years", "* * * * *", "Etc/UTC", day.AddDate(-9, 0, 0), day.Add(30 * time.Second), nil, day, true},
		{"in the gap of the clock", "30 2 * * *", "Europe/Berlin", day, day.Add(12 * time.Hour), nil, time.Time{}, false},
		{"after the gap", "30 3 * * *", "Europe/Berlin", day, day.Add(12 * time.Hour), nil, day.Add(90 * time.Minute), false},
		{"never", "0 0 30 2 *", "Etc/UTC", day, day.AddDate(3, 0, 0), nil, time.Time{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cj := aCron(tt.schedule, tt.created, tt.change)
			cj.Spec.TimeZone = &tt.zone
			s, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			if got, many := due(cj, s, tt.now); !got.Equal(tt.want) || many != tt.many {
				t.Errorf("got %s (%v), want %s (%v)", got, many, tt.want, tt.many)
			}
		})
	}
	for _, cj := range []*batchv1.CronJob{aCron("x", day, nil), aCron("* * * * *", day, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Nowhere/At All") })} {
		if _, err := parse(cj); err == nil {
			t.Errorf("%s in %s was read", cj.Spec.Schedule, *cj.Spec.TimeZone)
		}
	}
}

// world runs the controller in virtual time over a fake API; run says how long each Job takes and how it ends.
func world(t *testing.T, cj func(now time.Time) *batchv1.CronJob, lasts time.Duration, result batchv1.JobConditionType, d time.Duration, check func(jobs []*batchv1.Job, cj *batchv1.CronJob)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		c := fake.NewClientset(cj(time.Now()))
		f := informers.New(c)
		ctl, err := New(c, f, record.NewFakeRecorder(1<<16), clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		counted := prometheus.NewRegistry()
		ctl.Metrics = NewMetrics(counted)
		jobs := f.Batch().V1().Jobs().Lister()
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
			all, err := jobs.List(labels.Everything())
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range all {
				if started := j.CreationTimestamp.Time; ended(j) == nil && time.Since(started) >= lasts {
					j = j.DeepCopy()
					j.Status.StartTime, j.Status.CompletionTime = ptr.To(metav1.NewTime(started)), ptr.To(metav1.Now())
					j.Status.Conditions = []batchv1.JobCondition{{Type: result, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
					if _, err := c.BatchV1().Jobs("default").UpdateStatus(ctx, j, metav1.UpdateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		synctest.Wait()
		all, err := jobs.List(labels.Everything())
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(all, byStart)
		got, err := c.BatchV1().CronJobs("default").Get(ctx, "c", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		check(all, got)
		families, err := counted.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if h := families[0].GetMetric()[0].GetHistogram(); families[0].GetName() != "cronjob_controller_job_creation_skew_duration_seconds" || h.GetSampleCount() < uint64(len(all)) {
			t.Errorf("%d jobs, measured %v", len(all), families)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	})
}

func count(t *testing.T, jobs []*batchv1.Job, cj *batchv1.CronJob, all, active int) {
	t.Helper()
	running := 0
	var names []string
	for _, j := range jobs {
		names = append(names, j.Name)
		if ended(j) == nil {
			running++
		}
	}
	if len(jobs) != all || running != active || len(cj.Status.Active) != active {
		t.Errorf("%d jobs, %d active, status %+v; want %d, %d: %v", len(jobs), running, cj.Status, all, active, names)
	}
}

func TestPoliciesInVirtualTime(t *testing.T) {
	every := func(change func(*batchv1.CronJob)) func(time.Time) *batchv1.CronJob {
		return func(now time.Time) *batchv1.CronJob { return aCron("* * * * *", now, change) }
	}
	policy := func(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
		return func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = p }
	}
	t.Run("history", func(t *testing.T) {
		world(t, every(nil), 10*time.Second, batchv1.JobComplete, 10*time.Minute+30*time.Second, func(jobs []*batchv1.Job, cj *batchv1.CronJob) {
			count(t, jobs, cj, 3, 0)
			if cj.Status.LastSuccessfulTime == nil || cj.Status.LastScheduleTime == nil || jobs[2].Name != nameFor(cj, cj.Status.LastScheduleTime.Time) {
				t.Errorf("status %+v", cj.Status)
			}
		})
	})
	t.Run("failures", func(t *testing.T) {
		world(t, every(nil), 10*time.Second, batchv1.JobFailed, 5*time.Minute+30*time.Second, func(jobs []*batchv1.Job, cj *batchv1.CronJob) { count(t, jobs, cj, 1, 0) })
	})
	t.Run("allow", func(t *testing.T) {
		world(t, every(nil), time.Hour, batchv1.JobComplete, 5*time.Minute+30*time.Second, func(jobs []*batchv1.Job, cj *batchv1.CronJob) { count(t, jobs, cj, 5, 5) })
	})
	t.Run("forbid", func(t *testing.T) {
		world(t, every(policy(batchv1.ForbidConcurrent)), time.Hour, batchv1.JobComplete, 5*time.Minute+30*time.Second, func(jobs []*batchv1.Job, cj *batchv1.CronJob) { count(t, jobs, cj, 1, 1) })
	})
	t.Run("replace", func(t *testing.T) {
		world(t, every(policy(batchv1.ReplaceConcurrent)), time.Hour, batchv1.JobComplete, 5*time.Minute+30*time.Second, func(jobs []*batchv1.Job, cj *batchv1.CronJob) {
			count(t, jobs, cj, 1, 1)
			if len(jobs) == 1 && jobs[0].Name != nameFor(cj, cj.Status.LastScheduleTime.Time) {
				t.Errorf("kept %s", jobs[0].Name)
			}
		})
	})
	t.Run("suspended", func(t *testing.T) {
		world(t, every(func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) }), time.Hour, batchv1.JobComplete, 5*time.Minute, func(jobs []*batchv1.Job, cj *batchv1.CronJob) { count(t, jobs, cj, 0, 0) })
	})
	t.Run("broken zone", func(t *testing.T) {
		world(t, every(func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Nowhere") }), time.Hour, batchv1.JobComplete, 5*time.Minute, func(jobs []*batchv1.Job, cj *batchv1.CronJob) { count(t, jobs, cj, 0, 0) })
	})
}

func TestJobFor(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 30, 0, 0, time.FixedZone("", 2*3600))
	j := jobFor(aCron("* * * * *", at, nil), at)
	if want := fmt.Sprintf("c-%d", at.Unix()/60); j.Name != want || j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2026-07-01T12:30:00+02:00" || metav1.GetControllerOf(j) == nil {
		t.Errorf("%+v", j.ObjectMeta)
	}
}

// TestNoSuchTime: who writes a schedule that is never due, or that nobody understands, is told.
func TestNoSuchTime(t *testing.T) {
	now := time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ name, schedule, zone, want string }{
		{"no such day", "0 0 31 2 *", "Etc/UTC", "Warning InvalidSchedule invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second"},
		{"no such zone", "0 0 1 2 *", "Nowhere", `Warning UnknownTimeZone invalid timeZone: "Nowhere": unknown time zone Nowhere`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := record.NewFakeRecorder(2)
			c := &Controller{recorder: events, clock: testclock.NewFakePassiveClock(now)}
			cj := aCron(tt.schedule, now, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = &tt.zone })
			if err := c.start(t.Context(), "default/c", cj); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-events.Events:
				if got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			default:
				t.Error("nothing is told")
			}
		})
	}
}
