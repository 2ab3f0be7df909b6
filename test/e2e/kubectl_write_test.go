package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const settings = `
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {app: x}
data:
  a: "1"
  b: "2"
`

func TestCreateAndReplace(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	like(t, u.feed(settings, "create", "-f", "-"), `configmap/settings created`)
	has(t, u.refused("create", "configmap", "settings"), `configmaps "settings" already exists`)
	like(t, u.feed(strings.Replace(settings, `"2"`, `"3"`, 1), "replace", "-f", "-"), `configmap/settings replaced`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data}"), `\{"a":"1","b":"3"\}`)
	before := u.kubectl("get", "cm", "settings", "-o", "jsonpath={.metadata.uid}")
	r := u.do(strings.NewReader(settings), "replace", "--force", "-f", "-")
	like(t, r.out, `configmap "settings" deleted from `+u.ns+` namespace`, `configmap/settings replaced`)
	if after := u.kubectl("get", "cm", "settings", "-o", "jsonpath={.metadata.uid}"); after == before {
		t.Error("replace --force kept the object")
	}
	stale := u.kubectl("get", "cm", "settings", "-o", "yaml")
	u.kubectl("label", "cm", "settings", "new=1")
	out := u.do(strings.NewReader(stale), "replace", "-f", "-")
	has(t, out.err, `Error from server (Conflict)`, `Operation cannot be fulfilled on configmaps "settings": the object has been modified; please apply your changes to the latest version and try again`)

	// generated names, dry runs and the generators
	like(t, u.feed("{apiVersion: v1, kind: ConfigMap, metadata: {generateName: made-}}", "create", "-f", "-"), `configmap/made-\w{5} created`)
	like(t, u.kubectl("create", "configmap", "dry", "--dry-run=server"), `configmap/dry created \(server dry run\)`)
	has(t, u.refused("get", "cm", "dry"), "NotFound")
	like(t, u.kubectl("create", "deployment", "web", "--image=busybox:1", "--replicas=0"), `deployment.apps/web created`)
	like(t, u.kubectl("create", "serviceaccount", "robot"), `serviceaccount/robot created`)
	like(t, u.kubectl("create", "token", "robot"), `[\w-]+\.[\w-]+\.[\w-]+`)
	like(t, u.kubectl("create", "service", "clusterip", "web", "--tcp=80:8080"), `service/web created`)
	like(t, u.kubectl("create", "job", "once", "--image=busybox:1", "--", "true"), `job.batch/once created`)
	like(t, u.kubectl("create", "cronjob", "often", "--image=busybox:1", "--schedule=0 0 1 1 *", "--", "true"), `cronjob.batch/often created`)
	like(t, u.kubectl("create", "quota", "q", "--hard=configmaps=10"), `resourcequota/q created`)
	like(t, u.kubectl("create", "pdb", "p", "--selector=app=web", "--min-available=1"), `poddisruptionbudget.policy/p created`)
	like(t, u.kubectl("create", "ingress", "i", "--rule=host/path=web:80"), `ingress.networking.k8s.io/i created`)

	// what is wrong is said as the API says it
	for _, test := range []struct{ manifest, complaint string }{
		{"{apiVersion: v1, kind: ConfigMap, metadata: {name: Bad_Name}}", `The ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of`},
		{"{apiVersion: v1, kind: Wombat, metadata: {name: x}}", `no matches for kind "Wombat" in version "v1"`},
		{"{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {a: b}}", `Error from server (BadRequest): error when creating "STDIN": ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dta"`},
		{"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: []}}", `The Pod "x" is invalid: spec.containers: Required value`},
		{"{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i, resources: {limits: {memory: lots}}}]}}", `quantities must match the regular expression`},
		{"kind: [", `error`},
	} {
		r := u.do(strings.NewReader(test.manifest), "create", "-f", "-")
		if r.code == 0 {
			t.Errorf("created: %s", test.manifest)
		}
		has(t, r.err, test.complaint)
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	like(t, u.apply(settings), `configmap/settings created`)
	like(t, u.apply(settings), `configmap/settings unchanged`)
	u.kubectl("patch", "cm", "settings", "-p", `{"data":{"other":"kept"}}`)
	changed := strings.Replace(settings, `  b: "2"`, `  c: "3"`, 1)

	r := u.do(strings.NewReader(changed), "diff", "-f", "-")
	if r.code != 1 {
		t.Errorf("diff ended with %d: %s", r.code, r.err)
	}
	contains(t, r.out, `- b: "2"`, `\+ c: "3"`)
	like(t, u.apply(changed), `configmap/settings configured`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data}"), `\{"a":"1","c":"3","other":"kept"\}`)
	if r := u.do(strings.NewReader(changed), "diff", "-f", "-"); r.code != 0 || r.out != "" {
		t.Errorf("nothing differs, but: %+v", r)
	}
	contains(t, u.kubectl("apply", "view-last-applied", "cm/settings"), `c: "3"`)

	// pruning
	labelled := "{apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {set: s}}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: two, labels: {set: s}}}\n"
	u.apply(labelled)
	r = u.do(strings.NewReader(strings.SplitAfter(labelled, "\n")[0]), "apply", "--prune", "-l", "set=s", "--prune-allowlist=core/v1/ConfigMap", "-f", "-")
	like(t, r.out, `configmap/one unchanged`, `configmap/two pruned`)
}

func TestServerSideApply(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	apply := func(manifest, manager string, more ...string) result {
		return u.do(strings.NewReader(manifest), append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, more...)...)
	}
	like(t, apply(settings, "anna").out, `configmap/settings serverside-applied`)
	theirs := strings.Replace(settings, `"2"`, `"20"`, 1)
	r := apply(theirs, "ben")
	if r.code == 0 {
		t.Fatal("ben took what is anna's")
	}
	has(t, r.err, `Apply failed with 1 conflict: conflict with "anna": .data.b`, `Please review the fields above--they currently have other managers.`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data.b}"), `2`)
	like(t, apply(theirs, "ben", "--force-conflicts").out, `configmap/settings serverside-applied`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data.b}"), `20`)
	like(t, u.kubectl("get", "cm", "settings", "--show-managed-fields", "-o", `jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} {.fieldsV1.f:data}{"\n"}{end}`),
		`anna Apply \{"f:a":\{\}\}`, `ben Apply \{"f:a":\{\},"f:b":\{\}\}`)

	// who no longer names a field that nobody else has removes it
	without := strings.Replace(theirs, "  b: \"20\"\n", "", 1)
	apply(without, "ben")
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data}"), `\{"a":"1"\}`)

	// over a real workload
	for range 2 {
		has(t, u.feed(aDeployment("web", 0), "apply", "--server-side", "-f", "-"), "deployment.apps/web serverside-applied")
	}
	has(t, u.feed(aDeployment("web", 0), "diff", "--server-side", "-f", "-"), "")
}

func TestEdit(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(settings)
	u.env = []string{"KUBE_EDITOR=" + u.file("editor", "#!/bin/sh\nsed -i 's/b: \"2\"/b: edited/' \"$1\"\n")}
	like(t, u.kubectl("edit", "configmap", "settings"), `configmap/settings edited`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.data.b}"), `edited`)
	has(t, u.do(nil, "edit", "configmap", "settings").err, `Edit cancelled, no changes made.`)
}

func TestPatch(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(aDeployment("web", 0))
	const image = "jsonpath={.spec.template.spec.containers[*].name} {.spec.template.spec.containers[*].image}"
	like(t, u.kubectl("patch", "deployment", "web", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"second","image":"busybox:2"}]}}}}`), `deployment.apps/web patched`)
	like(t, u.kubectl("get", "deployment", "web", "-o", image), `second c busybox:2 busybox:1`)
	like(t, u.kubectl("patch", "deployment", "web", "--type=merge", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"only","image":"busybox:3"}]}}}}`), `deployment.apps/web patched`)
	like(t, u.kubectl("get", "deployment", "web", "-o", image), `only busybox:3`)
	like(t, u.kubectl("patch", "deployment", "web", "--type=json", "-p", `[{"op":"test","path":"/spec/replicas","value":0},{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"busybox:4"}]`), `deployment.apps/web patched`)
	like(t, u.kubectl("get", "deployment", "web", "-o", image), `only busybox:4`)
	like(t, u.kubectl("patch", "deployment", "web", "--type=merge", "-p", `{"spec":{"replicas":0}}`), `deployment.apps/web patched \(no change\)`)
	like(t, u.kubectl("patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", `{"spec":{"replicas":0}}`), `scale.autoscaling/web patched.*`)
	has(t, u.refused("patch", "deployment", "web", "--type=merge", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`), `is invalid`, `spec.selector`, `field is immutable`)
	has(t, u.refused("patch", "deployment", "web", "--type=json", "-p", `[{"op":"test","path":"/spec/replicas","value":7}]`), `the server rejected our request due to an error in our request`)
}

func TestLabelAndAnnotate(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(settings)
	like(t, u.kubectl("label", "cm", "settings", "tier=front"), `configmap/settings labeled`)
	has(t, u.refused("label", "cm", "settings", "tier=back"), `'tier' already has a value (front), and --overwrite is false`)
	like(t, u.kubectl("label", "cm", "settings", "tier=back", "--overwrite"), `configmap/settings labeled`)
	like(t, u.kubectl("get", "cm", "-l", "tier=back", "-o", "name"), `configmap/settings`)
	like(t, u.kubectl("label", "cm", "settings", "tier-"), `configmap/settings unlabeled`)
	like(t, u.kubectl("annotate", "cm", "settings", "note=hello there"), `configmap/settings annotated`)
	like(t, u.kubectl("get", "cm", "settings", "-o", "jsonpath={.metadata.labels} {.metadata.annotations.note}"), `\{"app":"x"\} hello there`)
	has(t, u.refused("label", "cm", "settings", "a=b c"), `a valid label must be an empty string or consist of alphanumeric characters`)
}

// TestDelete deletes in each way that kubectl knows, and looks what becomes of what the object owned.
func TestDelete(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	rs := func(name string) string { return u.kubectl("get", "rs,pods", "-l", "app="+name, "-o", "name") }

	for _, cascade := range []string{"background", "foreground"} {
		u.apply(aDeployment(cascade, 1))
		u.kubectl("rollout", "status", "deployment/"+cascade)
		like(t, u.kubectl("delete", "deployment", cascade, "--cascade="+cascade), fmt.Sprintf(`deployment.apps %q deleted from %s namespace`, cascade, u.ns))
		if cascade == "foreground" { // the owner goes last
			if left := rs(cascade); left != "" {
				t.Errorf("left after --cascade=foreground:\n%s", left)
			}
		}
		u.says("rs: []", "get", "rs,pods", "-l", "app="+cascade, "-o", "jsonpath=rs: [{.items[*].metadata.name}]")
	}

	u.apply(aDeployment("orphan", 1))
	u.kubectl("rollout", "status", "deployment/orphan")
	u.kubectl("delete", "deployment", "orphan", "--cascade=orphan")
	like(t, rs("orphan"), `replicaset.apps/orphan-\w+`, `pod/orphan-\w+-\w+`)
	like(t, u.kubectl("get", "rs", "-l", "app=orphan", "-o", "jsonpath={.items[*].metadata.ownerReferences}."), `\.`)
	u.apply(aDeployment("orphan", 1)) // and is adopted again
	u.kubectl("rollout", "status", "deployment/orphan")
	like(t, rs("orphan"), `replicaset.apps/orphan-\w+`, `pod/orphan-\w+-\w+`)

	// a grace period given by the user, and none
	for name, args := range map[string][]string{"slow": {"--grace-period=1"}, "now": {"--now"}, "force": {"--force", "--grace-period=0"}} {
		u.apply(strings.Replace(podManifest(name, "trap '' TERM; while :; do sleep 1; done"), "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 3600", 1))
		u.await("pod/"+name, "condition=Ready")
		r := u.do(nil, append([]string{"delete", "pod", name}, args...)...)
		if r.code != 0 {
			t.Errorf("delete %v: %s", args, r.err)
		}
		if name == "force" {
			has(t, r.err, "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated.")
		}
		has(t, u.refused("get", "pod", name), "NotFound")
	}

	// many at once, and what does not exist
	u.kubectl("create", "configmap", "one")
	u.kubectl("create", "configmap", "two")
	u.kubectl("label", "cm", "one", "two", "go=1")
	like(t, u.kubectl("delete", "cm", "-l", "go=1"), `configmap "one" deleted from `+u.ns+` namespace`, `configmap "two" deleted from `+u.ns+` namespace`)
	has(t, u.refused("delete", "cm", "one"), `Error from server (NotFound): configmaps "one" not found`)
	u.kubectl("delete", "cm", "one", "--ignore-not-found")
	u.kubectl("create", "configmap", "dry")
	like(t, u.kubectl("delete", "cm", "dry", "--dry-run=server"), `configmap "dry" deleted from `+u.ns+` namespace \(server dry run\)`)
	u.kubectl("get", "cm", "dry")

	// a finalizer holds it
	u.kubectl("patch", "cm", "dry", "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	u.kubectl("delete", "cm", "dry", "--wait=false")
	like(t, u.kubectl("get", "cm", "dry", "-o", "jsonpath={.metadata.finalizers} {.metadata.deletionTimestamp}"), `\["example.com/hold"\] 20\S+Z`)
	u.kubectl("patch", "cm", "dry", "--type=json", "-p", `[{"op":"remove","path":"/metadata/finalizers"}]`)
	has(t, u.refused("get", "cm", "dry"), "NotFound")
}

// TestDeleteNamespace: everything in it goes, the containers too.
func TestDeleteNamespace(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	like(t, u.kubectl("create", "namespace", u.ns+"-doomed"), `namespace/`+u.ns+`-doomed created`)
	v := *u
	v.ns += "-doomed"
	v.apply(aDeployment("web", 2))
	v.kubectl("rollout", "status", "deployment/web")
	like(t, v.kubectl("delete", "namespace", v.ns), `namespace "`+v.ns+`" deleted`)
	has(t, u.refused("get", "namespace", v.ns), "NotFound")
	r := v.do(nil, "get", "all,cm,sa")
	if r.out != "" {
		t.Errorf("left:\n%s", r.out)
	}
}

func TestScaleAndSet(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply(aDeployment("web", 1))
	u.kubectl("rollout", "status", "deployment/web")
	like(t, u.kubectl("scale", "deployment/web", "--replicas=3"), `deployment.apps/web scaled`)
	u.await("deployment/web", "jsonpath={.status.readyReplicas}=3")
	has(t, u.refused("scale", "deployment/web", "--current-replicas=1", "--replicas=5"), `Expected replicas to be 1, was 3`)
	u.kubectl("scale", "deployment/web", "--replicas=1")

	like(t, u.kubectl("set", "env", "deployment/web", "COLOUR=green", "SIZE=9"), `deployment.apps/web env updated`)
	like(t, u.kubectl("set", "env", "deployment/web", "--list"), `# Deployment web, container c`, `COLOUR=green`, `SIZE=9`)
	u.kubectl("set", "env", "deployment/web", "SIZE-")
	like(t, u.kubectl("set", "resources", "deployment", "web", "-c=c", "--limits=cpu=500m,memory=128Mi"), `deployment.apps/web resource requirements updated`)
	like(t, u.kubectl("set", "serviceaccount", "deployment/web", "default"), `deployment.apps/web serviceaccount updated`)
	u.kubectl("rollout", "status", "deployment/web")
	like(t, u.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].resources.limits} {.spec.template.spec.containers[0].env}"),
		`\{"cpu":"500m","memory":"128Mi"\} \[\{"name":"COLOUR","value":"green"\}\]`)
	u.says("green", "exec", "deployment/web", "--", "sh", "-c", "echo $COLOUR")
	like(t, u.kubectl("set", "image", "deployment/web", "c=busybox:1"), ``)
	like(t, u.kubectl("autoscale", "deployment", "web", "--min=1", "--max=2", "--cpu=80%"), `horizontalpodautoscaler.autoscaling/web autoscaled`)
}

func TestRollout(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("create", "deployment", "web", "--image=nginx:1.7.9", "--replicas=2")
	has(t, u.kubectl("rollout", "status", "deployment/web"), `deployment "web" successfully rolled out`)
	u.kubectl("annotate", "deployment/web", "kubernetes.io/change-cause=the first")

	// paused: a change does nothing until it is resumed
	like(t, u.kubectl("rollout", "pause", "deployment/web"), `deployment.apps/web paused`)
	like(t, u.kubectl("set", "image", "deployment/web", "nginx=nginx:1.9.1"), `deployment.apps/web image updated`)
	u.kubectl("annotate", "deployment/web", "kubernetes.io/change-cause=the second", "--overwrite")
	u.await("deployment/web", "condition=Progressing=Unknown")
	like(t, u.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}"), `nginx:1.7.9 nginx:1.7.9`)
	has(t, u.refused("rollout", "restart", "deployment/web"), `can't restart paused deployment (run rollout resume first)`)
	like(t, u.kubectl("rollout", "resume", "deployment/web"), `deployment.apps/web resumed`)
	u.kubectl("rollout", "status", "deployment/web")
	has(t, u.page("app=web"), "nginx 1.9.1")

	like(t, u.kubectl("rollout", "history", "deployment/web"), `deployment.apps/web`, `REVISION CHANGE-CAUSE`, `1 the first`, `2 the second`)
	contains(t, u.kubectl("rollout", "history", "deployment/web", "--revision=1"), `deployment.apps/web with revision #1`, `Pod Template:`, `Image: nginx:1.7.9`)
	like(t, u.kubectl("rollout", "restart", "deployment/web"), `deployment.apps/web restarted`)
	u.kubectl("rollout", "status", "deployment/web")
	like(t, u.kubectl("get", "deployment", "web", "-o", `jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}`), `3`)
	like(t, u.kubectl("rollout", "undo", "deployment/web", "--to-revision=1"), `deployment.apps/web rolled back`)
	u.kubectl("rollout", "status", "deployment/web")
	has(t, u.page("app=web"), "nginx 1.7.9")

	// one that cannot finish
	u.kubectl("patch", "deployment", "web", "-p", `{"spec":{"progressDeadlineSeconds":2}}`)
	u.kubectl("set", "image", "deployment/web", "nginx=nginx:none")
	u.kubectl("patch", "deployment", "web", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"nginx","imagePullPolicy":"Never"}]}}}}`)
	has(t, u.refused("rollout", "status", "deployment/web"), `error: deployment "web" exceeded its progress deadline`)
	u.kubectl("patch", "deployment", "web", "-p", `{"spec":{"progressDeadlineSeconds":600}}`)
	u.kubectl("rollout", "undo", "deployment/web", "--to-revision=2")
	u.await("deployment/web", "condition=Progressing=True")
	u.kubectl("rollout", "status", "deployment/web")
	has(t, u.page("app=web"), "nginx 1.9.1")
	has(t, u.refused("rollout", "undo", "deployment/web", "--to-revision=77"), `error: unable to find specified revision 77 in history`)
}
