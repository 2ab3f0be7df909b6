package registration

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/internal/node/pressure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAllocatable(t *testing.T) {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), "hugepages-2Mi": resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	got := Allocatable(capacity, corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}, 100<<20)
	want := map[corev1.ResourceName]string{corev1.ResourceCPU: "3500m", corev1.ResourceMemory: "6044Mi", "hugepages-2Mi": "1Gi", corev1.ResourcePods: "110"}
	for name, w := range want {
		q := got[name]
		if q.Cmp(resource.MustParse(w)) != 0 {
			t.Errorf("%s is %s, want %s", name, q.String(), w)
		}
	}
	got = Allocatable(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}, corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}, 0)
	if q := got[corev1.ResourceCPU]; q.Sign() != 0 {
		t.Errorf("more is reserved than there is: %s", q.String())
	}
}

func TestReadMachine(t *testing.T) {
	m, err := ReadMachine(t.TempDir())
	if err != nil || m.CPUs == 0 || m.MemoryBytes == 0 || m.DiskBytes == 0 || m.Kernel == "" {
		t.Errorf("%+v, %v", m, err)
	}
	if got := osImage("NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n"); got != "Some Linux 1" {
		t.Errorf("%q", got)
	}
}

func TestHeartbeatAndPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewSimpleClientset()
		rt := fakecri.New()
		var mu sync.Mutex
		var events []string
		r := New(Config{
			NodeName: "n", Hostname: "n", Client: client, Runtime: rt, Images: &fakecri.Images{Runtime: rt}, Register: true,
			Labels: map[string]string{"zone": "a"}, Taints: []corev1.Taint{{Key: "t", Effect: corev1.TaintEffectNoSchedule}}, Version: "v1.37.0",
			HeartbeatInterval: 10 * time.Second, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
			Event: func(_, reason, _ string) { mu.Lock(); events = append(events, reason); mu.Unlock() },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		defer func() { cancel(); <-done }()
		<-r.Ready()
		time.Sleep(time.Second)
		synctest.Wait()
		node, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil || node.Labels["zone"] != "a" || len(node.Spec.Taints) != 1 || node.Status.NodeInfo.KubeletVersion != "v1.37.0" ||
			!slices.Contains(node.Status.DeclaredFeatures, "RestartAllContainersOnContainerExits") || !slices.IsSorted(node.Status.DeclaredFeatures) {
			t.Fatalf("%+v, %v", node, err)
		}
		lease := func() time.Time {
			l, err := client.CoordinationV1().Leases("kube-node-lease").Get(ctx, "n", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return l.Spec.RenewTime.Time
		}
		first := lease()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if second := lease(); second.Sub(first) != 10*time.Second {
			t.Errorf("renewed after %v", second.Sub(first))
		}
		r.SetPressure(pressure.State{Memory: true})
		synctest.Wait()
		node, err = client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil || node.Status.Conditions[0].Type != corev1.NodeMemoryPressure || node.Status.Conditions[0].Status != corev1.ConditionTrue || node.Status.Conditions[0].Reason != "KubeletHasInsufficientMemory" {
			t.Errorf("%+v, %v", node.Status.Conditions, err)
		}
		rt.AddImage("web:1")
		r.ImagesChanged()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		node, err = client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil || len(node.Status.Images) != 1 {
			t.Errorf("images %+v, %v", node.Status.Images, err)
		}
		mu.Lock()
		defer mu.Unlock()
		want := map[string]bool{"Starting": true, "NodeReady": true, "NodeHasSufficientMemory": true, "NodeHasNoDiskPressure": true, "NodeHasSufficientPID": true, "NodeHasInsufficientMemory": true}
		for _, e := range events {
			delete(want, e)
		}
		if len(want) > 0 {
			t.Errorf("missing events %v, have %v", want, events)
		}
	})
}
