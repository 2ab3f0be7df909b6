package disruption

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var app = map[string]string{"app": "a"}

// TestBudgetAgainstTheAPI has the budget granted by the controller and spent by evictions through the API.
func TestBudgetAgainstTheAPI(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, NewWorkloads(e.Informers, nil), e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	spec := corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To(int64(0)), Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	rs, err := e.Client.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "rs"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To(int32(4)), Selector: &metav1.LabelSelector{MatchLabels: app}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Labels: app, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}, Spec: spec}
		if p, err = e.Client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := e.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	budgets := e.Client.PolicyV1().PodDisruptionBudgets("default")
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: ptr.To(intstr.FromString("40%")), Selector: &metav1.LabelSelector{MatchLabels: app}}}
	if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := func(expected, needed, healthy, allowed int32) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			b, err := budgets.Get(ctx, "b", metav1.GetOptions{})
			if err != nil {
				return err
			}
			s := b.Status
			if s.ExpectedPods != expected || s.DesiredHealthy != needed || s.CurrentHealthy != healthy || s.DisruptionsAllowed != allowed || s.ObservedGeneration != b.Generation ||
				meta.IsStatusConditionTrue(s.Conditions, policyv1.DisruptionAllowedCondition) != (allowed > 0) {
				return fmt.Errorf("status %+v", s)
			}
			return nil
		})
	}
	status(4, 2, 4, 2) // 40 % of 4, rounded up
	evict := func(name string) error {
		return e.Client.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}})
	}
	for _, name := range []string{"p0", "p1"} {
		if err := evict(name); err != nil {
			t.Fatal(err)
		}
	}
	status(4, 2, 2, 0)
	if err := evict("p2"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a third eviction: %v", err)
	}
	if _, err := budgets.Patch(ctx, "b", "application/merge-patch+json", []byte(`{"spec":{"maxUnavailable":null,"minAvailable":1}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	status(2, 1, 2, 1)
	if err := evict("p2"); err != nil {
		t.Error(err)
	}
}

func TestDisrupted(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(ago time.Duration) metav1.Time { return metav1.NewTime(now.Add(-ago)) }
	pod := func(name string, going bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if going {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return p
	}
	c := &Controller{clock: fixed{now: now}, recorder: record.NewFakeRecorder(10)}
	b := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: map[string]metav1.Time{
		"waits": at(time.Minute), "later": at(time.Second), "goes": at(time.Second), "stayed": at(3 * time.Minute), "gone": at(0)}}}
	kept, next := c.disrupted(b, []*corev1.Pod{pod("waits", false), pod("later", false), pod("goes", true), pod("stayed", false), pod("other", false)})
	if len(kept) != 2 || next != time.Minute {
		t.Errorf("kept %v, next in %s", kept, next)
	}
}

type fixed struct {
	clock.PassiveClock
	now time.Time
}

func (f fixed) Now() time.Time { return f.now }
