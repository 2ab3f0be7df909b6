package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// root is the group of this data directory's cluster, of all pods in it, in the machine.
const root = "/sys/fs/cgroup/celox-*"

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// podOf is a pod of one container, c.
func podOf(name, script string, requests, limits corev1.ResourceList) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "c", Image: busybox, Command: []string{"sh", "-c", script},
			Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
		}},
	}}
}

// group finds the pod's directory below the class's ("" for guaranteed pods).
func group(t *testing.T, class string, pod *corev1.Pod) string {
	t.Helper()
	return sh(t, "ls -d "+root+"/kubepods/"+class+"/pod"+string(pod.UID))
}

// container is the group of the pod's first container.
func container(t *testing.T, dir string, pod *corev1.Pod) string {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	return sh(t, "ls -d "+dir+"/"+id)
}

// files compares files of a group with what they should hold.
func files(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	var script strings.Builder
	for name := range want {
		fmt.Fprintf(&script, "echo %s $(cat %s/%s)\n", name, dir, name)
	}
	for line := range strings.Lines(sh(t, script.String()) + "\n") {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if value != want[name] {
			t.Errorf("%s/%s is %q, want %q", dir, name, value, want[name])
		}
	}
}

func TestNodeOnUnifiedHierarchy(t *testing.T) {
	if got := sh(t, "stat -f -c %t /sys/fs/cgroup"); got != "63677270" {
		t.Fatalf("the machine has no cgroup v2: %s", got)
	}
	_, c := client(t)
	n, err := c.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ready := false
	for _, cond := range n.Status.Conditions {
		ready = ready || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
	}
	if !ready {
		t.Errorf("the node is not Ready: %+v", n.Status.Conditions)
	}
	if got := n.Status.Capacity["hugepages-2Mi"]; got.String() != "32Mi" {
		t.Errorf("huge pages: %s", got.String())
	}
	// All pods together: what the machine has; 2 CPUs are 2048 shares.
	files(t, root+"/kubepods", map[string]string{
		"memory.max": fmt.Sprint(n.Status.Capacity.Memory().Value()), "cpu.weight": "174", "cpu.max": "max 100000",
		"hugetlb.2MB.max": "33554432", "memory.min": "0", "memory.high": "max",
	})
	files(t, root+"/kubepods/besteffort", map[string]string{"cpu.weight": "1", "memory.max": "max", "cpu.max": "max 100000"})
}

func TestLimits(t *testing.T) {
	_, c := client(t)
	const sleep = "sleep 1000"
	create(t, c, podOf("guaranteed", sleep, nil, list("cpu", "500m", "memory", "64Mi")))
	create(t, c, podOf("burstable", sleep, list("cpu", "250m", "memory", "32Mi"), list("cpu", "1", "memory", "96Mi", "hugepages-2Mi", "4Mi")))
	create(t, c, podOf("requests", sleep, list("cpu", "100m"), nil))
	create(t, c, podOf("besteffort", sleep, nil, nil))

	// None of these is set unless somebody asks for it (memoryThrottlingFactor, memoryReservationPolicy).
	quiet := map[string]string{"memory.min": "0", "memory.low": "0", "memory.high": "max"}
	check := func(dir string, want map[string]string) {
		t.Helper()
		for k, v := range quiet {
			want[k] = v
		}
		files(t, dir, want)
	}
	// What every container has: it ends as a whole, does not swap, and gets no huge pages that it didn't ask for.
	every := func(want map[string]string) map[string]string {
		for k, v := range map[string]string{"memory.oom.group": "1", "memory.swap.max": "0", "hugetlb.1GB.max": "0", "cgroup.procs": "", "pids.max": "max"} {
			if k != "cgroup.procs" {
				want[k] = v
			}
		}
		return want
	}

	pod := running(t, c, "guaranteed")
	dir := group(t, "", pod)
	check(dir, map[string]string{"memory.max": "67108864", "cpu.max": "50000 100000", "cpu.weight": "59", "memory.oom.group": "0", "hugetlb.2MB.max": "0"})
	check(container(t, dir, pod), every(map[string]string{"memory.max": "67108864", "cpu.max": "50000 100000", "cpu.weight": "59", "hugetlb.2MB.max": "0"}))

	pod = running(t, c, "burstable")
	dir = group(t, "burstable", pod)
	check(dir, map[string]string{"memory.max": "100663296", "cpu.max": "100000 100000", "cpu.weight": "35", "hugetlb.2MB.max": "4194304"})
	check(container(t, dir, pod), every(map[string]string{"memory.max": "100663296", "cpu.max": "100000 100000", "cpu.weight": "35", "hugetlb.2MB.max": "4194304"}))

	pod = running(t, c, "requests")
	dir = group(t, "burstable", pod)
	check(dir, map[string]string{"memory.max": "max", "cpu.max": "max 100000", "cpu.weight": "17"})
	check(container(t, dir, pod), every(map[string]string{"memory.max": "max", "cpu.max": "max 100000", "cpu.weight": "17"}))

	pod = running(t, c, "besteffort")
	dir = group(t, "besteffort", pod)
	check(dir, map[string]string{"memory.max": "max", "cpu.max": "max 100000", "cpu.weight": "1"})
	check(container(t, dir, pod), every(map[string]string{"memory.max": "max", "cpu.max": "max 100000", "cpu.weight": "1"}))

	// The burstable pods together weigh what they ask for: 350m are 358 shares.
	weight := func(want string) {
		t.Helper()
		wait(t, "weight of the burstable pods", func(context.Context) error {
			if got := sh(t, "cat "+root+"/kubepods/burstable/cpu.weight"); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	weight("45")
	remove(t, c, "requests")
	weight("35")
}

// remove deletes a pod and waits until its groups are gone.
func remove(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	pod, err := c.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, "pod "+name+" goes", func(ctx context.Context) error {
		if _, err := c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%w)", err)
		}
		if left := sh(t, "find "+root+" -name 'pod"+string(pod.UID)+"'"); left != "" {
			return errors.New("its group is still there: " + left)
		}
		return nil
	})
}

// TestResize: limits of a running container change (KEP-1287).
func TestResize(t *testing.T) {
	_, c := client(t)
	create(t, c, podOf("resized", "sleep 1000", list("cpu", "100m", "memory", "32Mi"), list("cpu", "200m", "memory", "64Mi")))
	pod := running(t, c, "resized")
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("cpu", "300m", "memory", "48Mi"), Limits: list("cpu", "400m", "memory", "80Mi")}
	if _, err := c.CoreV1().Pods("default").UpdateResize(t.Context(), "resized", pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := group(t, "burstable", pod)
	inner := container(t, dir, pod)
	wait(t, "the new limits", func(context.Context) error {
		if got := sh(t, "cat "+inner+"/memory.max "+dir+"/memory.max"); got != "83886080\n83886080" {
			return errors.New(got)
		}
		return nil
	})
	for _, d := range []string{dir, inner} {
		files(t, d, map[string]string{"cpu.max": "40000 100000", "cpu.weight": "40"})
	}
}

func TestOutOfMemory(t *testing.T) {
	_, c := client(t)
	// A child of the first process is what grows. The whole container goes all the same.
	create(t, c, podOf("greedy", "(a=x; while :; do a=$a$a; done) & wait; sleep 1000", nil, list("memory", "16Mi", "cpu", "500m")))
	wait(t, "the container ends", func(ctx context.Context) error {
		pod, err := c.CoreV1().Pods("default").Get(ctx, "greedy", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, s := range pod.Status.ContainerStatuses {
			end := s.State.Terminated
			if end == nil {
				continue
			}
			if end.ExitCode != 137 || end.Reason != "OOMKilled" {
				t.Fatalf("it ended otherwise: %+v", end)
			}
			return nil
		}
		return fmt.Errorf("%+v", pod.Status)
	})
}

// TestMemoryVolume: what is written to an emptyDir in memory is the container's memory.
func TestMemoryVolume(t *testing.T) {
	_, c := client(t)
	withVolume := func(name, script string) *corev1.Pod {
		p := podOf(name, script, nil, list("memory", "48Mi", "cpu", "500m"))
		p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m"}}
		return p
	}
	create(t, c, withVolume("fits", "dd if=/dev/zero of=/m/file bs=1M count=20 2>/dev/null; sleep 1000"))
	create(t, c, withVolume("overflows", "dd if=/dev/zero of=/m/file bs=1M count=100; sleep 1000"))
	pod := running(t, c, "fits")
	inner := container(t, group(t, "", pod), pod)
	wait(t, "the file counts", func(context.Context) error {
		out := sh(t, "grep '^shmem ' "+inner+"/memory.stat; cat "+inner+"/memory.current")
		var shmem, current int
		if _, err := fmt.Sscanf(out, "shmem %d\n%d", &shmem, &current); err != nil || shmem < 20<<20 || current < 20<<20 {
			return fmt.Errorf("%s (%w)", out, err)
		}
		return nil
	})
	wait(t, "the container that writes too much ends", func(ctx context.Context) error {
		pod, err := c.CoreV1().Pods("default").Get(ctx, "overflows", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, s := range pod.Status.ContainerStatuses {
			if end := s.State.Terminated; end != nil && end.Reason == "OOMKilled" && end.ExitCode == 137 {
				return nil
			}
		}
		return fmt.Errorf("%+v", pod.Status.ContainerStatuses)
	})
}

// inside runs a command in a container.
func inside(t *testing.T, cfg *rest.Config, c kubernetes.Interface, pod string, command ...string) string {
	t.Helper()
	req := c.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(cfg, "GET", req.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil {
		t.Fatalf("%v: %v\n%s%s", command, err, out.String(), errOut.String())
	}
	return strings.TrimSpace(out.String() + errOut.String())
}

func TestExecLogsStats(t *testing.T) {
	cfg, c := client(t)
	create(t, c, podOf("talks", "echo hello; sleep 1000", nil, list("memory", "64Mi", "cpu", "500m")))
	pod := running(t, c, "talks")
	dir := group(t, "", pod)
	inner := container(t, dir, pod)

	// A container sees its own group as the root of the hierarchy, and cannot change it; what is executed in it runs in that group.
	if got := inside(t, cfg, c, "talks", "cat", "/proc/self/cgroup", "/sys/fs/cgroup/memory.max"); got != "0::/\n67108864" {
		t.Errorf("in the container: %q", got)
	}
	if got := inside(t, cfg, c, "talks", "sh", "-c", "echo 1 2>&1 >/sys/fs/cgroup/memory.max || true"); !strings.Contains(got, "Read-only") {
		t.Errorf("the container may write to its group: %q", got)
	}
	wait(t, "the log", func(ctx context.Context) error {
		log, err := c.CoreV1().Pods("default").GetLogs("talks", &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil || string(log) != "hello\n" {
			return fmt.Errorf("%q (%w)", log, err)
		}
		return nil
	})

	get := func(path string) []byte {
		t.Helper()
		data, err := c.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + nodeName + "/proxy" + path).DoRaw(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return data
	}
	var summary statsapi.Summary
	if err := json.Unmarshal(get("/stats/summary"), &summary); err != nil {
		t.Fatal(err)
	}
	if n := summary.Node; n.CPU == nil || n.CPU.UsageCoreNanoSeconds == nil || *n.CPU.UsageCoreNanoSeconds == 0 || n.Memory == nil || *n.Memory.WorkingSetBytes == 0 {
		t.Errorf("node: %+v", n)
	}
	found := false
	for _, p := range summary.Pods {
		if p.PodRef.Name != "talks" {
			continue
		}
		found = true
		if p.StartTime.IsZero() || p.CPU == nil || *p.CPU.UsageCoreNanoSeconds == 0 || p.Memory == nil || *p.Memory.WorkingSetBytes == 0 || len(p.Containers) != 1 {
			t.Fatalf("pod: %+v", p)
		}
		s := p.Containers[0]
		if s.StartTime.IsZero() || *s.CPU.UsageCoreNanoSeconds == 0 || *s.Memory.WorkingSetBytes == 0 || s.Memory.AvailableBytes == nil || *s.Memory.AvailableBytes >= 64<<20 {
			t.Errorf("container: %+v %+v %+v", s, s.CPU, s.Memory)
		}
		if s.CPU.PSI == nil || s.Memory.PSI == nil || s.IO == nil || s.IO.PSI == nil || p.CPU.PSI == nil || p.CPU.PSI.Some.Total == 0 {
			t.Errorf("no pressure stall information: %+v %+v %+v", s.CPU, s.Memory, s.IO)
		}
		if *p.ProcessStats.ProcessCount != 1 {
			t.Errorf("processes: %d", *p.ProcessStats.ProcessCount)
		}
	}
	if !found {
		t.Errorf("no statistics of the pod: %+v", summary.Pods)
	}
	for _, m := range [][2]string{
		{"/metrics/resource", `container_memory_working_set_bytes{container="c",namespace="default",pod="talks"}`},
		{"/metrics/cadvisor", `container_cpu_usage_seconds_total{container="c",`},
		{"/metrics/cadvisor", `container_pressure_memory_stalled_seconds_total{container="c",`},
	} {
		if text := string(get(m[0])); !strings.Contains(text, m[1]) {
			t.Errorf("%s has no %s", m[0], m[1])
		}
	}
	sh(t, "test -d "+inner)
	remove(t, c, "talks")
}

// TestPrivileged: such a container sees the machine's groups.
func TestPrivileged(t *testing.T) {
	cfg, c := client(t)
	p := podOf("privileged", "sleep 1000", nil, nil)
	yes := true
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	create(t, c, p)
	running(t, c, "privileged")
	if got := inside(t, cfg, c, "privileged", "cat", "/proc/self/cgroup"); !strings.Contains(got, "/kubepods/besteffort/pod") {
		t.Errorf("a privileged container's group: %q", got)
	}
}

// TestSharedProcessNamespace: the pause process and the containers go together, however many processes were left.
func TestSharedProcessNamespace(t *testing.T) {
	cfg, c := client(t)
	p := podOf("shares", "trap '' TERM; sleep 1000 & sleep 1000 & wait", nil, nil)
	yes := true
	p.Spec.ShareProcessNamespace = &yes
	create(t, c, p)
	running(t, c, "shares")
	if got := inside(t, cfg, c, "shares", "ps"); !strings.Contains(got, "celox-pause") {
		t.Errorf("processes: %s", got)
	}
	remove(t, c, "shares")
}

// TestRestart: celox ends and starts again; the containers go on, and everything fits together afterwards.
func TestRestart(t *testing.T) {
	cfg, c := client(t)
	create(t, c, podOf("survives", "echo $$; while :; do sleep 1; done", list("cpu", "200m"), list("memory", "64Mi")))
	pod := running(t, c, "survives")
	dir := group(t, "burstable", pod)
	inner := container(t, dir, pod)
	before := sh(t, "head -n 1 "+inner+"/cgroup.procs")
	sh(t, "kill $(cat /run/celox.pid); while kill -0 $(cat /run/celox.pid) 2>/dev/null; do sleep 0.1; done; head -n 1 "+inner+"/cgroup.procs")
	if err := start(shared); err != nil {
		t.Fatal(err)
	}
	pod = running(t, c, "survives")
	if got := sh(t, "head -n 1 "+inner+"/cgroup.procs"); got != before || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("process %s was %s; %+v", got, before, pod.Status.ContainerStatuses)
	}
	wait(t, "the weight of the burstable pods", func(context.Context) error {
		if got := sh(t, "cat "+root+"/kubepods/burstable/cpu.weight"); got != "29" {
			return errors.New(got)
		}
		return nil
	})
	if got := inside(t, cfg, c, "survives", "cat", "/sys/fs/cgroup/memory.max"); got != "67108864" {
		t.Errorf("limit after the restart: %s", got)
	}
	remove(t, c, "survives")
}

// TestInsideAGroup: celox where its group is the top of what it sees, as in a container. The processes there are in its way.
func TestInsideAGroup(t *testing.T) {
	sh(t, `
mkdir /sys/fs/cgroup/outer
echo '+memory +cpu +pids' >/sys/fs/cgroup/cgroup.subtree_control
cat >/run/inner <<'SCRIPT'
mount --bind /sys/fs/cgroup/outer /sys/fs/cgroup
echo $$ >/sys/fs/cgroup/cgroup.procs
ip link set lo up
inner() { celox "$@" --data-dir /var/lib/inner; }
celox server --data-dir /var/lib/inner --node-name inner --https-port 7443 --kubelet-port 10251 >/run/inner.said 2>&1 &
pid=$!
for i in $(seq 600); do grep -q ' is Ready after ' /run/inner.said && break; sleep 0.1; done
inner image import /root/busybox.tar
inner kubectl run p --image=busybox:1 --restart=Never --overrides='{"spec":{"containers":[{"name":"p","image":"busybox:1","command":["sleep","1000"],"resources":{"limits":{"memory":"32Mi"}}}]}}'
inner kubectl wait pod/p --for=condition=Ready --timeout=60s
cat /sys/fs/cgroup/celox-*/kubepods/burstable/pod*/*/memory.max
grep -c . /sys/fs/cgroup/init/cgroup.procs
kill $pid; wait $pid
inner reset --yes
ls -d /sys/fs/cgroup/celox-*
SCRIPT
`)
	out := sh(t, "unshare -m -n sh /run/inner 2>&1; cat /run/inner.said; rmdir /sys/fs/cgroup/outer/init /sys/fs/cgroup/outer")
	if !strings.Contains(out, "\n33554432\n") || !strings.Contains(out, "condition met") || !strings.Contains(out, "No such file") {
		t.Errorf("inside a group:\n%s", out)
	}
}

// TestDiskPressure: when the disk is nearly full, the pod goes that wrote most to it, and the node takes no more.
func TestDiskPressure(t *testing.T) {
	_, c := client(t)
	create(t, c, podOf("writes", "dd if=/dev/zero of=/file bs=1M count=40 2>/dev/null; sleep 1000", nil, nil))
	if _, err := c.CoreV1().Pods("default").Create(t.Context(), podOf("frugal", "sleep 1000", nil, nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err) // not deleted in the end: TestReset finds it
	}
	running(t, c, "writes")
	running(t, c, "frugal")
	sh(t, "fallocate -l $(( $(stat -f -c '%a*%S - %b*%S*8/100' /) )) /filler; df / | tail -n 1")
	wait(t, "the pod that writes is evicted", func(ctx context.Context) error {
		pod, err := c.CoreV1().Pods("default").Get(ctx, "writes", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Evicted" || !strings.HasPrefix(pod.Status.Message, "The node was low on resource: ephemeral-storage. ") {
			return fmt.Errorf("%s %s %q", pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		}
		return nil
	})
	sh(t, "rm /filler")
	if pod := running(t, c, "frugal"); pod.Status.Reason != "" {
		t.Errorf("the other pod: %+v", pod.Status)
	}
	n, err := c.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeDiskPressure && cond.Status != corev1.ConditionTrue {
			t.Errorf("condition %+v", cond)
		}
	}
}

// TestReset: with a pod that runs (TestDiskPressure's), nothing is left. A process in brackets has ended, and waits for the machine's init to notice.
func TestReset(t *testing.T) {
	if sh(t, "ps | grep 'sleep 1000' | grep -v grep | wc -l") == "0" {
		t.Error("no container runs")
	}
	sh(t, "kill $(cat /run/celox.pid); while kill -0 $(cat /run/celox.pid) 2>/dev/null; do sleep 0.1; done; celox reset --yes --data-dir "+dataDir)
	if left := sh(t, `
find /sys/fs/cgroup -name 'celox*' -o -name kubepods
ls -d `+dataDir+` 2>/dev/null
grep celox /proc/mounts
ls /sys/class/net | grep -E 'celox|clx'
ps | grep -E 'celox|sleep 1000' | grep -v -e grep -e '\[celox-runtime\]'
true`); left != "" {
		t.Errorf("reset left:\n%s", left)
	}
}
