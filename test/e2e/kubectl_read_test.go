package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// aDeployment is a deployment of busybox with a service before it.
func aDeployment(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  labels: {app: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: %[3]s
        command: [sleep, "3600"]
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 1m, memory: 8Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata:
  name: %[1]s
  labels: {app: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: web, port: 80, targetPort: 8080}]
`, name, replicas, busybox)
}

func TestGetColumns(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(aDeployment("web", 2))
	u.kubectl("rollout", "status", "deployment/web")
	u.kubectl("create", "configmap", "settings", "--from-literal=a=1", "--from-literal=b=2")
	u.kubectl("create", "secret", "generic", "key", "--from-literal=token=x")
	u.says("true true", "get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
	const ip, age, hash = `10\.\d+\.\d+\.\d+`, `\d+\w+`, `web-[0-9a-z]+`

	for _, test := range []struct {
		args  string
		lines []string
	}{
		{"pods", []string{`NAME READY STATUS RESTARTS AGE`, hash + `-\w{5} 1/1 Running 0 ` + age, hash + `-\w{5} 1/1 Running 0 ` + age}},
		{"pods -o wide", []string{`NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES`,
			hash + `-\w{5} 1/1 Running 0 ` + age + ` ` + ip + ` shared <none> <none>`, hash + `-\w{5} 1/1 Running 0 ` + age + ` ` + ip + ` shared <none> <none>`}},
		{"pods --no-headers --show-labels", []string{hash + `-\w{5} 1/1 Running 0 ` + age + ` app=web,pod-template-hash=\w+`, hash + `-\w{5} 1/1 Running 0 ` + age + ` app=web,pod-template-hash=\w+`}},
		{"deployments -L app", []string{`NAME READY UP-TO-DATE AVAILABLE AGE APP`, `web 2/2 2 2 ` + age + ` web`}},
		{"deploy -o wide", []string{`NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR`, `web 2/2 2 2 ` + age + ` c busybox:1 app=web`}},
		{"rs", []string{`NAME DESIRED CURRENT READY AGE`, hash + ` 2 2 2 ` + age}},
		{"svc -o wide", []string{`NAME TYPE CLUSTER-IP EXTERNAL-IP PORT\(S\) AGE SELECTOR`, `web ClusterIP ` + ip + ` <none> 80/TCP ` + age + ` app=web`}},
		{"endpointslices", []string{`NAME ADDRESSTYPE PORTS ENDPOINTS AGE`, `web-\w{5} IPv4 8080 ` + ip + `,` + ip + ` ` + age}},
		{"configmaps", []string{`NAME DATA AGE`, `kube-root-ca\.crt 1 ` + age, `settings 2 ` + age}},
		{"secrets", []string{`NAME TYPE DATA AGE`, `key Opaque 1 ` + age}},
		{"serviceaccounts", []string{`NAME AGE`, `default ` + age}},
		{"namespaces " + u.ns, []string{`NAME STATUS AGE`, u.ns + ` Active ` + age}},
		{"nodes", []string{`NAME STATUS ROLES AGE VERSION`, `shared Ready control-plane ` + age + ` v1\.37\.\S+`}},
		{"nodes -o wide", []string{`NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME`,
			`shared Ready control-plane ` + age + ` v1\.37\.\S+ [0-9.]+ <none> .+ \S+ celox://\S+`}},
		{"deploy,svc", []string{`NAME READY UP-TO-DATE AVAILABLE AGE`, `deployment.apps/web 2/2 2 2 ` + age, ``,
			`NAME TYPE CLUSTER-IP EXTERNAL-IP PORT\(S\) AGE`, `service/web ClusterIP ` + ip + ` <none> 80/TCP ` + age}},
		{"all", []string{`NAME READY STATUS RESTARTS AGE`, `pod/\S+ 1/1 Running 0 ` + age, `pod/\S+ 1/1 Running 0 ` + age, ``,
			`NAME TYPE CLUSTER-IP EXTERNAL-IP PORT\(S\) AGE`, `service/web ClusterIP ` + ip + ` <none> 80/TCP ` + age, ``,
			`NAME READY UP-TO-DATE AVAILABLE AGE`, `deployment.apps/web 2/2 2 2 ` + age, ``,
			`NAME DESIRED CURRENT READY AGE`, `replicaset.apps/` + hash + ` 2 2 2 ` + age}},
		{"deploy -o name", []string{`deployment.apps/web`}},
		{"pods -o name", []string{`pod/` + hash + `-\w{5}`, `pod/` + hash + `-\w{5}`}},
		{"deploy web -o jsonpath={.spec.template.spec.containers[*].image}", []string{`busybox:1`}},
		{"deploy -o custom-columns=NAME:.metadata.name,WANT:.spec.replicas,IMAGE:.spec.template.spec.containers[0].image",
			[]string{`NAME WANT IMAGE`, `web 2 busybox:1`}},
		{"cm,secret -o go-template={{range.items}}{{.metadata.name}};{{end}}", []string{`kube-root-ca\.crt;settings;key;`}},
		{"cm --field-selector metadata.name=settings", []string{`NAME DATA AGE`, `settings 2 ` + age}},
		{"cm --field-selector metadata.name!=settings --no-headers", []string{`kube-root-ca\.crt 1 ` + age}},
		{"pods -l app=web,pod-template-hash -o name", []string{`pod/\S+`, `pod/\S+`}},
		{"cm --sort-by=.metadata.name --no-headers", []string{`kube-root-ca\.crt 1 ` + age, `settings 2 ` + age}},
		{"--raw /apis/apps/v1/namespaces/" + u.ns + "/deployments/web/scale", []string{`\{"kind":"Scale","apiVersion":"autoscaling/v1",.*"spec":\{"replicas":2\},"status":\{"replicas":2,"selector":"app=web"\}\}`}},
	} {
		t.Run(test.args, func(t *testing.T) {
			v := *u
			v.t = t
			like(t, v.kubectl(append([]string{"get"}, strings.Split(test.args, " ")...)...), test.lines...)
		})
	}
	r := u.do(nil, "get", "pods", "-l", "app in (other)")
	if r.out != "" || r.err != "No resources found in "+u.ns+" namespace.\n" {
		t.Errorf("for no pods: %q %q", r.out, r.err)
	}
	has(t, u.refused("get", "pod", "nobody"), `Error from server (NotFound): pods "nobody" not found`)
	has(t, u.refused("get", "wombats"), `error: the server doesn't have a resource type "wombats"`)
	has(t, u.refused("get", "pods", "--field-selector", "spec.nonsense=1"), `field label not supported: spec.nonsense`)
}

func TestGetFormats(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("create", "configmap", "settings", "--from-literal=a=1")
	var fromJSON, fromYAML corev1.ConfigMap
	if err := json.Unmarshal([]byte(u.kubectl("get", "cm", "settings", "-o", "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	out := u.kubectl("get", "cm", "settings", "-o", "yaml", "--show-managed-fields")
	if err := yaml.UnmarshalStrict([]byte(out), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if fromJSON.Kind != "ConfigMap" || fromJSON.Data["a"] != "1" || fromJSON.UID == "" || fromJSON.UID != fromYAML.UID || fromYAML.CreationTimestamp.IsZero() {
		t.Errorf("got %+v and %+v", fromJSON, fromYAML)
	}
	if len(fromJSON.ManagedFields) != 0 || len(fromYAML.ManagedFields) != 1 || fromYAML.ManagedFields[0].Manager != "kubectl-create" {
		t.Errorf("managed fields: %+v and %+v", fromJSON.ManagedFields, fromYAML.ManagedFields)
	}
	var list struct {
		Kind  string
		Items []corev1.ConfigMap
	}
	if err := json.Unmarshal([]byte(u.kubectl("get", "cm", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if list.Kind != "List" || len(list.Items) != 2 || list.Items[1].Kind != "ConfigMap" {
		t.Errorf("a list: %+v", list)
	}
}

func TestGetEverywhereAndInChunks(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	var manifests strings.Builder
	for i := range 25 {
		fmt.Fprintf(&manifests, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: number-%02d, labels: {many: %s}}}\n", i, u.ns)
	}
	u.apply(manifests.String())
	whole := u.kubectl("get", "cm", "-A", "-l", "many="+u.ns, "--chunk-size=0", "--no-headers")
	if n := strings.Count(whole, "\n"); n != 25 {
		t.Errorf("%d lines, want 25:\n%s", n, whole)
	}
	contains(t, whole, u.ns+` number-00 0 \S+`, u.ns+` number-24 0 \S+`)
	age := regexp.MustCompile(`\s+\S+\n`)
	chunks := u.kubectl("get", "cm", "-A", "-l", "many="+u.ns, "--chunk-size=7", "--no-headers")
	if age.ReplaceAllString(chunks, "\n") != age.ReplaceAllString(whole, "\n") {
		t.Errorf("in chunks of 7:\n%s\nat once:\n%s", chunks, whole)
	}
	sorted := strings.Fields(u.kubectl("get", "cm", "-l", "many="+u.ns, "--sort-by=.metadata.uid", "-o", "jsonpath={.items[*].metadata.uid}"))
	for i := range len(sorted) - 1 {
		if sorted[i] > sorted[i+1] {
			t.Errorf("not sorted: %v", sorted)
			break
		}
	}
}

// TestGetWatch follows changes as they come.
func TestGetWatch(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("create", "configmap", "first")
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"table", []string{"get", "configmaps", "-w", "--field-selector", "metadata.name!=kube-root-ca.crt"},
			[]string{`NAME DATA AGE`, `first 0 \S+`, `table 0 \S+`, `table 1 \S+`, `table 1 \S+`}},
		{"events", []string{"get", "configmaps", "-w", "--output-watch-events", "-o", "custom-columns=T:.type,N:.object.metadata.name,D:.object.data.a", "--field-selector", "metadata.name!=kube-root-ca.crt"},
			[]string{`T N D`, `ADDED first <none>`, `ADDED events <none>`, `MODIFIED events 1`, `DELETED events 1`}},
		{"only", []string{"get", "configmap", "--watch-only", "-o", "name", "-l", "only"},
			[]string{`configmap/only`, `configmap/only`, `configmap/only`}},
	} {
		cmd := u.start(test.args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := u.m.NS.Start(cmd); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		next := func(want string) {
			more := lines.Scan()
			for more && strings.Contains(lines.Text(), "begin-") { // see below
				more = lines.Scan()
			}
			if !more {
				t.Errorf("%s: the watch ended before %q", test.name, want)
			} else if !lineExp(t, want).MatchString(lines.Text()) {
				t.Errorf("%s: %q is not like %q", test.name, lines.Text(), want)
			}
		}
		if test.name != "only" { // the object that is there already tells that the watch has begun
			next(test.want[0])
			next(test.want[1])
			test.want = test.want[2:]
		} else if !u.untilSeen(lines) {
			t.Errorf("%s: the watch has not begun", test.name)
		}
		u.feed(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "`+test.name+`", "labels": {"only": ""}}}`, "create", "-f", "-")
		u.kubectl("patch", "configmap", test.name, "-p", `{"data":{"a":"1"}}`)
		u.kubectl("delete", "configmap", test.name)
		for _, want := range test.want {
			next(want)
		}
		if !timer.Stop() {
			t.Errorf("%s: the watch did not print what it should", test.name)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
}

// untilSeen makes objects until a watch, whose begin no line tells, shows one.
func (u *user) untilSeen(lines *bufio.Scanner) bool {
	u.t.Helper()
	ctx, seen := context.WithCancel(u.t.Context())
	maps := u.client().CoreV1().ConfigMaps(u.ns)
	var making sync.WaitGroup
	making.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "begin-" + strconv.Itoa(i), Labels: map[string]string{"only": ""}}}
			if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
				u.t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // a watch that begins tells nobody
			}
		}
	})
	ok := lines.Scan() && strings.Contains(lines.Text(), "begin-")
	seen()
	making.Wait()
	return ok
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(aDeployment("web", 1))
	u.kubectl("rollout", "status", "deployment/web")
	u.shows([]string{"describe", "pod", "-l", "app=web"},
		`Name: web-\S+`, `Namespace: `+u.ns, `Priority: 0`, `Service Account: default`, `Node: shared/[0-9.]+`, `Start Time: .+`,
		`Labels: app=web`, `pod-template-hash=\w+`, `Annotations: <none>`, `Status: Running`, `IP: 10\.\S+`, `IPs:`, `IP: 10\.\S+`, `Controlled By: ReplicaSet/web-\w+`, `Containers:`, `c:`,
		`Container ID: celox://[0-9a-f]{64}`, `Image: busybox:1`, `Image ID: \S*sha256:[0-9a-f]{64}`, `Port: 8080/TCP`, `Host Port: 0/TCP`, `Command:`, `sleep`, `3600`,
		`State: Running`, `Started: .+`, `Ready: True`, `Restart Count: 0`, `Limits:`, `memory: 64Mi`, `Requests:`, `cpu: 1m`, `memory: 8Mi`, `Environment: <none>`, `Mounts:`,
		`/var/run/secrets/kubernetes.io/serviceaccount from kube-api-access-\w+ \(ro\)`, `Conditions:`, `Type Status`, `PodReadyToStartContainers True`, `Initialized True`, `Ready True`, `ContainersReady True`, `PodScheduled True`,
		`Volumes:`, `kube-api-access-\w+:`, `Type: Projected .*`, `TokenExpirationSeconds: 3607`, `ConfigMapName: kube-root-ca.crt`, `DownwardAPI: true`, `QoS Class: Burstable`,
		`Node-Selectors: <none>`, `Tolerations: node.kubernetes.io/not-ready:NoExecute op=Exists for 300s`, `node.kubernetes.io/unreachable:NoExecute op=Exists for 300s`,
		`Events:`, `Type Reason Age From Message`, `Normal Scheduled \S+ default-scheduler Successfully assigned `+u.ns+`/web-\S+ to shared`,
		`Normal Pulled \S+ kubelet .*Container image "busybox:1" already present on machine.*`, `Normal Created \S+ kubelet .*`, `Normal Started \S+ kubelet .*`)
	u.shows([]string{"describe", "deployment", "web"}, `Name: web`, `Replicas: 1 desired \| 1 updated \| 1 total \| 1 available \| 0 unavailable`, `Limits:`, `memory: 64Mi`, `Events:`, `Normal ScalingReplicaSet .*`)
	u.shows([]string{"describe", "service", "web"}, `Name: web`, `Namespace: `+u.ns, `Labels: app=web`, `Selector: app=web`, `Type: ClusterIP`, `IP Family Policy: SingleStack`, `IP Families: IPv4`,
		`IP: 10\.\S+`, `IPs: 10\.\S+`, `Port: web 80/TCP`, `TargetPort: 8080/TCP`, `Endpoints: 10\.\S+:8080`, `Session Affinity: None`, `Internal Traffic Policy: Cluster`)
	contains(t, u.kubectl("describe", "node", "shared"), `Name: shared`, `Roles: control-plane`, `Labels: .+`, `kubernetes.io/hostname=shared`, `kubernetes.io/os=linux`, `CreationTimestamp: .+`, `Taints: <none>`, `Unschedulable: false`,
		`Conditions:`, `Type Status LastHeartbeatTime LastTransitionTime Reason Message`, `MemoryPressure False .* KubeletHasSufficientMemory .*`, `DiskPressure False .* KubeletHasNoDiskPressure .*`, `PIDPressure False .* KubeletHasSufficientPID .*`,
		`Ready True .* KubeletReady .*`, `Addresses:`, `InternalIP: \S+`, `Hostname: shared`, `Capacity:`, `cpu: \d+`, `memory: \d+Ki`, `pods: 110`, `Allocatable:`, `pods: 110`, `System Info:`, `Kubelet Version: v1\.37\.\S+`,
		`Non-terminated Pods: .*`, u.ns+` web-\S+ 1m \(0%\) 0 \(0%\) 8Mi \(0%\) 64Mi \(\d+%\) \S+`, `Allocated resources:`, `Events:.*`)
	contains(t, u.kubectl("describe", "namespace", u.ns), `Name: `+u.ns, `Status: Active`)
	contains(t, u.kubectl("describe", "configmap", "kube-root-ca.crt"), `ca.crt:`, `-----BEGIN CERTIFICATE-----`)
}

func TestExplain(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	contains(t, u.kubectl("explain", "deployment.spec.strategy"), `GROUP: apps`, `KIND: Deployment`, `VERSION: v1`, `FIELD: strategy <DeploymentStrategy>`, `DESCRIPTION:`, `FIELDS:`, `rollingUpdate <RollingUpdateDeployment>`, `type <string>`, `enum: Recreate, RollingUpdate`)
	contains(t, u.kubectl("explain", "pods", "--recursive"), `KIND: Pod`, `VERSION: v1`, `FIELDS:`, `metadata <ObjectMeta>`, `spec <PodSpec>`, `containers <\[\]Container> -required-`, `livenessProbe <Probe>`)
	has(t, u.refused("explain", "pods.spec.nonsense"), `field "nonsense" does not exist`)
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	contains(t, u.kubectl("api-resources"), `NAME SHORTNAMES APIVERSION NAMESPACED KIND`, `configmaps cm v1 true ConfigMap`, `nodes no v1 false Node`, `pods po v1 true Pod`, `deployments deploy apps/v1 true Deployment`, `cronjobs cj batch/v1 true CronJob`)
	contains(t, u.kubectl("api-resources", "--api-group=apps", "-o", "wide"), `NAME SHORTNAMES APIVERSION NAMESPACED KIND VERBS CATEGORIES`, `deployments deploy apps/v1 true Deployment create,delete,deletecollection,get,list,patch,update,watch all`)
	contains(t, u.kubectl("api-resources", "--namespaced=false", "-o", "name"), `namespaces`, `nodes`, `persistentvolumes`)
	contains(t, u.kubectl("api-versions"), `apps/v1`, `batch/v1`, `rbac.authorization.k8s.io/v1`, `v1`)
	contains(t, u.kubectl("version"), `Client Version: v1\.37\.\S+`, `Kustomize Version: \S+`, `Server Version: v1\.37\.\S+`)
	contains(t, u.kubectl("cluster-info"), `.*Kubernetes control plane.* is running at .*https://127\.0\.0\.1:6443.*`)
	has(t, u.kubectl("get", "--raw", "/readyz?verbose"), "[+]ping ok", "readyz check passed")
	contains(t, u.kubectl("config", "view", "--minify"), `apiVersion: v1`, `certificate-authority-data: DATA\+OMITTED`, `server: https://127\.0\.0\.1:6443`, `kind: Config`, `client-key-data: DATA\+OMITTED`)
	contains(t, u.kubectl("config", "get-contexts"), `CURRENT NAME CLUSTER AUTHINFO NAMESPACE`, `\* \S+ \S+ \S+`)
}

func TestAuthCanI(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	like(t, u.kubectl("auth", "can-i", "delete", "nodes"), `yes`)
	r := u.do(nil, "auth", "can-i", "list", "secrets", "--as", "nobody")
	if r.code != 1 || r.out != "no\n" {
		t.Errorf("nobody: %+v", r)
	}
	u.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
	u.kubectl("create", "rolebinding", "reader", "--role=reader", "--user=anna")
	like(t, u.kubectl("auth", "can-i", "list", "pods", "--as", "anna"), `yes`)
	contains(t, u.kubectl("auth", "can-i", "--list", "--as", "anna"), `Resources Non-Resource URLs Resource Names Verbs`, `pods \[\] \[\] \[get list\]`)
	like(t, u.kubectl("get", "pods", "--as", "anna", "-o", "jsonpath={.kind}"), `List`)
	has(t, u.refused("get", "secrets", "--as", "anna"), `Error from server (Forbidden): secrets is forbidden: User "anna" cannot list resource "secrets" in API group "" in the namespace "`+u.ns+`"`)
	has(t, u.kubectl("auth", "whoami"), "system:masters")
}

func TestEventsAndWait(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.pod("p", "sleep 3600")
	u.shows([]string{"events", "--for", "pod/p"}, `LAST SEEN TYPE REASON OBJECT MESSAGE`, `\S+ Normal Started Pod/p .*`)
	u.shows([]string{"events", "--for", "pod/p"}, `\S+ Normal Scheduled Pod/p Successfully assigned .*`) // they are in the order of seconds
	u.shows([]string{"get", "events", "--field-selector", "reason=Scheduled"}, `LAST SEEN TYPE REASON OBJECT MESSAGE`, `\S+ Normal Scheduled pod/p Successfully assigned .*`)
	like(t, u.kubectl("wait", "pod/p", "--for=condition=Ready"), `pod/p condition met`)
	like(t, u.kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Running"), `pod/p condition met`)
	has(t, u.refused("wait", "pod/p", "--for=condition=Nonsense", "--timeout=1s"), "timed out waiting for the condition on pods/p")
	u.kubectl("delete", "pod", "p", "--wait=false")
	u.kubectl("wait", "pod/p", "--for=delete", "--timeout="+patience.String())
}

func TestKustomize(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	kustomization := u.file("kustomization.yaml", "namePrefix: my-\nconfigMapGenerator:\n- name: settings\n  literals: [a=1]\n")
	dir := strings.TrimSuffix(kustomization, "/kustomization.yaml")
	contains(t, u.kubectl("kustomize", dir), `a: "1"`, `kind: ConfigMap`, `name: my-settings-\w+`)
	like(t, u.kubectl("apply", "-k", dir), `configmap/my-settings-\w+ created`)
}

// TestProxy uses the API through kubectl's proxy, without credentials.
func TestProxy(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	cmd := u.start("proxy", "--port=0")
	address := u.background(cmd, `Starting to serve on (\S+)`)
	has(t, u.fetch("http://"+address+"/api/v1/namespaces/"+u.ns), `"name":"`+u.ns+`"`)
	has(t, u.fetch("http://"+address+"/version"), `"major"`)
}
