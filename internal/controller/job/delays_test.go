package job

import (
	"context"
	"fmt"
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

// act is what becomes of a pod of an index: it ends after so long with an exit code.
type act struct {
	after time.Duration
	code  int32
}

// TestDelayedIndexes: each index waits for itself after a failure, twice as long after each, and only its own failures count.
func TestDelayedIndexes(t *testing.T) {
	const s = time.Second
	fails, works := act{s, 1}, act{s, 0}
	ignored := act{s, 7}
	for _, tt := range []struct {
		name                           string
		completions, parallel, backoff int32
		acts                           map[int][]act // what is not said goes well
		changed                        func(*batchv1.JobSpec)
		want                           string // when each pod was made, in seconds, by index
		completed, failed              string
		condition                      batchv1.JobConditionType
		reason                         string
		counted, ignoredInTheEnd       int // annotations of the last pod of index 0
	}{
		{name: "one fails again and again", completions: 2, parallel: 2, backoff: 3, acts: map[int][]act{0: {fails, fails, fails, fails}},
			// a second each to run, and 10, 20, 40 to wait
			want: "0@0 0@11 0@32 0@73 1@0", completed: "1", failed: "0", condition: batchv1.JobFailed, reason: batchv1.JobReasonFailedIndexes, counted: 3},
		{name: "both, and they don't wait for each other", completions: 2, parallel: 2, backoff: 2, acts: map[int][]act{0: {fails, works}, 1: {{5 * s, 1}, fails, works}},
			want: "0@0 0@11 1@0 1@15 1@36", completed: "0,1", counted: 1, condition: batchv1.JobComplete, reason: batchv1.JobReasonCompletionsReached},
		{name: "one that waits keeps its place", completions: 3, parallel: 1, backoff: 1, acts: map[int][]act{0: {fails, works}},
			want: "0@0 0@11 1@12 2@13", completed: "0-2", counted: 1, condition: batchv1.JobComplete, reason: batchv1.JobReasonCompletionsReached},
		{name: "places that nobody waits for are filled", completions: 4, parallel: 2, backoff: 1, acts: map[int][]act{0: {fails, works}, 1: {{3 * s, 0}}, 2: {{9 * s, 0}}},
			want: "0@0 0@11 1@0 2@3 3@12", completed: "0-3", counted: 1, condition: batchv1.JobComplete, reason: batchv1.JobReasonCompletionsReached},
		{name: "no failure is borne", completions: 2, parallel: 2, backoff: 0, acts: map[int][]act{1: {fails}},
			want: "0@0 1@0", completed: "0", failed: "1", condition: batchv1.JobFailed, reason: batchv1.JobReasonFailedIndexes},
		{name: "what a policy ignores makes it wait, too", completions: 1, parallel: 1, backoff: 1, acts: map[int][]act{0: {ignored, ignored, fails, works}},
			changed: func(j *batchv1.JobSpec) {
				j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
					OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{7}}}}}
			},
			want: "0@0 0@11 0@32 0@73", completed: "0", condition: batchv1.JobComplete, reason: batchv1.JobReasonCompletionsReached, counted: 1, ignoredInTheEnd: 2},
		{name: "a policy gives an index up", completions: 2, parallel: 2, backoff: 5, acts: map[int][]act{0: {ignored}},
			changed: func(j *batchv1.JobSpec) {
				j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailIndex,
					OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{7}}}}}
			},
			want: "0@0 1@0", completed: "1", failed: "0", condition: batchv1.JobFailed, reason: batchv1.JobReasonFailedIndexes},
		{name: "too many fail while one waits", completions: 3, parallel: 3, backoff: 1, acts: map[int][]act{0: {fails, fails}, 1: {{3 * s, 1}, fails}, 2: {{time.Hour, 0}}},
			changed: func(j *batchv1.JobSpec) { j.MaxFailedIndexes = ptr.To(int32(0)) },
			want:    "0@0 0@11 1@0 2@0", failed: "0", condition: batchv1.JobFailed, reason: batchv1.JobReasonMaxFailedIndexesExceeded, counted: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := aJob(func(j *batchv1.JobSpec) {
					j.CompletionMode, j.Completions, j.Parallelism, j.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), &tt.completions, &tt.parallel, &tt.backoff
					j.BackoffLimit = ptr.To(int32(1 << 30))
					j.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"job": "j"}}
					j.Template.Labels = j.Selector.MatchLabels
					if tt.changed != nil {
						tt.changed(j)
					}
				})
				j.UID = "j"
				n := newNode(t, j, tt.acts)
				got := n.client
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				end, err := got.BatchV1().Jobs("default").Get(t.Context(), "j", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(n.made)
				if made := strings.Join(n.made, " "); made != tt.want {
					t.Errorf("made  %s\nwanted %s", made, tt.want)
				}
				if c := condition(&end.Status, tt.condition); c == nil || c.Status != corev1.ConditionTrue || c.Reason != tt.reason {
					t.Errorf("status %+v", end.Status)
				}
				if failed := ptr.Deref(end.Status.FailedIndexes, ""); end.Status.CompletedIndexes != tt.completed || failed != tt.failed {
					t.Errorf("completed %q, failed %q", end.Status.CompletedIndexes, failed)
				}
				if counted, ignored := failuresBefore(n.last[0]); counted != tt.counted || ignored != tt.ignoredInTheEnd {
					t.Errorf("the last pod of index 0 knows of %d failures and %d ignored ones", counted, ignored)
				}
				n.stop()
			})
		})
	}
}

// node runs the pods of a Job in virtual time, as acts say, beside the Job's controller.
type node struct {
	client *fake.Clientset
	made   []string            // when the pods of each index were made, since the beginning
	last   map[int]*corev1.Pod // of each index
	stop   func()
}

func newNode(t *testing.T, j *batchv1.Job, acts map[int][]act) *node {
	t.Helper()
	n, begin := &node{client: fake.NewClientset(j), last: map[int]*corev1.Pod{}}, time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	played := map[int]int{}
	n.client.PrependReactor("create", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		p, ok := a.(clientgotesting.CreateAction).GetObject().(*corev1.Pod)
		if !ok {
			return false, nil, nil
		}
		i := indexOf(p)
		p.Name = fmt.Sprintf("j-%d-%d", i, played[i])
		p.UID, p.CreationTimestamp = types.UID(p.Name), metav1.Now()
		n.made = append(n.made, fmt.Sprintf("%d@%d", i, int(time.Since(begin).Seconds())))
		n.last[i] = p
		does := act{time.Second, 0}
		if k := played[i]; k < len(acts[i]) {
			does = acts[i][k]
		}
		played[i]++
		go func() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(does.after):
			}
			api := n.client.CoreV1().Pods("default")
			p, err := api.Get(ctx, p.Name, metav1.GetOptions{})
			if err != nil {
				return // it was deleted
			}
			p.Status.Phase = corev1.PodSucceeded
			if does.code != 0 {
				p.Status.Phase = corev1.PodFailed
			}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: does.code, FinishedAt: metav1.Now()}}}}
			if _, err := api.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}()
		return false, nil, nil
	})
	f := informers.New(n.client)
	ctl, err := New(n.client, f, record.NewFakeRecorder(1<<10), clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.StartWithContext(ctx)
	f.WaitForCacheSync(ctx)
	done := make(chan error, 1)
	go func() { done <- ctl.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	}
	return n
}
