package node

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNetworkNotReady: without a network pods wait, but for those on the host's, and the node says why in the kubelet's words; as soon as there is one they start.
func TestNetworkNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const problem = "Network plugin returns error: cni plugin not initialized"
		r.runtime.SetNetwork(problem)
		r.start()
		defer func() { r.stop() }()
		pass(time.Second)
		ready := func() corev1.NodeCondition {
			n, err := r.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
			return n.Status.Conditions[i]
		}
		const message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:" + problem
		if c := ready(); c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != message {
			t.Errorf("%+v", c)
		}
		r.create(testPod("installer", func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
		r.create(testPod("p"))
		pass(time.Minute)
		if p := r.get("installer"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("a pod on the host's network: %s", p.Status.Phase)
		}
		if p := r.get("p"); p.Status.Phase != corev1.PodPending {
			t.Errorf("a pod without a network: %s", p.Status.Phase)
		}
		r.wantEvent("NetworkNotReady", "network is not ready: "+message)
		if made := strings.Count(strings.Join(r.runtime.Calls(), "\n"), "RunPodSandbox"); made > 1 {
			t.Errorf("%d sandboxes: %q", made, r.runtime.Calls())
		}
		r.runtime.SetNetwork("")
		r.node.Changed()
		pass(0) // at once, not when it would be tried again
		if c := ready(); c.Status != corev1.ConditionTrue {
			t.Errorf("%+v", c)
		}
		if p := r.get("p"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("a pod with a network: %s", p.Status.Phase)
		}
	})
}
