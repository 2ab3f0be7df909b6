package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/probe"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func box(ready bool) []observed.Sandbox {
	return []observed.Sandbox{{ID: "s1", Ready: ready, Attempt: 4, IPs: []string{"10.0.0.1"}}}
}

func cont(name string, state runtimeapi.ContainerState, code int32) observed.Container {
	c := observed.Container{ID: "id-" + name, SandboxID: "s1", Name: name, State: state, ExitCode: code}
	if state != runtimeapi.ContainerState_CONTAINER_CREATED {
		c.StartedAt = epoch
	}
	if state == runtimeapi.ContainerState_CONTAINER_EXITED {
		c.FinishedAt = epoch.Add(time.Second)
	}
	return c
}

const (
	isCreated = runtimeapi.ContainerState_CONTAINER_CREATED
	isRunning = runtimeapi.ContainerState_CONTAINER_RUNNING
	isExited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

// summary writes a decision as a line.
func summary(a actions) string {
	var out []string
	if a.Sandbox {
		out = append(out, fmt.Sprintf("sandbox(%d,%v)", a.Attempt, a.Changed))
	}
	for _, s := range a.Start {
		out = append(out, fmt.Sprintf("start(%s,%d)", s.Container.Name, s.RestartCount))
	}
	for _, k := range a.Kill {
		out = append(out, fmt.Sprintf("kill(%s)", k.Name))
	}
	for name, w := range a.Waiting {
		out = append(out, fmt.Sprintf("wait(%s,%s)", name, w.Reason))
	}
	if a.Finished {
		out = append(out, "finished")
	}
	return strings.Join(out, " ")
}

func TestComputeActions(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	never := corev1.ContainerRestartPolicyNever
	spec := func(policy corev1.RestartPolicy, inits ...corev1.Container) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: policy, InitContainers: inits, Containers: []corev1.Container{{Name: "a", Image: "x"}, {Name: "b", Image: "x"}}}}
	}
	side := corev1.Container{Name: "side", Image: "x", RestartPolicy: &always}
	init1, init2 := corev1.Container{Name: "i1", Image: "x"}, corev1.Container{Name: "i2", Image: "x"}
	tests := []struct {
		name string
		pod  *corev1.Pod
		obs  observed.Pod
		edit func(*situation)
		want string
	}{
		{"nothing yet", spec("Always"), observed.Pod{}, nil, "sandbox(0,false)"},
		{"sandbox without address", spec("Always"), observed.Pod{Sandboxes: []observed.Sandbox{{ID: "s1", Ready: true}}}, nil, "sandbox(1,true)"},
		{"sandbox up", spec("Always"), observed.Pod{Sandboxes: box(true)}, nil, "start(a,0) start(b,0)"},
		{"one starts already", spec("Always"), observed.Pod{Sandboxes: box(true)}, func(s *situation) { s.Busy = map[string]bool{"a": true} }, "start(b,0)"},
		{"one is held", spec("Always"), observed.Pod{Sandboxes: box(true)}, func(s *situation) { s.Held = map[string]time.Time{"a": {}} }, "start(b,0)"},
		{"held until now", spec("Always"), observed.Pod{Sandboxes: box(true)}, func(s *situation) { s.Held = map[string]time.Time{"a": s.Now} }, "start(a,0) start(b,0)"},
		{"all run", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isRunning, 0), cont("b", isRunning, 0)}}, nil, ""},
		{"one ended, Always", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 0), cont("b", isRunning, 0)}}, nil, "start(a,1)"},
		{"one ended well, OnFailure", spec("OnFailure"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 0), cont("b", isRunning, 0)}}, nil, ""},
		{"one failed, OnFailure", spec("OnFailure"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 1), cont("b", isRunning, 0)}}, nil, "start(a,1)"},
		{"all ended, Never", spec("Never"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 1), cont("b", isExited, 0)}}, nil, "finished"},
		{"all ended well, OnFailure", spec("OnFailure"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 0), cont("b", isExited, 0)}}, nil, "finished"},
		{"back-off", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 1), cont("b", isRunning, 0)}},
			func(s *situation) {
				s.Crashed = func(*corev1.Container, time.Time) (time.Time, time.Duration) {
					return s.Now.Add(time.Second), 10 * time.Second
				}
			}, "wait(a,CrashLoopBackOff)"},
		{"created but not started", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isCreated, 0), cont("b", isRunning, 0)}}, nil, "start(a,0)"},
		{"image changed", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{
			func() observed.Container { c := cont("a", isRunning, 0); c.Hash = "other"; return c }(), cont("b", isRunning, 0),
		}}, nil, "kill(a)"},
		{"liveness failed", spec("Always"), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isRunning, 0), cont("b", isRunning, 0)}},
			func(s *situation) {
				s.Probe = func(id string) (probe.Result, bool) {
					if id == "id-b" {
						return probe.Result{Failed: probe.Liveness}, true
					}
					return probe.Result{}, false
				}
			}, "kill(b)"},
		{"sandbox lost, Always", spec("Always"), observed.Pod{Sandboxes: box(false), Containers: []observed.Container{cont("a", isExited, 137), cont("b", isExited, 137)}}, nil, "sandbox(5,true)"},
		{"sandbox lost, Never", spec("Never"), observed.Pod{Sandboxes: box(false), Containers: []observed.Container{cont("a", isExited, 137), cont("b", isExited, 137)}}, nil, "finished"},
		{"sandbox lost before anything ran, Never", spec("Never"), observed.Pod{Sandboxes: box(false)}, nil, "sandbox(5,true)"},
		{"first init", spec("Always", init1, init2), observed.Pod{Sandboxes: box(true)}, nil, "start(i1,0)"},
		{"first init runs", spec("Always", init1, init2), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("i1", isRunning, 0)}}, nil, ""},
		{"second init", spec("Always", init1, init2), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("i1", isExited, 0)}}, nil, "start(i2,0)"},
		{"init done", spec("Always", init1), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("i1", isExited, 0)}}, nil, "start(a,0) start(b,0)"},
		{"init failed, Always", spec("Always", init1), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("i1", isExited, 1)}}, nil, "start(i1,1)"},
		{"init failed, Never", spec("Never", init1), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("i1", isExited, 1)}}, nil, "finished"},
		{"init forgotten after the pod ran", spec("Always", init1), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isRunning, 0)}}, nil, "start(b,0)"},
		{"sidecar first", spec("Always", side, init1), observed.Pod{Sandboxes: box(true)}, nil, "start(side,0)"},
		{"sidecar runs, init next", spec("Always", side, init1), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("side", isRunning, 0)}}, nil, "start(i1,0)"},
		{"sidecar comes back", spec("Always", side), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("side", isExited, 0), cont("a", isRunning, 0), cont("b", isRunning, 0)}}, nil, "start(side,1)"},
		{"sidecar doesn't keep the pod", spec("Never", side), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("side", isRunning, 0), cont("a", isExited, 0), cont("b", isExited, 0)}}, nil, "finished"},
		{"container's own policy", func() *corev1.Pod {
			p := spec("Always")
			p.Spec.Containers[0].RestartPolicy = &never
			return p
		}(), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 1), cont("b", isRunning, 0)}}, nil, ""},
		{"container's own rule", func() *corev1.Pod {
			p := spec("Never")
			p.Spec.Containers[0].RestartPolicy = &never
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
				Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42},
			}}}
			return p
		}(), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isExited, 42), cont("b", isRunning, 0)}}, nil, "start(a,1)"},
		{"ephemeral", func() *corev1.Pod {
			p := spec("Always")
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}}
			return p
		}(), observed.Pod{Sandboxes: box(true), Containers: []observed.Container{cont("a", isRunning, 0), cont("b", isRunning, 0)}}, nil, "start(debug,0)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := situation{
				Pod: tt.pod, Observed: &tt.obs, Now: epoch.Add(time.Minute),
				Probe:    func(string) (probe.Result, bool) { return probe.Result{}, false },
				HookDone: func(string) bool { return true },
				Crashed:  func(*corev1.Container, time.Time) (time.Time, time.Duration) { return time.Time{}, 0 },
			}
			if tt.edit != nil {
				tt.edit(&s)
			}
			if got := summary(computeActions(s)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
