package status

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/observed"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

func c(name string, state runtimeapi.ContainerState, code int32, restarts int) observed.Container {
	out := observed.Container{ID: name + "-id", SandboxID: "s", Name: name, State: state, ExitCode: code, RestartCount: restarts, StartedAt: now.Add(-time.Minute), ImageRef: "sha256:1"}
	if state == exited {
		out.FinishedAt = now
	}
	return out
}

func pod(policy corev1.RestartPolicy, inits []corev1.Container, mains ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Generation: 3}, Spec: corev1.PodSpec{RestartPolicy: policy, InitContainers: inits}}
	for _, m := range mains {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: m, Image: "img"})
	}
	return p
}

func TestPhase(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	init := []corev1.Container{{Name: "i"}}
	side := []corev1.Container{{Name: "side", RestartPolicy: &always}}
	crash := map[string]Waiting{"a": {Reason: ReasonCrashLoopBackOff}}
	tests := []struct {
		name     string
		pod      *corev1.Pod
		obs      []observed.Container
		waiting  map[string]Waiting
		terminal bool
		want     corev1.PodPhase
	}{
		{"new", pod("Always", nil, "a"), nil, nil, false, corev1.PodPending},
		{"running", pod("Always", nil, "a"), []observed.Container{c("a", running, 0, 0)}, nil, false, corev1.PodRunning},
		{"half running", pod("Always", nil, "a", "b"), []observed.Container{c("a", running, 0, 0)}, nil, false, corev1.PodPending},
		{"crashing", pod("Always", nil, "a"), []observed.Container{c("a", exited, 1, 0)}, crash, false, corev1.PodRunning},
		{"failed, Never, still being stopped", pod("Never", nil, "a"), []observed.Container{c("a", exited, 1, 0)}, nil, false, corev1.PodFailed},
		{"succeeded", pod("Never", nil, "a"), []observed.Container{c("a", exited, 0, 0)}, nil, true, corev1.PodSucceeded},
		{"succeeded, OnFailure", pod("OnFailure", nil, "a"), []observed.Container{c("a", exited, 0, 0)}, nil, false, corev1.PodSucceeded},
		{"one of two done", pod("Never", nil, "a", "b"), []observed.Container{c("a", exited, 0, 0), c("b", running, 0, 0)}, nil, false, corev1.PodRunning},
		{"deleted while running, Always", pod("Always", nil, "a"), []observed.Container{c("a", exited, 143, 0)}, nil, true, corev1.PodFailed},
		{"deleted before it ran", pod("Always", nil, "a"), nil, nil, true, corev1.PodFailed},
		{"initializing", pod("Always", init, "a"), []observed.Container{c("i", running, 0, 0)}, nil, false, corev1.PodPending},
		{"init failed, Never", pod("Never", init, "a"), []observed.Container{c("i", exited, 1, 0)}, nil, false, corev1.PodFailed},
		{"init crashes, Always", pod("Always", init, "a"), []observed.Container{c("i", exited, 1, 0)}, nil, false, corev1.PodPending},
		{"sidecar and main", pod("Always", side, "a"), []observed.Container{c("side", running, 0, 0), c("a", running, 0, 0)}, nil, false, corev1.PodRunning},
		{"sidecar only", pod("Always", side, "a"), []observed.Container{c("side", running, 0, 0)}, nil, false, corev1.PodPending},
		{"main done, sidecar ended with 143", pod("Never", side, "a"), []observed.Container{c("side", exited, 143, 0), c("a", exited, 0, 0)}, nil, true, corev1.PodSucceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Compute(Input{Pod: tt.pod, Observed: &observed.Pod{Containers: tt.obs}, Now: now, Waiting: tt.waiting, Terminal: tt.terminal, RuntimeName: "celox"})
			if s.Phase != tt.want {
				t.Errorf("phase %s, want %s", s.Phase, tt.want)
			}
			if s.ObservedGeneration != 3 {
				t.Errorf("observed generation %d", s.ObservedGeneration)
			}
		})
	}
}

func TestConditionsKeepTheirTimes(t *testing.T) {
	p := pod("Always", nil, "a")
	before := metav1.NewTime(now.Add(-time.Hour))
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: before},
		{Type: corev1.ContainersReady, Status: corev1.ConditionFalse, LastTransitionTime: before},
		{Type: "example.com/gate", Status: corev1.ConditionTrue, LastTransitionTime: before},
	}
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	s := Compute(Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0)}}, Now: now})
	for kind, want := range map[corev1.PodConditionType]time.Time{corev1.PodReady: before.Time, corev1.ContainersReady: now, "example.com/gate": before.Time} {
		got := FindCondition(s.Conditions, kind)
		if got == nil || got.Status != corev1.ConditionTrue || !got.LastTransitionTime.Time.Equal(want) {
			t.Errorf("%s: %+v, want since %v", kind, got, want)
		}
	}
	p.Status.Conditions[2].Status = corev1.ConditionFalse
	s = Compute(Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0)}}, Now: now})
	if got := FindCondition(s.Conditions, corev1.PodReady); got.Reason != "ReadinessGatesNotReady" || got.Message != `the status of pod readiness gate "example.com/gate" is not "True", but False` {
		t.Errorf("Ready: %+v", got)
	}
}

func TestContainerStates(t *testing.T) {
	p := pod("Always", nil, "a")
	in := Input{Pod: p, Now: now, RuntimeName: "celox", Messages: map[string]string{"a-id": "bye"}}
	in.Observed = &observed.Pod{Containers: []observed.Container{c("a", exited, 137, 2)}}
	in.Observed.Containers[0].Reason = "OOMKilled"
	in.Waiting = map[string]Waiting{"a": {Reason: ReasonCrashLoopBackOff, Message: "back-off"}}
	cs := Compute(in).ContainerStatuses[0]
	if cs.State.Waiting == nil || cs.State.Waiting.Reason != ReasonCrashLoopBackOff || cs.RestartCount != 2 || cs.Ready || *cs.Started {
		t.Errorf("%+v", cs)
	}
	last := cs.LastTerminationState.Terminated
	if last == nil || last.Reason != "OOMKilled" || last.ExitCode != 137 || last.Message != "bye" || last.ContainerID != "celox://a-id" {
		t.Errorf("last state %+v", last)
	}
	// The runtime has lost a container that ran.
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", RestartCount: 4, ContainerID: "celox://old", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	cs = Compute(Input{Pod: p, Observed: &observed.Pod{}, Now: now}).ContainerStatuses[0]
	if cs.State.Waiting == nil || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.Reason != ReasonContainerUnknown || cs.RestartCount != 4 {
		t.Errorf("%+v", cs)
	}
}

func TestStatusSurvivesStorage(t *testing.T) {
	p := pod("Always", []corev1.Container{{Name: "i"}}, "a", "b")
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("0.5Gi")}
	in := Input{Pod: p, Now: now.Add(12345), RuntimeName: "celox", StartTime: now.Add(999), HostIPs: []string{"192.0.2.1"}, Observed: &observed.Pod{
		Sandboxes: []observed.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1"}}}, Containers: []observed.Container{c("i", exited, 0, 0), c("a", running, 0, 1), c("b", exited, 1, 0)},
	}}
	for i := range in.Observed.Containers {
		in.Observed.Containers[i].StartedAt = now.Add(123456789)
		in.Observed.Containers[i].FinishedAt = now.Add(987654321)
	}
	first := Compute(in)
	data, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	var stored corev1.PodStatus
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	if !Equal(&first, &stored) {
		t.Errorf("stored:   %+v\ncomputed: %+v", stored, first)
	}
	// A node that starts again finds nothing to write.
	again := *p
	again.Status = stored
	in.Pod, in.Now = &again, now.Add(time.Hour)
	if second := Compute(in); !Equal(&second, &stored) {
		t.Errorf("again: %+v\nstored: %+v", second, stored)
	}
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out[corev1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			out[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return out
	}
	tests := []struct {
		name string
		r    []corev1.ResourceRequirements
		want corev1.PodQOSClass
	}{
		{"none", []corev1.ResourceRequirements{{}}, corev1.PodQOSBestEffort},
		{"all limited", []corev1.ResourceRequirements{{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}}, corev1.PodQOSGuaranteed},
		{"one of two limited", []corev1.ResourceRequirements{{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}, {}}, corev1.PodQOSBurstable},
		{"requests below limits", []corev1.ResourceRequirements{{Requests: list("1", "1Gi"), Limits: list("2", "1Gi")}}, corev1.PodQOSBurstable},
		{"requests only", []corev1.ResourceRequirements{{Requests: list("1", "")}}, corev1.PodQOSBurstable},
		{"no cpu limit", []corev1.ResourceRequirements{{Requests: list("", "1Gi"), Limits: list("", "1Gi")}}, corev1.PodQOSBurstable},
	}
	for _, tt := range tests {
		p := &corev1.Pod{}
		for _, r := range tt.r {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: r})
		}
		if got := QOSClass(p); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func BenchmarkCompute(b *testing.B) {
	p := pod("Always", nil, "a", "b")
	in := Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0), c("b", running, 0, 0)}}, Now: now, RuntimeName: "celox"}
	b.ReportAllocs()
	for b.Loop() {
		Compute(in)
	}
}

// A container that was made but doesn't run yet is not restarted yet: who measures when it was must not find the time of the one before.
func TestCreatedIsNotRestarted(t *testing.T) {
	p := pod("Always", nil, "a")
	before, next := c("a", exited, 1, 1), c("a", runtimeapi.ContainerState_CONTAINER_CREATED, 0, 2)
	next.ID = "next"
	got := Compute(Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{next, before}}, Now: now, RuntimeName: "celox"}).ContainerStatuses[0]
	if got.RestartCount != 1 || got.State.Waiting == nil || got.LastTerminationState.Terminated == nil {
		t.Errorf("%d restarts, %+v, before %+v", got.RestartCount, got.State, got.LastTerminationState)
	}
}

// An init container that its own rule brings back has not failed its pod, whatever the pod's policy.
func TestPhaseByRules(t *testing.T) {
	never := corev1.ContainerRestartPolicyNever
	rules := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
		Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42},
	}}}
	for name, test := range map[string]struct {
		code int32
		want corev1.PodPhase
	}{"comes back": {42, corev1.PodPending}, "is lost": {1, corev1.PodFailed}} {
		p := pod("Never", nil, "a")
		p.Spec.InitContainers = []corev1.Container{{Name: "i", RestartPolicy: &never, RestartPolicyRules: rules}}
		in := Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("i", exited, test.code, 0)}}, Now: now, RuntimeName: "celox"}
		if got := Compute(in).Phase; got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestPodResources(t *testing.T) {
	p := pod("Always", nil, "a", "b")
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("100m", "64Mi"), Limits: list("200m", "128Mi")}
	p.Spec.Containers[1].Resources = corev1.ResourceRequirements{Requests: list("100m", "64Mi"), Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}
	in := Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0), c("b", running, 0, 0)}}, Now: now, RuntimeName: "celox"}
	in.Given = map[string]corev1.ResourceRequirements{in.Observed.Containers[0].ID: {Requests: list("50m", "64Mi"), Limits: list("200m", "128Mi")}}
	got := Compute(in)
	// CPU time of the whole pod is not limited, as that of one container isn't.
	if l := got.Resources.Limits; len(l) != 1 || l.Memory().String() != "192Mi" || got.Resources.Requests.Cpu().String() != "200m" || got.AllocatedResources.Memory().String() != "128Mi" {
		t.Errorf("resources %+v, allocated %v", got.Resources, got.AllocatedResources)
	}
	if a := Find(got.ContainerStatuses, "a"); a.Resources.Requests.Cpu().String() != "50m" || a.AllocatedResources.Cpu().String() != "100m" {
		t.Errorf("a has %v, is promised %v", a.Resources.Requests, a.AllocatedResources)
	}
}
