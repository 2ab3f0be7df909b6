package cgroup

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 512: 59} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestPodLimits(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Resources: corev1.ResourceRequirements{Requests: list("500m", "1Gi"), Limits: list("1", "2Gi")}},
		{Resources: corev1.ResourceRequirements{Requests: list("250m", "1Gi"), Limits: list("1", "1Gi")}},
	}}}
	if got := PodLimits(pod, corev1.PodQOSBurstable, 100, nil); !reflect.DeepEqual(got, Limits{CPUShares: 768, CPUQuotaUS: 200000, CPUPeriodUS: 100000, MemoryBytes: 3 << 30, PIDs: 100}) {
		t.Errorf("%+v", got)
	}
	pod.Spec.Containers[1].Resources.Limits = nil
	if got := PodLimits(pod, corev1.PodQOSBurstable, 0, nil); got.CPUPeriodUS != 0 || got.MemoryBytes != 0 || got.CPUShares != 768 {
		t.Errorf("one container without limits: %+v", got)
	}
	if got := PodLimits(&corev1.Pod{}, corev1.PodQOSBestEffort, 0, nil); !reflect.DeepEqual(got, Limits{CPUShares: 2}) {
		t.Errorf("best effort: %+v", got)
	}
	for class, want := range map[corev1.PodQOSClass]string{
		corev1.PodQOSGuaranteed: "/r/kubepods/podu", corev1.PodQOSBurstable: "/r/kubepods/burstable/podu", corev1.PodQOSBestEffort: "/r/kubepods/besteffort/podu",
	} {
		if got := PodGroup("/r", class, "u"); got != want {
			t.Errorf("%s: %s", class, got)
		}
	}
}

func TestHugePages(t *testing.T) {
	for bytes, want := range map[int64]string{64 << 10: "64KB", 2 << 20: "2MB", 1 << 30: "1GB", 16 << 30: "16GB", 512: "512B"} {
		if got := PageSize(bytes); got != want {
			t.Errorf("PageSize(%d) = %s, want %s", bytes, got, want)
		}
	}
	asked := corev1.ResourceList{"hugepages-2Mi": resource.MustParse("8Mi"), "hugepages-64Ki": resource.MustParse("1Mi"), corev1.ResourceCPU: resource.MustParse("1")}
	if got, want := HugePages(asked, []string{"2MB", "1GB"}), map[string]int64{"2MB": 8 << 20, "1GB": 0}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := HugePages(asked, nil); got != nil {
		t.Errorf("a machine without huge pages: %v", got)
	}
}

func TestNodeLimits(t *testing.T) {
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), "hugepages-2Mi": resource.MustParse("32Mi")}
	reserved := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	want := Limits{CPUShares: 3584, MemoryBytes: 7 << 30, PIDs: 1000, HugePages: map[string]int64{"2MB": 32 << 20}}
	if got := NodeLimits(capacity, reserved, 1000, []string{"2MB"}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestKernel makes real groups and removes them.
func TestKernel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes cgroups: run it as root")
	}
	tree, err := Detect("/proc/self/mounts", fmt.Sprintf("/celox-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(tree.Root(), time.Second); err != nil {
			t.Error(err)
		}
	})
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := tree.Ensure(tree.ClassGroup(class), Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	group := PodGroup(tree.Root(), corev1.PodQOSBurstable, "u")
	if err := tree.Ensure(group, Limits{CPUShares: 512, CPUQuotaUS: 50000, CPUPeriodUS: 100000, MemoryBytes: 64 << 20, PIDs: 50}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"memory/memory.limit_in_bytes": "67108864", "cpu/cpu.shares": "512", "cpu/cpu.cfs_quota_us": "50000", "pids/pids.max": "50"}
	if tree.Version() == 2 {
		want = map[string]string{"memory/memory.max": "67108864", "cpu/cpu.weight": "59", "cpu/cpu.max": "50000 100000", "pids/pids.max": "50"}
	}
	for name, value := range want {
		controller, file, _ := strings.Cut(name, "/")
		data, err := os.ReadFile(tree.file(controller, group, file))
		if err != nil || strings.TrimSpace(string(data)) != value {
			t.Errorf("%s is %q, %v", name, data, err)
		}
	}
	if got := tree.List(tree.ClassGroup(corev1.PodQOSBurstable)); fmt.Sprint(got) != "[podu]" {
		t.Errorf("groups %v", got)
	}
	if u := tree.Usage("/"); u.CPUNanoseconds == 0 && u.MemoryBytes == 0 {
		t.Errorf("the machine used nothing: %+v", u)
	}
	if err := tree.Remove(group, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove(group, time.Second); err != nil {
		t.Errorf("removing what isn't there: %v", err)
	}
}
