package node

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/internal/node/pressure"
)

// A container's logs count against its limit of ephemeral storage.
func TestContainerOverItsStorageLimitIsEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.adjust = func(c *Config) { c.Pressure = pressure.Thresholds{Memory: pressure.Amount{Quantity: 1}} }
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("64Ki")}
		}))
		pass(15 * time.Second)
		if got := r.get("p").Status.Phase; got != corev1.PodRunning {
			t.Fatalf("phase %s", got)
		}
		r.runtime.Log(r.runtime.Container("p", "c"), "stdout", strings.Repeat("x", 100<<10))
		pass(15 * time.Second)
		pod := r.get("p")
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Evicted" || pod.Status.Message != `Container c exceeded its local ephemeral storage limit "64Ki". ` {
			t.Errorf("%s %s %s", pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		}
	})
}

// A disk that is nearly full costs unused images, once they are old enough, and pods one by one.
func TestDiskPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.adjust = func(c *Config) { c.Pressure = pressure.Thresholds{NodeDisk: pressure.Amount{Share: 1}} } // no disk is that empty
		r.runtime.AddImage("unused:1")
		r.runtime.AddImage("web:1")
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p"))
		images := func() string {
			t.Helper()
			list, err := (&fakecri.Images{Runtime: r.runtime}).ListImages(t.Context(), &runtimeapi.ImageFilter{})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, i := range list {
				out = append(out, i.RepoTags...)
			}
			return strings.Join(out, " ")
		}
		pass(15 * time.Second)
		pod := r.get("p")
		if pod.Status.Phase != corev1.PodFailed || !strings.HasPrefix(pod.Status.Message, "The node was low on resource: ephemeral-storage. ") {
			t.Errorf("%s %s", pod.Status.Phase, pod.Status.Message)
		}
		if got := images(); got != "web:1 unused:1" {
			t.Errorf("images after 15 s: %s", got)
		}
		// What the evicted pod wrote goes with its container; its status still says how that ended.
		pass(15 * time.Second)
		left, err := r.runtime.ListContainers(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != 0 {
			t.Errorf("containers left after 30 s: %v", left)
		}
		if after := r.get("p"); after.Status.Phase != corev1.PodFailed || !reflect.DeepEqual(after.Status.ContainerStatuses, pod.Status.ContainerStatuses) || after.Status.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("%s %+v, before %+v", after.Status.Phase, after.Status.ContainerStatuses, pod.Status.ContainerStatuses)
		}
		node, err := r.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		under := false
		for _, c := range node.Status.Conditions {
			under = under || c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionTrue
		}
		if !under {
			t.Errorf("conditions %+v", node.Status.Conditions)
		}
		pass(3 * time.Minute)
		if got := images(); got != "" { // nobody uses the evicted pod's any more
			t.Errorf("images after three minutes: %s", got)
		}
	})
}

// A disk that is nearly full is known before the first pod comes, and such a pod does not run for a while before it is evicted.
func TestDiskPressureFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.adjust = func(c *Config) { c.Pressure = pressure.Thresholds{NodeDisk: pressure.Amount{Share: 1}} }
		r.start()
		defer func() { r.stop() }()
		synctest.Wait()
		node, err := r.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		under := false
		for _, c := range node.Status.Conditions {
			under = under || c.Type == corev1.NodeDiskPressure && c.Status == corev1.ConditionTrue
		}
		if !under {
			t.Errorf("conditions %+v", node.Status.Conditions)
		}
	})
}
