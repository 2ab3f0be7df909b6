package disruption

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

// TestGrantBetweenLookAndWrite: what evictions were granted after a look at the budget is not taken back by what the look found, nor granted twice.
func TestGrantBetweenLookAndWrite(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	budgets, pods := e.Client.PolicyV1().PodDisruptionBudgets("default"), e.Client.CoreV1().Pods("default")
	// grant does what the API does for an eviction, before it deletes the pod.
	grant := func() error {
		b, err := budgets.Get(ctx, "b", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if b.Status.DisruptionsAllowed != 1 {
			return fmt.Errorf("%d disruptions are allowed", b.Status.DisruptionsAllowed)
		}
		b.Status.DisruptionsAllowed--
		b.Status.DisruptedPods = map[string]metav1.Time{"p0": {Time: time.Now()}}
		_, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{})
		return err
	}
	var armed atomic.Bool
	var granted, writes atomic.Int32
	through := e.Through(t, func(r *http.Request) error {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/poddisruptionbudgets/b/status") {
			return nil
		}
		if armed.CompareAndSwap(true, false) {
			if err := grant(); err != nil {
				t.Error(err)
			}
			granted.Add(1)
		}
		writes.Add(1)
		return nil
	})
	ctl, err := New(through, e.Informers, NewWorkloads(e.Informers, nil), e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ready := func(name string) {
		t.Helper()
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		p, err := pods.Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	is := func(when string, healthy, allowed int32, disrupted int) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			b, err := budgets.Get(ctx, "b", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := b.Status; s.CurrentHealthy != healthy || s.DisruptionsAllowed != allowed || len(s.DisruptedPods) != disrupted {
				return fmt.Errorf("%s: %+v", when, s)
			}
			return nil
		})
	}
	ready("p0")
	ready("p1")
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: app}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	is("at first", 2, 1, 0)
	armed.Store(true)
	before := writes.Load()
	ready("p2") // the look that follows knows nothing of the grant that comes before its write
	is("after the grant", 2, 1, 1)
	if granted.Load() != 1 || writes.Load() < before+2 {
		t.Errorf("%d grants between looks and writes, %d writes since", granted.Load(), writes.Load()-before)
	}
	if err := pods.Delete(ctx, "p0", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil {
		t.Fatal(err)
	}
	is("when the pod has gone", 2, 1, 0)
}
