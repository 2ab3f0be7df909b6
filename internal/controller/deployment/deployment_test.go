package deployment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/replicaset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deploymentOf(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	labels := map[string]string{"app": "a"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}},
		},
	}
}

func TestBounds(t *testing.T) {
	tests := []struct {
		replicas                   int32
		surge, unavailable         string
		wantSurge, wantUnavailable int32
	}{
		{10, "25%", "25%", 3, 2}, {3, "25%", "25%", 1, 0}, {1, "25%", "25%", 1, 0}, {10, "0", "0", 0, 1}, {4, "2", "10", 2, 4}, {0, "25%", "25%", 0, 0}, {0, "2", "1", 2, 0}, {3, "0%", "25%", 0, 1},
	}
	for _, tt := range tests {
		s, u := bounds(deploymentOf(tt.replicas, tt.surge, tt.unavailable))
		if s != tt.wantSurge || u != tt.wantUnavailable {
			t.Errorf("%d replicas, %s/%s: got %d/%d, want %d/%d", tt.replicas, tt.surge, tt.unavailable, s, u, tt.wantSurge, tt.wantUnavailable)
		}
	}
}

func set(name string, replicas, available int32, created int64) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(created, 0))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, AvailableReplicas: available},
	}
}

// A rollout stays within its bounds at every step, from any state, and comes to its end when all pods become available.
func TestRollingStaysWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.Int32Range(1, 30).Draw(t, "replicas")
		d := deploymentOf(replicas, rapid.SampledFrom([]string{"0", "1", "3", "25%", "100%"}).Draw(t, "surge"), rapid.SampledFrom([]string{"0", "1", "25%", "50%"}).Draw(t, "unavailable"))
		surge, unavailable := bounds(d)
		old, newSet := set("old", replicas, replicas, 1), set("new", 0, 0, 2)
		all := []*appsv1.ReplicaSet{old, newSet}
		for step := 0; ; step++ {
			if step > 500 {
				t.Fatalf("no end: old %d/%d, new %d/%d", *old.Spec.Replicas, old.Status.AvailableReplicas, *newSet.Spec.Replicas, newSet.Status.AvailableReplicas)
			}
			newSet.Spec.Replicas = ptr.To(newReplicas(d, all, newSet))
			if total := *old.Spec.Replicas + *newSet.Spec.Replicas; total > replicas+surge {
				t.Fatalf("%d replicas, at most %d+%d", total, replicas, surge)
			}
			if n, ok := shrinkPlan(d, all, newSet, []*appsv1.ReplicaSet{old})[old.UID]; ok {
				old.Spec.Replicas = &n
				old.Status.AvailableReplicas = min(old.Status.AvailableReplicas, n)
			}
			if got := old.Status.AvailableReplicas + newSet.Status.AvailableReplicas; got < replicas-unavailable {
				t.Fatalf("%d available, at least %d-%d", got, replicas, unavailable)
			}
			if *old.Spec.Replicas == 0 && newSet.Status.AvailableReplicas == replicas {
				return
			}
			// Some of the new pods become available, at least one if there is one.
			if left := *newSet.Spec.Replicas - newSet.Status.AvailableReplicas; left > 0 {
				newSet.Status.AvailableReplicas += rapid.Int32Range(1, left).Draw(t, "more")
			}
		}
	})
}

func TestProportionalPlanKeepsTheTotal(t *testing.T) {
	d := deploymentOf(20, "3", "2")
	sized := func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet {
		setAnnotations(rs, map[string]string{desiredAnnotation: "10", maxAnnotation: "13"})
		return rs
	}
	old, newSet := sized(set("old", 8, 8, 1)), sized(set("new", 5, 0, 2))
	all := []*appsv1.ReplicaSet{old, newSet}
	if !scaling(d, all) {
		t.Fatal("the changed size was not noticed")
	}
	plan := proportionalPlan(d, all, newSet, []*appsv1.ReplicaSet{old})
	if plan["old"]+plan["new"] != 23 || plan["old"] < plan["new"] {
		t.Errorf("got %v, want 20+3 in the proportion 8:5", plan)
	}
}

func TestProportionalPlan(t *testing.T) {
	active := func(name string, replicas int32, created int64, most string) *appsv1.ReplicaSet {
		rs := set(name, replicas, replicas, created)
		a := map[string]string{desiredAnnotation: "10"}
		if most != "" {
			a[maxAnnotation] = most
		}
		setAnnotations(rs, a)
		return rs
	}
	for _, tt := range []struct {
		name             string
		replicas, status int32
		surge            string
		sets             []*appsv1.ReplicaSet // the last one is the new one
		want             map[types.UID]int32
	}{
		{"evenly", 20, 10, "0", []*appsv1.ReplicaSet{active("a", 5, 1, "10"), active("b", 5, 2, "10")}, map[types.UID]int32{"a": 10, "b": 10}},
		{"with surge", 20, 13, "3", []*appsv1.ReplicaSet{active("a", 8, 1, "13"), active("b", 5, 2, "13")}, map[types.UID]int32{"a": 14, "b": 9}},
		{"what is left goes to the newest of the largest", 11, 10, "0", []*appsv1.ReplicaSet{active("a", 5, 1, "10"), active("b", 5, 2, "10")}, map[types.UID]int32{"a": 5, "b": 6}},
		{"halves are rounded up, and the oldest of the largest pays for it", 10, 20, "0", []*appsv1.ReplicaSet{active("a", 5, 1, "20"), active("b", 5, 2, "20"), active("c", 5, 3, "20"), active("d", 5, 4, "20")},
			map[types.UID]int32{"a": 1, "b": 3, "c": 3, "d": 3}},
		{"the largest pays", 6, 10, "0", []*appsv1.ReplicaSet{active("a", 3, 1, "10"), active("b", 7, 2, "10")}, map[types.UID]int32{"a": 2, "b": 4}},
		{"to nothing", 0, 10, "0", []*appsv1.ReplicaSet{active("a", 6, 1, "10"), active("b", 4, 2, "10")}, map[types.UID]int32{"a": 0, "b": 0}},
		{"to nothing with surge", 0, 10, "3", []*appsv1.ReplicaSet{active("a", 6, 1, "13"), active("b", 4, 2, "13")}, map[types.UID]int32{"a": 0, "b": 0}},
		{"the note is gone", 20, 10, "0", []*appsv1.ReplicaSet{active("a", 6, 1, ""), active("b", 4, 2, "x")}, map[types.UID]int32{"a": 12, "b": 8}},
		{"the note is nonsense", 20, 10, "0", []*appsv1.ReplicaSet{active("a", 6, 1, "0"), active("b", 4, 2, "-3")}, map[types.UID]int32{"a": 12, "b": 8}},
		{"the note is gone, and nothing runs", 20, 0, "0", []*appsv1.ReplicaSet{active("a", 6, 1, ""), active("b", 4, 2, "")}, map[types.UID]int32{"a": 16, "b": 4}},
		{"one that is empty stays so", 20, 10, "0", []*appsv1.ReplicaSet{active("a", 6, 1, "10"), active("e", 0, 2, "10"), active("b", 4, 3, "10")}, map[types.UID]int32{"a": 12, "b": 8}},
		{"a single one takes all", 20, 10, "0", []*appsv1.ReplicaSet{active("a", 10, 1, "10"), active("b", 0, 2, "10")}, map[types.UID]int32{"a": 20}},
		{"all are empty", 20, 0, "0", []*appsv1.ReplicaSet{active("a", 0, 1, "10"), active("b", 0, 2, "10")}, map[types.UID]int32{"b": 20}},
		{"the new one has all", 10, 12, "0", []*appsv1.ReplicaSet{active("a", 2, 1, "10"), active("b", 10, 2, "10")}, map[types.UID]int32{"a": 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := deploymentOf(tt.replicas, tt.surge, "0")
			d.Status.Replicas = tt.status
			last := len(tt.sets) - 1
			if plan := proportionalPlan(d, tt.sets, tt.sets[last], tt.sets[:last]); !maps.Equal(plan, tt.want) {
				t.Errorf("planned %v, want %v", plan, tt.want)
			}
		})
	}
}

func TestBeyondHistory(t *testing.T) {
	d := deploymentOf(1, "1", "0")
	d.Spec.RevisionHistoryLimit = ptr.To[int32](1)
	var old []*appsv1.ReplicaSet
	for i, name := range []string{"a", "b", "busy"} {
		rs := set(name, 0, 0, int64(i))
		setAnnotations(rs, map[string]string{revisionAnnotation: fmt.Sprint(i + 1)})
		old = append(old, rs)
	}
	old[1].Status.Replicas = 1 // its pods are not gone yet
	got := beyondHistory(d, old)
	if len(got) != 1 || got[0].Name != "a" {
		t.Errorf("got %v, want a alone: b is not empty", got)
	}
}

func TestShrinkPlan(t *testing.T) {
	behind := func(rs *appsv1.ReplicaSet, available int32) *appsv1.ReplicaSet {
		rs.Status.AvailableReplicas = available
		return rs
	}
	for _, tt := range []struct {
		name        string
		replicas    int32
		surge, down string
		sets        []*appsv1.ReplicaSet // the last one is the new one
		want        map[types.UID]int32
	}{
		{"as many as the new ones replace", 10, "3", "2", []*appsv1.ReplicaSet{set("a", 8, 8, 1), set("n", 5, 2, 2)}, map[types.UID]int32{"a": 6}},
		{"what serves nobody goes first", 10, "3", "2", []*appsv1.ReplicaSet{set("a", 8, 5, 1), set("n", 5, 5, 2)}, map[types.UID]int32{"a": 3}},
		{"the oldest pays first", 10, "0", "2", []*appsv1.ReplicaSet{set("a", 1, 1, 1), set("b", 7, 7, 2), set("n", 2, 2, 3)}, map[types.UID]int32{"a": 0, "b": 6}},
		{"enough is missing already", 10, "0", "2", []*appsv1.ReplicaSet{set("a", 8, 8, 1), set("n", 2, 0, 2)}, nil},
		{"it was just scaled down, and its status does not say so yet", 7, "3", "2", []*appsv1.ReplicaSet{set("a", 6, 20, 1), set("n", 4, 0, 2)}, map[types.UID]int32{"a": 5}},
		{"an empty one's status is behind", 10, "0", "2", []*appsv1.ReplicaSet{set("e", 0, 5, 1), set("a", 8, 8, 2), set("n", 2, 0, 3)}, nil},
		{"the new one's status is behind", 4, "0", "1", []*appsv1.ReplicaSet{set("a", 3, 3, 1), behind(set("n", 1, 0, 2), 4)}, map[types.UID]int32{"a": 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			last := len(tt.sets) - 1
			if plan := shrinkPlan(deploymentOf(tt.replicas, tt.surge, tt.down), tt.sets, tt.sets[last], tt.sets[:last]); !maps.Equal(plan, tt.want) {
				t.Errorf("planned %v, want %v", plan, tt.want)
			}
		})
	}
}

// A condition that says again that the rollout moves on is the newest, with the time of this move.
func TestJudge(t *testing.T) {
	then, now := time.Unix(1000, 0), time.Unix(1005, 0)
	entry := func(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason string) appsv1.DeploymentCondition {
		return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, LastUpdateTime: metav1.NewTime(then), LastTransitionTime: metav1.NewTime(then)}
	}
	there := entry(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonAvailable)
	for _, tt := range []struct {
		name    string
		before  []appsv1.DeploymentCondition
		status  appsv1.DeploymentStatus
		want    []string
		changed time.Time // when the last one became true or false
	}{
		{"it moves on", []appsv1.DeploymentCondition{entry(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated), there}, appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 1},
			[]string{reasonAvailable, reasonSetUpdated}, then},
		{"it moves on after all", []appsv1.DeploymentCondition{entry(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut), there}, appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 1},
			[]string{reasonAvailable, reasonSetUpdated}, now},
		{"it was told to go on", []appsv1.DeploymentCondition{entry(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed), there}, appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 1},
			[]string{reasonAvailable, reasonSetUpdated}, now},
		{"it stands", []appsv1.DeploymentCondition{entry(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonSetUpdated), there}, appsv1.DeploymentStatus{Replicas: 3},
			[]string{reasonSetUpdated, reasonAvailable}, then},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := deploymentOf(3, "1", "0")
			d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
			d.Status = appsv1.DeploymentStatus{Replicas: 3, Conditions: tt.before}
			r := &round{Controller: &Controller{clock: testclock.NewFakePassiveClock(now)}, d: d}
			s := tt.status
			s.Conditions = append(s.Conditions, tt.before...)
			r.judge(&s)
			var got []string
			for _, c := range s.Conditions {
				got = append(got, c.Reason)
			}
			if last := s.Conditions[len(s.Conditions)-1]; !slices.Equal(got, tt.want) || !last.LastTransitionTime.Time.Equal(tt.changed) {
				t.Errorf("%v, the last one since %s; want %v, %s", got, last.LastTransitionTime, tt.want, tt.changed)
			}
		})
	}
}

// Why a rollout progresses is recorded even if somebody else writes at the same time, unless what they want is another rollout.
func TestRevisionIsRecorded(t *testing.T) {
	for _, tt := range []struct {
		name, patch string
		want        bool
	}{
		{"alone", "", true},
		{"a label is changed meanwhile", `{"metadata":{"labels":{"l":"m"}}}`, true},
		{"the size is changed meanwhile", `{"spec":{"replicas":7}}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := controllertest.Start(t)
			api := e.Client.AppsV1().Deployments("default")
			d := deploymentOf(3, "1", "0")
			d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
			d, err := api.Create(context.Background(), d, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.patch != "" {
				if _, err := api.Patch(context.Background(), "d", types.MergePatchType, []byte(tt.patch), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			newSet := set("n", 3, 0, 1)
			setAnnotations(newSet, map[string]string{revisionAnnotation: "4"})
			r := &round{Controller: &Controller{client: e.Client, clock: clock.RealClock{}}, d: d, newSet: newSet}
			if err := r.writeRevision(context.Background(), reasonNewSet, "made"); (err == nil) != tt.want {
				t.Errorf("wrote: %v", err)
			}
			got, err := api.Get(context.Background(), "d", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c := condition(&got.Status, appsv1.DeploymentProgressing)
			if written := c != nil && c.Reason == reasonNewSet && got.Annotations[revisionAnnotation] == "4"; written != tt.want {
				t.Errorf("%v, conditions %+v", got.Annotations, got.Status.Conditions)
			}
			if tt.want && got.Generation != 1 {
				t.Errorf("generation %d, though nobody wants anything else", got.Generation)
			}
		})
	}
}

// everyPodReady plays the node: it makes pods run.
type everyPodReady struct {
	e      *controllertest.Env
	failed func(*corev1.Pod) bool
}

func (n everyPodReady) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		list, err := n.e.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			continue // ending
		}
		for i := range list.Items {
			p := &list.Items[i]
			if p.Status.Phase == corev1.PodRunning || n.failed(p) {
				continue
			}
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
			_, _ = n.e.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}) // a conflict is tried again
		}
	}
}

func TestDeploymentAgainstTheAPI(t *testing.T) {
	e := controllertest.Start(t)
	sets, err := replicaset.New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, sets, ctl, everyPodReady{e, func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "broken" }})
	ctx := context.Background()
	deployments := e.Client.AppsV1().Deployments("default")
	done := func(revision string, replicas int32) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !complete(d, &d.Status) || d.Status.Replicas != replicas || d.Annotations[revisionAnnotation] != revision {
				return fmt.Errorf("revision %s, status %+v", d.Annotations[revisionAnnotation], d.Status)
			}
			if c := condition(&d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonNewSetAvailable {
				return fmt.Errorf("progressing: %+v", c)
			}
			return nil
		})
	}
	patch := func(p string) {
		t.Helper()
		if _, err := deployments.Patch(ctx, "d", types.StrategicMergePatchType, []byte(p), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	d := deploymentOf(3, "1", "0")
	d.Generation = 0
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
	if _, err := deployments.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	done("1", 3)
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"i:2"}]}}}}`)
	done("2", 3)
	patch(`{"spec":{"replicas":4}}`)
	done("2", 4)
	// A rollback is a rollout of an old template: its set gets the newest revision.
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"i:1"}]}}}}`)
	done("3", 4)
	list, err := e.Client.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("%d sets (%v), want 2: a rollback makes none", len(list.Items), err)
	}
	// The old way to ask for a rollback, by an annotation: to the last revision, to one by its number, and to one that there is not.
	rollBack := func(to, want string) {
		t.Helper()
		patch(fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, rollbackAnnotation, to))
		done(want, 4)
		controllertest.Eventually(t, func() error {
			d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
			if err == nil && d.Annotations[rollbackAnnotation] != "" {
				return errors.New("the wish is still there")
			}
			return err
		})
	}
	rollBack("0", "4")
	rollBack("3", "5")
	rollBack("77", "5")
	rollBack("5", "5")
	told := e.Recorder.(*record.FakeRecorder).Events
	for _, want := range []string{"Normal DeploymentRollback Rolled", "Warning DeploymentRollbackRevisionNotFound ", "Warning DeploymentRollbackTemplateUnchanged "} {
		for found := false; !found; {
			select {
			case event := <-told:
				found = strings.HasPrefix(event, want)
			case <-time.After(controllertest.Patience):
				t.Fatalf("no event %q", want)
			}
		}
	}
	if d, err := deployments.Get(ctx, "d", metav1.GetOptions{}); err != nil || d.Spec.Template.Spec.Containers[0].Image != "i:1" {
		t.Errorf("rolled back to %+v, %v", d.Spec.Template.Spec, err)
	}
	// A broken revision never takes the good one down.
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"broken"}]}}}}`)
	controllertest.Eventually(t, func() error {
		d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
		if err == nil && (d.Status.UpdatedReplicas != 1 || d.Status.AvailableReplicas != 4) {
			return fmt.Errorf("status %+v", d.Status)
		}
		return err
	})
	// Recreate: no old pod beside a new one.
	patch(`{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null},"template":{"spec":{"containers":[{"name":"c","image":"i:3"}]}}}}`)
	done("7", 4)
	// Paused: a new template makes no set.
	patch(`{"spec":{"paused":true,"template":{"spec":{"containers":[{"name":"c","image":"i:4"}]}}}}`)
	controllertest.Eventually(t, func() error {
		d, err := deployments.Get(ctx, "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := condition(&d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonPaused {
			return errors.New("not paused")
		}
		return nil
	})
	patch(`{"spec":{"paused":false}}`)
	done("8", 4)
}

func TestRemember(t *testing.T) {
	if got := remember("", "1"); got != "1" {
		t.Error(got)
	}
	if got := remember("1,4", "7"); got != "1,4,7" {
		t.Error(got)
	}
	long := strings.Repeat("1234,", 399) + "1234" // 1999 bytes
	if got := remember(long, "56"); len(got) > maxHistory || !strings.HasSuffix(got, ",1234,56") {
		t.Errorf("%d bytes, the end is %s", len(got), got[len(got)-20:])
	}
}

func TestPausedAtNothing(t *testing.T) {
	// The template has changed while it was paused without pods: its newest set grows, not one that nobody made.
	d := deploymentOf(3, "1", "0")
	old := []*appsv1.ReplicaSet{set("a", 0, 0, 1), set("b", 0, 0, 2)}
	if plan := proportionalPlan(d, old, nil, old); len(plan) != 1 || plan["b"] != 3 {
		t.Errorf("got %v", plan)
	}
	if plan := proportionalPlan(d, nil, nil, nil); len(plan) != 0 {
		t.Errorf("got %v of nothing", plan)
	}
	d.Name = strings.Repeat("d", 253)
	if name := newSet(d, "hash").Name; len(name) != 253 || !strings.HasSuffix(name, "d-hash") {
		t.Errorf("%d %s", len(name), name)
	}
}
