package daemonset

import (
	"context"
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
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type stage struct {
	*controllertest.Env
	t *testing.T
}

func newStage(t *testing.T, nodes ...*corev1.Node) *stage {
	e := controllertest.Start(t)
	s := &stage{e, t}
	for _, n := range nodes {
		if _, err := e.Client.CoreV1().Nodes().Create(context.Background(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	return s
}

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func set(image string, change func(*appsv1.DaemonSetSpec)) *appsv1.DaemonSet {
	l := map[string]string{"app": "d"}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)), Containers: []corev1.Container{{Name: "c", Image: image}}}},
	}}
	if change != nil {
		change(&ds.Spec)
	}
	return ds
}

func (s *stage) create(ds *appsv1.DaemonSet) {
	s.t.Helper()
	if _, err := s.Client.AppsV1().DaemonSets("default").Create(context.Background(), ds, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) patch(patch string) {
	s.t.Helper()
	if _, err := s.Client.AppsV1().DaemonSets("default").Patch(context.Background(), "d", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// play binds each pod to the node of its affinity and makes it ready if ready says so, until done returns nil. It returns the most and
// fewest available pods that it saw after the first time all were.
func (s *stage) play(ready func(*corev1.Pod) bool, done func(on map[string]string, ds *appsv1.DaemonSet) error) {
	s.t.Helper()
	pods := s.Client.CoreV1().Pods("default")
	controllertest.Eventually(s.t, func() error {
		list, err := pods.List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		on := map[string]string{}
		for _, p := range list.Items {
			if p.Spec.NodeName == "" {
				_ = pods.Bind(context.Background(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeOf(&p)}}, metav1.CreateOptions{}) // it may be gone
				continue
			}
			on[p.Spec.NodeName] += p.Spec.Containers[0].Image
			if p.Status.Phase == corev1.PodPending && ready(&p) {
				p.Status.Phase = corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				_, _ = pods.UpdateStatus(context.Background(), &p, metav1.UpdateOptions{}) // it may be gone
			}
		}
		ds, err := s.Client.AppsV1().DaemonSets("default").Get(context.Background(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := done(on, ds); err != nil {
			return fmt.Errorf("%w: %v, status %+v", err, on, ds.Status)
		}
		return nil
	})
}

func always(*corev1.Pod) bool { return true }

// running wants image on just these nodes, and a status that says so.
func running(image string, nodes ...string) func(map[string]string, *appsv1.DaemonSet) error {
	return func(on map[string]string, ds *appsv1.DaemonSet) error {
		if got := slices.Sorted(maps.Keys(on)); !slices.Equal(got, nodes) {
			return fmt.Errorf("not on %v", nodes)
		}
		for _, images := range on {
			if images != image {
				return fmt.Errorf("not all %s", image)
			}
		}
		n := int32(len(nodes))
		if s := ds.Status; s.DesiredNumberScheduled != n || s.NumberAvailable != n || s.UpdatedNumberScheduled != n || s.ObservedGeneration != ds.Generation || s.NumberMisscheduled != 0 {
			return fmt.Errorf("status is behind")
		}
		return nil
	}
}

func TestOnePodPerNode(t *testing.T) {
	t.Parallel()
	no := corev1.Taint{Key: "no", Effect: corev1.TaintEffectNoSchedule}
	s := newStage(t, node("a"), node("b"), node("tainted", no), node("cordoned", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}))
	s.create(set("one", nil))
	s.play(always, running("one", "a", "b", "cordoned"))
	nodes := s.Client.CoreV1().Nodes()
	if _, err := nodes.Create(context.Background(), node("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.play(always, running("one", "a", "b", "c", "cordoned"))
	// NoSchedule keeps what runs (counted as misscheduled), NoExecute does not.
	taint := func(name string, taints ...corev1.Taint) {
		t.Helper()
		n, err := nodes.Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Spec.Taints = taints
		if _, err := nodes.Update(context.Background(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	taint("a", no)
	s.play(always, func(on map[string]string, ds *appsv1.DaemonSet) error {
		if on["a"] != "one" || ds.Status.NumberMisscheduled != 1 || ds.Status.DesiredNumberScheduled != 3 {
			return fmt.Errorf("NoSchedule")
		}
		return nil
	})
	taint("a", corev1.Taint{Key: "no", Effect: corev1.TaintEffectNoExecute})
	s.play(always, running("one", "b", "c", "cordoned"))
	s.patch(`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"b"}}}}}`)
	s.play(always, running("one", "b"))
}

func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		surge, down int
		fewest      int
		both        bool
	}{{"one at a time", 0, 1, 3, false}, {"two at a time", 0, 2, 2, false}, {"surge", 1, 0, 4, true}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, node("a"), node("b"), node("c"), node("d"))
			s.create(set("one", func(ds *appsv1.DaemonSetSpec) {
				ds.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(int32(tt.surge))), MaxUnavailable: ptr.To(intstr.FromInt32(int32(tt.down)))}
			}))
			s.play(always, running("one", "a", "b", "c", "d"))
			s.patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`)
			// While no new pod gets ready, no more than the strategy allows is replaced.
			s.play(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "one" }, func(on map[string]string, ds *appsv1.DaemonSet) error {
				older, newer, both := 0, 0, false
				for _, images := range on {
					if strings.Contains(images, "one") {
						older++
					}
					if strings.Contains(images, "two") {
						newer++
					}
					both = both || len(images) > 3
				}
				if newer != tt.down+tt.surge || older != tt.fewest || both != tt.both {
					return fmt.Errorf("%d old, %d new", older, newer)
				}
				if older < tt.fewest {
					t.Errorf("%d old pods are left", older)
				}
				return nil
			})
			s.play(always, running("two", "a", "b", "c", "d"))
			list, err := s.Client.AppsV1().ControllerRevisions("default").List(context.Background(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 {
				t.Errorf("%d revisions, %v", len(list.Items), err)
			}
			// Back to the first template: its revision is the newest again.
			s.patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"one"}]}}}}`)
			s.play(always, running("one", "a", "b", "c", "d"))
			list, err = s.Client.AppsV1().ControllerRevisions("default").List(context.Background(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 || list.Items[0].Revision+list.Items[1].Revision != 5 {
				t.Errorf("revisions %+v, %v", list.Items, err)
			}
		})
	}
}

func TestFailedPodsAreReplaced(t *testing.T) {
	t.Parallel()
	s := newStage(t, node("a"))
	s.create(set("one", nil))
	s.play(always, running("one", "a"))
	list, err := s.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	failed := list.Items[0]
	failed.Status.Phase = corev1.PodFailed
	if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), &failed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.play(always, func(on map[string]string, ds *appsv1.DaemonSet) error {
		if _, err := s.Client.CoreV1().Pods("default").Get(context.Background(), failed.Name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the failed pod is still there")
		}
		return running("one", "a")(on, ds)
	})
}

// A rollout also comes to nodes where pods may stay and none may begin: the old ones go, within the limits, and no new ones follow.
func TestRolloutWhereNoneMayBegin(t *testing.T) {
	now := time.Now()
	pod := func(node, hash string, ready bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: hash + "-" + node, UID: types.UID(hash + node), Labels: map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: hash}}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
		}
		return p
	}
	closed := node("closed", corev1.Taint{Key: "no", Effect: corev1.TaintEffectNoSchedule})
	for _, c := range []struct {
		name   string
		surge  int32
		on     map[string][]*corev1.Pod
		remove []string
		create []string
	}{
		{"one may be away", 0, map[string][]*corev1.Pod{"a": {pod("a", "new", true)}, "closed": {pod("closed", "old", true)}}, []string{"old-closed"}, nil},
		{"one is away", 0, map[string][]*corev1.Pod{"a": {pod("a", "new", false)}, "closed": {pod("closed", "old", true)}}, nil, nil},
		{"surge: all run that should", 1, map[string][]*corev1.Pod{"a": {pod("a", "new", true)}, "closed": {pod("closed", "old", true)}}, []string{"old-closed"}, nil},
		{"surge: one does not run yet", 1, map[string][]*corev1.Pod{"a": {pod("a", "new", false)}, "closed": {pod("closed", "old", true)}}, nil, nil},
		{"surge: it serves nobody", 1, map[string][]*corev1.Pod{"a": {pod("a", "new", false)}, "closed": {pod("closed", "old", false)}}, []string{"old-closed"}, nil},
		{"surge: where one may begin", 1, map[string][]*corev1.Pod{"a": {pod("a", "old", true)}}, nil, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ds := set("i", func(s *appsv1.DaemonSetSpec) {
				surge, down := intstr.FromInt32(c.surge), intstr.FromInt32(1-c.surge)
				s.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &surge, MaxUnavailable: &down}}
			})
			r := &round{ds: ds, nodes: []*corev1.Node{node("a"), closed}, hash: "new", now: now, on: c.on}
			r.roll()
			var remove []string
			for _, p := range r.remove {
				remove = append(remove, p.Name)
			}
			if !slices.Equal(remove, c.remove) || !slices.Equal(r.create, c.create) {
				t.Errorf("remove %v, create %v; want %v, %v", remove, r.create, c.remove, c.create)
			}
			if s := r.status(nil, false); s.ObservedGeneration != ds.Status.ObservedGeneration {
				t.Error("a generation was observed that nothing was done for")
			}
		})
	}
}
