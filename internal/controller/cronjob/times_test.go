package cronjob

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clientgotesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
)

// TestClockChanges: what the clock leaves out is left out, what it shows twice is started twice, as cron in Go does it.
func TestClockChanges(t *testing.T) {
	for _, tt := range []struct {
		name, schedule, zone, from, to string
		want                           string // day, time and offset of each start
	}{
		{"forward, within the gap", "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", "2026-03-30T12:00", "28T02:30+01 30T02:30+02"},
		{"forward, at its beginning", "0 2 * * *", "Europe/Berlin", "2026-03-28T00:00", "2026-03-30T12:00", "28T02:00+01 30T02:00+02"},
		{"forward, at its end", "0 3 * * *", "Europe/Berlin", "2026-03-28T00:00", "2026-03-30T12:00", "28T03:00+01 29T03:00+02 30T03:00+02"},
		{"forward, every hour", "0 * * * *", "Europe/Berlin", "2026-03-28T23:00", "2026-03-29T02:30", "29T01:00+01 29T03:00+02 29T04:00+02"},
		{"forward at midnight", "0 0 * * *", "Africa/Cairo", "2026-04-22T00:00", "2026-04-26T12:00", "23T00:00+02 25T00:00+03 26T00:00+03"},
		{"forward by half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-02T00:00", "2026-10-05T12:00", "03T02:15+10 05T02:15+11"},
		{"back, shown twice", "30 2 * * *", "Europe/Berlin", "2026-10-24T00:00", "2026-10-26T12:00", "24T02:30+02 25T02:30+02 25T02:30+01 26T02:30+01"},
		{"back, at the change", "0 3 * * *", "Europe/Berlin", "2026-10-24T00:00", "2026-10-26T12:00", "24T03:00+02 25T03:00+01 26T03:00+01"},
		{"back, every hour", "0 * * * *", "Europe/Berlin", "2026-10-24T23:30", "2026-10-25T03:30", "25T02:00+02 25T02:00+01 25T03:00+01 25T04:00+01"},
		{"back, west", "30 1 * * *", "America/New_York", "2026-10-31T00:00", "2026-11-02T12:00", "31T01:30-04 01T01:30-04 01T01:30-05 02T01:30-05"},
		{"back by half an hour", "45 1 * * *", "Australia/Lord_Howe", "2026-04-02T15:00", "2026-04-06T12:00", "04T01:45+11 05T01:45+11 05T01:45+10 06T01:45+10"},
		{"never changed", "30 2 * * *", "Asia/Kolkata", "2026-03-28T00:00", "2026-03-30T12:00", "29T02:30+0530 30T02:30+0530"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			instant := func(text string) time.Time {
				at, err := time.Parse("2006-01-02T15:04", text)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			from, to := instant(tt.from), instant(tt.to)
			cj := aCron(tt.schedule, from, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = &tt.zone })
			s, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			// As the controller does it: it sleeps until the next start, and takes the last one that is due.
			var got []string
			for now := from; ; {
				d, ok := nextIn(cj, s, now)
				if now = now.Add(d); !ok || now.After(to) {
					break
				}
				at, _ := due(cj, s, now)
				if at.IsZero() {
					t.Fatalf("nothing is due at %s", now)
				}
				got = append(got, at.In(s.zone).Format("02T15:04Z07"))
				if strings.HasSuffix(tt.want, "0530") {
					got[len(got)-1] = at.In(s.zone).Format("02T15:04Z0700")
				}
				cj.Status.LastScheduleTime = &metav1.Time{Time: at}
			}
			if text := strings.Join(got, " "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
			names := map[string]bool{}
			for now := from; ; {
				d, ok := nextIn(cj, s, now)
				if now = now.Add(d); !ok || now.After(to) {
					break
				}
				if names[nameFor(cj, now)] {
					t.Errorf("two starts are called %s", nameFor(cj, now))
				}
				names[nameFor(cj, now)] = true
			}
		})
	}
}

func TestMissedStarts(t *testing.T) {
	begin := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name     string
		schedule string
		pause    time.Duration
		deadline *int64
		want     time.Time
		many     bool
	}{
		{"100", "* * * * *", 100 * time.Minute, nil, begin.Add(100 * time.Minute), false},
		{"101", "* * * * *", 101 * time.Minute, nil, begin.Add(101 * time.Minute), true},
		{"a year of minutes", "* * * * *", 365*24*time.Hour + 30*time.Second, nil, begin.Add(365 * 24 * time.Hour), true},
		{"ten years of days", "0 12 * * *", 3650*24*time.Hour + time.Hour, nil, begin.Add(3649*24*time.Hour + 12*time.Hour), true},
		{"a deadline bounds them", "* * * * *", 365*24*time.Hour + 30*time.Second, ptr.To(int64(600)), begin.Add(365 * 24 * time.Hour), false},
		{"and may leave many", "* * * * *", 365*24*time.Hour + 30*time.Second, ptr.To(int64(6060)), begin.Add(365 * 24 * time.Hour), true},
		{"or none", "0 * * * *", 24*time.Hour + 30*time.Minute, ptr.To(int64(60)), time.Time{}, false},
		{"every so often, counted from the beginning", "@every 61m", 100*24*time.Hour + time.Minute, nil, begin.Add(2360 * 61 * time.Minute), true},
		{"every so often, none yet", "@every 61m", time.Hour, nil, time.Time{}, false},
		{"every so often, from the deadline on", "@every 61m", 24 * time.Hour, ptr.To(int64(4000)), begin.Add(24*time.Hour - 340*time.Second), false},
		{"in threes", "0,1,2 */3 * * *", 20*time.Hour + 10*time.Minute, nil, begin.Add(18*time.Hour + 2*time.Minute), false},
		{"with a rest in each hour", "*/7 * * * *", 12*time.Hour + 3*time.Minute, nil, begin.Add(12 * time.Hour), true},
		{"leap days", "0 0 29 2 *", 7 * 365 * 24 * time.Hour, nil, time.Date(2032, 2, 29, 0, 0, 0, 0, time.UTC), false},
		{"unevenly", "0 0 1 1 *", 20*365*24*time.Hour + 100*24*time.Hour, nil, time.Date(2046, 1, 1, 0, 0, 0, 0, time.UTC), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cj := aCron(tt.schedule, begin, func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = tt.deadline })
			s, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			if got, many := due(cj, s, begin.Add(tt.pause)); !got.Equal(tt.want) || many != tt.many {
				t.Errorf("got %s (%v), want %s (%v)", got, many, tt.want, tt.many)
			}
		})
	}
}

// TestEverySoOften: what is due every so often comes so long after the last start, also if somebody looks meanwhile, as after a restart.
func TestEverySoOften(t *testing.T) {
	begin := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name       string
		last, look time.Duration // since the beginning; 0 is never
		want       time.Duration
	}{
		{"at once", 0, 0, time.Hour},
		{"in between", 0, 20 * time.Minute, 40 * time.Minute},
		{"after a start", time.Hour, 90 * time.Minute, 30 * time.Minute},
		{"after a missed one", time.Hour, 200 * time.Minute, 40 * time.Minute},
		{"in time", time.Hour, 2 * time.Hour, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cj := aCron("@every 1h", begin, func(*batchv1.CronJob) {})
			if tt.last != 0 {
				cj.Status.LastScheduleTime = &metav1.Time{Time: begin.Add(tt.last)}
			}
			s, err := parse(cj)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := nextIn(cj, s, begin.Add(tt.look)); !ok || got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// stage is a CronJob of every minute and its controller, in virtual time that begins with a full minute.
type stage struct {
	*testing.T
	client *fake.Clientset
	events *record.FakeRecorder
	begin  time.Time
}

func play(t *testing.T, change func(*batchv1.CronJob), f func(s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, begin: time.Now(), events: record.NewFakeRecorder(1 << 12)}
		s.client = fake.NewClientset(aCron("* * * * *", s.begin, change))
		s.client.PrependReactor("create", "jobs", func(a clientgotesting.Action) (bool, runtime.Object, error) {
			if j, ok := a.(clientgotesting.CreateAction).GetObject().(*batchv1.Job); ok {
				j.UID = types.UID(j.Name)
			}
			return false, nil, nil
		})
		factory := informers.New(s.client)
		ctl, err := New(s.client, factory, s.events, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.StartWithContext(ctx)
		factory.WaitForCacheSync(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		f(s)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func (s *stage) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *stage) update(change func(*batchv1.CronJob)) {
	s.Helper()
	api := s.client.BatchV1().CronJobs("default")
	cj, err := api.Get(s.Context(), "c", metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	change(cj)
	if _, err := api.Update(s.Context(), cj, metav1.UpdateOptions{}); err != nil {
		s.Fatal(err)
	}
	s.pass(time.Second)
}

// starts checks for which minutes since the beginning there are Jobs.
func (s *stage) starts(when string, want ...int) {
	s.Helper()
	jobs, err := s.client.BatchV1().Jobs("default").List(s.Context(), metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	var got []int
	for i := range jobs.Items {
		at, err := time.Parse(time.RFC3339, jobs.Items[i].Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		if err != nil {
			s.Fatal(err)
		}
		got = append(got, int(at.Sub(s.begin)/time.Minute))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.Errorf("%s: started %v, want %v", when, got, want)
	}
}

// end ends the Job of a minute.
func (s *stage) end(minute int) {
	s.Helper()
	api := s.client.BatchV1().Jobs("default")
	cj := aCron("* * * * *", s.begin, nil)
	j, err := api.Get(s.Context(), nameFor(cj, s.begin.Add(time.Duration(minute)*time.Minute)), metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	j.Status.CompletionTime = ptr.To(metav1.Now())
	j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	if _, err := api.UpdateStatus(s.Context(), j, metav1.UpdateOptions{}); err != nil {
		s.Fatal(err)
	}
	s.pass(time.Second)
}

// told counts the events with a reason so far.
func (s *stage) told(reason string) int {
	n := 0
	for len(s.events.Events) > 0 {
		if e := <-s.events.Events; strings.Contains(e, " "+reason+" ") {
			n++
		}
	}
	return n
}

func TestSuspendAndResume(t *testing.T) {
	suspend := func(is bool) func(*batchv1.CronJob) {
		return func(cj *batchv1.CronJob) { cj.Spec.Suspend = &is }
	}
	for _, tt := range []struct {
		name     string
		deadline *int64
		want     []int
	}{
		// What was missed last is made up for at once.
		{"no deadline", nil, []int{1, 6, 7}},
		{"within the deadline", ptr.To(int64(45)), []int{1, 6, 7}},
		{"past the deadline", ptr.To(int64(20)), []int{1, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = tt.deadline }, func(s *stage) {
				s.pass(90 * time.Second)
				s.update(suspend(true))
				s.pass(5*time.Minute - 2*time.Second)
				s.starts("suspended", 1)
				s.update(suspend(false)) // half a minute after the sixth
				s.pass(time.Minute)
				s.starts("resumed", tt.want...)
			})
		})
	}
}

// TestManyMissedInAPause: after a long pause one start is made up for, and somebody is told that many were not.
func TestManyMissedInAPause(t *testing.T) {
	play(t, func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) }, func(s *stage) {
		s.pass(150*time.Minute + 30*time.Second)
		s.starts("suspended")
		s.update(func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(false) })
		s.starts("resumed", 150)
		if n := s.told("TooManyMissedTimes"); n != 1 {
			s.Errorf("told %d times", n)
		}
		s.pass(time.Minute)
		s.starts("as ever", 150, 151)
		if n := s.told("TooManyMissedTimes"); n != 0 {
			s.Errorf("told %d times more", n)
		}
	})
}

func TestConcurrencyPolicies(t *testing.T) {
	policy := func(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
		return func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = p }
	}
	t.Run("forbid makes up for the last", func(t *testing.T) {
		play(t, policy(batchv1.ForbidConcurrent), func(s *stage) {
			s.pass(3*time.Minute + 30*time.Second)
			s.starts("while it runs", 1)
			if n := s.told("JobAlreadyActive"); n == 0 {
				s.Error("nobody was told")
			}
			s.end(1)
			s.starts("when it has ended", 1, 3)
			s.pass(time.Minute)
			s.starts("that runs too", 1, 3)
		})
	})
	t.Run("forbid with a deadline doesn't", func(t *testing.T) {
		play(t, func(cj *batchv1.CronJob) {
			cj.Spec.ConcurrencyPolicy, cj.Spec.StartingDeadlineSeconds = batchv1.ForbidConcurrent, ptr.To(int64(10))
		}, func(s *stage) {
			s.pass(3*time.Minute + 30*time.Second)
			s.end(1)
			s.starts("when it has ended", 1)
			s.pass(time.Minute)
			s.starts("later", 1, 4)
		})
	})
	t.Run("forbid, then allow", func(t *testing.T) {
		play(t, policy(batchv1.ForbidConcurrent), func(s *stage) {
			s.pass(2*time.Minute + 30*time.Second)
			s.update(policy(batchv1.AllowConcurrent))
			s.starts("allowed", 1, 2)
		})
	})
	t.Run("replace leaves one", func(t *testing.T) {
		play(t, policy(batchv1.ReplaceConcurrent), func(s *stage) {
			for minute := 1; minute <= 3; minute++ {
				s.pass(time.Minute + time.Second)
				s.starts("replaced", minute)
			}
			if n := s.told("SuccessfulDelete"); n != 2 {
				s.Errorf("told of %d deletions", n)
			}
		})
	})
}
