package job

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func aJob(change func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "default"},
		Spec: batchv1.JobSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To(int64(0)),
				Containers: []corev1.Container{{Name: "c", Image: "i"}},
			}},
		},
	}
	change(&j.Spec)
	return j
}

// stage is an API with the controller, and a pretend node: end says how each pod that appears ends, or that it goes on.
type stage struct {
	*controllertest.Env
	t *testing.T
}

func newStage(t *testing.T) *stage {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	return &stage{e, t}
}

func (s *stage) create(j *batchv1.Job) {
	s.t.Helper()
	if _, err := s.Client.BatchV1().Jobs("default").Create(context.Background(), j, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) pods() []corev1.Pod {
	s.t.Helper()
	list, err := s.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=j"})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// end ends a pod with an exit code.
func (s *stage) end(p *corev1.Pod, code int32) {
	s.t.Helper()
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		p.Status.Phase = corev1.PodFailed
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: code, FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour))}}}} // long ago: nobody waits for a back-off
	if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil && !strings.Contains(err.Error(), "not found") && !strings.Contains(err.Error(), "modified") {
		s.t.Error(err)
	}
}

// play ends each pod as code says (negative: not at all) until done is true of the Job, and returns it.
func (s *stage) play(code func(*corev1.Pod) int32, done func(*batchv1.Job) error) *batchv1.Job {
	s.t.Helper()
	var j *batchv1.Job
	controllertest.Eventually(s.t, func() error {
		for _, p := range s.pods() {
			if c := code(&p); c >= 0 && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				s.end(&p, c)
			}
		}
		var err error
		if j, err = s.Client.BatchV1().Jobs("default").Get(context.Background(), "j", metav1.GetOptions{}); err != nil {
			return err
		}
		if err := done(j); err != nil {
			return fmt.Errorf("%w: %+v", err, j.Status)
		}
		return nil
	})
	return j
}

func has(t batchv1.JobConditionType) func(*batchv1.Job) error {
	return func(j *batchv1.Job) error {
		if !isTrue(&j.Status, t) {
			return fmt.Errorf("no condition %s", t)
		}
		return nil
	}
}

func always(code int32) func(*corev1.Pod) int32 { return func(*corev1.Pod) int32 { return code } }

func (s *stage) released() {
	s.t.Helper()
	for _, p := range s.pods() {
		if hasFinalizer(&p) {
			s.t.Errorf("pod %s still has the finalizer", p.Name)
		}
	}
}

func TestCompletions(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = ptr.To(int32(7)), ptr.To(int32(3)) }))
	j := s.play(always(0), has(batchv1.JobComplete))
	if j.Status.Succeeded != 7 || j.Status.Failed != 0 || j.Status.CompletionTime == nil || len(s.pods()) != 7 {
		t.Errorf("status %+v, %d pods", j.Status, len(s.pods()))
	}
	s.released()
}

func TestWorkQueue(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) { j.Parallelism = ptr.To(int32(3)) }))
	s.play(always(-1), func(j *batchv1.Job) error {
		if j.Status.Active != 3 {
			return fmt.Errorf("not 3 active")
		}
		return nil
	})
	j := s.play(always(0), has(batchv1.JobComplete))
	if j.Status.Succeeded != 3 || len(s.pods()) != 3 {
		t.Errorf("status %+v, %d pods", j.Status, len(s.pods()))
	}
}

func TestBackoffLimit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) { j.BackoffLimit = ptr.To(int32(2)) }))
	j := s.play(always(1), has(batchv1.JobFailed))
	if c := condition(&j.Status, batchv1.JobFailed); c.Reason != batchv1.JobReasonBackoffLimitExceeded || j.Status.Failed != 3 || !isTrue(&j.Status, batchv1.JobFailureTarget) {
		t.Errorf("status %+v", j.Status)
	}
	s.released()
}

func TestIndexed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) {
		j.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		j.Completions, j.Parallelism, j.BackoffLimitPerIndex = ptr.To(int32(6)), ptr.To(int32(4)), ptr.To(int32(1))
	}))
	j := s.play(func(p *corev1.Pod) int32 {
		if indexOf(p) == 3 {
			return 1
		}
		return 0
	}, has(batchv1.JobFailed))
	if c := condition(&j.Status, batchv1.JobFailed); c.Reason != batchv1.JobReasonFailedIndexes || j.Status.CompletedIndexes != "0-2,4,5" ||
		ptr.Deref(j.Status.FailedIndexes, "") != "3" || j.Status.Succeeded != 5 || j.Status.Failed != 2 {
		t.Errorf("status %+v", j.Status)
	}
	s.released()
	for _, p := range s.pods() {
		i := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		if p.Spec.Hostname != "j-"+i || !strings.HasPrefix(p.Name, "j-"+i+"-") || !hasEnv(&p.Spec.Containers[0], "JOB_COMPLETION_INDEX") {
			t.Errorf("pod %s of index %s: hostname %q, env %v", p.Name, i, p.Spec.Hostname, p.Spec.Containers[0].Env)
		}
	}
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) { j.Completions, j.Parallelism = ptr.To(int32(3)), ptr.To(int32(3)) }))
	s.play(always(-1), func(j *batchv1.Job) error {
		if j.Status.Active != 3 {
			return fmt.Errorf("not 3 active")
		}
		return nil
	})
	suspend := func(yes bool) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"spec":{"suspend":%v}}`, yes)
		if _, err := s.Client.BatchV1().Jobs("default").Patch(context.Background(), "j", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	suspend(true)
	j := s.play(always(-1), func(j *batchv1.Job) error {
		if j.Status.Active != 0 || len(s.pods()) != 0 {
			return fmt.Errorf("pods are left")
		}
		return has(batchv1.JobSuspended)(j)
	})
	if j.Status.StartTime != nil {
		t.Errorf("started at %s while suspended", j.Status.StartTime)
	}
	if j.Status.Failed != 0 {
		t.Errorf("suspending counted failures: %+v", j.Status)
	}
	time.Sleep(1100 * time.Millisecond) // times have seconds: the next start time is another
	suspend(false)
	j = s.play(always(0), has(batchv1.JobComplete))
	if c := condition(&j.Status, batchv1.JobSuspended); j.Status.Succeeded != 3 || c.Status != corev1.ConditionFalse || c.Reason != "JobResumed" {
		t.Errorf("status %+v", j.Status)
	}
}

// A suspended Job that shrinks to what it has done is complete; it begins as it ends.
func TestShrinksWhileSuspended(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) {
		j.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		j.Completions, j.Parallelism = ptr.To(int32(3)), ptr.To(int32(3))
	}))
	s.play(func(p *corev1.Pod) int32 {
		if indexOf(p) == 2 {
			return -1
		}
		return 0
	}, func(j *batchv1.Job) error {
		if j.Status.Succeeded != 2 {
			return fmt.Errorf("not 2 succeeded")
		}
		return nil
	})
	patch := func(text string) {
		t.Helper()
		if _, err := s.Client.BatchV1().Jobs("default").Patch(context.Background(), "j", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"spec":{"suspend":true}}`)
	s.play(always(-1), has(batchv1.JobSuspended))
	patch(`{"spec":{"completions":2,"parallelism":2}}`)
	j := s.play(always(-1), has(batchv1.JobComplete))
	if j.Status.StartTime == nil || j.Status.CompletedIndexes != "0,1" || j.Status.Succeeded != 2 {
		t.Errorf("status %+v", j.Status)
	}
}

// An indexed Job that shrinks forgets what came of the indexes beyond its end: when it grows again they begin anew, whatever their first pods say.
func TestShrinksAndGrows(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int32{"Failed": 0, "FailedOnce": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.create(aJob(func(j *batchv1.JobSpec) {
				j.CompletionMode, j.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), ptr.To(limit)
				j.Completions, j.Parallelism = ptr.To(int32(3)), ptr.To(int32(3))
			}))
			size := func(n int) {
				t.Helper()
				patch := fmt.Appendf(nil, `{"spec":{"completions":%d,"parallelism":%d}}`, n, n)
				if _, err := s.Client.BatchV1().Jobs("default").Patch(context.Background(), "j", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			s.play(func(p *corev1.Pod) int32 { // 0 goes on, 1 fails once, 2 succeeds
				switch counted, _ := failuresBefore(p); {
				case indexOf(p) == 1 && counted == 0:
					return 1
				case indexOf(p) == 2:
					return 0
				}
				return -1
			}, func(j *batchv1.Job) error {
				if j.Status.CompletedIndexes != "2" || j.Status.Failed != 1 || limit == 0 && ptr.Deref(j.Status.FailedIndexes, "") != "1" {
					return fmt.Errorf("not there yet")
				}
				return nil
			})
			size(1)
			s.play(always(-1), func(j *batchv1.Job) error {
				if j.Status.CompletedIndexes != "" || ptr.Deref(j.Status.FailedIndexes, "") != "" || j.Status.Succeeded != 0 || j.Status.Active != 1 {
					return fmt.Errorf("not small")
				}
				return nil
			})
			size(3)
			s.play(always(-1), func(j *batchv1.Job) error {
				if j.Status.CompletedIndexes != "" || ptr.Deref(j.Status.FailedIndexes, "") != "" || j.Status.Active != 3 {
					return fmt.Errorf("not large")
				}
				for _, p := range s.pods() {
					if counted, _ := failuresBefore(&p); counted != 0 && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodPending {
						return fmt.Errorf("%s has %d failures", p.Name, counted)
					}
				}
				return nil
			})
			j := s.play(always(0), has(batchv1.JobComplete))
			if j.Status.CompletedIndexes != "0-2" || j.Status.Succeeded != 3 || j.Status.Failed != 1 {
				t.Errorf("status %+v", j.Status)
			}
			s.released()
		})
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	onExit := func(action batchv1.PodFailurePolicyAction, code int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}}
	}
	tests := []struct {
		name   string
		change func(*batchv1.JobSpec)
		code   func(*corev1.Pod) int32
		end    batchv1.JobConditionType
		reason string
		check  func(batchv1.JobStatus) bool
	}{
		{"fail job", func(j *batchv1.JobSpec) {
			j.Completions, j.Parallelism = ptr.To(int32(2)), ptr.To(int32(1))
			j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{onExit(batchv1.PodFailurePolicyActionFailJob, 42)}}
		}, always(42), batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, func(s batchv1.JobStatus) bool {
			return s.Failed == 1 && strings.Contains(s.Conditions[0].Message, "failed with exit code 42 matching FailJob rule at index 0")
		}},
		{"success by one index", func(j *batchv1.JobSpec) {
			j.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			j.Completions, j.Parallelism = ptr.To(int32(3)), ptr.To(int32(3))
			j.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1-2"), SucceededCount: ptr.To(int32(1))}}}
		}, func(p *corev1.Pod) int32 {
			if indexOf(p) == 2 {
				return 0
			}
			return -1
		}, batchv1.JobComplete, batchv1.JobReasonSuccessPolicy, func(s batchv1.JobStatus) bool { return s.CompletedIndexes == "2" && s.Failed == 0 }},
		{"too many failed indexes", func(j *batchv1.JobSpec) {
			j.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			j.Completions, j.Parallelism = ptr.To(int32(4)), ptr.To(int32(4))
			j.BackoffLimitPerIndex, j.MaxFailedIndexes = ptr.To(int32(0)), ptr.To(int32(1))
		}, func(p *corev1.Pod) int32 {
			if indexOf(p) < 2 {
				return 1
			}
			return -1
		}, batchv1.JobFailed, batchv1.JobReasonMaxFailedIndexesExceeded, func(s batchv1.JobStatus) bool { return *s.FailedIndexes == "0,1" }},
		{"deadline", func(j *batchv1.JobSpec) { j.ActiveDeadlineSeconds = ptr.To(int64(1)) }, always(-1), batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded,
			func(s batchv1.JobStatus) bool { return s.Active == 0 && s.Failed == 1 }},
		{"deadline, and only failed pods are replaced", func(j *batchv1.JobSpec) {
			j.ActiveDeadlineSeconds, j.PodReplacementPolicy = ptr.To(int64(1)), ptr.To(batchv1.Failed)
		}, always(-1), batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded, func(s batchv1.JobStatus) bool { return s.Active == 0 && s.Failed == 1 }},
		{"less to do than there are pods", func(j *batchv1.JobSpec) {
			j.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			j.Completions, j.Parallelism, j.BackoffLimitPerIndex = ptr.To(int32(3)), ptr.To(int32(3)), ptr.To(int32(0))
		}, func(p *corev1.Pod) int32 { return int32(indexOf(p) % 2) }, batchv1.JobFailed, batchv1.JobReasonFailedIndexes,
			func(s batchv1.JobStatus) bool { return *s.FailedIndexes == "1" && s.CompletedIndexes == "0,2" }},
		{"nothing to do", func(j *batchv1.JobSpec) { j.Completions = ptr.To(int32(0)) }, always(-1), batchv1.JobComplete, batchv1.JobReasonCompletionsReached,
			func(s batchv1.JobStatus) bool { return s.Succeeded == 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.create(aJob(tt.change))
			j := s.play(tt.code, has(tt.end))
			if c := condition(&j.Status, tt.end); c.Reason != tt.reason || !tt.check(j.Status) {
				t.Errorf("status %+v", j.Status)
			}
			s.released()
		})
	}
}

func TestJobThatGoesLetsItsPodsGo(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(aJob(func(j *batchv1.JobSpec) { j.Parallelism = ptr.To(int32(2)) }))
	s.play(always(-1), func(j *batchv1.Job) error {
		if j.Status.Active != 2 {
			return fmt.Errorf("not 2 active")
		}
		return nil
	})
	orphan := metav1.DeletePropagationBackground
	if err := s.Client.BatchV1().Jobs("default").Delete(context.Background(), "j", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		for _, p := range s.pods() {
			if hasFinalizer(&p) {
				return fmt.Errorf("pod %s still has the finalizer", p.Name)
			}
		}
		return nil
	})
}

func TestIndexes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 40
		model := map[int]bool{}
		var set indexes
		for _, n := range rapid.SliceOf(rapid.IntRange(0, limit-1)).Draw(t, "n") {
			model[n] = true
			set = set.with(n, n)
		}
		again := parseIndexes(set.String(), limit)
		if set.total() != len(model) || again.String() != set.String() {
			t.Fatalf("%q of %v, read again %q", set, model, again)
		}
		for i := range limit {
			if set.has(i) != model[i] || again.has(i) != model[i] {
				t.Fatalf("%d in %q", i, set)
			}
		}
	})
	for text, want := range map[string]string{"": "", "0,1": "0,1", "1-3,5": "1-3,5", "3,1,2": "1-3", "x,2": "2", "5-2": "", "0-99": "0-9", "-1": "", "10": ""} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q reads as %q, want %q", text, got, want)
		}
	}
}

func FuzzIndexes(f *testing.F) {
	f.Add("0-2,5", 10)
	f.Add(",,--,9999999999999999999", 3)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		set := parseIndexes(text, limit)
		for _, r := range set {
			if r.first < 0 || r.last >= limit || r.last < r.first {
				t.Fatalf("run %v below %d", r, limit)
			}
		}
	})
}

// TestBackoff: failures since the last success count, also those of pods that are gone by now.
func TestBackoff(t *testing.T) {
	now, names := time.Unix(10000, 0), 0
	at := func(phase corev1.PodPhase, ago time.Duration) *corev1.Pod {
		names++
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(strconv.Itoa(names))}, Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(now.Add(-ago))}}}}}}
	}
	f, ok := corev1.PodFailed, corev1.PodSucceeded
	old := at(f, 8*time.Second)
	type look []*corev1.Pod // what is there, all of it not counted yet
	for _, tt := range []struct {
		name  string
		looks []look
		want  time.Duration
	}{
		{"nothing", []look{nil}, 0},
		{"one", []look{{at(f, 0)}}, 10 * time.Second},
		{"two", []look{{at(f, 4*time.Second), at(f, time.Second)}}, 19 * time.Second},
		{"a success after it", []look{{at(f, 4*time.Second), at(ok, time.Second)}}, 0},
		{"a success before it", []look{{at(ok, 4*time.Second), at(f, time.Second)}}, 9 * time.Second},
		{"a success at the same time", []look{{at(ok, time.Second), at(f, time.Second)}}, 0},
		{"long ago", []look{{at(f, time.Minute)}}, 0},
		{"one that is gone", []look{{at(f, 3*time.Second)}, nil}, 7 * time.Second},
		{"one that is gone, and another", []look{{at(f, 3*time.Second)}, {at(f, time.Second)}}, 19 * time.Second},
		{"one that is seen again", []look{{old}, {old}, {old}}, 2 * time.Second},
		{"one that is gone, then a success", []look{{at(f, 3*time.Second)}, {at(ok, time.Second)}, nil}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := aJob(func(*batchv1.JobSpec) {})
			j.UID = "j"
			got := &failures{}
			for _, l := range tt.looks {
				tracked := map[types.UID]bool{}
				for _, p := range l {
					tracked[p.UID] = true
				}
				got.see(j, l, tracked)
			}
			if got := got.backoff(now); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	t.Run("pods that were counted say how it went before a restart, once", func(t *testing.T) {
		j := aJob(func(*batchv1.JobSpec) {})
		j.UID = "j"
		got := &failures{}
		for range 3 {
			got.see(j, []*corev1.Pod{old}, nil)
		}
		if got := got.backoff(now); got != 2*time.Second {
			t.Error(got)
		}
		j = j.DeepCopy()
		j.UID = "another of that name"
		if got.see(j, nil, nil); got.backoff(now) != 0 {
			t.Errorf("another Job waits %s", got.backoff(now))
		}
	})
	if delay(100) != maxBackoff {
		t.Errorf("no limit: %s", delay(100))
	}
}

// A Job of somebody else's is left alone.
func TestManagedBySomebodyElse(t *testing.T) {
	s := newStage(t)
	other := aJob(func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To("example.com/queue") })
	other.Name = "other"
	s.create(other)
	s.create(aJob(func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To(managedBy) }))
	s.play(always(0), has(batchv1.JobComplete)) // the controller has seen both
	list, err := s.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=other"})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("%d pods, %v", len(list.Items), err)
	}
	j, err := s.Client.BatchV1().Jobs("default").Get(context.Background(), "other", metav1.GetOptions{})
	if err != nil || j.Status.StartTime != nil {
		t.Errorf("%+v, %v", j, err)
	}
}

// A pod that is going is replaced at once, or only when it has gone, as the Job says.
func TestPodReplacementPolicy(t *testing.T) {
	for policy, early := range map[batchv1.PodReplacementPolicy]bool{batchv1.TerminatingOrFailed: true, batchv1.Failed: false} {
		t.Run(string(policy), func(t *testing.T) {
			s := newStage(t)
			s.create(aJob(func(s *batchv1.JobSpec) {
				s.PodReplacementPolicy = ptr.To(policy)
				s.Template.Spec.TerminationGracePeriodSeconds, s.Template.Spec.NodeName = ptr.To(int64(3600)), "n"
			}))
			s.play(always(-1), func(j *batchv1.Job) error {
				if j.Status.Active != 1 {
					return fmt.Errorf("%d active", j.Status.Active)
				}
				return nil
			})
			first := s.pods()[0]
			if err := s.Client.CoreV1().Pods("default").Delete(context.Background(), first.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			s.play(always(-1), func(j *batchv1.Job) error {
				if ptr.Deref(j.Status.Terminating, 0) != 1 || (j.Status.Active == 1) != early {
					return fmt.Errorf("%d going, %d active", ptr.Deref(j.Status.Terminating, 0), j.Status.Active)
				}
				return nil
			})
			if n := len(s.pods()); (n == 2) != early {
				t.Errorf("%d pods", n)
			}
			// Its node says that it has ended: now it is replaced in any case.
			s.play(func(p *corev1.Pod) int32 {
				if p.Name == first.Name {
					return 1
				}
				return 0
			}, has(batchv1.JobComplete))
		})
	}
}

func TestEnds(t *testing.T) {
	indexed := func(change func(*batchv1.JobSpec)) *batchv1.Job {
		return aJob(func(s *batchv1.JobSpec) {
			s.CompletionMode, s.Completions, s.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To(int32(4)), ptr.To(int32(4))
			change(s)
		})
	}
	active := []*corev1.Pod{{}}
	for _, c := range []struct {
		name         string
		job          *batchv1.Job
		done, failed indexes
		active       []*corev1.Pod
		early, all   string // the reasons of end and complete
	}{
		{"some failed, and the rest is done", indexed(func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = ptr.To(int32(0)) }), indexes{{0, 2}}, indexes{{3, 3}}, active, "FailedIndexes", ""},
		{"before a success policy", indexed(func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex = ptr.To(int32(0))
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To(int32(1))}}}
		}), indexes{{0, 2}}, indexes{{3, 3}}, active, "FailedIndexes", ""},
		{"all done", indexed(func(*batchv1.JobSpec) {}), indexes{{0, 3}}, nil, nil, "", "CompletionsReached"},
		{"all done, and one works on", indexed(func(*batchv1.JobSpec) {}), indexes{{0, 3}}, nil, active, "", ""},
		{"not all done", indexed(func(*batchv1.JobSpec) {}), indexes{{0, 2}}, nil, nil, "", ""},
	} {
		c.job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
		r := &round{job: c.job, now: time.Now(), completed: c.done, failedIndexes: c.failed, active: c.active}
		reason := func(e *ending) string {
			if e == nil {
				return ""
			}
			return e.reason
		}
		if end := reason(r.end()); end != c.early {
			t.Errorf("%s: %q, want %q", c.name, end, c.early)
		} else if end == "" && reason(r.complete()) != c.all {
			t.Errorf("%s: %q, want %q", c.name, reason(r.complete()), c.all)
		}
	}
}

func TestSurplus(t *testing.T) {
	pod := func(name, index, node string, phase corev1.PodPhase, ready bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: index}}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	all := []*corev1.Pod{
		pod("ready", "0", "n", corev1.PodRunning, true), pod("runs", "1", "n", corev1.PodRunning, false), pod("begins", "2", "n", corev1.PodPending, false), pod("waits", "0", "", corev1.PodPending, false),
	}
	j := aJob(func(s *batchv1.JobSpec) { s.Completions = ptr.To(int32(3)) })
	for _, c := range []struct {
		indexed bool
		n       int
		want    []string
	}{
		{false, 2, []string{"waits", "begins"}},
		{true, 0, []string{"waits"}}, // an index has one pod, the one that did the most
		{true, 2, []string{"waits", "begins"}},
	} {
		if c.indexed {
			j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		}
		var got []string
		for _, p := range surplus(j, all, c.n) {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("indexed %t, %d: %v, want %v", c.indexed, c.n, got, c.want)
		}
	}
}

func TestGivenIndex(t *testing.T) {
	j := aJob(func(*batchv1.JobSpec) {})
	j.Name = strings.Repeat("j", 60)
	p := &corev1.Pod{Spec: corev1.PodSpec{Hostname: "mine"}}
	giveIndex(p, j, 12)
	if want := strings.Repeat("j", 54) + "-12-"; p.GenerateName != want || p.Spec.Hostname != j.Name+"-12" {
		t.Errorf("%s %s, want %s", p.GenerateName, p.Spec.Hostname, want)
	}
}
