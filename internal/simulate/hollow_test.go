package simulate

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A pod that was taken for dead with its node is reported ready again by a kubelet that lives.
func TestKubeletKnowsBetter(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: v1.PodSpec{NodeName: "n"}}
	pod.Status.Phase = v1.PodRunning
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionFalse}}
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	if err := store.Add(pod); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientset(pod)
	h := newHollow(c, &Scenario{})
	defer h.queue.ShutDown()
	h.lister = corelisters.NewPodLister(store)
	h.changed(pod)
	if h.queue.Len() != 0 {
		t.Error("a node that isn't ours does something")
	}
	h.nodes["n"] = &hollowNode{}
	h.changed(pod)
	got, _ := h.queue.Get()
	if want := (task{taskRefresh, "ns", "p", "u"}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if err := h.do(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	after, err := c.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || !ready(after) || after.Status.PodIP != "" { // it keeps what it has
		t.Errorf("got %+v, %v", after.Status, err)
	}
	if names := h.stop(1, "elsewhere"); len(names) > 0 {
		t.Errorf("%v aren't there", names)
	}
	if names := h.stop(0, ""); len(names) != 1 || h.alive("n") != nil {
		t.Errorf("stopped %v", names)
	}
}
