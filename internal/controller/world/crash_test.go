package world

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/utils/ptr"
)

var (
	every = flag.Int("world.every", everyWrite, "crash after every n'th write only")
	seeds = flag.Uint64("world.seeds", 0, "random worlds")
)

func TestMain(m *testing.M) {
	// One of these remembers the time of the last error, of the whole process, and sleeps until a moment after it: that is years ahead in a bubble.
	utilruntime.ErrorHandlers = nil
	goleak.VerifyTestMain(m)
}

// step is something that a user does at a time of the scenario.
type step struct {
	at time.Duration
	do func(w *world, namespace string)
}

// scenario is what users do; the cluster has to be settled at its end, and empty some time after everything was deleted.
type scenario struct {
	name   string
	steps  []step
	end    time.Duration
	remove func(w *world, namespace string)
}

var app = map[string]string{"app": "a"}

func template(image string, policy corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
		RestartPolicy: policy, TerminationGracePeriodSeconds: ptr.To(int64(1)), Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

var (
	selector = &metav1.LabelSelector{MatchLabels: app}
	named    = metav1.ObjectMeta{Name: "a"}
	o        = metav1.CreateOptions{}
	removal  = metav1.DeleteOptions{PropagationPolicy: &background}
)

// patch is a step that patches a resource of apps or batch named a.
func patch(at time.Duration, kind, data string) step {
	return step{at, func(w *world, ns string) {
		w.t.Helper()
		w.observed(kind, ns)
		var err error
		switch body := []byte(data); kind {
		case "Deployment":
			_, err = w.Client.AppsV1().Deployments(ns).Patch(w.ctx, "a", types.StrategicMergePatchType, body, metav1.PatchOptions{})
		case "StatefulSet":
			_, err = w.Client.AppsV1().StatefulSets(ns).Patch(w.ctx, "a", types.StrategicMergePatchType, body, metav1.PatchOptions{})
		case "DaemonSet":
			_, err = w.Client.AppsV1().DaemonSets(ns).Patch(w.ctx, "a", types.StrategicMergePatchType, body, metav1.PatchOptions{})
		case "CronJob":
			_, err = w.Client.BatchV1().CronJobs(ns).Patch(w.ctx, "a", types.StrategicMergePatchType, body, metav1.PatchOptions{})
		}
		w.must(err)
	}}
}

// observed waits until a controller has seen a workload as it is: what it never saw leaves no trace. Under faults it may be late, but an hour is more than
// the pauses between its attempts.
func (w *world) observed(kind, ns string) {
	w.t.Helper()
	for range 720 {
		var generation, seen int64
		switch kind {
		case "Deployment":
			d, err := w.Client.AppsV1().Deployments(ns).Get(w.ctx, "a", metav1.GetOptions{})
			w.must(err)
			generation, seen = d.Generation, d.Status.ObservedGeneration
		case "StatefulSet":
			s, err := w.Client.AppsV1().StatefulSets(ns).Get(w.ctx, "a", metav1.GetOptions{})
			w.must(err)
			generation, seen = s.Generation, s.Status.ObservedGeneration
		case "DaemonSet":
			d, err := w.Client.AppsV1().DaemonSets(ns).Get(w.ctx, "a", metav1.GetOptions{})
			w.must(err)
			generation, seen = d.Generation, d.Status.ObservedGeneration
		}
		if seen == generation {
			return
		}
		time.Sleep(5 * time.Second)
	}
	w.t.Errorf("%s: in an hour no controller saw the %s as it is", ns, kind)
}

const (
	newImage  = `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`
	threePods = `{"spec":{"replicas":3}}`
)

func createDeployment(w *world, ns string) {
	_, err := w.Client.AppsV1().Deployments(ns).Create(w.ctx, &appsv1.Deployment{ObjectMeta: named, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(int32(2)), Selector: selector, Template: template("v1", corev1.RestartPolicyAlways)}}, o)
	w.must(err)
}

func createStatefulSet(w *world, ns string) {
	_, err := w.Client.AppsV1().StatefulSets(ns).Create(w.ctx, &appsv1.StatefulSet{ObjectMeta: named, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To(int32(2)), Selector: selector, ServiceName: "a", Template: template("v1", corev1.RestartPolicyAlways)}}, o)
	w.must(err)
}

func createDaemonSet(w *world, ns string) {
	_, err := w.Client.AppsV1().DaemonSets(ns).Create(w.ctx, &appsv1.DaemonSet{ObjectMeta: named, Spec: appsv1.DaemonSetSpec{
		Selector: selector, Template: template("v1", corev1.RestartPolicyAlways)}}, o)
	w.must(err)
}

func createJob(w *world, ns string) {
	_, err := w.Client.BatchV1().Jobs(ns).Create(w.ctx, &batchv1.Job{ObjectMeta: named, Spec: batchv1.JobSpec{
		Completions: ptr.To(int32(3)), Parallelism: ptr.To(int32(2)), CompletionMode: ptr.To(batchv1.IndexedCompletion), Template: template("v1", corev1.RestartPolicyNever)}}, o)
	w.must(err)
}

func createCronJob(w *world, ns string) {
	_, err := w.Client.BatchV1().CronJobs(ns).Create(w.ctx, &batchv1.CronJob{ObjectMeta: named, Spec: batchv1.CronJobSpec{
		Schedule: "* * * * *", SuccessfulJobsHistoryLimit: ptr.To(int32(1)), ConcurrencyPolicy: batchv1.ForbidConcurrent,
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("v1", corev1.RestartPolicyNever)}}}}, o)
	w.must(err)
}

func createService(w *world, ns string) {
	_, err := w.Client.CoreV1().Services(ns).Create(w.ctx, &corev1.Service{ObjectMeta: named, Spec: corev1.ServiceSpec{
		ClusterIP: "None", Selector: app, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}, o)
	w.must(err)
}

func createBudget(w *world, ns string) {
	_, err := w.Client.PolicyV1().PodDisruptionBudgets(ns).Create(w.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: named, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector, MaxUnavailable: ptr.To(intstr.FromInt32(1))}}, o)
	w.must(err)
}

func scenarios() []scenario {
	return []scenario{
		{"Deployment", []step{{0, createDeployment}, patch(30*time.Second, "Deployment", newImage), patch(90*time.Second, "Deployment", threePods)}, 3 * time.Minute,
			func(w *world, ns string) { w.must(w.Client.AppsV1().Deployments(ns).Delete(w.ctx, "a", removal)) }},
		{"StatefulSet", []step{{0, createStatefulSet}, patch(60*time.Second, "StatefulSet", newImage), patch(150*time.Second, "StatefulSet", `{"spec":{"replicas":1}}`)}, 4 * time.Minute,
			func(w *world, ns string) { w.must(w.Client.AppsV1().StatefulSets(ns).Delete(w.ctx, "a", removal)) }},
		{"DaemonSet", []step{{0, createDaemonSet}, patch(30*time.Second, "DaemonSet", newImage)}, 3 * time.Minute,
			func(w *world, ns string) { w.must(w.Client.AppsV1().DaemonSets(ns).Delete(w.ctx, "a", removal)) }},
		{"Job", []step{{0, createJob}}, 3 * time.Minute,
			func(w *world, ns string) { w.must(w.Client.BatchV1().Jobs(ns).Delete(w.ctx, "a", removal)) }},
		{"CronJob", []step{{0, createCronJob}, patch(150*time.Second, "CronJob", `{"spec":{"suspend":true}}`)}, 4 * time.Minute,
			func(w *world, ns string) { w.must(w.Client.BatchV1().CronJobs(ns).Delete(w.ctx, "a", removal)) }},
		aNode, someStorage, someDevices, someNetwork, theRest,
	}
}

// play plays a scenario in a namespace of its own and returns how things are at its end.
func (w *world) play(s *scenario, ns string) string {
	w.t.Helper()
	// Always at the same second, for what happens by the clock.
	time.Sleep(time.Until(time.Now().Truncate(10 * time.Minute).Add(10*time.Minute + 20*time.Second)))
	start := time.Now()
	for _, st := range s.steps {
		time.Sleep(time.Until(start.Add(st.at)))
		st.do(w, ns)
	}
	time.Sleep(time.Until(start.Add(s.end)))
	synctest.Wait()
	out := w.state(ns)
	s.remove(w, ns)
	time.Sleep(time.Minute)
	synctest.Wait()
	if left := w.state(ns); left != "" {
		w.t.Errorf("%s in %s: after the deletion there is\n%s", s.name, ns, left)
	}
	return out
}

// shards are how many worlds share the crashes of a scenario, so that they can go on at the same time.
const shards = 2

// A crash of all controllers after any of their writes makes no difference in the end.
func TestCrashAfterEveryWrite(t *testing.T) {
	for _, s := range scenarios() {
		for shard := range shards {
			t.Run(fmt.Sprint(s.name, "/", shard), func(t *testing.T) {
				t.Parallel()
				inWorld(t, 2, true, func(w *world) { w.crashEverywhere(&s, 1+shard**every, shards**every) })
			})
		}
	}
}

// crashEverywhere plays a scenario once in peace, and then again and again with a crash, each time some writes later, until none is reached any more.
func (w *world) crashEverywhere(s *scenario, first, step int) {
	w.namespace("well")
	w.plan.arm(-1)
	want := w.play(s, "well")
	writes, record := w.plan.count()
	if writes < 5 {
		w.t.Fatalf("only %d writes: %q", writes, record)
	}
	for n := first; !w.t.Failed(); n += step {
		ns := fmt.Sprint("crash-", n)
		w.namespace(ns)
		w.plan.arm(n)
		got := w.play(s, ns)
		if err := difference(want, got); err != nil {
			_, record := w.plan.count()
			w.t.Errorf("crash after write %d (%q): %v", n, record[min(n, len(record))-1], err)
		}
		if !w.plan.fired() {
			w.t.Logf("%d writes when all is well, crashes up to the %d.", writes, n-step)
			return
		}
	}
}

// A conflict, which may be about anything, ends nothing: whoever meets one comes back.
func TestEveryWriteIsRefusedOnce(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, 2, true, func(w *world) {
				w.namespace("well")
				want := w.play(&s, "well")
				w.namespace("refused")
				w.plan.refuseOnce()
				if err := difference(want, w.play(&s, "refused")); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
