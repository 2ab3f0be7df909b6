package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/fakecri"
)

func TestPodRunsAndIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) {
			return 3 * time.Second, fakecri.Exit{Code: 0}
		}
		r.start()
		defer func() { r.stop() }()
		select {
		case <-r.node.Ready():
		default:
			t.Fatal("the node isn't ready")
		}
		r.create(testPod("web"))
		pass(time.Second)
		pod := r.get("web")
		if pod.Status.Phase != corev1.PodRunning {
			t.Fatalf("phase %s, %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
		cs := pod.Status.ContainerStatuses[0]
		if !cs.Ready || cs.Started == nil || !*cs.Started || !strings.HasPrefix(cs.ContainerID, "celox://c0") || cs.RestartCount != 0 {
			t.Errorf("container status %+v", cs)
		}
		if pod.Status.PodIP == "" || pod.Status.HostIP != "192.0.2.10" || pod.Status.StartTime == nil {
			t.Errorf("addresses %+v", pod.Status)
		}
		for _, c := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
			if got := condition(pod, c); got != "True  " {
				t.Errorf("%s is %q", c, got)
			}
		}
		r.wantEvent("Pulling", `Pulling image "web:1"`)
		r.wantEvent("Pulled", `Successfully pulled image "web:1" in `)
		r.wantEvent("Created", "Container created")
		r.wantEvent("Started", "Container started")

		r.remove("web", 30)
		pass(time.Second)
		if !r.exists("web") {
			t.Fatal("the pod vanished before its container ended")
		}
		r.wantEvent("Killing", "Stopping container c")
		pass(3 * time.Second)
		if r.exists("web") {
			t.Fatalf("the pod is still there: %v", r.runtime.Calls())
		}
		calls := r.runtime.Calls()
		want := []string{"RunPodSandbox web", "CreateContainer c", "StartContainer c", "StopContainer c 30", "StopPodSandbox web", "RemovePodSandbox web"}
		if !slices.Equal(calls, want) {
			t.Errorf("calls %q, want %q", calls, want)
		}
		for _, dir := range []string{"node/pods/uid-web", "log/pods/default_web_uid-web"} {
			if _, err := os.Stat(filepath.Join(r.root, dir)); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
}

func TestNodeObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		pass(time.Second)
		node, err := r.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		reasons := map[corev1.NodeConditionType]string{}
		for _, c := range node.Status.Conditions {
			reasons[c.Type] = string(c.Status) + " " + c.Reason
		}
		want := map[corev1.NodeConditionType]string{
			corev1.NodeMemoryPressure: "False KubeletHasSufficientMemory", corev1.NodeDiskPressure: "False KubeletHasNoDiskPressure",
			corev1.NodePIDPressure: "False KubeletHasSufficientPID", corev1.NodeReady: "True KubeletReady",
		}
		for k, v := range want {
			if reasons[k] != v {
				t.Errorf("%s: %q, want %q", k, reasons[k], v)
			}
		}
		if node.Labels[corev1.LabelHostname] != testNode || node.Status.NodeInfo.ContainerRuntimeVersion != "celox://0.0.0" || node.Status.Capacity.Cpu().IsZero() {
			t.Errorf("node %+v", node)
		}
		if _, err := r.client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), testNode, metav1.GetOptions{}); err != nil {
			t.Errorf("lease: %v", err)
		}
		writes := len(r.client.Actions())
		pass(time.Hour)
		if n := len(r.client.Actions()); n != writes {
			t.Errorf("an idle node made %d requests in an hour: %v", n-writes, r.client.Actions()[writes:])
		}
	})
}

func TestCrashLoopBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Life = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			return time.Second, fakecri.Exit{Code: 3}, true
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("crash"))
		pass(1500 * time.Millisecond) // ended once, restarted at once
		if n := r.get("crash").Status.ContainerStatuses[0].RestartCount; n != 1 {
			t.Fatalf("restart count %d after the first crash, want 1", n)
		}
		pass(time.Second) // ended twice
		pod := r.get("crash")
		cs := pod.Status.ContainerStatuses[0]
		waiting(t, cs, "CrashLoopBackOff", "back-off 10s restarting failed container=c pod=crash_default(uid-crash)")
		if l := cs.LastTerminationState.Terminated; l == nil || l.ExitCode != 3 || l.Reason != "Error" {
			t.Errorf("last state %v", describeState(cs.LastTerminationState))
		}
		if pod.Status.Phase != corev1.PodRunning {
			t.Errorf("phase %s", pod.Status.Phase)
		}
		r.wantEvent("BackOff", "Back-off restarting failed container c in pod crash_default(uid-crash)")
		pass(10 * time.Second)
		if n := r.get("crash").Status.ContainerStatuses[0].RestartCount; n != 2 {
			t.Errorf("restart count %d, want 2", n)
		}
		pass(2 * time.Second)
		waiting(t, r.get("crash").Status.ContainerStatuses[0], "CrashLoopBackOff", "back-off 20s")
		pass(time.Hour)
		waiting(t, r.get("crash").Status.ContainerStatuses[0], "CrashLoopBackOff", "back-off 5m0s")
		// Only the newest incarnation and the one before it are kept.
		list, _ := r.runtime.ListContainers(t.Context(), nil)
		if len(list) > 2 {
			t.Errorf("%d containers are kept", len(list))
		}
	})
}

func TestImagePullBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var fine atomic.Bool
		r.runtime.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error {
			if fine.Load() {
				return nil
			}
			return errors.New("registry says: manifest unknown")
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("pull"))
		pass(time.Second)
		pod := r.get("pull")
		waiting(t, pod.Status.ContainerStatuses[0], "ErrImagePull", "manifest unknown")
		if pod.Status.Phase != corev1.PodPending {
			t.Errorf("phase %s", pod.Status.Phase)
		}
		r.wantEvent("Failed", `Failed to pull image "web:1": registry says: manifest unknown`)
		r.wantEvent("Failed", "Error: ErrImagePull")
		pass(4 * time.Second)
		waiting(t, r.get("pull").Status.ContainerStatuses[0], "ImagePullBackOff", `Back-off pulling image "web:1": ErrImagePull: registry says`)
		r.wantEvent("BackOff", `Back-off pulling image "web:1"`)
		fine.Store(true)
		pass(6 * time.Second)
		if pod := r.get("pull"); pod.Status.Phase != corev1.PodRunning {
			t.Errorf("phase %s after the registry came back: %v", pod.Status.Phase, describeState(pod.Status.ContainerStatuses[0].State))
		}
	})
}

// A container that ends before its start is told of is what it is, whatever hindered the attempts before: a pod that succeeded has not failed.
func TestShortLifeAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var fine atomic.Bool
		r.runtime.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error {
			if fine.Load() {
				return nil
			}
			return errors.New("registry says: manifest unknown")
		}
		r.runtime.Life = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			return time.Second, fakecri.Exit{}, true
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("short", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			// The attempt lasts until the hook is done, long after the container's end.
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}}
		}))
		pass(time.Second)
		waiting(t, r.get("short").Status.ContainerStatuses[0], "ErrImagePull", "manifest unknown")
		fine.Store(true)
		for range 30 {
			pass(time.Second)
			if pod := r.get("short"); pod.Status.Phase == corev1.PodFailed {
				t.Fatalf("phase %s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
			}
		}
		if pod := r.get("short"); pod.Status.Phase != corev1.PodSucceeded || pod.Status.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("phase %s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
	})
}

func TestMissingConfigMapCures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("env", func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}, Key: "a"},
			}}, {Name: "B", Value: "<$(A)>"}}
		}))
		pass(time.Second)
		waiting(t, r.get("env").Status.ContainerStatuses[0], "CreateContainerConfigError", `configmap "cfg" not found`)
		r.wantEvent("Failed", `Error: configmap "cfg" not found`)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cfg", Namespace: "default", ResourceVersion: "7"}, Data: map[string]string{"a": "1"}}
		if _, err := r.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(100 * time.Millisecond) // its arrival is an event: nobody waits for a retry
		if pod := r.get("env"); pod.Status.Phase != corev1.PodRunning {
			t.Fatalf("phase %s: %v", pod.Status.Phase, describeState(pod.Status.ContainerStatuses[0].State))
		}
		got := map[string]string{}
		for _, kv := range r.runtime.Config(r.runtime.Container("env", "c")).Envs {
			got[kv.Key] = string(kv.Value)
		}
		if got["A"] != "1" || got["B"] != "<1>" {
			t.Errorf("environment %v", got)
		}

		// The pod's own fields cure as well.
		r.create(testPod("path", func(p *corev1.Pod) {
			p.Annotations = map[string]string{"path": "/absolute"}
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			c := &p.Spec.Containers[0]
			c.Env = []corev1.EnvVar{{Name: "SUB", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['path']"}}}}
			c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPathExpr: "$(SUB)"}}
		}))
		pass(time.Second)
		waiting(t, r.get("path").Status.ContainerStatuses[0], "CreateContainerConfigError", "must not be an absolute path")
		r.update("path", func(p *corev1.Pod) { p.Annotations["path"] = "relative" })
		pass(100 * time.Millisecond)
		if pod := r.get("path"); pod.Status.Phase != corev1.PodRunning {
			t.Errorf("phase %s: %v", pod.Status.Phase, describeState(pod.Status.ContainerStatuses[0].State))
		}
		r.remove("path", 1) // its mount is real
		pass(time.Minute)
	})
}

func TestInitContainersAndSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Life = func(c *runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			switch c.Metadata.Name {
			case "i1", "i2":
				return 2 * time.Second, fakecri.Exit{}, true
			case "main":
				return 10 * time.Second, fakecri.Exit{}, true
			}
			return 0, fakecri.Exit{}, false
		}
		r.start()
		defer func() { r.stop() }()
		always := corev1.ContainerRestartPolicyAlways
		r.create(testPod("init", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{
				{Name: "i1", Image: "web:1"}, {Name: "side", Image: "web:1", RestartPolicy: &always}, {Name: "i2", Image: "web:1"},
			}
			p.Spec.Containers = []corev1.Container{{Name: "main", Image: "web:1"}}
		}))
		pass(time.Second)
		pod := r.get("init")
		if pod.Status.Phase != corev1.PodPending || pod.Status.InitContainerStatuses[0].State.Running == nil {
			t.Fatalf("phase %s, %v", pod.Status.Phase, describeState(pod.Status.InitContainerStatuses[0].State))
		}
		waiting(t, pod.Status.ContainerStatuses[0], "PodInitializing", "")
		if got := condition(pod, corev1.PodInitialized); got != "False ContainersNotInitialized containers with incomplete status: [i1 side i2]" {
			t.Errorf("Initialized is %q", got)
		}
		pass(4 * time.Second)
		pod = r.get("init")
		if pod.Status.Phase != corev1.PodRunning || condition(pod, corev1.PodInitialized) != "True  " {
			t.Fatalf("phase %s, initialized %s", pod.Status.Phase, condition(pod, corev1.PodInitialized))
		}
		pass(10 * time.Second)
		pod = r.get("init")
		if pod.Status.Phase != corev1.PodSucceeded {
			t.Fatalf("phase %s", pod.Status.Phase)
		}
		if side := pod.Status.InitContainerStatuses[1]; side.State.Terminated == nil {
			t.Errorf("the sidecar is %s", describeState(side.State))
		}
		if got := condition(pod, corev1.PodReady); got != "False PodCompleted " {
			t.Errorf("Ready is %q", got)
		}
	})
}

func TestFailedInitWithRestartNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Life = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			return time.Second, fakecri.Exit{Code: 1}, true
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("bad", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "web:1"}}
		}))
		pass(5 * time.Second)
		if pod := r.get("bad"); pod.Status.Phase != corev1.PodFailed {
			t.Errorf("phase %s", pod.Status.Phase)
		}
	})
}

func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var ready, dead atomic.Bool
		r.runtime.OnExec = func(_ context.Context, _ *runtimeapi.ContainerConfig, cmd []string) (string, int, error) {
			if cmd[0] == "ready" && !ready.Load() {
				return "not yet", 1, nil
			}
			if cmd[0] == "live" && dead.Load() {
				return "dead", 2, nil
			}
			return "", 0, nil
		}
		r.start()
		defer func() { r.stop() }()
		exec := func(name string) corev1.ProbeHandler {
			return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}
		}
		r.create(testPod("probed", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: exec("ready"), PeriodSeconds: 2, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1}
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: exec("live"), PeriodSeconds: 5, FailureThreshold: 2, SuccessThreshold: 1, TimeoutSeconds: 1}
		}))
		pass(time.Second)
		pod := r.get("probed")
		if pod.Status.Phase != corev1.PodRunning || pod.Status.ContainerStatuses[0].Ready {
			t.Fatalf("phase %s, ready %v", pod.Status.Phase, pod.Status.ContainerStatuses[0].Ready)
		}
		if got := condition(pod, corev1.PodReady); got != "False ContainersNotReady containers with unready status: [c]" {
			t.Errorf("Ready is %q", got)
		}
		r.wantEvent("Unhealthy", "Readiness probe failed: not yet")
		ready.Store(true)
		pass(2 * time.Second)
		if !r.get("probed").Status.ContainerStatuses[0].Ready {
			t.Error("not ready after a successful probe")
		}
		dead.Store(true)
		pass(11 * time.Second)
		dead.Store(false)
		r.wantEvent("Killing", "Container c failed liveness probe, will be restarted")
		if cs := r.get("probed").Status.ContainerStatuses[0]; cs.RestartCount != 1 || cs.State.Running == nil {
			t.Errorf("restart count %d, %s", cs.RestartCount, describeState(cs.State))
		}
	})
}

func TestRestartOfTheNodeKeepsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		r.create(testPod("stay"))
		r.create(testPod("leave"))
		pass(time.Second)
		before := r.get("stay").Status.ContainerStatuses[0]
		r.stop()
		if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "leave", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if id := r.runtime.Container("leave", "c"); id == "" {
			t.Fatal("stopping the node ended a container")
		}
		seen := len(r.client.Actions())
		r.start()
		defer func() { r.stop() }()
		pass(2 * time.Second)
		for _, a := range r.client.Actions()[seen:] {
			if a.GetResource().Resource == "pods" && a.GetVerb() != "list" && a.GetVerb() != "watch" {
				t.Errorf("the node wrote although nothing had changed: %s %s", a.GetVerb(), a.GetSubresource())
			}
		}
		after := r.get("stay").Status.ContainerStatuses[0]
		if after.ContainerID != before.ContainerID || after.RestartCount != 0 || !after.Ready {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if id := r.runtime.Container("leave", "c"); id != "" {
			t.Error("the pod that was deleted meanwhile still runs")
		}
	})
}

func TestPreStopAndShorterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) { return time.Hour, fakecri.Exit{} }
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("slow", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}}
		}))
		pass(time.Second)
		r.remove("slow", 30)
		pass(6 * time.Second)
		if calls := r.runtime.Calls(); !slices.Contains(calls, "StopContainer c 25") {
			t.Errorf("calls %q: want a stop with what the hook left of the grace period", calls)
		}
		r.remove("slow", 2) // kubectl delete again, with a shorter period
		pass(3 * time.Second)
		if r.exists("slow") {
			t.Error("the shorter grace period was not obeyed")
		}
	})
}

// Whoever deletes a pod by force means its place to be free: the next one is not refused because the first one's container still ends.
func TestPlaceOfADeletedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) { return time.Hour, fakecri.Exit{} }
		r.start()
		defer func() { r.stop() }()
		port := func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}}
		}
		r.create(testPod("first", port))
		pass(time.Second)
		r.create(testPod("refused", port))
		pass(time.Second)
		if p := r.get("refused"); p.Status.Phase != corev1.PodFailed {
			t.Errorf("a second pod with the port: %s", p.Status.Phase)
		}
		r.remove("first", 30) // its container takes all of that
		pass(time.Second)
		if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		r.create(testPod("next", port))
		pass(2 * time.Second)
		if p := r.get("next"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("the next pod with the port: %s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
	})
}

// A pod whose status says that it is over has left its place, also while its sandbox and volumes still go.
func TestPlaceOfAPodThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var stuck atomic.Bool
		stuck.Store(true)
		r.runtime.FailStopSandbox = func(string) error {
			if stuck.Load() {
				return errors.New("stuck")
			}
			return nil
		}
		r.start()
		defer func() { r.stop() }()
		whole := func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			node, err := r.client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: node.Status.Allocatable[corev1.ResourceCPU]}
		}
		r.create(testPod("first", whole))
		pass(time.Second)
		r.create(testPod("refused", whole))
		pass(time.Second)
		if p := r.get("refused"); p.Status.Reason != "OutOfcpu" {
			t.Errorf("a second pod on a full node: %s %s", p.Status.Phase, p.Status.Reason)
		}
		r.runtime.Finish(r.runtime.Container("first", "c"), fakecri.Exit{})
		pass(time.Second)
		if p := r.get("first"); p.Status.Phase != corev1.PodSucceeded {
			t.Fatalf("the first pod is %s", p.Status.Phase)
		}
		r.create(testPod("next", whole))
		pass(2 * time.Second)
		if p := r.get("next"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("the next pod: %s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		stuck.Store(false)
		pass(time.Minute)
	})
}

func TestDeadlineRejectionAndCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		limit := int64(60)
		r.create(testPod("late", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &limit }))
		r.create(testPod("elsewhere", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
		pass(time.Second)
		if pod := r.get("elsewhere"); pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "NodeAffinity" {
			t.Errorf("phase %s, reason %s", pod.Status.Phase, pod.Status.Reason)
		}
		pass(2 * time.Minute)
		pod := r.get("late")
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "DeadlineExceeded" {
			t.Errorf("phase %s, reason %s", pod.Status.Phase, pod.Status.Reason)
		}
		if id := r.runtime.Container("late", "c"); id == "" {
			t.Error("the container of an ended pod has to stay for its log")
		}
		r.remove("late", 30)
		pass(time.Second)
		if r.exists("late") {
			t.Error("the ended pod could not be deleted")
		}
	})
}

func TestSandboxLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("net"))
		pass(time.Second)
		list, _ := r.runtime.ListPodSandbox(t.Context(), nil)
		r.runtime.KillSandbox(list[0].Id)
		pass(2 * time.Second)
		pod := r.get("net")
		if cs := pod.Status.ContainerStatuses[0]; pod.Status.Phase != corev1.PodRunning || cs.RestartCount != 1 || cs.State.Running == nil {
			t.Errorf("phase %s, restart count %d, %s", pod.Status.Phase, cs.RestartCount, describeState(cs.State))
		}
		r.wantEvent("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	})
}

// What a pod goes through between its states that matter isn't worth a write each.
func TestStatusIsWrittenOnceForEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		writes := func() (n int) {
			for _, a := range r.client.Actions() {
				if a.Matches("update", "pods/status") {
					n++
				}
			}
			return n
		}
		r.create(testPod("web"))
		pass(time.Second)
		if n := writes(); n != 1 || r.get("web").Status.Phase != corev1.PodRunning {
			t.Errorf("%d writes until the pod was %s, want 1", n, r.get("web").Status.Phase)
		}
		r.remove("web", 30)
		pass(time.Second)
		if n := writes(); n != 2 || r.exists("web") {
			t.Errorf("%d writes until the pod was gone, want 2", n)
		}
	})
}

// A container whose image changes has its successor in no time: the pod is not told unready for that.
func TestChangedImageIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("web"))
		pass(time.Second)
		pod := r.get("web")
		pod.Spec.Containers[0].Image = "app:2"
		pod.Generation++
		if _, err := r.client.CoreV1().Pods(pod.Namespace).Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		if cs := r.get("web").Status.ContainerStatuses[0]; cs.RestartCount != 1 || cs.State.Running == nil {
			t.Errorf("restart count %d, %s", cs.RestartCount, describeState(cs.State))
		}
		for _, a := range r.client.Actions() {
			u, ok := a.(clienttesting.UpdateAction)
			if !ok || !a.Matches("update", "pods/status") {
				continue
			}
			for _, c := range u.GetObject().(*corev1.Pod).Status.Conditions {
				if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
					t.Errorf("told: %+v", c)
				}
			}
		}
	})
}
