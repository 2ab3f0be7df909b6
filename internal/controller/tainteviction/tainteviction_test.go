package tainteviction

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A taint that somebody puts on a node by hand does not say since when it is there: the time that a pod tolerates it comes to an end all the
// same, once, and not for who got rid of the taint before.
func TestTaintByHand(t *testing.T) {
	e := controllertest.Start(t)
	told := record.NewFakeRecorder(100)
	ctl, err := New(e.Client, e.Informers, told, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	for _, node := range []string{"tainted", "clean"} {
		if _, err := e.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pods := e.Client.CoreV1().Pods("default")
	for name, p := range map[string]struct {
		node    string
		seconds *int64
	}{"brief": {"tainted", ptr.To[int64](1)}, "patient": {"tainted", ptr.To[int64](3600)}, "forever": {"tainted", nil}, "elsewhere": {"clean", ptr.To[int64](1)}} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: p.node, Containers: []corev1.Container{{Name: "c", Image: "x"}},
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Tolerations:                   []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: p.seconds}}}}
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	taint := func(node, taints string) {
		t.Helper()
		if _, err := e.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(`{"spec":{"taints":`+taints+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	taint("tainted", `[{"key":"k","effect":"NoExecute"}]`)
	controllertest.Eventually(t, func() error {
		p, err := pods.Get(ctx, "brief", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && p.DeletionTimestamp == nil {
			err = fmt.Errorf("it is there: %+v", p.Status)
		}
		return err
	})
	for _, name := range []string{"patient", "forever", "elsewhere"} {
		if p, err := pods.Get(ctx, name, metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	remembered := func(want int) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			ctl.mu.Lock()
			defer ctl.mu.Unlock()
			if len(ctl.since) != want {
				return fmt.Errorf("%v is remembered", ctl.since)
			}
			return nil
		})
	}
	remembered(1) // the patient one
	taint("tainted", "null")
	remembered(0)
	// Whose end was near hears that it is called off.
	for _, want := range []string{"Normal TaintManagerEviction Marking for deletion Pod default/brief", "Normal TaintManagerEviction Cancelling deletion of Pod default/patient"} {
		select {
		case got := <-told.Events:
			if got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		case <-time.After(controllertest.Patience):
			t.Errorf("nobody was told %q", want)
		}
	}
}

func TestPatience(t *testing.T) {
	added := time.Unix(1000, 0)
	at := metav1.NewTime(added)
	taint := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	tolerates := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	tests := []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        time.Duration // after added; negative: for ever
	}{
		{"none", nil, []corev1.Taint{taint}, 0},
		{"for ever", []corev1.Toleration{tolerates("k", nil)}, []corev1.Taint{taint}, -1},
		{"for a while", []corev1.Toleration{tolerates("k", ptr.To[int64](300))}, []corev1.Taint{taint}, 300 * time.Second},
		{"the first counts", []corev1.Toleration{tolerates("k", ptr.To[int64](300)), tolerates("", ptr.To[int64](10))}, []corev1.Taint{taint}, 300 * time.Second},
		{"of two taints the shortest counts", []corev1.Toleration{tolerates("k", ptr.To[int64](300)), tolerates("", ptr.To[int64](10))}, []corev1.Taint{taint, other}, 10 * time.Second},
		{"one of two", []corev1.Toleration{tolerates("k", nil)}, []corev1.Taint{taint, other}, 0},
		{"negative is at once", []corev1.Toleration{tolerates("k", ptr.To[int64](-5))}, []corev1.Taint{taint}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			deadline, ends := patience(klog.Background(), p, tt.taints, added.Add(time.Hour))
			if ends != (tt.want >= 0) || ends && deadline.Sub(added) != tt.want {
				t.Errorf("got %v, %v; want %v", deadline.Sub(added), ends, tt.want)
			}
		})
	}
	late := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(added.Add(time.Minute))}, Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{tolerates("k", ptr.To[int64](300))}}}
	if deadline, ends := patience(klog.Background(), late, []corev1.Taint{taint}, added.Add(time.Hour)); !ends || deadline.Sub(added) != 6*time.Minute {
		t.Errorf("a pod that came after the taint has until %v", deadline.Sub(added))
	}
}
