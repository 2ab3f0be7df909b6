package extender

import (
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/scheduler"
)

// The scheduler, a real API and an extender over HTTP: it chooses between nodes, and binds.
func TestScheduler(t *testing.T) {
	e := controllertest.Start(t)
	for _, name := range []string{"a", "b", "c"} {
		amounts := v1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("10")}
		_, err := e.Client.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.NodeStatus{Capacity: amounts, Allocatable: amounts}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	bound := make(chan string, 10)
	s := serve(t, false, map[string]func([]byte) any{
		"filter": func(body []byte) any {
			args := arguments(t, body)
			if args.Pod.Name == "refused" {
				return extenderv1.ExtenderFilterResult{Nodes: &v1.NodeList{}, FailedAndUnresolvableNodes: map[string]string{"a": "not today", "b": "not today", "c": "not today"}}
			}
			var kept []v1.Node
			for _, n := range args.Nodes.Items {
				if n.Name != "a" {
					kept = append(kept, n)
				}
			}
			return extenderv1.ExtenderFilterResult{Nodes: &v1.NodeList{Items: kept}, FailedNodes: map[string]string{"a": "no a"}}
		},
		"prioritize": func([]byte) any { return extenderv1.HostPriorityList{{Host: "b", Score: 0}, {Host: "c", Score: 10}} },
		"bind": func(body []byte) any {
			var args extenderv1.ExtenderBindingArgs
			if err := json.Unmarshal(body, &args); err != nil {
				return extenderv1.ExtenderBindingResult{Error: err.Error()}
			}
			err := e.Client.CoreV1().Pods(args.PodNamespace).Bind(t.Context(), &v1.Binding{
				ObjectMeta: metav1.ObjectMeta{Namespace: args.PodNamespace, Name: args.PodName, UID: args.PodUID}, Target: v1.ObjectReference{Kind: "Node", Name: args.Node},
			}, metav1.CreateOptions{})
			if err != nil {
				return extenderv1.ExtenderBindingResult{Error: err.Error()}
			}
			bound <- args.PodName
			return extenderv1.ExtenderBindingResult{}
		},
	})
	x := extenderOf(t, s, schedulerv1.Extender{Weight: 100})
	x.nodes = e.Informers.Core().V1().Nodes().Lister()
	x.cfg.PreemptVerb = ""
	// One that can't be reached, and needn't be.
	s.CloseClientConnections()
	gone, err := New(schedulerv1.Extender{URLPrefix: "http://127.0.0.1:1", FilterVerb: "filter", Ignorable: true}, x.nodes)
	if err != nil {
		t.Fatal(err)
	}
	sched, err := scheduler.New(scheduler.Config{Client: e.Client, Informers: e.Informers, Log: slog.New(slog.DiscardHandler), Extenders: []scheduler.Extender{gone, x}})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, sched)
	for _, name := range []string{"welcome", "refused"} {
		_, err := e.Client.CoreV1().Pods("default").Create(t.Context(), &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, func() error {
		p, err := e.Client.CoreV1().Pods("default").Get(t.Context(), "welcome", metav1.GetOptions{})
		if err == nil && p.Spec.NodeName == "" {
			err = errors.New("no node yet")
		}
		if err == nil && p.Spec.NodeName != "c" {
			t.Fatalf("the pod is on %s", p.Spec.NodeName)
		}
		return err
	})
	if name := <-bound; name != "welcome" {
		t.Errorf("the extender bound %s", name)
	}
	controllertest.Eventually(t, func() error {
		p, err := e.Client.CoreV1().Pods("default").Get(t.Context(), "refused", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
				if want := "0/3 nodes are available: 3 not today."; len(c.Message) < len(want) || c.Message[:len(want)] != want {
					t.Fatalf("the pod is told %q", c.Message)
				}
				return nil
			}
		}
		return errors.New("not told yet")
	})
}
