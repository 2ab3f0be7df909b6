package disruption

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestAnnouncementsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.Start(t)
		c, err := New(e.Client, e.Informers, NewWorkloads(e.Informers, nil), e.Recorder, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Run(t, c)
		ctx, pods := context.Background(), e.Client.CoreV1().Pods("default")
		for name, change := range map[string]func(*corev1.PodStatus){
			"stale":   func(*corev1.PodStatus) {},
			"kubelet": func(s *corev1.PodStatus) { s.Conditions[0].Reason = corev1.PodReasonTerminationByKubelet },
			"ended":   func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed },
		} {
			p, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.Now()}}
			change(&p.Status)
			if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(want map[string]corev1.ConditionStatus) {
			t.Helper()
			synctest.Wait()
			for name, status := range want {
				p, err := pods.Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if c := p.Status.Conditions[0]; c.Status != status || status == corev1.ConditionFalse && c.Reason != "" {
					t.Errorf("%s: %+v", name, c)
				}
			}
		}
		time.Sleep(119 * time.Second)
		expect(map[string]corev1.ConditionStatus{"stale": corev1.ConditionTrue, "kubelet": corev1.ConditionTrue, "ended": corev1.ConditionTrue})
		time.Sleep(2 * time.Second)
		expect(map[string]corev1.ConditionStatus{"stale": corev1.ConditionFalse, "kubelet": corev1.ConditionTrue, "ended": corev1.ConditionTrue})
	})
}
