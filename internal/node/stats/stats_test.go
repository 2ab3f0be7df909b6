package stats

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
