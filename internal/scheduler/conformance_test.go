package scheduler

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/controller/controllertest"
)

// The conformance tests of the area scheduling, on the real API server: what is bound, evicted and written in the status. The pods run nowhere: the test says in place of a kubelet that a deleted pod has
// ended.

// theatre is an API with a scheduler and nodes.
type theatre struct {
	*testing.T
	e *controllertest.Env
}

func conformance(t *testing.T, nodes ...*v1.Node) *theatre {
	t.Helper()
	e := controllertest.Start(t)
	s, err := New(Config{Client: e.Client, Poster: e.Poster, Informers: e.Informers})
	if err != nil {
		t.Fatal(err)
	}
	w := &theatre{t, e}
	for _, n := range nodes {
		status := n.Status.DeepCopy()
		made, err := e.Client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		made.Status = *status
		made.Status.Capacity = status.Allocatable
		if _, err := e.Client.CoreV1().Nodes().UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Run(t, s)
	return w
}

func (w *theatre) create(p *v1.Pod) *v1.Pod {
	w.Helper()
	p.UID = ""
	p.Spec.Containers[0].Image = "example.com/image"
	made, err := w.e.Client.CoreV1().Pods("default").Create(w.Context(), p, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return made
}

func (w *theatre) get(name string) (*v1.Pod, error) {
	return w.e.Client.CoreV1().Pods("default").Get(w.Context(), name, metav1.GetOptions{})
}

// scheduled waits until a pod is on a node.
func (w *theatre) scheduled(name, node string) {
	w.Helper()
	controllertest.Eventually(w.T, func() error {
		p, err := w.get(name)
		if err == nil && p.Spec.NodeName != node {
			err = fmt.Errorf("pod %s is on %q, want %q: %+v", name, p.Spec.NodeName, node, p.Status.Conditions)
		}
		return err
	})
}

// unschedulable waits until it is said of a pod that it fits nowhere.
func (w *theatre) unschedulable(name string) {
	w.Helper()
	controllertest.Eventually(w.T, func() error {
		p, err := w.get(name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable
		}) {
			return fmt.Errorf("conditions %+v", p.Status.Conditions)
		}
		return nil
	})
}

// evicted waits until a pod is being deleted and says why, and then ends it, as its kubelet would.
func (w *theatre) evicted(name string) {
	w.Helper()
	controllertest.Eventually(w.T, func() error {
		p, err := w.get(name)
		if err != nil {
			return err
		}
		if p.DeletionTimestamp == nil || !terminating(p) {
			return fmt.Errorf("deleted %v, conditions %+v", p.DeletionTimestamp, p.Status.Conditions)
		}
		return nil
	})
	w.end(name)
}

func (w *theatre) end(name string) {
	w.Helper()
	none := int64(0)
	if err := w.e.Client.CoreV1().Pods("default").Delete(w.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil && !apierrors.IsNotFound(err) {
		w.Fatal(err)
	}
}

// Priorities; the admission that takes them from classes isn't on this stage.
const (
	low    = 1
	medium = 100
	high   = 1000
)

// TestConformancePredicates: "validates resource limits of pods that are allowed to run", "validates that NodeSelector is respected if matching" and "... if not matching",
// "validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP".
func TestConformancePredicates(t *testing.T) {
	w := conformance(t, newNode("a", "2", "4Gi", labelled("disk", "ssd")), newNode("b", "4", "4Gi"))
	w.create(newPod("fits", requesting("cpu", "3")))
	w.scheduled("fits", "b")
	w.create(newPod("exceeds", requesting("cpu", "3")))
	w.unschedulable("exceeds")
	w.create(newPod("selects", selecting("disk", "ssd")))
	w.scheduled("selects", "a")
	w.create(newPod("selects-nothing", selecting("disk", "tape")))
	w.unschedulable("selects-nothing")
	onA := selecting("disk", "ssd")
	w.create(newPod("port", onA, port(8080, "127.0.0.1", v1.ProtocolTCP)))
	w.scheduled("port", "a")
	w.create(newPod("other-ip", onA, port(8080, "127.0.0.2", v1.ProtocolTCP)))
	w.scheduled("other-ip", "a")
	w.create(newPod("other-protocol", onA, port(8080, "127.0.0.1", v1.ProtocolUDP)))
	w.scheduled("other-protocol", "a")
	w.create(newPod("every-ip", onA, port(8080, "0.0.0.0", v1.ProtocolTCP)))
	w.unschedulable("every-ip")
}

// TestConformancePreemption: "validates basic preemption works" and "validates lower priority pod preemption by critical pod".
func TestConformancePreemption(t *testing.T) {
	scarce := func(n *v1.Node) { n.Status.Allocatable["example.com/scarce"] = resource.MustParse("5") }
	w := conformance(t, newNode("a", "4", "4Gi", scarce), newNode("b", "4", "4Gi", scarce))
	want := func(p *v1.Pod) {
		r := list(map[v1.ResourceName]string{"example.com/scarce": "5"})
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: r, Limits: r}
	}
	w.create(newPod("low", want, priority(low), selecting(v1.LabelHostname, "a")))
	w.scheduled("low", "a")
	w.create(newPod("medium", want, priority(medium), selecting(v1.LabelHostname, "b")))
	w.scheduled("medium", "b")
	w.create(newPod("high", want, priority(high)))
	w.evicted("low")
	w.scheduled("high", "a")
	if p, err := w.get("medium"); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("the more important pod is gone too: %v", err)
	}
	critical := newPod("critical", want, priority(high))
	critical.Namespace = "kube-system"
	*critical.Spec.Priority = 2000000000
	critical.UID = ""
	critical.Spec.Containers[0].Image = "example.com/image"
	controllertest.Eventually(t, func() error {
		_, err := w.e.Client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	if _, err := w.e.Client.CoreV1().Pods("kube-system").Create(t.Context(), critical, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.evicted("medium")
	controllertest.Eventually(t, func() error {
		p, err := w.e.Client.CoreV1().Pods("kube-system").Get(t.Context(), "critical", metav1.GetOptions{})
		if err == nil && p.Spec.NodeName != "b" {
			err = fmt.Errorf("on %q", p.Spec.NodeName)
		}
		return err
	})
}

// TestConformanceDisruptionCondition: "validates pod disruption condition is added to the preempted pod", which a finalizer keeps.
func TestConformanceDisruptionCondition(t *testing.T) {
	w := conformance(t, newNode("a", "1", "4Gi"))
	w.create(newPod("victim", requesting("cpu", "1"), priority(low), func(p *v1.Pod) { p.Finalizers = []string{"example.com/keep"} }))
	w.scheduled("victim", "a")
	w.create(newPod("preemptor", requesting("cpu", "1"), priority(high)))
	w.evicted("victim")
	p, err := w.get("victim")
	if err != nil {
		t.Fatal(err)
	}
	if !terminating(p) {
		t.Errorf("conditions %+v", p.Status.Conditions)
	}
	controllertest.Eventually(t, func() error {
		p, err := w.get("preemptor")
		if err == nil && p.Status.NominatedNodeName != "a" {
			err = fmt.Errorf("nominated for %q", p.Status.NominatedNodeName)
		}
		return err
	})
	if _, err := w.e.Client.CoreV1().Pods("default").Patch(t.Context(), "victim", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.scheduled("preemptor", "a")
}

// TestConformancePreemptionPath: "runs ReplicaSets to verify preemption running path": of sets of three priorities that fill a node, the fourth takes the place of as many as it needs, of the least
// priority.
func TestConformancePreemptionPath(t *testing.T) {
	w := conformance(t, newNode("a", "10", "40Gi"))
	for i := range 4 {
		w.create(newPod(fmt.Sprint("low", i), requesting("cpu", "1"), priority(low)))
	}
	for i := range 3 {
		w.create(newPod(fmt.Sprint("medium", i), requesting("cpu", "2"), priority(medium)))
	}
	for i := range 4 {
		w.scheduled(fmt.Sprint("low", i), "a")
	}
	for i := range 3 {
		w.scheduled(fmt.Sprint("medium", i), "a")
	}
	w.create(newPod("high", requesting("cpu", "2"), priority(high)))
	gone := map[string]bool{}
	controllertest.Eventually(t, func() error {
		pods, err := w.e.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range pods.Items {
			if p := &pods.Items[i]; p.DeletionTimestamp != nil {
				gone[p.Name] = true
			}
		}
		if len(gone) != 2 {
			return fmt.Errorf("%v are evicted", gone)
		}
		return nil
	})
	for name := range gone {
		w.evicted(name)
	}
	w.scheduled("high", "a")
	pods, err := w.e.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int{}
	for i := range pods.Items {
		left[*pods.Items[i].Spec.Priority]++
	}
	if left[low] != 2 || left[medium] != 3 || left[high] != 1 {
		t.Errorf("%v", left)
	}
}
