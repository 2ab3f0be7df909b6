package replicaset

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var podLabels = map[string]string{"app": "a"}

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: podLabels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func replicaSet(n int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "rs", Namespace: "default"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: podLabels}, Template: template()},
	}
}

func TestReplicaSetAgainstTheAPI(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	pods, sets := e.Client.CoreV1().Pods("default"), e.Client.AppsV1().ReplicaSets("default")
	owned := func(want int) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=a"})
			if err != nil {
				return err
			}
			n := 0
			for i := range list.Items {
				if metav1.GetControllerOf(&list.Items[i]) != nil && list.Items[i].DeletionTimestamp == nil {
					n++
				}
			}
			rs, err := sets.Get(ctx, "rs", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if n != want || rs.Status.Replicas != int32(want) || rs.Status.ObservedGeneration != rs.Generation {
				return fmt.Errorf("%d pods, status %+v, want %d", n, rs.Status, want)
			}
			return nil
		})
	}

	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Labels: podLabels}, Spec: template().Spec}
	if _, err := pods.Create(ctx, orphan, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := sets.Create(ctx, replicaSet(20), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	owned(20)
	got, err := pods.Get(ctx, "orphan", metav1.GetOptions{})
	if err != nil || metav1.GetControllerOf(got) == nil {
		t.Errorf("the orphan was not adopted: %v, %v", got, err)
	}
	// A pod that leaves the selector is released and replaced.
	if _, err := pods.Patch(ctx, "orphan", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	owned(20)
	controllertest.Eventually(t, func() error {
		got, err := pods.Get(ctx, "orphan", metav1.GetOptions{})
		if err == nil && metav1.GetControllerOf(got) != nil {
			return errors.New("not released")
		}
		return err
	})
	for _, n := range []int{3, largeSet + 20, 7, 0} {
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
		if _, err := sets.Patch(ctx, "rs", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		owned(n)
		if n >= largeSet {
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=a", Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := pods.Delete(ctx, list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			owned(n)
		}
	}
}

func TestReplicationControllerAgainstTheAPI(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := NewReplication(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	rcs, pods := e.Client.CoreV1().ReplicationControllers("default"), e.Client.CoreV1().Pods("default")
	tmpl := template()
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "rc"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(3)), Selector: podLabels, Template: &tmpl},
	}
	if _, err := rcs.Create(ctx, rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int32{3, 1} {
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
		if _, err := rcs.Patch(ctx, "rc", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, func() error {
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=a"})
			if err != nil {
				return err
			}
			rc, err := rcs.Get(ctx, "rc", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(list.Items) != int(n) || rc.Status.Replicas != n || rc.Status.ObservedGeneration != rc.Generation {
				return fmt.Errorf("%d pods, status %+v, want %d", len(list.Items), rc.Status, n)
			}
			for i := range list.Items {
				if ref := metav1.GetControllerOf(&list.Items[i]); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
					return fmt.Errorf("owner %+v", ref)
				}
			}
			return nil
		})
	}
}

func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: podLabels, CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))},
		Spec:       corev1.PodSpec{NodeName: "n-" + name},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	ready(time.Unix(1000, 0))(p)
	if change != nil {
		change(p)
	}
	return p
}

func ready(since time.Time) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
	}
}

func TestVictims(t *testing.T) {
	now := time.Unix(100000, 0)
	better := pod("z-better", nil)
	tests := []struct {
		name   string
		change func(*corev1.Pod)
	}{
		{"unassigned", func(p *corev1.Pod) { p.Spec.NodeName = "" }},
		{"pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }},
		{"unknown", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }},
		{"not ready", func(p *corev1.Pod) { p.Status.Conditions = nil }},
		{"cheap to delete", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }},
		{"ready later", ready(time.Unix(99000, 0))},
		{"restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }},
		{"newer", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Unix(99000, 0)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			worse := pod("a-worse", tt.change)
			for _, order := range [][]*corev1.Pod{{better, worse}, {worse, better}} {
				if got := victims(order, order, 1, now); got[0] != worse {
					t.Errorf("chose %s", got[0].Name)
				}
			}
		})
	}
	crowded, alone := pod("z-crowded", nil), pod("a-alone", nil)
	sibling := pod("sibling", func(p *corev1.Pod) { p.Spec.NodeName = crowded.Spec.NodeName })
	if got := victims([]*corev1.Pod{alone, crowded}, []*corev1.Pod{alone, crowded, sibling}, 1, now); got[0] != crowded {
		t.Errorf("chose %s, want the one that shares its node", got[0].Name)
	}
}

func TestComputeStatus(t *testing.T) {
	now := time.Unix(100000, 0)
	rs := replicaSet(3)
	rs.Generation, rs.Spec.MinReadySeconds = 7, 60
	active := []*corev1.Pod{
		pod("available", nil),
		pod("ready", ready(now.Add(-30*time.Second))),
		pod("starting", func(p *corev1.Pod) { p.Status.Conditions = nil }),
		pod("other labels", func(p *corev1.Pod) { p.Labels = nil; p.Status.Conditions = nil }),
	}
	got := computeStatus(rs, active, 2, nil, now)
	if got.Replicas != 4 || got.ReadyReplicas != 2 || got.AvailableReplicas != 1 || got.FullyLabeledReplicas != 3 ||
		ptr.Deref(got.TerminatingReplicas, 0) != 2 || got.ObservedGeneration != 7 {
		t.Errorf("got %+v", got)
	}
	rs.Status = computeStatus(rs, nil, 0, errors.New("quota"), now)
	if len(rs.Status.Conditions) != 1 || rs.Status.Conditions[0].Reason != "FailedCreate" || rs.Status.Conditions[0].Message != "quota" {
		t.Errorf("failure not reported: %+v", rs.Status.Conditions)
	}
	if got := computeStatus(rs, nil, 0, nil, now); len(got.Conditions) != 0 {
		t.Errorf("failure not withdrawn: %+v", got.Conditions)
	}
}
