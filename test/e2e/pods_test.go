package e2e

import (
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestInitContainersAndSidecars: in order, one after another; a sidecar runs before and beside the rest and ends after it.
func TestInitContainersAndSidecars(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  initContainers:
  - {name: first, image: %[1]s, command: [sh, -c, "echo first >> /data/order"], volumeMounts: [{name: data, mountPath: /data}]}
  - {name: sidecar, image: %[1]s, restartPolicy: Always, command: [sh, -c, "echo sidecar >> /data/order; trap 'exit 0' TERM; sleep 3600 & wait"], volumeMounts: [{name: data, mountPath: /data}],
     startupProbe: {exec: {command: [grep, sidecar, /data/order]}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 60}}
  - {name: second, image: %[1]s, command: [sh, -c, "echo second >> /data/order"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - {name: main, image: %[1]s, command: [sh, -c, "cat /data/order; while [ ! -e /data/end ]; do sleep 0.1; done"], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, emptyDir: {}}]
`, busybox))
	u.await("pod/p", "condition=Ready")
	like(t, u.kubectl("get", "pod", "p"), `NAME READY STATUS RESTARTS AGE`, `p 2/2 Running 0 \S+`)
	u.says("second", "logs", "p", "-c", "main")
	like(t, u.kubectl("logs", "p", "-c", "main"), `first`, `sidecar`, `second`)
	like(t, u.kubectl("get", "pod", "p", "-o", `jsonpath={range .status.initContainerStatuses[*]}{.name} {.ready} {.started} {.state.terminated.reason}{"\n"}{end}`),
		`first true false Completed`, `sidecar true true`, `second true false Completed`)
	u.kubectl("exec", "p", "-c", "main", "--", "touch", "/data/end")
	u.await("pod/p", "jsonpath={.status.phase}=Succeeded")
	like(t, u.kubectl("get", "pod", "p"), `NAME READY STATUS RESTARTS AGE`, `p 0/2 Completed 0 \S+`)

	// one that fails keeps the rest from starting
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: bad}
spec:
  restartPolicy: Never
  initContainers: [{name: fails, image: %[1]s, command: [sh, -c, "exit 5"]}]
  containers: [{name: never, image: %[1]s, command: [sleep, "3600"]}]
`, busybox))
	u.await("pod/bad", "jsonpath={.status.phase}=Failed")
	like(t, u.kubectl("get", "pod", "bad"), `NAME READY STATUS RESTARTS AGE`, `bad 0/1 Init:Error 0 \S+`)
}

// TestContainersShare: localhost and System V IPC, but not processes or files.
func TestContainersShare(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: server, image: %[1]s, command: [sh, -c, "mkdir /www; echo hello neighbour > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"]}
  - {name: client, image: %[1]s, command: [sleep, "3600"]}
`, busybox))
	u.await("pod/p", "condition=Ready")
	u.says("hello neighbour", "exec", "p", "-c", "client", "--", "wget", "-qO-", "http://127.0.0.1:8080")
	ns := func(container, kind string) string {
		return u.kubectl("exec", "p", "-c", container, "--", "stat", "-L", "-c", "%i", "/proc/self/ns/"+kind)
	}
	for _, kind := range []string{"net", "ipc", "uts"} {
		if a, b := ns("server", kind), ns("client", kind); a != b {
			t.Errorf("two %s namespaces: %s %s", kind, a, b)
		}
	}
	for _, kind := range []string{"pid", "mnt"} {
		if a, b := ns("server", kind), ns("client", kind); a == b {
			t.Errorf("one %s namespace", kind)
		}
	}
	like(t, u.kubectl("exec", "p", "-c", "client", "--", "hostname"), `p`)
	u.kubectl("exec", "p", "-c", "client", "--", "sh", "-c", "echo shared > /dev/shm/file")
	like(t, u.kubectl("exec", "p", "-c", "server", "--", "cat", "/dev/shm/file"), `shared`)
}

func TestEnvironmentAndCommand(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("create", "configmap", "settings", "--from-literal=colour=green", "--from-literal=size=9")
	u.kubectl("create", "secret", "generic", "key", "--from-literal=token=hush")
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {tier: front}, annotations: {note: "a note"}}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: %[1]s
    workingDir: /tmp/work/here
    command: [sh, -c, 'pwd; env | sort; echo "$0" "$1" "$2"; echo $(NOT_SET) $$(GREETING)']
    args: [$(GREETING), "two words", $(MISSING)]
    resources: {requests: {cpu: 100m}, limits: {memory: 64Mi, cpu: "2"}}
    envFrom: [{configMapRef: {name: settings}, prefix: SET_}, {secretRef: {name: gone, optional: true}}]
    env:
    - {name: GREETING, value: "hello $(SET_colour) $(TOKEN)"}
    - {name: LITERAL, value: plain}
    - {name: FROM_LITERAL, value: "<$(LITERAL)>"}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: key, key: token}}}
    - {name: OPTIONAL, valueFrom: {configMapKeyRef: {name: gone, key: x, optional: true}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: "metadata.labels['tier']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
`, busybox))
	u.await("pod/p", "jsonpath={.status.phase}=Succeeded")
	out := u.kubectl("logs", "p")
	contains(t, out, `/tmp/work/here`, `ACCOUNT=default`, `COLOUR=green`, `CPU=2`, `FROM_LITERAL=<plain>`, `HOME=/root`, `HOST=[0-9.]+`, `HOSTNAME=p`, `IP=10\.\S+`,
		`KUBERNETES_PORT=tcp://10\.\S+:443`, `KUBERNETES_SERVICE_HOST=10\.\S+`, `KUBERNETES_SERVICE_PORT=443`, `LITERAL=plain`, `MEMORY=64`, `NODE=shared`, `NOTE=a note`, `PATH=/bin`, `POD=p`, `REQUEST=100`,
		`SET_colour=green`, `SET_size=9`, `SPACE=`+u.ns, `TIER=front`, `TOKEN=hush`)
	has(t, out, "hello green $(TOKEN) two words $(MISSING)\n")
	if strings.Contains(out, "OPTIONAL") {
		t.Error("an optional variable without a source is set")
	}

	// what is missing is said, and the container waits for it
	u.apply(strings.Replace(podManifest("waits", "sleep 3600"), "    image:", "    env: [{name: A, valueFrom: {configMapKeyRef: {name: later, key: a}}}]\n    image:", 1))
	u.says("CreateContainerConfigError", "get", "pod", "waits")
	has(t, u.kubectl("get", "pod", "waits", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.message}"), `configmap "later" not found`)
	u.kubectl("create", "configmap", "later", "--from-literal=a=1")
	u.await("pod/waits", "condition=Ready")
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	host := u.m.Dir(t)
	u.kubectl("create", "configmap", "settings", "--from-literal=colour=green", "--from-literal=size=9")
	u.kubectl("create", "secret", "generic", "key", "--from-literal=token=hush")
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {tier: front}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %[1]s
    command: [sleep, "3600"]
    volumeMounts:
    - {name: empty, mountPath: /empty}
    - {name: empty, mountPath: /sub, subPath: a/b}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: settings, mountPath: /settings}
    - {name: some, mountPath: /some, readOnly: true}
    - {name: key, mountPath: /key}
    - {name: me, mountPath: /me}
    - {name: all, mountPath: /all}
    - {name: settings, mountPath: /etc/one, subPath: size}
  - {name: other, image: %[1]s, command: [sleep, "3600"], volumeMounts: [{name: empty, mountPath: /theirs}]}
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: %[2]s, type: Directory}}
  - {name: settings, configMap: {name: settings}}
  - {name: some, configMap: {name: settings, defaultMode: 0400, items: [{key: size, path: in/a/folder}]}}
  - {name: key, secret: {secretName: key, defaultMode: 0440}}
  - {name: me, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - name: all
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: api, expirationSeconds: 600}
      - configMap: {name: settings, items: [{key: colour, path: colour}]}
      - secret: {name: key, items: [{key: token, path: secret}]}
      - downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}
`, busybox, host))
	u.await("pod/p", "condition=Ready")
	sh := func(script string) string {
		u.t.Helper()
		return u.kubectl("exec", "p", "-c", "c", "--", "sh", "-c", script)
	}
	sh("echo x > /empty/file && echo y > /sub/file && echo z > /host/file && mkdir /empty/dir")
	like(t, u.kubectl("exec", "p", "-c", "other", "--", "cat", "/theirs/file", "/theirs/a/b/file"), `x`, `y`)
	like(t, sh("grep ' /memory ' /proc/mounts"), `tmpfs /memory tmpfs rw.*size=1024k.*`)
	like(t, sh("cat /settings/colour; echo; cat /some/in/a/folder; echo; cat /key/token; echo; cat /me/labels; echo; cat /me/name; echo; cat /all/colour; echo; cat /etc/one"),
		`green`, `9`, `hush`, `tier="front"`, `p`, `green`, `9`)
	like(t, sh("stat -L -c %a /some/in/a/folder /key/token /settings/colour; ls /settings; cat /all/ns"), `400`, `440`, `644`, `colour`, `size`, u.ns)
	has(t, u.refused("exec", "p", "-c", "c", "--", "touch", "/settings/new"), "Read-only file system")

	// files follow the objects; a subPath does not
	u.kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"blue","size":"10","new":"1"}}`)
	u.kubectl("label", "pod", "p", "more=1")
	u.says("blue", "exec", "p", "-c", "c", "--", "cat", "/settings/colour")
	u.says("1", "exec", "p", "-c", "c", "--", "cat", "/settings/new")
	u.says(`more="1"`, "exec", "p", "-c", "c", "--", "cat", "/me/labels")
	like(t, sh("cat /etc/one"), `9`)

	// the tokens are good
	for _, file := range []struct{ path, audience string }{{"/all/token", "api"}, {"/var/run/secrets/kubernetes.io/serviceaccount/token", ""}} {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: sh("cat " + file.path)}}
		if file.audience != "" {
			review.Spec.Audiences = []string{file.audience}
		}
		got, err := u.client().AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Status; !s.Authenticated || s.User.Username != "system:serviceaccount:"+u.ns+":default" || s.User.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
			t.Errorf("the review of %s, %q: %+v", file.path, review.Spec.Token, s)
		}
	}
	has(t, sh("cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt"), "BEGIN CERTIFICATE")
	like(t, sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"), u.ns)
}

func TestRestartPoliciesAndExitCodes(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	for name, pod := range map[string]struct{ policy, script string }{
		"never-good":   {"Never", "exit 0"},
		"never-bad":    {"Never", "exit 4"},
		"failure-good": {"OnFailure", "exit 0"},
		"failure-bad":  {"OnFailure", "exit 6"},
		"always":       {"Always", "exit 0"},
		"signal":       {"Never", "kill -9 $$; sleep 5"},
		"message":      {"Never", "echo the last words > /dev/termination-log; exit 1"},
	} {
		u.apply(strings.Replace(podManifest(name, pod.script), "spec:", "spec:\n  restartPolicy: "+pod.policy, 1))
	}
	u.apply(strings.Replace(strings.Replace(podManifest("no-program", ""), `[sh, -c, ""]`, "[/no/such/program]", 1), "spec:", "spec:\n  restartPolicy: Never", 1))
	const terminated = "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.terminated.message}"
	for name, want := range map[string]string{
		"never-good": `Succeeded 0 Completed 0`, "never-bad": `Failed 4 Error 0`, "failure-good": `Succeeded 0 Completed 0`, "message": `Failed 1 Error 0 the last words`,
	} {
		phase, _, _ := strings.Cut(want, " ")
		u.await("pod/"+name, "jsonpath={.status.phase}="+phase)
		like(t, u.kubectl("get", "pod", name, "-o", terminated), want)
	}
	u.await("pod/no-program", "jsonpath={.status.phase}=Failed")
	has(t, u.kubectl("get", "pod", "no-program", "-o", terminated), "Failed 128 StartError 0 ", "no such file or directory")
	for _, name := range []string{"failure-bad", "always"} {
		// The back-off ends after ten seconds and comes again: all that is said of it has to be read at once.
		u.shows([]string{"get", "pod", name, "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}"},
			`Running CrashLoopBackOff: back-off \d+s restarting failed container=c pod=`+name+`_`+u.ns+`\(\S+\)`)
	}
	u.shows([]string{"events", "--for", "pod/failure-bad"}, `.* Warning BackOff .* Back-off restarting failed container c in pod failure-bad_`+u.ns+`\(\S+\)`)
	u.shows([]string{"describe", "pod", "failure-bad"}, `State: Waiting`, `Reason: CrashLoopBackOff`, `Last State: Terminated`, `Reason: Error`, `Exit Code: 6`, `Restart Count: [1-9]`)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: %[1]s
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=200M count=1"]
    resources: {limits: {memory: 20Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %[1]s
    command: [sleep, "3600"]
    resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {cpu: 250m}}
`, busybox))
	u.await("pod/hungry", "jsonpath={.status.phase}=Failed")
	like(t, u.kubectl("get", "pod", "hungry"), `NAME READY STATUS RESTARTS AGE`, `hungry 0/1 OOMKilled 0 \S+`)
	like(t, u.kubectl("get", "pod", "hungry", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode} {.status.qosClass}"), `137 Burstable`)

	u.await("pod/limited", "condition=Ready")
	// cgroup v1 and v2 have their files in different places
	like(t, u.kubectl("exec", "limited", "--", "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"), `67108864`)
	like(t, u.kubectl("exec", "limited", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us)"), `50000 100000`)
	contains(t, u.kubectl("describe", "pod", "limited"), `Limits:`, `cpu: 500m`, `memory: 64Mi`, `Requests:`, `cpu: 250m`, `memory: 64Mi`)
}

// TestGracefulTermination: the hook runs first, then comes the signal, and what does not end is killed.
func TestGracefulTermination(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	host := u.m.Dir(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: polite}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: c
    image: %[1]s
    command: [sh, -c, "trap 'echo signal >> /host/order; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo started >> /host/order"]}}
      preStop: {exec: {command: [sh, -c, "echo hook >> /host/order"]}}
    volumeMounts: [{name: host, mountPath: /host}]
  volumes: [{name: host, hostPath: {path: %[2]s}}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: %[1]s, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: %[1]s, command: [sleep, "3600"], volumeMounts: [{name: host, mountPath: /host}]}]
  volumes: [{name: host, hostPath: {path: %[2]s}}]
`, busybox, host))
	for _, pod := range []string{"polite", "stubborn", "reader"} {
		u.await("pod/"+pod, "condition=Ready")
	}
	u.kubectl("delete", "pod", "polite", "stubborn")
	like(t, u.kubectl("exec", "reader", "--", "cat", "/host/order"), `started`, `hook`, `signal`)
	u.shows([]string{"events", "--for", "pod/polite"}, `.* Normal Killing .* Stopping container c`)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %[1]s
    command: [sh, -c, "mkdir -p /www; touch /www/live; httpd -p 8080 -h /www; sleep 3600"]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {exec: {command: [test, -e, /www/ready]}, periodSeconds: 1, timeoutSeconds: 60}
    livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
---
{apiVersion: v1, kind: Service, metadata: {name: p}, spec: {selector: {app: p}, ports: [{port: 80, targetPort: 8080}]}}
`, busybox))
	u.says("Readiness probe failed", "events", "--for", "pod/p")
	like(t, u.kubectl("get", "pod", "p"), `NAME READY STATUS RESTARTS AGE`, `p 0/1 Running 0 \S+`)
	const endpoints = "jsonpath={.items[*].endpoints[*].conditions.ready}."
	u.says("false.", "get", "endpointslices", "-l", "kubernetes.io/service-name=p", "-o", endpoints)
	u.kubectl("exec", "p", "--", "touch", "/www/ready")
	u.await("pod/p", "condition=Ready")
	u.says("true.", "get", "endpointslices", "-l", "kubernetes.io/service-name=p", "-o", endpoints)
	u.kubectl("exec", "p", "--", "rm", "/www/ready")
	u.await("pod/p", "condition=Ready=False")
	u.kubectl("exec", "p", "--", "rm", "/www/live")
	u.await("pod/p", "jsonpath={.status.containerStatuses[0].restartCount}=1")
	u.shows([]string{"events", "--for", "pod/p"}, `.* Warning Unhealthy .* Liveness probe failed: HTTP probe failed with statuscode: 404`)
	u.shows([]string{"events", "--for", "pod/p"}, `.* Normal Killing .* Container c failed liveness probe, will be restarted`)
}

func TestImageThatDoesNotExist(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("run", "p", "--image=127.0.0.1:1/nobody/nothing:1")
	u.kubectl("run", "never", "--image=nothing:1", "--image-pull-policy=Never")
	u.apply(strings.Replace(podManifest("invalid", "true"), "image: "+busybox, "image: UPPER:1", 1))
	u.says("ErrImageNeverPull", "get", "pod", "never")
	u.says("InvalidImageName", "get", "pod", "invalid")
	// It is tried again after ten seconds, so all of this has to be read at once.
	u.shows([]string{"get", "pod", "p", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].state.waiting.message}"},
		`Pending ImagePullBackOff Back-off pulling image "127.0.0.1:1/nobody/nothing:1".*`)
	for _, event := range []string{
		`.* Normal Pulling .* Pulling image "127.0.0.1:1/nobody/nothing:1"`, `.* Warning Failed .* Failed to pull image "127.0.0.1:1/nobody/nothing:1": .*connection refused.*`,
		`.* Warning Failed .* Error: ErrImagePull`, `.* Warning Failed .* Error: ImagePullBackOff`,
	} {
		u.shows([]string{"events", "--for", "pod/p"}, event)
	}
}

// TestUnschedulable: a pod that fits nowhere is told why.
func TestUnschedulable(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(strings.Replace(podManifest("huge", "sleep 1"), "    image:", "    resources: {requests: {cpu: \"1000\"}}\n    image:", 1))
	u.apply(strings.Replace(podManifest("picky", "sleep 1"), "spec:", "spec:\n  nodeSelector: {no: such}", 1))
	u.await("pod/huge", "condition=PodScheduled=False")
	u.await("pod/picky", "condition=PodScheduled=False")
	like(t, u.kubectl("get", "pod", "huge"), `NAME READY STATUS RESTARTS AGE`, `huge 0/1 Pending 0 \S+`)
	u.shows([]string{"events", "--for", "pod/huge"}, `.* Warning FailedScheduling Pod/huge 0/1 nodes are available: 1 Insufficient cpu\..*`)
	u.shows([]string{"events", "--for", "pod/picky"}, `.* Warning FailedScheduling Pod/picky 0/1 nodes are available: 1 node\(s\) didn't match Pod's node affinity/selector\..*`)
	u.kubectl("delete", "pod", "huge", "picky")
}

// TestSecurity: who a container runs as, and what it may do.
func TestSecurity(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [77]}
  containers:
  - name: c
    image: %[1]s
    command: [sh, -c, "exec 2>&1; id; touch /file; stat -c %%g /data; grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status; grep CapEff /proc/self/status"]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: root}
spec:
  restartPolicy: Never
  containers: [{name: c, image: %[1]s, command: ["true"], securityContext: {runAsNonRoot: true}}]
`, busybox))
	u.await("pod/p", "jsonpath={.status.phase}=Succeeded")
	like(t, u.kubectl("logs", "p"), `uid=1234 gid=2345 groups=.*`, `touch: /file: Read-only file system`, `3456`, `NoNewPrivs: 1`, `Seccomp: 2`, `CapEff: 0000000000000000`)
	u.says("CreateContainerConfigError", "get", "pod", "root")
	has(t, u.kubectl("get", "pod", "root", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.message}"), "container has runAsNonRoot and image will run as root")
}
