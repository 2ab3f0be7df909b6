package podgc

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clientgotesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
)

func pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n"}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	if change != nil {
		change(p)
	}
	return p
}

// Pods of a node that stays away go, those of one that comes back in time stay.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		now := metav1.Now()
		c := fake.NewClientset(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "abandoned"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}}},
			pod("stuck", "abandoned", func(p *corev1.Pod) { p.DeletionTimestamp = &now; p.Finalizers = []string{"x"} }),
			pod("untouched", "abandoned", nil),
			pod("leaving", "here", func(p *corev1.Pod) { p.DeletionTimestamp = &now; p.Finalizers = []string{"x"} }),
			pod("fine", "here", nil),
			pod("lost", "gone", nil),
			pod("lucky", "late", nil),
			pod("never bound", "", func(p *corev1.Pod) { p.DeletionTimestamp = &now; p.Finalizers = []string{"x"} }),
			pod("waiting", "", nil),
		)
		f := informers.New(c)
		ctl, err := New(c, f, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.StartWithContext(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		time.Sleep(quarantine / 2)
		if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * quarantine)
		synctest.Wait()
		list, err := c.CoreV1().Pods("n").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		left := map[string]bool{}
		for _, p := range list.Items {
			left[p.Name] = true
		}
		for name, want := range map[string]bool{"fine": true, "untouched": true, "leaving": true, "stuck": false, "lucky": true, "waiting": true, "lost": false, "never bound": false} {
			if left[name] != want {
				t.Errorf("%s is there: %v, want %v", name, left[name], want)
			}
		}
		cancel()
		f.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// play runs the controller over objects for a while and returns the names of the pods that are left.
func play(t *testing.T, change func(*Controller), objects ...runtime.Object) (*fake.Clientset, []string) {
	t.Helper()
	c := fake.NewClientset(objects...)
	f := informers.New(c)
	ctl, err := New(c, f, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	change(ctl)
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- ctl.Run(ctx) }()
	time.Sleep(3 * quarantine)
	synctest.Wait()
	list, err := c.CoreV1().Pods("n").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	f.Shutdown()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var left []string
	for _, p := range list.Items {
		left = append(left, p.Name)
	}
	return c, left
}

// TestEndedPods: of those that have ended the oldest go when there are too many, those that their nodes put out first; one that is going counts too.
func TestEndedPods(t *testing.T) {
	is := func(phase corev1.PodPhase, reason string, age time.Duration, going bool) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Reason = phase, reason
			p.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0).Add(-age))
			if going {
				p.DeletionTimestamp, p.Finalizers = ptr.To(metav1.NewTime(time.Unix(1e9, 0))), []string{"x"}
			}
		}
	}
	f, ok := corev1.PodFailed, corev1.PodSucceeded
	for _, tt := range []struct {
		name string
		most int
		pods []runtime.Object
		left []string
	}{
		{"few enough", 2, []runtime.Object{pod("a", "here", is(ok, "", 1, false)), pod("b", "here", is(f, "", 2, false)), pod("c", "here", nil)}, []string{"a", "b", "c"}},
		{"the oldest go", 1, []runtime.Object{pod("a", "here", is(ok, "", time.Hour, false)), pod("b", "here", is(f, "", 2*time.Hour, false)), pod("c", "here", is(ok, "", time.Minute, false))}, []string{"c"}},
		{"those put out before them", 1, []runtime.Object{pod("a", "here", is(ok, "", time.Hour, false)), pod("b", "here", is(f, "Evicted", 0, false))}, []string{"a"}},
		{"of one age by name", 1, []runtime.Object{pod("b", "here", is(ok, "", 0, false)), pod("a", "here", is(f, "", 0, false))}, []string{"b"}},
		{"what runs stays", 0, []runtime.Object{pod("a", "here", nil), pod("b", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending })}, []string{"a", "b"}},
		{"one that is going counts", 1, []runtime.Object{pod("a", "here", is(ok, "", time.Hour, false)), pod("b", "here", is(ok, "", time.Minute, true))}, []string{"b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				objects := append(tt.pods, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
				if _, left := play(t, func(c *Controller) { c.most = tt.most }, objects...); !slices.Equal(left, tt.left) {
					t.Errorf("left %v, want %v", left, tt.left)
				}
			})
		})
	}
}

// TestWhatIsSaidOfThem: a pod that had not ended fails before it goes, and says why if its node is gone.
func TestWhatIsSaidOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		going := func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers, p.Generation = &now, []string{"x"}, 3 }
		c, left := play(t, func(*Controller) {},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "off"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "back"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
			pod("lost", "gone", func(p *corev1.Pod) { p.Generation = 3 }), pod("done", "gone", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
			pod("stuck", "off", going), pod("waits", "back", going), pod("nowhere", "", going),
		)
		if !slices.Equal(left, []string{"waits"}) {
			t.Errorf("left %v", left)
		}
		said := map[string]string{}
		for _, a := range c.Actions() {
			patch, ok := a.(clientgotesting.PatchAction)
			if !ok {
				continue
			}
			var p corev1.Pod
			if err := json.Unmarshal(patch.GetPatch(), &p); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("%s %d", p.Status.Phase, p.Status.ObservedGeneration)
			for _, c := range p.Status.Conditions {
				text += fmt.Sprintf(" %s=%s %s %d: %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
			}
			said[patch.GetName()] = text
		}
		want := map[string]string{"lost": "Failed 3 DisruptionTarget=True DeletionByPodGC 3: PodGC: node no longer exists", "stuck": "Failed 3", "nowhere": "Failed 3"}
		if !maps.Equal(said, want) {
			t.Errorf("said %q, want %q", said, want)
		}
		for _, a := range c.Actions() {
			if d, ok := a.(clientgotesting.DeleteActionImpl); ok && (d.DeleteOptions.GracePeriodSeconds == nil || *d.DeleteOptions.GracePeriodSeconds != 0) {
				t.Errorf("%s is deleted with %+v", d.Name, d.DeleteOptions)
			}
		}
	})
}
