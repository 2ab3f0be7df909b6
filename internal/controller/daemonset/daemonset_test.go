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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/revision"
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

// roundOf is a look at a set and the pods of its nodes.
func roundOf(now time.Time, ds *appsv1.DaemonSet, nodes []*corev1.Node, pods ...*corev1.Pod) *round {
	r := &round{c: &Controller{recorder: record.NewFakeRecorder(100), backoff: flowcontrol.NewFakeBackOff(minBackoff, maxBackoff, testclock.NewFakeClock(now))}, ds: ds, nodes: nodes, hash: "new", now: now, on: map[string][]*corev1.Pod{}}
	for _, p := range pods {
		r.on[p.Spec.NodeName] = append(r.on[p.Spec.NodeName], p)
	}
	return r
}

func rolling(surge, down int32) func(*appsv1.DaemonSetSpec) {
	return func(s *appsv1.DaemonSetSpec) {
		up, away := intstr.FromInt32(surge), intstr.FromInt32(down)
		s.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &up, MaxUnavailable: &away}}
	}
}

// What is missing and in the way is settled first, and a rollout goes on from there.
func TestPlaceAndRoll(t *testing.T) {
	now := time.Unix(100000, 0)
	pod := func(name, hash string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{hashLabel: hash}},
			Spec:       corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	ready := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	on := func(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
	born := func(at int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Unix(at, 0)) }
	}
	numbered := func(n string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Labels[generationLabel] = n } }
	for _, tt := range []struct {
		name        string
		surge, down int32
		pods        []*corev1.Pod
		backoff     bool     // something failed there a moment ago
		place, roll []string // what each does: +node, -pod
	}{
		{"nothing is there", 0, 1, nil, false, []string{"+a"}, nil},
		{"one goes, and its place is not free yet", 0, 1, []*corev1.Pod{pod("n", "new", ready, ending)}, false, nil, nil},
		{"surge: one goes, and another may begin", 1, 0, []*corev1.Pod{pod("n", "new", ready, ending)}, false, []string{"+a"}, nil},
		{"surge: an old one goes", 1, 0, []*corev1.Pod{pod("o", "old", ending)}, false, []string{"+a"}, nil},
		{"surge: one failed", 1, 0, []*corev1.Pod{pod("n", "new", failed)}, false, []string{"+a", "-n"}, nil},
		{"one failed", 0, 1, []*corev1.Pod{pod("n", "new", failed)}, false, []string{"-n"}, nil},
		{"one failed again", 0, 1, []*corev1.Pod{pod("n", "new", failed)}, true, nil, nil},
		{"an old one failed again: the new template may do better", 0, 1, []*corev1.Pod{pod("o", "old", failed)}, true, nil, []string{"-o"}},
		{"surge: both, the new one is not ready", 1, 0, []*corev1.Pod{pod("o", "old", ready), pod("n", "new")}, false, nil, nil},
		{"surge: both, neither is ready", 1, 0, []*corev1.Pod{pod("o", "old"), pod("n", "new")}, false, []string{"-o"}, nil},
		{"surge: both are ready", 1, 0, []*corev1.Pod{pod("o", "old", ready), pod("n", "new", ready)}, false, []string{"-o"}, nil},
		{"surge: too many of each", 1, 0, []*corev1.Pod{pod("o", "old", ready, born(2)), pod("o1", "old", ready, born(1)), pod("n", "new", born(4)), pod("n1", "new", born(3))}, false, []string{"-n", "-o"}, nil},
		{"surge: the old one is not ready", 1, 0, []*corev1.Pod{pod("o", "old")}, false, nil, []string{"+a"}},
		{"an old one", 0, 1, []*corev1.Pod{pod("o", "old", ready)}, false, nil, []string{"-o"}},
		{"an old one by its hash, of the same template by its number", 0, 1, []*corev1.Pod{pod("o", "old", ready, numbered("7"))}, false, nil, nil},
		{"an old one by both", 0, 1, []*corev1.Pod{pod("o", "old", ready, numbered("6"))}, false, nil, []string{"-o"}},
		{"an old one on a node that is gone", 0, 1, []*corev1.Pod{pod("n", "new", ready), pod("g", "old", ready, on("gone"))}, false, nil, []string{"-g"}},
		{"one on a node that is gone is away", 0, 1, []*corev1.Pod{pod("o", "old", ready), pod("g", "new", on("gone"))}, false, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ds := set("i", rolling(tt.surge, tt.down))
			ds.UID, ds.Annotations = "d", map[string]string{appsv1.DeprecatedTemplateGeneration: "7"}
			r := roundOf(now, ds, []*corev1.Node{node("a")}, tt.pods...)
			if tt.backoff {
				r.c.loop = controller.NewLoop("test", func(context.Context, string) error { return nil }, controller.Options{})
				ended, end := context.WithCancel(context.Background())
				end()
				defer func() { _ = r.c.loop.Run(ended) }() // it has nothing to do but to end
				r.c.backoff.Next("d/0/a", now)
			}
			done := func() []string {
				var all []string
				for _, n := range r.create {
					all = append(all, "+"+n)
				}
				for _, p := range r.remove {
					all = append(all, "-"+p.Name)
				}
				r.create, r.remove = nil, nil
				slices.Sort(all)
				return all
			}
			r.place()
			if got := done(); !slices.Equal(got, tt.place) {
				t.Errorf("placed %v, want %v", got, tt.place)
			}
			if tt.place != nil {
				return // a rollout waits for that
			}
			r.roll()
			if got := done(); !slices.Equal(got, tt.roll) {
				t.Errorf("rolled %v, want %v", got, tt.roll)
			}
		})
	}
}

// The limit of the history counts old revisions that pods still have, which are never dropped.
func TestTruncate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit int32
		pods  []string // the revisions that pods have
		want  []string
	}{
		{"the oldest go", 2, []string{"e"}, []string{"c", "d", "e"}},
		{"one that a pod has counts", 2, []string{"a", "e"}, []string{"a", "d", "e"}},
		{"as many as the limit are in use", 2, []string{"a", "b"}, []string{"a", "b", "e"}},
		{"more than the limit are in use", 1, []string{"a", "b"}, []string{"a", "b", "e"}},
		{"none are kept", 0, nil, []string{"e"}},
		{"all fit", 4, nil, []string{"a", "b", "c", "d", "e"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := controllertest.Start(t)
			api := e.Client.AppsV1().ControllerRevisions("default")
			c := &Controller{client: e.Client, history: &revision.History{Client: e.Client, Kind: kind}}
			var all []*appsv1.ControllerRevision
			for i, name := range []string{"a", "b", "c", "d", "e"} {
				r, err := api.Create(context.Background(), &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{hashLabel: name}},
					Data: runtime.RawExtension{Raw: []byte("{}")}, Revision: int64(i + 1)}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, r)
			}
			var pods []*corev1.Pod
			for _, hash := range tt.pods {
				pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{hashLabel: hash}}})
			}
			ds := set("i", func(s *appsv1.DaemonSetSpec) { s.RevisionHistoryLimit = &tt.limit })
			if err := c.truncate(context.Background(), ds, all, "e", pods); err != nil {
				t.Fatal(err)
			}
			left, err := api.List(context.Background(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range left.Items {
				got = append(got, r.Name)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v are left, want %v", got, tt.want)
			}
		})
	}
}

// Revisions that say the same become one, the newest, and so do their pods; what has no hash gets one.
func TestTidy(t *testing.T) {
	e := controllertest.Start(t)
	revisions, pods := e.Client.AppsV1().ControllerRevisions("default"), e.Client.CoreV1().Pods("default")
	ds := set("i", nil)
	data, err := revision.Data(&ds.Spec.Template)
	if err != nil {
		t.Fatal(err)
	}
	var all []*appsv1.ControllerRevision
	for i, r := range []struct {
		name, hash string
		data       []byte
	}{{"d-one", "one", data}, {"d-two", "two", []byte("{}")}, {"d-twin", "", data}} {
		made := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: r.name, Namespace: "default"}, Data: runtime.RawExtension{Raw: r.data}, Revision: int64(i + 1)}
		if r.hash != "" {
			made.Labels = map[string]string{hashLabel: r.hash}
		}
		if made, err = revisions.Create(context.Background(), made, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		all = append(all, made)
	}
	var daemons []*corev1.Pod
	for _, hash := range []string{"one", "two"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: hash, Namespace: "default", Labels: map[string]string{hashLabel: hash}}, Spec: ds.Spec.Template.Spec}
		if p, err = pods.Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, p)
	}
	c := &Controller{client: e.Client}
	left, err := c.tidy(context.Background(), ds, all, daemons)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name != "d-two" || left[1].Name != "d-twin" || left[1].Labels[hashLabel] != "d-twin" {
		t.Errorf("left %+v", left)
	}
	if list, err := revisions.List(context.Background(), metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
		t.Errorf("%d revisions, %v", len(list.Items), err)
	}
	for name, want := range map[string]string{"one": "d-twin", "two": "two"} {
		if p, err := pods.Get(context.Background(), name, metav1.GetOptions{}); err != nil || p.Labels[hashLabel] != want {
			t.Errorf("pod %s: %v, %v; want %s", name, p.Labels, err, want)
		}
	}
	if again, err := c.tidy(context.Background(), ds, left, daemons); err != nil || len(again) != 2 {
		t.Errorf("again: %d, %v", len(again), err)
	}
}

// A pod that is bound for nowhere, as an adopted orphan may be, is left alone.
func TestBoundForNowhere(t *testing.T) {
	t.Parallel()
	s := newStage(t, node("a"))
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "default", Labels: map[string]string{"app": "d"}}, Spec: set("one", nil).Spec.Template.Spec}
	if _, err := s.Client.CoreV1().Pods("default").Create(context.Background(), orphan, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.create(set("one", nil))
	controllertest.Eventually(t, func() error {
		list, err := s.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		ds, err := s.Client.AppsV1().DaemonSets("default").Get(context.Background(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != 2 || ds.Status.CurrentNumberScheduled != 1 || ds.Status.ObservedGeneration != 1 {
			return fmt.Errorf("%d pods, status %+v", len(list.Items), ds.Status)
		}
		return nil
	})
	// The next look must not take it away either.
	s.patch(`{"spec":{"minReadySeconds":1}}`)
	controllertest.Eventually(t, func() error {
		ds, err := s.Client.AppsV1().DaemonSets("default").Get(context.Background(), "d", metav1.GetOptions{})
		if err == nil && ds.Status.ObservedGeneration != 2 {
			return fmt.Errorf("status %+v", ds.Status)
		}
		return err
	})
	if p, err := s.Client.CoreV1().Pods("default").Get(context.Background(), "orphan", metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil || len(p.OwnerReferences) != 1 {
		t.Errorf("the orphan: %+v, %v", p, err)
	}
}
