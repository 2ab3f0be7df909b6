package podgc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"

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
