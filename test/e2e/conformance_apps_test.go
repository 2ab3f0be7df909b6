package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// workload is the manifest of an object that makes pods, from its template.
func workload(apiVersion, kind, name, spec string) string {
	selector := "selector: {matchLabels: {app: " + name + "}}"
	if kind == "ReplicationController" {
		selector = "selector: {app: " + name + "}"
	}
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {name: %s, labels: {app: %[3]s}}\nspec:\n  %s\n  %s%s", apiVersion, kind, name, selector, spec, template(name, "sleep 3600", ""))
}

// TestConformanceScaleAndStatus: of everything that makes pods, the scale and the status may be read, patched and replaced at doors of their own,
// while the controller works on them.
func TestConformanceScaleAndStatus(t *testing.T) {
	s := newStage(t)
	config, err := s.m.RESTConfig()
	fine(t, err)
	clients, err := dynamic.NewForConfig(config)
	fine(t, err)
	kinds := []struct {
		kind   string
		gvr    schema.GroupVersionResource
		scales bool
	}{
		{"Deployment", appsv1.SchemeGroupVersion.WithResource("deployments"), true},
		{"ReplicaSet", appsv1.SchemeGroupVersion.WithResource("replicasets"), true},
		{"StatefulSet", appsv1.SchemeGroupVersion.WithResource("statefulsets"), true},
		{"ReplicationController", corev1.SchemeGroupVersion.WithResource("replicationcontrollers"), true},
		{"DaemonSet", appsv1.SchemeGroupVersion.WithResource("daemonsets"), false},
	}
	for _, k := range kinds {
		spec := "replicas: 1"
		if !k.scales {
			spec = ""
		}
		s.apply(workload(k.gvr.GroupVersion().String(), k.kind, strings.ToLower(k.kind), spec))
	}
	for _, k := range kinds {
		t.Run(k.kind, func(t *testing.T) {
			s, here, name := s.sub(t), clients.Resource(k.gvr).Namespace(s.ns), strings.ToLower(k.kind)
			// number waits for a field of the object
			number := func(want int64, fields ...string) {
				t.Helper()
				s.until(fmt.Sprintf("%s of %s to be %d", strings.Join(fields, "."), name, want), func() (string, error) {
					o, err := here.Get(s.ctx, name, metav1.GetOptions{})
					if err != nil {
						return "", err
					}
					if got, _, _ := unstructured.NestedInt64(o.Object, fields...); got != want {
						return fmt.Sprint(o.Object["status"]), nil
					}
					return "", nil
				})
			}
			if k.scales {
				number(1, "status", "readyReplicas")
				scale, err := here.Get(s.ctx, name, metav1.GetOptions{}, "scale")
				fine(t, err)
				if n, _, _ := unstructured.NestedInt64(scale.Object, "spec", "replicas"); n != 1 || scale.GetKind() != "Scale" || scale.GetAPIVersion() != autoscalingv1.SchemeGroupVersion.String() {
					t.Errorf("%v", scale)
				}
				fine(t, unstructured.SetNestedField(scale.Object, int64(2), "spec", "replicas"))
				scale.SetResourceVersion("") // unconditional
				_, err = here.Update(s.ctx, scale, metav1.UpdateOptions{}, "scale")
				fine(t, err)
				number(2, "spec", "replicas")
				number(2, "status", "readyReplicas")
				scale, err = here.Patch(s.ctx, name, types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}, "scale")
				fine(t, err)
				if n, _, _ := unstructured.NestedInt64(scale.Object, "spec", "replicas"); n != 1 {
					t.Errorf("%v", scale)
				}
				number(1, "status", "replicas")
			} else {
				number(1, "status", "numberReady")
			}

			// The controller may at any time say what it knows: a watcher sees both.
			o, err := here.Get(s.ctx, name, metav1.GetOptions{}, "status")
			fine(t, err)
			w, err := here.Watch(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: o.GetResourceVersion()})
			fine(t, err)
			defer w.Stop()
			sees := func(kind string) {
				t.Helper()
				for e := range w.ResultChan() {
					o, ok := e.Object.(*unstructured.Unstructured)
					if !ok {
						t.Fatalf("%v", e.Object)
					}
					list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
					if slices.ContainsFunc(list, func(c any) bool { return c.(map[string]any)["type"] == kind }) {
						return
					}
				}
				t.Fatalf("nobody saw the condition %s", kind)
			}
			s.until("the status to be written", func() (string, error) {
				o, err := here.Get(s.ctx, name, metav1.GetOptions{}, "status")
				if err != nil {
					return "", err
				}
				fine(t, unstructured.SetNestedSlice(o.Object, []any{map[string]any{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}}, "status", "conditions"))
				_, err = here.UpdateStatus(s.ctx, o, metav1.UpdateOptions{})
				return "", err
			})
			sees("StatusUpdate")
			_, err = here.Patch(s.ctx, name, types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True"}]}}`), metav1.PatchOptions{}, "status")
			fine(t, err)
			sees("StatusPatched")
			fine(t, here.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=" + name}))
			s.until("it to be gone", func() (string, error) {
				list, err := here.List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + name})
				if err == nil && len(list.Items) > 0 {
					return "still there", nil
				}
				return "", err
			})
		})
	}
}

// sub is the stage for a part of a test.
func (s *stage) sub(t *testing.T) *stage {
	u := *s.user
	u.t = t
	return &stage{&u, s.ctx, s.c}
}

// TestConformanceReplicas: pods are adopted and let go by their labels; what a quota refuses is said in a condition.
func TestConformanceReplicas(t *testing.T) {
	s := newStage(t)
	pods := s.c.CoreV1().Pods(s.ns)
	owner := func(kind string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			c := metav1.GetControllerOf(p)
			return c == nil && kind == "" || c != nil && c.Kind == kind
		}
	}
	for kind, apiVersion := range map[string]string{"ReplicaSet": "apps/v1", "ReplicationController": "v1"} {
		name := "pod-" + strings.ToLower(kind)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}}
		pod.Spec.Containers = []corev1.Container{{Name: "c", Image: busybox, Command: []string{"sleep", "3600"}}}
		s.create(pod)
		s.apply(workload(apiVersion, kind, name, "replicas: 1"))
		s.follow(name, "to be adopted", owner(kind))
		_, err := pods.Patch(s.ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{})
		fine(t, err)
		s.follow(name, "to be released", owner(""))
	}
	quota, err := s.c.CoreV1().ResourceQuotas(s.ns).Create(s.ctx, read[corev1.ResourceQuota](t, "metadata: {name: q}\nspec: {hard: {pods: 6}}"), metav1.CreateOptions{})
	fine(t, err)
	s.until("the quota to be counted", func() (string, error) {
		q, err := s.c.CoreV1().ResourceQuotas(s.ns).Get(s.ctx, quota.Name, metav1.GetOptions{})
		if err == nil && q.Status.Used.Pods().Value() != 4 {
			return fmt.Sprint(q.Status.Used), nil
		}
		return "", err
	})
	s.apply(workload("v1", "ReplicationController", "much", "replicas: 3"))
	fails := func(want bool) {
		t.Helper()
		s.until(fmt.Sprintf("a failure to be %v", want), func() (string, error) {
			rc, err := s.c.CoreV1().ReplicationControllers(s.ns).Get(s.ctx, "much", metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			got := slices.ContainsFunc(rc.Status.Conditions, func(c corev1.ReplicationControllerCondition) bool {
				return c.Type == corev1.ReplicationControllerReplicaFailure && c.Reason == "FailedCreate" && strings.Contains(c.Message, "exceeded quota: q, requested: pods=1, used: pods=6, limited: pods=6")
			})
			if got != want {
				return fmt.Sprint(rc.Status), nil
			}
			return "", nil
		})
	}
	fails(true)
	fine(t, s.patch("replicationcontrollers", "much", `{"spec":{"replicas":2}}`))
	fails(false)
}

// TestConformanceDeployment: rolled over before it was done, recreated, and with a status that anybody may write.
func TestConformanceDeployment(t *testing.T) {
	s := newStage(t)
	deployments := s.c.AppsV1().Deployments(s.ns)
	s.apply(workload("apps/v1", "Deployment", "rolled", "replicas: 1\n  minReadySeconds: 1") + workload("apps/v1", "Deployment", "recreated", "replicas: 1\n  strategy: {type: Recreate}"))
	image := func(name, image string) {
		t.Helper()
		_, err := deployments.Patch(s.ctx, name, types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image)), metav1.PatchOptions{})
		fine(t, err)
	}
	image("rolled", "no/such:1")
	s.until("the rollout to be stuck", func() (string, error) {
		d, err := deployments.Get(s.ctx, "rolled", metav1.GetOptions{})
		if err == nil && (d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != 1) {
			return fmt.Sprint(d.Status), nil
		}
		return "", err
	})
	image("rolled", "nginx:1.15")
	s.until("the rollout to be complete", func() (string, error) {
		d, err := deployments.Get(s.ctx, "rolled", metav1.GetOptions{})
		if err == nil && (d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas != 1 || d.Status.Replicas != 1 || d.Status.AvailableReplicas != 1) {
			return fmt.Sprint(d.Status), nil
		}
		return "", err
	})
	sets, err := s.c.AppsV1().ReplicaSets(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=rolled"})
	fine(t, err)
	revisions := []string{}
	for _, rs := range sets.Items {
		revisions = append(revisions, rs.Annotations["deployment.kubernetes.io/revision"])
		if want := rs.Spec.Template.Spec.Containers[0].Image == "nginx:1.15"; (*rs.Spec.Replicas > 0) != want {
			t.Errorf("%s has %d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas)
		}
	}
	slices.Sort(revisions)
	if fmt.Sprint(revisions) != "[1 2 3]" {
		t.Errorf("revisions %v", revisions)
	}
	// never two of them at once
	s.until("the deployment to be available", func() (string, error) {
		d, err := deployments.Get(s.ctx, "recreated", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 1 {
			return fmt.Sprint(d.Status), nil
		}
		return "", err
	})
	list, err := s.c.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=recreated"})
	fine(t, err)
	w, err := s.c.CoreV1().Pods(s.ns).Watch(s.ctx, metav1.ListOptions{LabelSelector: "app=recreated", ResourceVersion: list.ResourceVersion})
	fine(t, err)
	defer w.Stop()
	image("recreated", "nginx:1.15")
	running := map[string]bool{list.Items[0].Name: true}
	for e := range w.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("%v", e.Object)
		}
		running[p.Name] = e.Type != "DELETED" && p.Status.Phase == corev1.PodRunning
		if n := len(slices.DeleteFunc([]bool{running[list.Items[0].Name], running[p.Name] && p.Name != list.Items[0].Name}, func(b bool) bool { return !b })); n > 1 {
			t.Fatal("the new pod runs beside the old one")
		}
		if p.Name != list.Items[0].Name && running[p.Name] {
			break
		}
	}
}

// TestConformanceJobs: jobs whose pods fail, are evicted, are restarted in place, and have hostnames; whose status anybody may write.
func TestConformanceJobs(t *testing.T) {
	s := newStage(t)
	jobs := s.c.BatchV1().Jobs(s.ns)
	job := func(name, spec, script, more string) {
		t.Helper()
		pod := "    spec:\n      terminationGracePeriodSeconds: 0\n"
		j := read[batchv1.Job](t, fmt.Sprintf("metadata: {name: %s, labels: {e2e: job}}\nspec:\n  %s\n  template:\n%s      %s\n      containers: [{name: c, image: %q, command: [sh, -c, %q], volumeMounts: [{name: data, mountPath: /data}]}]\n      volumes: [{name: data, hostPath: {path: %q}}]\n",
			name, spec, pod, more, busybox, script, s.m.Dir(t)))
		_, err := jobs.Create(s.ctx, j, metav1.CreateOptions{})
		fine(t, err)
	}
	const never, onFailure = "restartPolicy: Never", "restartPolicy: OnFailure"
	job("exit", "backoffLimit: 6\n  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: c, operator: In, values: [1]}}]}", "exit 1", never)
	job("local", "completions: 2\n  parallelism: 2", "[ -e /data/$HOSTNAME ] && exit 0; touch /data/$HOSTNAME; exit 1", onFailure)
	job("named", "completions: 2\n  parallelism: 2\n  completionMode: Indexed", `[ "$(hostname)" = named-$JOB_COMPLETION_INDEX ]`, never)
	job("indexes", "completions: 4\n  parallelism: 4\n  completionMode: Indexed\n  backoffLimitPerIndex: 1", "exit $((JOB_COMPLETION_INDEX % 2))", never)
	job("fail-index", "completions: 2\n  parallelism: 2\n  completionMode: Indexed\n  backoffLimitPerIndex: 1\n  podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [42]}}]}", "exit $((JOB_COMPLETION_INDEX * 42))", never)
	job("success", "completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  successPolicy: {rules: [{succeededIndexes: \"0\"}]}", "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 3600", never)
	job("count", "completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  successPolicy: {rules: [{succeededCount: 1}]}", "[ $JOB_COMPLETION_INDEX = 1 ] || sleep 3600", never)
	job("all", "completions: 2\n  parallelism: 2\n  completionMode: Indexed\n  successPolicy: {rules: [{succeededCount: 2}]}", "true", never)
	job("evicted", "completions: 2\n  parallelism: 2\n  completionMode: Indexed\n  backoffLimit: 0\n  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}, {action: FailJob, onExitCodes: {operator: NotIn, values: [0]}}]}",
		"[ -e /data/$JOB_COMPLETION_INDEX ] && exit 0; touch /data/$JOB_COMPLETION_INDEX; sleep 3600", never)
	job("parallel", "completions: 4\n  parallelism: 2", "sleep 3600", never)

	// one that is evicted
	byJob := func(name string) []corev1.Pod {
		t.Helper()
		list, err := s.c.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + name})
		fine(t, err)
		return list.Items
	}
	ready := func(name string, n int32) {
		t.Helper()
		s.until(name+" to have its pods ready", func() (string, error) {
			j, err := jobs.Get(s.ctx, name, metav1.GetOptions{})
			if err == nil && (j.Status.Ready == nil || *j.Status.Ready != n) {
				return fmt.Sprint(j.Status), nil
			}
			return "", err
		})
	}
	ready("evicted", 2)
	for _, p := range byJob("evicted") {
		marker := func() (string, error) { // the shell has to have got so far
			r := s.do(nil, "exec", p.Name, "--", "ls", "/data/"+p.Annotations[batchv1.JobCompletionIndexAnnotation])
			return r.err, nil
		}
		s.until("the marker", marker)
		fine(t, s.c.PolicyV1().Evictions(s.ns).Evict(s.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: s.ns}}))
	}

	// adopted again, released
	ready("parallel", 2)
	orphan := byJob("parallel")[0]
	_, err := s.c.CoreV1().Pods(s.ns).Patch(s.ctx, orphan.Name, types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/ownerReferences"}]`), metav1.PatchOptions{})
	fine(t, err)
	s.follow(orphan.Name, "to be adopted", func(p *corev1.Pod) bool { return metav1.GetControllerOf(p) != nil })
	_, err = s.c.CoreV1().Pods(s.ns).Patch(s.ctx, orphan.Name, types.MergePatchType, []byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{})
	fine(t, err)
	s.follow(orphan.Name, "to be released", func(p *corev1.Pod) bool { return metav1.GetControllerOf(p) == nil })

	// its status
	_, err = jobs.Patch(s.ctx, "parallel", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}}}`), metav1.PatchOptions{}, "status")
	fine(t, err)
	s.until("the status to be written", func() (string, error) {
		j, err := jobs.Get(s.ctx, "parallel", metav1.GetOptions{})
		if err != nil || j.Annotations["patchedstatus"] != "true" {
			return "no note", err
		}
		start := metav1.NewTime(j.Status.StartTime.Add(0))
		j.Status.StartTime = &start
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E"})
		_, err = jobs.UpdateStatus(s.ctx, j, metav1.UpdateOptions{})
		return "", err
	})
	background := metav1.DeletePropagationBackground
	fine(t, jobs.Delete(s.ctx, "parallel", metav1.DeleteOptions{PropagationPolicy: &background}))

	type wish struct {
		name, condition, reason string
		check                   func(batchv1.JobStatus) bool
	}
	for _, x := range []wish{
		{"exit", "Failed", "PodFailurePolicy", func(st batchv1.JobStatus) bool { return st.Failed == 1 }},
		{"local", "Complete", "CompletionsReached", func(st batchv1.JobStatus) bool { return st.Succeeded == 2 && st.Failed == 0 }},
		{"named", "Complete", "CompletionsReached", func(st batchv1.JobStatus) bool { return st.CompletedIndexes == "0,1" }},
		{"indexes", "Failed", "FailedIndexes", func(st batchv1.JobStatus) bool {
			return st.CompletedIndexes == "0,2" && *st.FailedIndexes == "1,3" && st.Failed == 4 && st.Succeeded == 2
		}},
		{"fail-index", "Failed", "FailedIndexes", func(st batchv1.JobStatus) bool { return *st.FailedIndexes == "1" && st.Failed == 1 }},
		{"success", "Complete", "SuccessPolicy", func(st batchv1.JobStatus) bool { return st.CompletedIndexes == "0" }},
		{"count", "Complete", "SuccessPolicy", func(st batchv1.JobStatus) bool { return st.CompletedIndexes == "1" }},
		{"all", "Complete", "SuccessPolicy", func(st batchv1.JobStatus) bool { return st.CompletedIndexes == "0,1" }},
		{"evicted", "Complete", "CompletionsReached", func(st batchv1.JobStatus) bool { return st.CompletedIndexes == "0,1" }},
	} {
		s.until(x.name+" to end", func() (string, error) {
			j, err := jobs.Get(s.ctx, x.name, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			for _, c := range j.Status.Conditions {
				if string(c.Type) == x.condition && c.Status == corev1.ConditionTrue {
					if c.Reason != x.reason || !x.check(j.Status) {
						t.Errorf("%s: %s", x.name, shown(j.Status))
					}
					return "", nil
				}
			}
			return shown(j.Status), nil
		})
	}
	fine(t, jobs.DeleteCollection(s.ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{LabelSelector: "e2e=job"}))
	s.until("all to be gone", func() (string, error) {
		list, err := jobs.List(s.ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			return fmt.Sprint(len(list.Items)), nil
		}
		return "", err
	})
}

// TestConformanceStatefulSet: a pod that the node refuses is made again until it fits; the next one waits for it.
func TestConformanceStatefulSet(t *testing.T) {
	s := newStage(t)
	nodes, err := s.c.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	node := nodes.Items[0].Name
	pod := read[corev1.Pod](t, fmt.Sprintf("metadata: {name: first}\nspec: {nodeName: %s, containers: [{name: c, image: %q, command: [sleep, \"3600\"], ports: [{containerPort: 21017, hostPort: 21017}]}]}", node, busybox))
	s.create(pod)
	s.ready("first")
	set := workload("apps/v1", "StatefulSet", "ss", "replicas: 2")
	set = strings.Replace(set, "containers: [{name: c,", "nodeName: "+node+"\n      containers: [{name: c, ports: [{containerPort: 21017, hostPort: 21017}],", 1)
	s.apply(set)
	seen := map[types.UID]bool{}
	s.until("the pod to be refused and made again", func() (string, error) {
		p, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, "ss-0", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "not there", nil
		}
		if err != nil {
			return "", err
		}
		if seen[p.UID] = true; len(seen) < 2 {
			return shown(p.Status), nil
		}
		return "", nil
	})
	if _, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, "ss-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the second did not wait: %v", err)
	}
	fine(t, s.c.CoreV1().Pods(s.ns).Delete(s.ctx, "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	s.until("the first to run", func() (string, error) {
		p, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, "ss-0", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "not there", nil
		}
		if err == nil && conditionOf(p, corev1.PodReady).Status != corev1.ConditionTrue {
			return shown(p.Status), nil
		}
		return "", err
	})
}
