package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clientgotesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"

	"github.com/celox/celox/internal/client/informers"
)

// bench is a scheduler with a simulated API, in virtual time.
type bench struct {
	*testing.T
	client *fake.Clientset
	mu     sync.Mutex
	events []string
	// bind, if set, is asked before a binding is carried out.
	bind func(pod, node string) error
	sync.WaitGroup
	start time.Time
}

// Eventf makes the bench a recorder of events.
func (b *bench) Eventf(regarding, _ runtime.Object, eventtype, reason, action, note string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, _, _ := strings.Cut(fmt.Sprintf(note, args...), " Nearest fit: ") // which TestHint looks at
	b.events = append(b.events, fmt.Sprintf("%s %s %s %s", regarding.(*v1.Pod).Name, eventtype, reason, text))
}

// run makes a scheduler work in a bubble of virtual time, with f as the world around it.
func run(t *testing.T, f func(b *bench), objects ...runtime.Object) {
	t.Helper()
	runWith(t, Config{}, f, objects...)
}

func runWith(t *testing.T, cfg Config, f func(b *bench), objects ...runtime.Object) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, client: fake.NewClientset(objects...), start: time.Now()}
		b.client.PrependReactor("create", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() != "binding" {
				return false, nil, nil
			}
			binding := a.(clientgotesting.CreateAction).GetObject().(*v1.Binding)
			b.mu.Lock()
			refuse := b.bind
			b.mu.Unlock()
			if refuse != nil {
				if err := refuse(binding.Name, binding.Target.Name); err != nil {
					return true, nil, err
				}
			}
			pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
			obj, err := b.client.Tracker().Get(pods, a.GetNamespace(), binding.Name)
			if err != nil {
				return true, nil, err
			}
			p := obj.(*v1.Pod).DeepCopy()
			p.Spec.NodeName = binding.Target.Name
			return true, binding, b.client.Tracker().Update(pods, p, p.Namespace)
		})
		f2 := informers.New(b.client)
		cfg.Client, cfg.Informers, cfg.Recorder = b.client, f2, b
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		f2.StartWithContext(ctx)
		b.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		f(b)
		cancel()
		b.Wait()
		f2.Shutdown()
		if len(s.calls) != 0 {
			t.Errorf("%d calls are still counted", len(s.calls))
		}
	})
}

func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) create(pods ...*v1.Pod) {
	b.Helper()
	for _, p := range pods {
		if _, err := b.client.CoreV1().Pods(p.Namespace).Create(b.Context(), p, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	synctest.Wait()
}

func (b *bench) addNode(n *v1.Node) {
	b.Helper()
	if _, err := b.client.CoreV1().Nodes().Create(b.Context(), n, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) setNode(n *v1.Node) {
	b.Helper()
	if _, err := b.client.CoreV1().Nodes().Update(b.Context(), n, metav1.UpdateOptions{}); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) update(name string, f func(*v1.Pod)) {
	b.Helper()
	p := b.pod(name).DeepCopy()
	f(p)
	if _, err := b.client.CoreV1().Pods(p.Namespace).Update(b.Context(), p, metav1.UpdateOptions{}); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

func (b *bench) remove(name string) {
	b.Helper()
	if err := b.client.CoreV1().Pods("default").Delete(b.Context(), name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

// lingers makes a pod take its time when it is deleted.
func (b *bench) lingers(name string, d time.Duration) {
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	b.client.PrependReactor("delete", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		if a.(clientgotesting.DeleteAction).GetName() != name {
			return false, nil, nil
		}
		obj, err := b.client.Tracker().Get(pods, "default", name)
		if err != nil {
			return true, nil, err
		}
		p := obj.(*v1.Pod).DeepCopy()
		if p.DeletionTimestamp != nil {
			return true, nil, nil
		}
		p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(d)}
		b.Go(func() {
			time.Sleep(d)
			if err := b.client.Tracker().Delete(pods, "default", name); err != nil {
				b.Error(err)
			}
		})
		return true, nil, b.client.Tracker().Update(pods, p, p.Namespace)
	})
}

// gone checks that there is no such pod.
func (b *bench) gone(name string) {
	b.Helper()
	if _, err := b.client.CoreV1().Pods("default").Get(b.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		b.Errorf("pod %s: %v", name, err)
	}
}

func (b *bench) pod(name string) *v1.Pod {
	b.Helper()
	p, err := b.client.CoreV1().Pods("default").Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// on checks which node pods have.
func (b *bench) on(node string, names ...string) {
	b.Helper()
	for _, n := range names {
		if got := b.pod(n).Spec.NodeName; got != node {
			b.Errorf("%v after the start, pod %s is on %q, want %q", time.Since(b.start), n, got, node)
		}
	}
}

func (b *bench) seen(want string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, e := range b.events {
		if e == want {
			n++
		}
	}
	return n
}

func (b *bench) condition(name string) string {
	b.Helper()
	for _, c := range b.pod(name).Status.Conditions {
		if c.Type == v1.PodScheduled {
			return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

const noCPU = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

func TestSchedules(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p"), newPod("other", func(p *v1.Pod) { p.Spec.SchedulerName = "somebody-else" }))
		b.on("a", "p")
		b.on("", "other")
		if b.seen("p Normal Scheduled Successfully assigned default/p to a") != 1 {
			b.Errorf("%q", b.events)
		}
		if time.Since(b.start) != 0 {
			b.Errorf("took %v", time.Since(b.start))
		}
	}, newNode("a", "4", "4Gi"))
}

func TestFindsWhatIsThere(t *testing.T) {
	run(t, func(b *bench) {
		b.on("a", "running")
		b.on("", "p")
		b.on("a", "small")
	}, newNode("a", "1", "4Gi"), newPod("running", on("a"), requesting("cpu", "600m")), newPod("p", requesting("cpu", "500m")), newPod("small", requesting("cpu", "100m")))
}

func TestFailureIsTold(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p"))
		want := "no nodes available to schedule pods"
		if got := b.condition("p"); got != "False Unschedulable "+want {
			b.Error(got)
		}
		if b.seen("p Warning FailedScheduling "+want) != 1 {
			b.Errorf("%q", b.events)
		}
		// Writing the condition doesn't wake the pod.
		b.pass(time.Minute)
		if b.seen("p Warning FailedScheduling "+want) != 1 {
			b.Errorf("%q", b.events)
		}
		b.addNode(newNode("a", "1", "1Gi"))
		b.on("a", "p")
	})
}

func TestRoomIsMade(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("first", requesting("cpu", "1")), newPod("second", requesting("cpu", "1")), newPod("third", requesting("cpu", "1")))
		b.on("a", "first")
		if got := b.condition("second"); got != "False Unschedulable "+noCPU {
			b.Error(got)
		}
		b.pass(time.Minute)
		b.remove("first")
		b.on("a", "second")
		b.on("", "third")
		if n := b.seen("third Warning FailedScheduling " + noCPU); n != 1 {
			b.Errorf("the third was tried %d times", n)
		}
		b.update("second", func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded })
		b.on("a", "third")
	}, newNode("a", "1", "1Gi"))
}

func TestNodeChanges(t *testing.T) {
	for name, tt := range map[string]struct {
		before, after *v1.Node
		pod           *v1.Pod
	}{
		"larger":     {newNode("a", "1", "1Gi"), newNode("a", "4", "1Gi"), newPod("p", requesting("cpu", "2"))},
		"labelled":   {newNode("a", "1", "1Gi"), newNode("a", "1", "1Gi", labelled("x", "y")), newPod("p", selecting("x", "y"))},
		"untainted":  {newNode("a", "1", "1Gi", tainted("x", "", v1.TaintEffectNoSchedule)), newNode("a", "1", "1Gi"), newPod("p")},
		"uncordoned": {newNode("a", "1", "1Gi", cordoned), newNode("a", "1", "1Gi"), newPod("p")},
		"in a zone":  {newNode("a", "1", "1Gi"), newNode("a", "1", "1Gi", labelled(v1.LabelTopologyZone, "z")), newPod("p", spreading(1, v1.LabelTopologyZone, v1.DoNotSchedule))},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.create(tt.pod)
				b.on("", "p")
				b.pass(time.Minute)
				irrelevant := tt.before.DeepCopy()
				irrelevant.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
				b.setNode(irrelevant)
				b.on("", "p")
				b.setNode(tt.after)
				b.on("a", "p")
			}, tt.before)
		})
	}
}

// TestNamespaceLabels: whom an affinity is about may depend on the labels of a namespace.
func TestNamespaceLabels(t *testing.T) {
	run(t, func(b *bench) {
		spaces := b.client.CoreV1().Namespaces()
		other := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
		if _, err := spaces.Create(b.Context(), other, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		tm := term(v1.LabelHostname, "app", "db")
		tm.NamespaceSelector = term("", "team", "x").LabelSelector
		b.create(newPod("db", podLabels("app", "db"), on("a"), func(p *v1.Pod) { p.Namespace = "other" }), newPod("p", near(tm)))
		b.on("", "p")
		b.pass(time.Minute)
		other = other.DeepCopy()
		other.Labels = map[string]string{"team": "x"}
		if _, err := spaces.Update(b.Context(), other, metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
		synctest.Wait()
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"))
}

func TestPodChanges(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("gated", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "x"}} }), newPod("p"), newPod("going"))
		b.on("", "gated", "p")
		if b.seen("gated Warning FailedScheduling ") != 0 {
			b.Errorf("%q", b.events)
		}
		b.pass(time.Minute)
		b.update("p", func(p *v1.Pod) {
			p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
			p.Generation++
		})
		b.on("a", "p")
		b.update("gated", func(p *v1.Pod) {
			p.Spec.SchedulingGates = nil
			p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
			p.Generation++
		})
		b.on("a", "gated")
		b.update("going", func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
		b.setNode(newNode("a", "1", "1Gi"))
		b.on("", "going")
	}, newNode("a", "1", "1Gi", tainted("x", "", v1.TaintEffectNoSchedule)))
}

func TestOthersAreWaitedFor(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", near(term(v1.LabelHostname, "app", "db"))), newPod("alone", podLabels("app", "x"), apart(term(v1.LabelHostname, "app", "y"))), newPod("y", podLabels("app", "y")))
		b.on("a", "alone")
		b.on("", "p", "y")
		b.pass(time.Minute)
		b.create(newPod("db", podLabels("app", "db")))
		b.on("a", "db", "p")
		b.on("", "y")
		b.remove("alone")
		b.on("a", "y")
	}, newNode("a", "4", "4Gi"))
}

func TestBindingFails(t *testing.T) {
	run(t, func(b *bench) {
		tries := 0
		b.bind = func(string, string) error {
			if tries++; tries <= 2 {
				return apierrors.NewInternalError(errors.New("boom"))
			}
			return nil
		}
		b.create(newPod("p", requesting("cpu", "1")))
		b.on("", "p")
		if got := b.condition("p"); !strings.HasPrefix(got, `False SchedulerError running Bind plugin "DefaultBinder": `) || !strings.HasSuffix(got, "boom") {
			b.Error(got)
		}
		b.pass(900 * time.Millisecond)
		b.on("", "p")
		b.pass(100 * time.Millisecond)
		b.on("", "p")
		b.pass(2 * time.Second)
		b.on("a", "p")
		if tries != 3 {
			b.Errorf("%d tries", tries)
		}
	}, newNode("a", "1", "1Gi"))
}

func TestPodGoesWhileBound(t *testing.T) {
	run(t, func(b *bench) {
		b.bind = func(pod, _ string) error {
			if pod == "p" {
				if err := b.client.Tracker().Delete(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "default", "p"); err != nil {
					b.Error(err)
				}
				return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, pod)
			}
			return nil
		}
		b.create(newPod("p", requesting("cpu", "1")), newPod("q", requesting("cpu", "1")))
		b.on("a", "q")
	}, newNode("a", "1", "1Gi"))
}

func TestBurst(t *testing.T) {
	var objects []runtime.Object
	for i := range 10 {
		objects = append(objects, newNode(fmt.Sprint("n", i), "10", "100Gi"))
	}
	run(t, func(b *bench) {
		for i := range 110 {
			b.create(newPod(fmt.Sprint("p", i), requesting("cpu", "1")))
		}
		count := map[string]int{}
		for i := range 110 {
			count[b.pod(fmt.Sprint("p", i)).Spec.NodeName]++
		}
		if count[""] != 10 {
			b.Errorf("%v", count)
		}
		for n, c := range count {
			if c != 10 {
				b.Errorf("%s: %d", n, c)
			}
		}
	}, objects...)
}

// TestIdle: without anything to do, nothing wakes up.
func TestIdle(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p"))
		b.client.ClearActions()
		b.pass(24 * time.Hour)
		if a := b.client.Actions(); slices.ContainsFunc(a, func(a clientgotesting.Action) bool { return a.GetVerb() != "watch" && a.GetVerb() != "list" }) {
			b.Errorf("%v", a)
		}
	}, newNode("a", "1", "1Gi"))
}

// TestOwnRecorder: events go to the API if nobody else records them.
func TestOwnRecorder(t *testing.T) {
	client := fake.NewClientset(newNode("a", "1", "1Gi"), newPod("p", requesting("cpu", "2")))
	f := informers.New(client)
	s, err := New(Config{Client: client, Informers: f})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		list, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) > 0 {
			e := list.Items[0]
			if e.Reason != "FailedScheduling" || e.ReportingController != DefaultName || e.InvolvedObject.Name != "p" || e.Action != "Scheduling" || !strings.Contains(e.Message, "Insufficient cpu") {
				t.Errorf("%+v", e)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("no event")
		}
	}
	cancel()
	wg.Wait()
	f.Shutdown()
}

var _ events.EventRecorder = (*bench)(nil)
