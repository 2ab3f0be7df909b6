package stats

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/node/fakecri"
)

func TestRate(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := New(Config{Clock: testclock.NewFakeClock(now)})
	if r := p.rate("k", 1e9, now); r != nil {
		t.Errorf("a rate of one sample: %d", *r)
	}
	if r := p.rate("k", 2e9, now.Add(10*time.Second)); r == nil || *r != 1e8 {
		t.Errorf("rate %v, want a tenth of a core", r)
	}
	if r := p.rate("k", 3e9, now.Add(10*time.Second+time.Millisecond)); r == nil || *r != 1e8 {
		t.Errorf("a rate over a millisecond: %v", *r)
	}
	if r := p.rate("k", 1, now.Add(20*time.Second)); r != nil {
		t.Errorf("a counter that began anew gave %d", *r)
	}
	p.forget(nil)
	if len(p.last) != 0 {
		t.Error("samples are left")
	}
}

func TestPressure(t *testing.T) {
	p := New(Config{Clock: testclock.NewFakeClock(time.Unix(1e9, 0))})
	psi := &runtimeapi.PsiStats{Some: &runtimeapi.PsiData{Total: 7, Avg10: 1.5}, Full: &runtimeapi.PsiData{Total: 3, Avg300: 0.5}}
	got := p.container(&runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: "id"}, Cpu: &runtimeapi.CpuUsage{Psi: psi}, Memory: &runtimeapi.MemoryUsage{Psi: psi}, Io: &runtimeapi.IoUsage{Psi: psi},
	}, map[string]int64{"id": 5e17}, time.Unix(1e9, 0))
	want := statsapi.PSIStats{Some: statsapi.PSIData{Total: 7, Avg10: 1.5}, Full: statsapi.PSIData{Total: 3, Avg300: 0.5}}
	if *got.CPU.PSI != want || *got.Memory.PSI != want || *got.IO.PSI != want {
		t.Errorf("%+v %+v %+v", got.CPU.PSI, got.Memory.PSI, got.IO.PSI)
	}
	if !got.StartTime.Time.Equal(time.Unix(5e8, 0)) {
		t.Errorf("start time %v", got.StartTime)
	}
	none := p.container(&runtimeapi.ContainerStats{Cpu: &runtimeapi.CpuUsage{}}, nil, time.Unix(1e9, 0))
	if none.CPU.PSI != nil || none.IO != nil || !none.StartTime.IsZero() {
		t.Errorf("%+v", none)
	}
}

func TestNetwork(t *testing.T) {
	eth0, eth1 := &runtimeapi.NetworkInterfaceUsage{Name: "eth0"}, &runtimeapi.NetworkInterfaceUsage{Name: "eth1"}
	for _, others := range [][]*runtimeapi.NetworkInterfaceUsage{{eth0, eth1}, {eth1}} {
		got := networkStats(&runtimeapi.NetworkUsage{DefaultInterface: eth0, Interfaces: others})
		if got.Name != "eth0" || len(got.Interfaces) != 2 || got.Interfaces[0].Name != "eth0" || got.Interfaces[1].Name != "eth1" {
			t.Errorf("%+v", got)
		}
	}
}

func TestSummary(t *testing.T) {
	rt := fakecri.New()
	labels := map[string]string{"io.kubernetes.pod.uid": "u", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns"}
	sandbox, err := rt.RunPodSandbox(t.Context(), &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u"}, Labels: labels}, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(t.Context(), sandbox, &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Labels: labels}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := New(Config{
		NodeName: "n", Root: t.TempDir(), Runtime: rt, Images: &fakecri.Images{Runtime: rt}, Clock: testclock.NewFakeClock(started),
		PodStart: func(uid string) (time.Time, bool) { return started, uid == "u" },
	})
	s, err := p.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Node.Memory; m == nil || m.RSSBytes == nil || *m.RSSBytes == 0 || m.PageFaults == nil || *m.PageFaults == 0 || m.MajorPageFaults == nil {
		t.Errorf("memory of the node: %+v", m)
	}
	if s.Node.NodeName != "n" || s.Node.Memory == nil || *s.Node.Memory.WorkingSetBytes == 0 || s.Node.Fs == nil || *s.Node.Fs.CapacityBytes == 0 {
		t.Errorf("node %+v", s.Node)
	}
	if len(s.Pods) != 1 || s.Pods[0].PodRef.Name != "p" || !s.Pods[0].StartTime.Time.Equal(started) || len(s.Pods[0].Containers) != 1 {
		t.Fatalf("pods %+v", s.Pods)
	}
	if c := s.Pods[0].Containers[0]; c.Name != "c" || *c.CPU.UsageCoreNanoSeconds != 1e9 || *c.Memory.WorkingSetBytes != 1<<20 {
		t.Errorf("container %+v", c)
	}
	if *s.Pods[0].CPU.UsageCoreNanoSeconds != 1e9 || *s.Pods[0].Memory.WorkingSetBytes != 1<<20 {
		t.Errorf("pod %+v", s.Pods[0])
	}
	fallback, err := p.podsFromContainers(t.Context())
	if err != nil || len(fallback) != 1 || fallback[0].PodRef.Namespace != "ns" {
		t.Errorf("%+v, %v", fallback, err)
	}
}
