package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// TestConformanceEnvironment: names with any prefix, whole config maps and secrets, services, and what the pod knows of itself.
func TestConformanceEnvironment(t *testing.T) {
	s := newStage(t)
	s.config("map", map[string]string{"data_1": "value-1"})
	s.secret("secret", map[string]string{"hidden": "value-2"})
	_, err := s.c.CoreV1().Services(s.ns).Create(s.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "fooservice"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8765}}},
	}, metav1.CreateOptions{})
	fine(t, err)
	pod := s.run("p", `
restartPolicy: Never
containers:
- name: c
  image: IMAGE
  command: [env] # a shell drops names that it cannot use
  envFrom:
  - {configMapRef: {name: map}}
  - {configMapRef: {name: map}, prefix: "1-"}
  - {configMapRef: {name: map}, prefix: "$_-"}
  - {configMapRef: {name: map}, prefix: "#@!.~"}
  - {secretRef: {name: secret}, prefix: p_}
  env:
  - {name: FROM_FIELD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: UID_, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
  - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
  - {name: "dotted.na-me", value: x}
- name: d
  image: IMAGE
  command: [sh, -c, "cat /etc/hosts; echo $0 $1"]
  args: [test-value, "$(NAME)"]
  env: [{name: NAME, value: substituted}]
hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]
`)
	s.ended("p", corev1.PodSucceeded)
	for _, line := range []string{`#@!\.~data_1=value-1`, `\$_-data_1=value-1`, `1-data_1=value-1`, `FOOSERVICE_PORT=tcp://\S+:8765`, `FOOSERVICE_PORT_8765_TCP=tcp://\S+:8765`,
		`FOOSERVICE_PORT_8765_TCP_ADDR=\S+`, `FOOSERVICE_PORT_8765_TCP_PORT=8765`, `FOOSERVICE_PORT_8765_TCP_PROTO=tcp`, `FOOSERVICE_SERVICE_HOST=\S+`, `FOOSERVICE_SERVICE_PORT=8765`,
		`FROM_FIELD=p`, `HOST_IPS=[0-9.]+`, `POD_IPS=10\.\S+`, `UID_=` + string(pod.UID), `data_1=value-1`, `dotted.na-me=x`, `p_hidden=value-2`} {
		contains(t, s.log("p", &corev1.PodLogOptions{Container: "c"}), line)
	}
	contains(t, s.log("p", &corev1.PodLogOptions{Container: "d"}), `# Entries added by HostAliases\.`, `123\.45\.67\.89 foo bar`, `test-value substituted`)
}

// TestConformanceTermination: last words from a file or the log, for whom, and how a container ended.
func TestConformanceTermination(t *testing.T) {
	s := newStage(t)
	for _, tt := range []struct {
		name, script, more string
		phase              corev1.PodPhase
		want               string
	}{
		{"file", "echo -n DONE > /dev/termination-custom-log", "terminationMessagePath: /dev/termination-custom-log, securityContext: {runAsUser: 1000}", corev1.PodSucceeded, "DONE"},
		{"log", "echo -n DONE; exit 1", "terminationMessagePolicy: FallbackToLogsOnError", corev1.PodFailed, "DONE"},
		{"empty", "echo DONE; exit 0", "terminationMessagePolicy: FallbackToLogsOnError", corev1.PodSucceeded, ""},
		{"both", "echo OK > /dev/termination-log; echo DONE; exit 0", "terminationMessagePolicy: FallbackToLogsOnError", corev1.PodSucceeded, "OK\n"},
		{"false", "false", "", corev1.PodFailed, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := *s
			user := *s.user
			s.user, user.t = &user, t
			s.run(tt.name, fmt.Sprintf("restartPolicy: Never\ncontainers: [{name: c, image: IMAGE, command: [sh, -c, %q], %s}]", tt.script, tt.more))
			pod := s.ended(tt.name, tt.phase)
			end := pod.Status.ContainerStatuses[0].State.Terminated
			if end == nil || end.Message != tt.want || (end.ExitCode != 0) != (tt.phase == corev1.PodFailed) || end.Reason == "" || end.FinishedAt.IsZero() || end.ContainerID == "" {
				t.Errorf("%+v", end)
			}
		})
	}
}

// TestConformanceInitContainers: what a pod says of itself while and after its init containers fail or succeed.
func TestConformanceInitContainers(t *testing.T) {
	s := newStage(t)
	spec := func(policy, first, second string) string {
		return fmt.Sprintf(`
restartPolicy: %s
initContainers:
- {name: init1, image: IMAGE, command: [%s]}
- {name: init2, image: IMAGE, command: [%s]}
containers: [{name: run1, image: IMAGE, command: [sh, -c, "exit 0"], resources: {limits: {cpu: 100m}}}]
`, policy, first, second)
	}
	s.run("good", spec("Never", "true", "true"))
	s.run("bad", spec("Never", "true", "false"))
	s.run("stuck", spec("Always", "false", "true"))
	pod := s.ended("good", corev1.PodSucceeded)
	if c := conditionOf(pod, corev1.PodInitialized); c.Status != corev1.ConditionTrue {
		t.Errorf("%+v", c)
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if !c.Ready || c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
			t.Errorf("%+v", c)
		}
	}
	pod = s.ended("bad", corev1.PodFailed)
	if c := conditionOf(pod, corev1.PodInitialized); c.Status != corev1.ConditionFalse || c.Reason != "ContainersNotInitialized" || c.Message != "containers with incomplete status: [init2]" {
		t.Errorf("%+v", c)
	}
	if c := pod.Status.ContainerStatuses[0]; c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" {
		t.Errorf("%+v", c)
	}
	pod = s.follow("stuck", "to have tried again", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 2 && p.Status.InitContainerStatuses[0].RestartCount > 0
	})
	if c := conditionOf(pod, corev1.PodInitialized); c.Status != corev1.ConditionFalse || c.Reason != "ContainersNotInitialized" || c.Message != "containers with incomplete status: [init1 init2]" {
		t.Errorf("%+v", c)
	}
	if c := pod.Status.InitContainerStatuses[1]; pod.Status.Phase != corev1.PodPending || c.State.Waiting == nil || c.State.Waiting.Reason != "PodInitializing" || c.Ready || c.RestartCount != 0 {
		t.Errorf("%s %+v", pod.Status.Phase, c)
	}
}

// TestConformanceHooks: requests before the container counts as started, and before it ends.
func TestConformanceHooks(t *testing.T) {
	s := newStage(t)
	s.run("server", `containers: [{name: c, image: IMAGE, command: [sh, -c, "mkdir /w; cd /w; echo a > poststart; echo a > prestop; exec httpd -f -vv -p 8080"], readinessProbe: {httpGet: {port: 8080, path: /poststart}, periodSeconds: 1}}]`)
	ip := s.ready("server").Status.PodIP
	s.run("client", fmt.Sprintf(`
terminationGracePeriodSeconds: 30
containers:
- name: c
  image: IMAGE
  command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
  lifecycle: {postStart: {httpGet: {host: %[1]s, port: 8080, path: /poststart}}, preStop: {httpGet: {host: %[1]s, port: 8080, path: /prestop}}}
`, ip))
	s.ready("client")
	fine(t, s.c.CoreV1().Pods(s.ns).Delete(s.ctx, "client", metav1.DeleteOptions{}))
	s.until("the requests of the hooks", func() (string, error) {
		log := s.log("server", &corev1.PodLogOptions{})
		if strings.Contains(log, "/poststart") && strings.Contains(log, "/prestop") {
			return "", nil
		}
		return log, nil
	})
}

// TestConformanceSecurityContexts: users, privileges, a writable root, kernel settings.
func TestConformanceSecurityContexts(t *testing.T) {
	s := newStage(t)
	for name, c := range map[string][2]string{
		"nobody":       {`securityContext: {runAsUser: 65534}`, "id -u"},
		"group":        {`securityContext: {runAsUser: 1001, runAsGroup: 2002}`, "id -u; id -g"},
		"unprivileged": {`securityContext: {privileged: false}`, "ip link add dummy0 type dummy 2>&1 || true"},
		"privileged":   {`securityContext: {privileged: true}`, "ip link set lo mtu 1500 && echo done"},
		"writable":     {`securityContext: {readOnlyRootFilesystem: false}`, "echo x > /file && cat /file"},
		"read-only":    {`securityContext: {readOnlyRootFilesystem: true}`, "echo x 2>/dev/null > /file || echo refused"},
		"no-more":      {`securityContext: {allowPrivilegeEscalation: false, runAsUser: 1000}`, "grep NoNewPrivs /proc/self/status"},
		"more":         {`securityContext: {allowPrivilegeEscalation: true, runAsUser: 1000}`, "grep NoNewPrivs /proc/self/status"},
	} {
		s.run(name, fmt.Sprintf("restartPolicy: Never\ncontainers: [{name: c, image: IMAGE, command: [sh, -c, %q], %s}]", c[1], c[0]))
	}
	s.run("sysctl", script("cat /proc/sys/kernel/shm_rmid_forced", "securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: \"1\"}]}"))
	s.run("unsafe", script("true", "securityContext: {sysctls: [{name: kernel.msgmax, value: \"10000000000\"}]}"))
	s.prints("nobody", `65534`)
	s.prints("group", `1001`, `2002`)
	s.prints("unprivileged", `ip: .*Operation not permitted`)
	s.prints("privileged", `done`)
	s.prints("writable", `x`)
	s.prints("read-only", `refused`)
	s.prints("no-more", `NoNewPrivs: 1`)
	s.prints("more", `NoNewPrivs: 0`)
	s.prints("sysctl", `1`)
	if pod := s.ended("unsafe", corev1.PodFailed); pod.Status.Reason != "SysctlForbidden" {
		t.Errorf("%s %s", pod.Status.Reason, pod.Status.Message)
	}
	_, err := s.c.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: *read[corev1.PodSpec](t, strings.ReplaceAll(script("true",
		`securityContext: {sysctls: [{name: foo-, value: bar}, {name: kernel.shmmax, value: "100000000"}, {name: safe-and-unsafe, value: "1"}, {name: bar.., value: "42"}]}`), "IMAGE", busybox))}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Fatalf("%v", err)
	}
	has(t, err.Error(), `Invalid value: "foo-"`, `Invalid value: "bar.."`)
	if strings.Contains(err.Error(), "safe-and-unsafe") || strings.Contains(err.Error(), "kernel.shmmax") {
		t.Error(err)
	}
}

// TestConformanceEphemeralContainers: they are started beside what runs, and others may follow.
func TestConformanceEphemeralContainers(t *testing.T) {
	s := newStage(t)
	s.run("p", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"]}]`)
	s.ready("p")
	add := func(name string) {
		t.Helper()
		patch := fmt.Sprintf(`{"spec":{"ephemeralContainers":[{"name":%q,"image":%q,"command":["sh","-c","echo polo; while read line; do echo marco; done; sleep 3600"],"stdin":true,"tty":true}]}}`, name, busybox)
		pod, err := s.c.CoreV1().Pods(s.ns).Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "ephemeralcontainers")
		fine(t, err)
		if !slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name }) {
			t.Fatalf("%+v", pod.Spec.EphemeralContainers)
		}
		s.follow("p", "to run "+name, func(p *corev1.Pod) bool {
			return slices.ContainsFunc(p.Status.EphemeralContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == name && c.State.Running != nil })
		})
		s.until("the log of "+name, func() (string, error) {
			log := s.log("p", &corev1.PodLogOptions{Container: name})
			if strings.Contains(log, "polo") {
				return "", nil
			}
			return log, nil
		})
	}
	add("debugger")
	add("debugger2")
	pod, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, "p", metav1.GetOptions{})
	fine(t, err)
	if len(pod.Spec.EphemeralContainers) != 2 || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("%+v", pod)
	}
	// at the main door they cannot be changed
	pod.Spec.EphemeralContainers = nil
	if _, err := s.c.CoreV1().Pods(s.ns).Update(s.ctx, pod, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("%v", err)
	}
}

// TestConformancePodLife: what a watcher sees of a pod from its creation to its end, and what may be changed on the way.
func TestConformancePodLife(t *testing.T) {
	s := newStage(t)
	pods := s.c.CoreV1().Pods(s.ns)
	list, err := pods.List(s.ctx, metav1.ListOptions{LabelSelector: "time=now"})
	fine(t, err)
	w, err := pods.Watch(s.ctx, metav1.ListOptions{LabelSelector: "time=now", ResourceVersion: list.ResourceVersion})
	fine(t, err)
	defer w.Stop()
	next := func(kind watch.EventType, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
		t.Helper()
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && e.Type == kind && holds(pod) {
				return pod
			}
		}
		t.Fatalf("no event %s: %s", kind, what)
		return nil
	}
	any := func(*corev1.Pod) bool { return true }
	grace := int64(1)
	pod := s.create(read[corev1.Pod](t, strings.ReplaceAll(`
metadata: {name: p, labels: {time: now}, generation: 100}
spec:
  terminationGracePeriodSeconds: 30
  containers: [{name: c, image: IMAGE, command: [sleep, "3600"], resources: {requests: {cpu: 10m, memory: 10Mi}, limits: {cpu: 10m, memory: 10Mi}}}]
`, "IMAGE", busybox)))
	if pod.Generation != 1 || pod.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("generation %d, class %s", pod.Generation, pod.Status.QOSClass)
	}
	next(watch.Added, "created", any)
	pod = next(watch.Modified, "running", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodRunning && p.Status.ObservedGeneration == 1
	})
	if pod.Status.HostIP == "" || len(pod.Status.HostIPs) == 0 || pod.Status.PodIP == "" || pod.Status.StartTime == nil {
		t.Errorf("%+v", pod.Status)
	}
	// labels, the deadline
	_, err = pods.Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"test-pod":"patched"}},"spec":{"activeDeadlineSeconds":3600}}`), metav1.PatchOptions{})
	fine(t, err)
	next(watch.Modified, "patched", func(p *corev1.Pod) bool { return p.Labels["test-pod"] == "patched" && p.Generation == 2 })
	next(watch.Modified, "observed", func(p *corev1.Pod) bool { return p.Status.ObservedGeneration == 2 })
	// its status, by anybody
	patched, err := pods.Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"message":"Patched by e2e test","reason":"E2E"}}`), metav1.PatchOptions{}, "status")
	fine(t, err)
	if patched.Status.Message != "Patched by e2e test" || patched.Status.Reason != "E2E" || patched.Generation != 2 || patched.Annotations["patchedstatus"] != "true" {
		t.Errorf("%+v", patched)
	}
	// its end
	fine(t, pods.DeleteCollection(s.ctx, metav1.DeleteOptions{GracePeriodSeconds: &grace}, metav1.ListOptions{LabelSelector: "time=now"}))
	pod = next(watch.Modified, "on its way out", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds != 1 || pod.Generation != 3 {
		t.Errorf("grace %v, generation %d", pod.DeletionGracePeriodSeconds, pod.Generation)
	}
	pod = next(watch.Deleted, "deleted", any)
	if end := pod.Status.ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode == 0 || pod.Status.Phase != corev1.PodFailed {
		t.Errorf("%+v", pod.Status)
	}

	// one that is past its deadline
	s.run("late", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"]}]`)
	s.ready("late")
	fine(t, s.patch("pods", "late", `{"spec":{"activeDeadlineSeconds":1}}`))
	if pod := s.ended("late", corev1.PodFailed); pod.Status.Reason != "DeadlineExceeded" || pod.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("%s %s", pod.Status.Reason, pod.Status.Message)
	}
}

// TestConformanceGenerations: hundreds of changes are counted, and the node says in the end that it has seen the last.
func TestConformanceGenerations(t *testing.T) {
	s := newStage(t)
	s.run("p", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"]}]`)
	s.ready("p")
	const changes = 500
	for i := range changes {
		fine(t, s.patch("pods", "p", fmt.Sprintf(`{"spec":{"activeDeadlineSeconds":%d}}`, 10000-i)))
	}
	pod := s.follow("p", "to have seen all", func(p *corev1.Pod) bool { return p.Status.ObservedGeneration == changes+1 })
	if pod.Generation != changes+1 {
		t.Errorf("generation %d", pod.Generation)
	}
	// labels are no change of what is asked for, tolerations are
	fine(t, s.patch("pods", "p", `{"metadata":{"labels":{"a":"b"}}}`))
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64)})
	_, err := s.c.CoreV1().Pods(s.ns).Patch(s.ctx, "p", types.JSONPatchType, []byte(`[{"op":"add","path":"/spec/tolerations/-","value":{"key":"k","operator":"Exists","effect":"NoExecute","tolerationSeconds":10}}]`), metav1.PatchOptions{})
	fine(t, err)
	pod = s.follow("p", "to have seen the toleration", func(p *corev1.Pod) bool { return p.Status.ObservedGeneration == changes+2 })
	if pod.Generation != changes+2 || conditionOf(pod, corev1.PodReady).ObservedGeneration > pod.Generation {
		t.Errorf("%+v", pod)
	}
}

// TestConformanceResize: resources change while containers run, through patch and replacement, up, down and to the same.
func TestConformanceResize(t *testing.T) {
	s := newStage(t)
	pods := s.c.CoreV1().Pods(s.ns)
	container := func(name, cpu, memory string) string {
		return fmt.Sprintf("- {name: %s, image: IMAGE, command: [sleep, \"3600\"], resources: {requests: {cpu: %[2]s, memory: %[3]s}, limits: {cpu: %[2]s, memory: %[3]s}}}\n", name, cpu, memory)
	}
	s.run("p", "containers:\n"+container("c1", "10m", "32Mi")+container("c2", "20m", "32Mi")+container("c3", "30m", "48Mi"))
	s.ready("p")
	settled := func(generation int64, want map[string]string) {
		t.Helper()
		pod := s.follow("p", "to be resized", func(p *corev1.Pod) bool {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
					return false
				}
			}
			if p.Status.ObservedGeneration != generation {
				return false
			}
			for _, c := range p.Status.ContainerStatuses {
				if c.Resources == nil || c.Resources.Limits.Cpu().String()+" "+c.Resources.Limits.Memory().String() != want[c.Name] ||
					c.AllocatedResources.Cpu().String()+" "+c.AllocatedResources.Memory().String() != want[c.Name] {
					return false
				}
			}
			return true
		})
		for _, c := range pod.Status.ContainerStatuses {
			if c.RestartCount != 0 {
				t.Errorf("%s was restarted", c.Name)
			}
		}
	}
	// cgroup v1 and v2 have their files in different places
	limit := func(container, bytes string) {
		t.Helper()
		s.says(bytes, "exec", "p", "-c", container, "--", "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true")
	}
	settled(1, map[string]string{"c1": "10m 32Mi", "c2": "20m 32Mi", "c3": "30m 48Mi"})
	size := func(name, cpu, memory string) string {
		return fmt.Sprintf(`{"name":%q,"resources":{"requests":{"cpu":%[2]q,"memory":%[3]q},"limits":{"cpu":%[2]q,"memory":%[3]q}}}`, name, cpu, memory)
	}
	patch := `{"spec":{"containers":[` + size("c1", "25m", "64Mi") + "," + size("c2", "10m", "48Mi") + "," + size("c3", "15m", "32Mi") + `]}}`
	_, err := pods.Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	fine(t, err)
	want := map[string]string{"c1": "25m 64Mi", "c2": "10m 48Mi", "c3": "15m 32Mi"}
	settled(2, want)
	limit("c1", "67108864")
	limit("c3", "33554432")

	// by replacement, and to what it already is in other words
	pod, err := pods.Get(s.ctx, "p", metav1.GetOptions{})
	fine(t, err)
	pod.Spec.Containers[0].Resources = read[corev1.Container](t, "resources: {requests: {cpu: 0.01, memory: 32768Ki}, limits: {cpu: 0.01, memory: 32768Ki}}").Resources
	pod, err = pods.UpdateResize(s.ctx, "p", pod, metav1.UpdateOptions{})
	fine(t, err)
	want["c1"] = "10m 32Mi"
	settled(pod.Generation, want)

	// the class of service stays, and elsewhere resources may not be changed
	_, err = pods.Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c1","resources":{"requests":{"cpu":"5m"}}}]}}`), metav1.PatchOptions{}, "resize")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "Pod QOS Class may not change as a result of resizing") {
		t.Errorf("%v", err)
	}
	if _, err = pods.Patch(s.ctx, "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("%v", err)
	}

	// limits and requests may be added to a burstable pod
	s.run("burstable", `
containers:
- {name: c1, image: IMAGE, command: [sleep, "3600"]}
- {name: c2, image: IMAGE, command: [sleep, "3600"], resources: {requests: {cpu: 10m}}}
`)
	s.ready("burstable")
	patch = `{"spec":{"containers":[{"name":"c1","resources":{"requests":{"cpu":"10m","memory":"16Mi"},"limits":{"memory":"64Mi"}}},{"name":"c2","resources":{"limits":{"cpu":"50m"}}}]}}`
	_, err = pods.Patch(s.ctx, "burstable", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	fine(t, err)
	s.follow("burstable", "to be resized", func(p *corev1.Pod) bool {
		c := p.Status.ContainerStatuses
		return len(c) == 2 && c[0].Resources != nil && c[0].Resources.Limits.Memory().String() == "64Mi" && c[0].Resources.Requests.Cpu().String() == "10m" &&
			c[1].Resources != nil && c[1].Resources.Limits.Cpu().String() == "50m" && p.Status.ObservedGeneration == 2
	})
}

// TestConformanceProbes: not ready before its time; ready, dead and restarted.
func TestConformanceProbes(t *testing.T) {
	s := newStage(t)
	s.run("delayed", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"], readinessProbe: {exec: {command: ["true"]}, initialDelaySeconds: 3, periodSeconds: 1}}]`)
	s.run("never", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"], readinessProbe: {exec: {command: ["false"]}, periodSeconds: 1}}]`)
	s.run("dying", `containers: [{name: c, image: IMAGE, command: [sh, -c, "touch /health; sleep 3600"], livenessProbe: {exec: {command: [rm, /health]}, periodSeconds: 1, failureThreshold: 1}}]`)
	s.run("tcp", `containers: [{name: c, image: IMAGE, command: [httpd, -f, -p, "8080"], livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}}]`) // it begins to listen when it can
	pod := s.ready("delayed")
	started, ready := pod.Status.ContainerStatuses[0].State.Running.StartedAt, conditionOf(pod, corev1.PodReady).LastTransitionTime
	if ready.Sub(started.Time) < 3*time.Second-time.Second || pod.Status.ContainerStatuses[0].RestartCount != 0 { // both are whole seconds
		t.Errorf("started %v, ready %v", started, ready)
	}
	s.follow("dying", "to be restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	for _, name := range []string{"never", "tcp"} {
		pod, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, name, metav1.GetOptions{})
		fine(t, err)
		if c := pod.Status.ContainerStatuses[0]; c.RestartCount != 0 || c.Ready != (name == "tcp") {
			t.Errorf("%+v", c)
		}
	}
}
