package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/test/e2e/machine"
)

// resource gives the shared machine's node so many of a resource that nobody else asks for, and takes them away in the end. Somebody else
// does what a device plugin would: writes the node's status.
func (s *stage) resource(n int) (name string) {
	s.t.Helper()
	name = "e2e.celox.test/" + s.ns
	nodes, err := s.c.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	fine(s.t, err)
	node := nodes.Items[0].Name
	escaped := strings.ReplaceAll(name, "/", "~1")
	_, err = s.c.CoreV1().Nodes().Patch(s.ctx, node, types.JSONPatchType, []byte(fmt.Sprintf(`[{"op":"add","path":"/status/capacity/%[1]s","value":"%[2]d"},{"op":"add","path":"/status/allocatable/%[1]s","value":"%[2]d"}]`, escaped, n)), metav1.PatchOptions{}, "status")
	fine(s.t, err)
	s.t.Cleanup(func() {
		r := s.do(nil, "patch", "node", node, "--subresource=status", "--type=json", "-p", fmt.Sprintf(`[{"op":"remove","path":"/status/capacity/%[1]s"},{"op":"remove","path":"/status/allocatable/%[1]s"}]`, escaped))
		if r.code != 0 {
			s.t.Error(r.err)
		}
	})
	return name
}

// class makes a priority class that goes with the test.
func (s *stage) class(name string, value int32) string {
	s.t.Helper()
	name = s.ns + "-" + name
	_, err := s.c.SchedulingV1().PriorityClasses().Create(s.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}, metav1.CreateOptions{})
	fine(s.t, err)
	s.t.Cleanup(func() {
		if r := s.do(nil, "delete", "priorityclass", name); r.code != 0 {
			s.t.Error(r.err)
		}
	})
	return name
}

// TestConformancePreemptionPath: ReplicaSets of four priorities ask for what there is little of. The higher push out the lower, and never
// more than they need.
func TestConformancePreemptionPath(t *testing.T) {
	s := newStage(t)
	thing := s.resource(5)
	first := []string{"p1", "p2", "p3"}
	watched, err := s.c.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	w, err := s.c.CoreV1().Pods(s.ns).Watch(s.ctx, metav1.ListOptions{ResourceVersion: watched.ResourceVersion})
	fine(t, err)
	defer w.Stop()
	set := func(name, class string, replicas, want int) {
		t.Helper()
		rs := read[appsv1.ReplicaSet](t, fmt.Sprintf(`
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      priorityClassName: %[3]s
      containers: [{name: c, image: %[4]q, command: [sleep, "3600"], resources: {requests: {%[5]s: %[6]d}, limits: {%[5]s: %[6]d}}}]
`, name, replicas, class, busybox, thing, want))
		_, err := s.c.AppsV1().ReplicaSets(s.ns).Create(s.ctx, rs, metav1.CreateOptions{})
		fine(t, err)
	}
	ready := func(name string, n int32) {
		t.Helper()
		s.until(fmt.Sprintf("%s to have %d pods ready", name, n), func() (string, error) {
			rs, err := s.c.AppsV1().ReplicaSets(s.ns).Get(s.ctx, name, metav1.GetOptions{})
			if err == nil && rs.Status.ReadyReplicas != n {
				return fmt.Sprint(rs.Status), nil
			}
			return "", err
		})
	}
	for i, name := range first {
		set(name, s.class(name, int32(i+1)), 1, 1)
	}
	for _, name := range first {
		ready(name, 1)
	}
	set("p4", s.class("p4", 4), 2, 2) // 3 of 5 are taken, 4 are wanted
	ready("p4", 2)
	// The two of lowest priority had to go, the third keeps its place.
	ready("p3", 1)
	ready("p2", 0)
	ready("p1", 0)
	gone := map[string]string{}
	for len(gone) < 2 {
		select {
		case e := <-w.ResultChan():
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				t.Fatalf("%v", e.Object)
			}
			if e.Type == "DELETED" && p.Spec.NodeName != "" {
				c := conditionOf(p, corev1.DisruptionTarget)
				gone[p.Labels["app"]] = fmt.Sprint(c.Status, " ", c.Reason)
			}
		case <-s.ctx.Done():
			t.Fatalf("only %v went", gone)
		}
	}
	if text := fmt.Sprint(gone); text != "map[p1:True PreemptionByScheduler p2:True PreemptionByScheduler]" {
		t.Error(text)
	}
	s.kubectl("delete", "replicasets,pods", "--all", "--now") // before what they ask for goes
}

// TestConformancePreemption: a pod of high priority gets the place of one of low priority, and a critical one too; who is in between stays.
func TestConformancePreemption(t *testing.T) {
	s := newStage(t)
	thing := s.resource(10)
	low, middle, high := s.class("low", 1), s.class("middle", 100), s.class("high", 1000)
	pod := func(name, class, more string, n int) *corev1.Pod {
		t.Helper()
		return s.run(name, fmt.Sprintf("priorityClassName: %s\ncontainers: [{name: c, image: IMAGE, command: [sleep, \"3600\"], resources: {requests: {%[2]s: %[3]d}, limits: {%[2]s: %[3]d}}}]\n%[4]s", class, thing, n, more))
	}
	// finalizers hold the victim, so that somebody may look at it
	victim := read[corev1.Pod](t, strings.ReplaceAll(fmt.Sprintf("metadata: {name: low, finalizers: [e2e.celox.test/hold]}\nspec:\n  terminationGracePeriodSeconds: 0\n  priorityClassName: %s\n  containers: [{name: c, image: IMAGE, command: [sleep, \"3600\"], resources: {requests: {%[2]s: 4}, limits: {%[2]s: 4}}}]\n", low, thing), "IMAGE", busybox))
	s.create(victim)
	t.Cleanup(func() {
		r := s.do(nil, "patch", "pod", "low", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		if r.code != 0 && !strings.Contains(r.err, "NotFound") {
			t.Error(r.err)
		}
	})
	pod("middle", middle, "", 6)
	s.ready("low")
	s.ready("middle")
	got := pod("high", high, "", 4)
	if got.Spec.Priority == nil || *got.Spec.Priority != 1000 || *got.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("%+v", got.Spec)
	}
	gone := s.follow("low", "to be preempted", func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil && conditionOf(p, corev1.DisruptionTarget).Status == corev1.ConditionTrue
	})
	if c := conditionOf(gone, corev1.DisruptionTarget); c.Reason != "PreemptionByScheduler" || !strings.Contains(c.Message, "preempting to accommodate a higher priority pod") {
		t.Errorf("%+v", c)
	}
	fine(t, s.patch("pods", "low", `{"metadata":{"finalizers":null}}`))
	s.ready("high")
	s.ready("middle")

	// The most critical ones are in kube-system.
	critical := read[corev1.Pod](t, strings.ReplaceAll(fmt.Sprintf("metadata: {name: critical-%s}\nspec:\n  terminationGracePeriodSeconds: 0\n  priorityClassName: system-cluster-critical\n  containers: [{name: c, image: IMAGE, command: [sleep, \"3600\"], resources: {requests: {%[2]s: 6}, limits: {%[2]s: 6}}}]\n", s.ns, thing), "IMAGE", busybox))
	system := s.c.CoreV1().Pods("kube-system")
	made, err := system.Create(s.ctx, critical, metav1.CreateOptions{})
	fine(t, err)
	t.Cleanup(func() {
		if r := s.do(nil, "delete", "pod", "-n", "kube-system", made.Name, "--now"); r.code != 0 {
			t.Error(r.err)
		}
	})
	if *made.Spec.Priority != 2000000000 {
		t.Errorf("priority %d", *made.Spec.Priority)
	}
	s.until("the critical pod to run", func() (string, error) {
		p, err := system.Get(s.ctx, made.Name, metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			return shown(p.Status), nil
		}
		return "", err
	})
	s.until("the one in between to be gone", func() (string, error) {
		p, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, "middle", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return shown(p), err
	})
	s.ready("high")
	s.kubectl("delete", "pods", "--all", "--now")
}

// TestConformancePredicates: resources that are used up, labels that a node has or not, and ports of the node.
func TestConformancePredicates(t *testing.T) {
	s := newStage(t)
	thing := s.resource(3)
	nodes, err := s.c.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	node := nodes.Items[0].Name
	label := "e2e.celox.test/" + s.ns
	_, err = s.c.CoreV1().Nodes().Patch(s.ctx, node, types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:"42"}}}`, label)), metav1.PatchOptions{})
	fine(t, err)
	t.Cleanup(func() {
		if r := s.do(nil, "label", "node", node, label+"-"); r.code != 0 {
			t.Error(r.err)
		}
	})
	pod := func(name, more string) {
		t.Helper()
		s.run(name, "containers: [{name: c, image: IMAGE, command: [sleep, \"3600\"]"+more)
	}
	takes := func(n int) string {
		return fmt.Sprintf(", resources: {requests: {%[1]s: %[2]d}, limits: {%[1]s: %[2]d}}}]", thing, n)
	}
	refused := func(name, words string) {
		t.Helper()
		p := s.follow(name, "to be refused", func(p *corev1.Pod) bool {
			return conditionOf(p, corev1.PodScheduled).Status == corev1.ConditionFalse
		})
		if c := conditionOf(p, corev1.PodScheduled); c.Reason != corev1.PodReasonUnschedulable || !strings.Contains(c.Message, words) || p.Spec.NodeName != "" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	pod("filler", takes(2))
	s.ready("filler")
	pod("more", takes(2))
	refused("more", "Insufficient "+thing)
	pod("chosen", "}]\nnodeSelector: {"+label+": \"42\"}")
	if p := s.ready("chosen"); p.Spec.NodeName != node {
		t.Errorf("on %s", p.Spec.NodeName)
	}
	pod("astray", "}]\nnodeSelector: {"+label+": \"43\"}")
	refused("astray", "didn't match Pod's node affinity/selector")
	// what is free again is had by who waits
	fine(t, s.c.CoreV1().Pods(s.ns).Delete(s.ctx, "filler", metav1.DeleteOptions{}))
	s.ready("more")
	// the same port on all addresses and on one
	port := func(ip, protocol string) string {
		return fmt.Sprintf(", ports: [{containerPort: 80, hostPort: 54322, hostIP: %q, protocol: %s}]}]", ip, protocol)
	}
	pod("all", port("", "TCP"))
	s.ready("all")
	pod("one", port("127.0.0.1", "TCP"))
	refused("one", "didn't have free ports for the requested pod ports")
	pod("udp", port("127.0.0.1", "UDP"))
	s.ready("udp")
	s.kubectl("delete", "pods", "--all", "--now") // before what they ask for goes
}

// TestConformanceTaints has a machine of its own, because a taint that evicts concerns everybody: who tolerates it for a time is evicted
// then, who does for ever stays, and a taint that is taken away in time evicts nobody.
func TestConformanceTaints(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	giveBusybox(t, m)
	c := startOn(t, m)
	nodes, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	fine(t, err)
	node := nodes.Items[0].Name
	// pod tolerates taints by their key, for so many seconds, or for ever if they are none.
	pod := func(name string, tolerates map[string][]int64) *corev1.Pod {
		p := shellPod(name, counting, "")
		for key, seconds := range tolerates {
			tol := corev1.Toleration{Key: key, Operator: corev1.TolerationOpEqual, Value: "yes", Effect: corev1.TaintEffectNoExecute}
			if len(seconds) == 0 {
				p.Spec.Tolerations = append(p.Spec.Tolerations, tol)
			}
			for _, s := range seconds {
				tol.TolerationSeconds = &s
				p.Spec.Tolerations = append(p.Spec.Tolerations, tol)
			}
		}
		return p
	}
	taint := func(keys ...string) {
		t.Helper()
		taints := []corev1.Taint{}
		for _, key := range keys {
			taints = append(taints, corev1.Taint{Key: key, Value: "yes", Effect: corev1.TaintEffectNoExecute})
		}
		body, err := json.Marshal(map[string]any{"spec": map[string]any{"taints": taints}})
		fine(t, err)
		_, err = c.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, body, metav1.PatchOptions{})
		fine(t, err)
	}
	const first, second = "e2e.celox.test/first", "e2e.celox.test/second"
	const while = 20 // seconds
	running := map[string]*corev1.Pod{}
	wishes := map[string]map[string][]int64{
		"none": {}, "brief": {first: {1}}, "shorter": {first: {600, 2}}, // the shorter time counts
		"forever": {first: nil, second: nil}, "spared": {first: {while}, second: nil}, "clock": {first: nil, second: {while}},
	}
	for name, tolerates := range wishes {
		running[name] = runPod(t, c, pod(name, tolerates))
	}
	// evicted waits until a pod is on its way out or gone.
	evicted := func(name string) {
		t.Helper()
		machine.Wait(t, name+" to be evicted", func(ctx context.Context) error {
			p, err := c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil && p.DeletionTimestamp == nil {
				err = fmt.Errorf("it is there: %+v", p.Status)
			}
			return err
		})
	}
	list, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	fine(t, err)
	w, err := c.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	fine(t, err)
	defer w.Stop()
	for {
		begin := time.Now()
		taint(first)
		evicted("none")
		taint(second) // in time for who tolerates the first for a while; from now on the clock runs
		if time.Since(begin) < while*time.Second/2 {
			break
		}
		// The machine is so busy that the while may have been over: once more.
		taint()
		for _, name := range []string{"none", "spared", "clock"} {
			if err := c.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			machine.Wait(t, name+" to be gone", func(ctx context.Context) error {
				p, err := c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				return fmt.Errorf("it is there (%v): %v", err, p.DeletionTimestamp)
			})
			running[name] = runPod(t, c, pod(name, wishes[name]))
		}
	}
	evicted("clock")
	for _, name := range []string{"spared", "forever"} {
		p, err := c.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		fine(t, err)
		if p.DeletionTimestamp != nil || p.UID != running[name].UID {
			t.Errorf("%s was evicted: %+v", name, p.Status)
		}
	}
	evicted("brief") // they do not tolerate the second taint either
	evicted("shorter")
	taint()
	// Who was evicted was told why.
	told := map[string]string{}
	for len(told) < 4 {
		select {
		case e := <-w.ResultChan():
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				t.Fatalf("%v", e.Object)
			}
			if reason := conditionOf(p, corev1.DisruptionTarget).Reason; p.DeletionTimestamp != nil && reason != "" {
				told[p.Name] = reason
			}
		case <-time.After(patience):
			t.Fatalf("only %v were seen to go", told)
		}
	}
	for _, name := range []string{"none", "brief", "shorter", "clock"} {
		if told[name] != "DeletionByTaintManager" {
			t.Errorf("%s went because of %q", name, told[name])
		}
	}
	// Times count from the taint on, each for itself: the brief one goes before the patient one.
	for name, tolerates := range map[string]map[string][]int64{"soon": {first: {1}}, "late": {first: {3600}}} {
		runPod(t, c, pod(name, tolerates))
	}
	taint(first)
	evicted("soon")
	p, err := c.CoreV1().Pods("default").Get(t.Context(), "late", metav1.GetOptions{})
	fine(t, err)
	if p.DeletionTimestamp != nil {
		t.Errorf("late was evicted: %+v", p.Status)
	}
	// Who does not tolerate the taint waits for its end.
	waiting, err := c.CoreV1().Pods("default").Create(t.Context(), pod("waiting", nil), metav1.CreateOptions{})
	fine(t, err)
	waitPod(t, c, waiting, "be refused", func(p *corev1.Pod) bool { return conditionOf(p, corev1.PodScheduled).Status == corev1.ConditionFalse })
	taint()
	waitPod(t, c, waiting, "run after all", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}
