package e2e

import (
	"strings"
	"testing"
)

// TestTop: what nodes, pods and containers use, for people and for those who may look at a namespace.
func TestTop(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: busy, labels: {app: top}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n" +
		"  - {name: burns, image: " + busybox + ", command: [sh, -c, 'while :; do :; done'], resources: {limits: {cpu: 100m}}}\n" +
		"  - {name: sleeps, image: " + busybox + ", command: [sleep, '3600']}\n")
	u.pod("quiet", "exec sleep 3600", "app: other")
	u.shows([]string{"top", "pods"}, `NAME CPU\(cores\) MEMORY\(bytes\)`, `busy [1-9]\d*m \d+Mi`, `quiet \dm \d+Mi`)
	u.shows([]string{"top", "pods", "--containers", "-l", "app=top", "--sort-by=cpu"}, `POD NAME CPU\(cores\) MEMORY\(bytes\)`, `busy burns [1-9]\d*m \d+Mi`, `busy sleeps \dm \d+Mi`)
	u.shows([]string{"top", "pods", "--sum", "--no-headers"}, `busy [1-9]\d*m \d+Mi`, `quiet \dm \d+Mi`, `_+ _+`, `[1-9]\d*m \d+Mi`)
	like(t, u.kubectl("top", "pod", "quiet", "--no-headers"), `quiet \d+m \d+Mi`)
	u.shows([]string{"top", "nodes"}, `NAME CPU\(cores\) CPU\(%\) MEMORY\(bytes\) MEMORY\(%\)`, `\S+ [1-9]\d*m \d+% [1-9]\d*Mi \d+%`)
	u.shows([]string{"get", "podmetrics"}, `NAME CPU MEMORY WINDOW`, `busy \d+n? \d+(Ki|Mi)? \S+s`, `quiet \d+n? \d+(Ki|Mi)? \S+s`)
	u.shows([]string{"get", "nodemetrics"}, `NAME CPU MEMORY WINDOW`, `\S+ \d+n? \d+(Ki|Mi)? \S+s`)
	u.says("nothing", "get", "podmetrics", "-l", "app=nobody", "-o", "jsonpath=nothing{.items[*].metadata.name}")
	has(t, u.refused("get", "podmetrics", "nobody"), `pods "nobody" not found`)
	has(t, u.kubectl("explain", "podmetrics.containers"), "GROUP:      metrics.k8s.io", "usage")
	for _, version := range []string{"v1", "v1beta1"} {
		has(t, u.kubectl("get", "apiservice", version+".metrics.k8s.io"), "Local")
		has(t, u.kubectl("get", "--raw", "/apis/metrics.k8s.io/"+version+"/namespaces/"+u.ns+"/pods/quiet"), `"apiVersion":"metrics.k8s.io/`+version+`"`, `"kind":"PodMetrics"`)
	}
	has(t, u.kubectl("get", "--raw", "/apis/metrics.k8s.io"), `"preferredVersion":{"groupVersion":"metrics.k8s.io/v1","version":"v1"}`)

	u.kubectl("create", "serviceaccount", "reader")
	u.kubectl("create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount="+u.ns+":reader")
	as := "--as=system:serviceaccount:" + u.ns + ":reader"
	u.says("busy", "top", "pods", as)
	has(t, u.refused("top", "nodes", as), "forbidden")
}

// TestAutoscaling: a deployment grows with what its containers use, and shrinks when they use less.
func TestAutoscaling(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	// A container burns until it is told to stop; the other one holds memory, so that there is some to measure.
	u.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: ` + busybox + `, command: [sh, -c, 'while :; do if [ -e /tmp/stop ]; then sleep 1; fi; done'], resources: {requests: {cpu: 20m, memory: 8Mi}, limits: {cpu: 100m}}}
      - {name: side, image: ` + busybox + `, command: [sleep, '3600'], resources: {requests: {cpu: 10m, memory: 8Mi}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burn}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burn}
  maxReplicas: 2
  metrics:
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 50}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`)
	u.shows([]string{"get", "events", "--field-selector=involvedObject.name=burn,involvedObject.kind=HorizontalPodAutoscaler"},
		`.* SuccessfulRescale .* New size: 2; reason: cpu container resource utilization \(percentage of request\) above target`)
	u.await("deployment/burn", "jsonpath={.status.availableReplicas}=2")
	u.await("hpa/burn", `jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}=True`)
	has(t, u.kubectl("get", "hpa", "burn", "-o", "jsonpath={.status.currentMetrics[*].type}"), "ContainerResource Resource")
	for _, pod := range strings.Fields(u.kubectl("get", "pods", "-o", "name")) {
		u.kubectl("exec", pod, "-c", "c", "--", "touch", "/tmp/stop")
	}
	u.await("deployment/burn", "jsonpath={.spec.replicas}=1")
	u.shows([]string{"get", "events", "--field-selector=involvedObject.name=burn,involvedObject.kind=HorizontalPodAutoscaler"},
		`.* SuccessfulRescale .* New size: 1; reason: All metrics below target`)
}
