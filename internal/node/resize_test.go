package node

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/fakecri"
)

func amounts(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	if cpu != "" {
		out[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func milliOf(list corev1.ResourceList) int64   { return list.Cpu().MilliValue() }
func memoryOf(list corev1.ResourceList) string { return list.Memory().String() }

func guaranteed(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: amounts(cpu, memory), Limits: amounts(cpu, memory)}
}

// resize changes what the pod's first container asks for, as the API server does.
func (r *rig) resize(name string, res corev1.ResourceRequirements) {
	r.t.Helper()
	r.update(name, func(p *corev1.Pod) {
		p.Generation++
		p.Spec.Containers[0].Resources = res
	})
	pass(time.Second)
}

func (r *rig) limitOf(pod, container string) int64 {
	r.t.Helper()
	got, err := r.runtime.ContainerStatus(r.t.Context(), r.runtime.Container(pod, container), false)
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Status.Resources.Linux.MemoryLimitInBytes
}

func TestResizeWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		cpu := milliOf(r.node.allocatable())
		milli := func(share int64) string { return resource.NewMilliQuantity(cpu*share/10, resource.DecimalSI).String() }
		for name, share := range map[string]int64{"a": 5, "b": 3} {
			r.create(testPod(name, func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources = guaranteed(milli(share), "64Mi")
				p.Status.QOSClass = corev1.PodQOSGuaranteed
			}))
		}
		pass(time.Second)
		r.resize("b", guaranteed(milli(6), "64Mi"))
		b := r.get("b")
		if got := condition(b, corev1.PodResizePending); !strings.HasPrefix(got, "True Deferred Node didn't have enough resource: cpu, requested: ") {
			t.Errorf("pending: %q", got)
		}
		if b.Status.ObservedGeneration != 2 || milliOf(b.Status.ContainerStatuses[0].AllocatedResources) != cpu*3/10 {
			t.Errorf("generation %d, allocated %v", b.Status.ObservedGeneration, b.Status.ContainerStatuses[0].AllocatedResources)
		}
		r.wantEvent("ResizeDeferred", `Pod resize Deferred: {"containers":[{"name":"c","resources":`)

		r.stop() // another process knows what was promised from the status alone
		r.start()
		pass(time.Second)
		if got := r.get("b"); milliOf(got.Status.ContainerStatuses[0].AllocatedResources) != cpu*3/10 || condition(got, corev1.PodResizePending) == "none" {
			t.Errorf("after a restart: allocated %v, pending %q", got.Status.ContainerStatuses[0].AllocatedResources, condition(got, corev1.PodResizePending))
		}

		r.resize("a", guaranteed(milli(2), "64Mi"))
		pass(time.Second)
		b = r.get("b")
		for _, c := range []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress} {
			if got := condition(b, c); got != "none" {
				t.Errorf("%s: %q", c, got)
			}
		}
		if got := milliOf(b.Status.ContainerStatuses[0].Resources.Limits); got != cpu*6/10 {
			t.Errorf("the limit is %d, want %d", got, cpu*6/10)
		}
		r.wantEvent("ResizeStarted", "Pod resize started: ")
		r.wantEvent("ResizeCompleted", "Pod resize completed: ")
		if n := b.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("%d restarts", n)
		}
	})
}

func TestResizeBelowUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) { p.Spec.Containers[0].Resources = guaranteed("100m", "64Mi") }))
		pass(time.Second)
		r.runtime.Use(r.runtime.Container("p", "c"), 20<<20)
		r.resize("p", guaranteed("100m", "10Mi"))
		p := r.get("p")
		if got := condition(p, corev1.PodResizeInProgress); got != `True Error cannot decrease memory limits: attempting to set container "c" memory limit (10485760) below current usage (20971520)` {
			t.Errorf("in progress: %q", got)
		}
		if got := memoryOf(p.Status.ContainerStatuses[0].Resources.Limits); got != "64Mi" || r.limitOf("p", "c") != 64<<20 {
			t.Errorf("limit %s, in the runtime %d", got, r.limitOf("p", "c"))
		}
		r.wantEvent("ResizeError", "below current usage")
		r.resize("p", guaranteed("100m", "32Mi"))
		if p = r.get("p"); condition(p, corev1.PodResizeInProgress) != "none" || r.limitOf("p", "c") != 32<<20 {
			t.Errorf("in progress: %q, limit %d", condition(p, corev1.PodResizeInProgress), r.limitOf("p", "c"))
		}
	})
}

func TestResizeByRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) { return 0, fakecri.Exit{} }
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Spec.Containers[0].Resources = guaranteed("100m", "64Mi")
			p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{
				{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired}, {ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer},
			}
		}))
		pass(time.Second)
		r.resize("p", guaranteed("200m", "64Mi"))
		if n := r.get("p").Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("CPU time restarted the container %d times", n)
		}
		// It ends with 0 and its pod restarts failures only: it comes back nevertheless, at once.
		for i, memory := range []string{"128Mi", "64Mi"} {
			r.resize("p", guaranteed("200m", memory))
			pass(5 * time.Second)
			p := r.get("p")
			if p.Status.Phase != corev1.PodRunning || p.Status.ContainerStatuses[0].RestartCount != int32(i+1) || p.Status.ContainerStatuses[0].State.Running == nil {
				t.Fatalf("%s: phase %s, %d restarts, %s", memory, p.Status.Phase, p.Status.ContainerStatuses[0].RestartCount, describeState(p.Status.ContainerStatuses[0].State))
			}
			if got := condition(p, corev1.PodResizeInProgress); got != "none" {
				t.Errorf("%s: %q", memory, got)
			}
		}
		r.wantEvent("Killing", "Container c resize requires restart")
	})
}

func TestRestartAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		always := corev1.ContainerRestartPolicyAlways
		never := corev1.ContainerRestartPolicyNever
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "init:1"}, {Name: "side", Image: "side:1", RestartPolicy: &always}}
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "source", Image: "source:1", RestartPolicy: &never, RestartPolicyRules: []corev1.ContainerRestartRule{{
				Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
			}}})
		}))
		pass(time.Second)
		r.runtime.Finish(r.runtime.Container("p", "init"), fakecri.Exit{})
		pass(time.Second)
		if got := condition(r.get("p"), corev1.AllContainersRestarting); !strings.HasPrefix(got, "False") {
			t.Errorf("restarting: %q", got)
		}
		for round := int32(1); round <= 2; round++ {
			r.runtime.Finish(r.runtime.Container("p", "source"), fakecri.Exit{Code: 42})
			pass(5 * time.Second)
			p := r.get("p")
			if s := p.Status.InitContainerStatuses[0]; s.State.Running == nil || s.RestartCount != round {
				t.Fatalf("round %d: init is %s, %d restarts", round, describeState(s.State), s.RestartCount)
			}
			waiting(t, p.Status.ContainerStatuses[0], "RestartingAllContainers", "")
			if p.Status.Phase == corev1.PodFailed {
				t.Fatalf("round %d: the pod has failed", round)
			}
			r.runtime.Finish(r.runtime.Container("p", "init"), fakecri.Exit{})
			pass(time.Minute)
			p = r.get("p")
			for _, s := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
				if s.RestartCount != round || s.LastTerminationState.Terminated == nil || s.Name != "init" && s.State.Running == nil {
					t.Errorf("round %d: %s is %s, %d restarts, before %s", round, s.Name, describeState(s.State), s.RestartCount, describeState(s.LastTerminationState))
				}
			}
		}
	})
}

func TestWidest(t *testing.T) {
	tests := []struct{ a, b, want cgroup.Limits }{
		{cgroup.Limits{CPUShares: 2, CPUQuotaUS: 1, MemoryBytes: 9}, cgroup.Limits{CPUShares: 4, CPUQuotaUS: 3, MemoryBytes: 5}, cgroup.Limits{CPUShares: 4, CPUQuotaUS: 3, MemoryBytes: 9}},
		{cgroup.Limits{}, cgroup.Limits{CPUQuotaUS: 3, MemoryBytes: 5}, cgroup.Limits{}},
		{cgroup.Limits{CPUQuotaUS: 3, MemoryBytes: 5}, cgroup.Limits{}, cgroup.Limits{}},
	}
	for _, tt := range tests {
		if got := widest(tt.a, tt.b); got.CPUShares != tt.want.CPUShares || got.CPUQuotaUS != tt.want.CPUQuotaUS || got.MemoryBytes != tt.want.MemoryBytes {
			t.Errorf("widest(%+v, %+v) = %+v", tt.a, tt.b, got)
		}
	}
}
