package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// template is a pod template that runs a shell script.
func template(app, script, more string) string {
	return fmt.Sprintf(`
  template:
    metadata: {labels: {app: %s}}
    spec:
      terminationGracePeriodSeconds: 0
      %s
      containers: [{name: c, image: %s, command: [sh, -c, %q]}]
`, app, more, busybox, script)
}

// TestReplicationController: the oldest of the workloads.
func TestReplicationController(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply("apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec:\n  replicas: 2\n  selector: {app: rc}" + template("rc", "sleep 3600", ""))
	u.await("rc/rc", "jsonpath={.status.readyReplicas}=2")
	like(t, u.kubectl("get", "rc"), `NAME DESIRED CURRENT READY AGE`, `rc 2 2 2 \S+`)
	u.kubectl("scale", "rc/rc", "--replicas=1")
	u.await("rc/rc", "jsonpath={.status.replicas}=1")
	contains(t, u.kubectl("describe", "rc", "rc"), `Replicas: 1 current / 1 desired`, `.* SuccessfulCreate .* Created pod: rc-.*`)
	u.kubectl("expose", "rc", "rc", "--port=1234", "--target-port=6379")
	u.kubectl("delete", "rc", "rc", "--cascade=orphan")
	like(t, u.kubectl("get", "pods", "-l", "app=rc", "-o", "name"), `pod/rc-\S+`)
}

// TestStatefulSet: names, order, and a rollout from the last to the first.
func TestStatefulSet(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  replicas: 2\n  serviceName: db\n  selector: {matchLabels: {app: db}}" +
		template("db", "hostname; exec sleep 3600", ""))
	has(t, u.kubectl("rollout", "status", "statefulset/db", "--timeout="+patience.String()), "partitioned roll out complete: 2 new pods have been updated")
	like(t, u.kubectl("get", "statefulset"), `NAME READY AGE`, `db 2/2 \S+`)
	u.says("db-1", "logs", "db-1")
	first := u.kubectl("get", "pod", "db-0", "-o", "jsonpath={.metadata.uid}")
	u.kubectl("delete", "pod", "db-0", "--wait=false")
	u.kubectl("wait", "pod/db-0", "--for=create", "--timeout="+patience.String())
	u.await("statefulset/db", "jsonpath={.status.readyReplicas}=2")
	if u.kubectl("get", "pod", "db-0", "-o", "jsonpath={.metadata.uid}") == first {
		t.Error("db-0 was not made again")
	}
	u.kubectl("set", "env", "statefulset/db", "A=b")
	u.kubectl("rollout", "status", "statefulset/db", "--timeout="+patience.String())
	has(t, u.kubectl("exec", "db-0", "--", "env"), "A=b")
	contains(t, u.kubectl("rollout", "history", "statefulset/db"), `REVISION CHANGE-CAUSE`, `1 <none>`, `2 <none>`)
	u.kubectl("rollout", "undo", "statefulset/db")
	u.kubectl("rollout", "status", "statefulset/db", "--timeout="+patience.String())
	if strings.Contains(u.kubectl("exec", "db-0", "--", "env"), "A=b") {
		t.Error("the rollout was not undone")
	}
}

// TestDaemonSet: one pod on the node, replaced by a rollout.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}" + template("agent", "sleep 3600", ""))
	has(t, u.kubectl("rollout", "status", "daemonset/agent", "--timeout="+patience.String()), `daemon set "agent" successfully rolled out`)
	like(t, u.kubectl("get", "daemonset"), `NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE`, `agent 1 1 1 1 1 <none> \S+`)
	u.kubectl("set", "env", "daemonset/agent", "A=b")
	u.kubectl("rollout", "status", "daemonset/agent", "--timeout="+patience.String())
	has(t, u.kubectl("exec", "daemonset/agent", "--", "env"), "A=b")
}

// TestJobs: to completion, with indexes, with failures, from a CronJob, and gone after its time.
func TestJobs(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	job := func(name, spec, script string) string {
		return fmt.Sprintf("---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: %s}\nspec:\n  %s%s", name, spec, template(name, script, "restartPolicy: Never"))
	}
	u.apply(job("count", "completions: 3\n  parallelism: 2\n  completionMode: Indexed", "echo index $JOB_COMPLETION_INDEX") +
		job("broken", "backoffLimit: 0", "exit 3") +
		job("brief", "ttlSecondsAfterFinished: 0", "true") + `---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "` + busybox + `", command: [echo, from the cron job]}]}}}}
`)
	u.await("job/count", "condition=Complete")
	like(t, u.kubectl("get", "job", "count"), `NAME STATUS COMPLETIONS DURATION AGE`, `count Complete 3/3 \S+ \S+`)
	has(t, u.kubectl("logs", "-l", "batch.kubernetes.io/job-name=count"), "index 0", "index 1", "index 2")
	u.await("job/broken", "condition=Failed")
	contains(t, u.kubectl("describe", "job", "broken"), `.* BackoffLimitExceeded .* Job has reached the specified backoff limit`)
	u.kubectl("wait", "job/brief", "--for=delete", "--timeout="+patience.String())
	u.kubectl("create", "job", "now", "--from=cronjob/nightly")
	u.await("job/now", "condition=Complete")
	like(t, u.kubectl("logs", "job/now"), `from the cron job`)
	like(t, u.kubectl("get", "cronjob"), `NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE`, `nightly 0 3 \* \* \* <none> False 0 <none> \S+`)
}

// TestDisruptionBudget: an eviction beyond the budget is refused.
func TestDisruptionBudget(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply("apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: few}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: few}}" + template("few", "sleep 3600", ""))
	u.apply("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: few}\nspec: {minAvailable: 2, selector: {matchLabels: {app: few}}}")
	u.await("rs/few", "jsonpath={.status.readyReplicas}=2")
	u.await("pdb/few", "jsonpath={.status.currentHealthy}=2")
	like(t, u.kubectl("get", "pdb"), `NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE`, `few 2 N/A 0 \S+`)
	pod := strings.Fields(u.kubectl("get", "pods", "-l", "app=few", "-o", "name"))[0]
	eviction := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, strings.TrimPrefix(pod, "pod/"), u.ns)
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", u.ns, strings.TrimPrefix(pod, "pod/"))
	r := u.do(strings.NewReader(eviction), "create", "--raw", path, "-f", "-")
	if r.code == 0 {
		t.Error("the eviction was granted")
	}
	has(t, r.err, "Cannot evict pod as it would violate the pod's disruption budget.")
	u.kubectl("patch", "pdb", "few", "--type=merge", "-p", `{"spec":{"minAvailable":1}}`)
	u.await("pdb/few", "jsonpath={.status.disruptionsAllowed}=1")
	u.feed(eviction, "create", "--raw", path, "-f", "-")
}
