package world

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
)

// restartPause is how long a dead process stays away.
const restartPause = 3 * time.Second

// heartbeat is how often the lease of a node is renewed.
const heartbeat = 40 * time.Second

// world is a cluster in a bubble.
type world struct {
	*controllertest.Env
	t     *testing.T
	plan  *plan
	clock *skewed
	// judged says that the controllers may believe that nodes are gone.
	judged bool

	// services counts those that have an address.
	services atomic.Int32

	// process is the one that lives.
	process atomic.Pointer[process]

	supervisor sync.WaitGroup
	ctx        context.Context
	end        context.CancelFunc
}

// inWorld runs play in a cluster with some nodes.
func inWorld(t *testing.T, nodes int, judged bool, play func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Env: controllertest.Start(t), t: t, plan: &plan{}, clock: &skewed{}, judged: judged}
		w.ctx, w.end = context.WithCancel(context.Background())
		for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
			_, err := w.Client.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, o)
			w.must(err)
		}
		k := newKubelet(t, w.Env)
		w.Run(t, k)
		for i := range nodes {
			w.addNode(fmt.Sprint("node-", i))
		}
		w.supervisor.Go(w.supervise)
		time.Sleep(time.Second)
		play(w)
		w.end()
		w.supervisor.Wait()
	})
}

// supervise restarts the controllers when they have crashed.
func (w *world) supervise() {
	for w.ctx.Err() == nil {
		p := boot(w.t, w.Env, w.plan, w.clock, w.judged)
		w.process.Store(p)
		select {
		case <-p.ctx.Done():
		case <-w.ctx.Done():
		}
		p.stop()
		if w.ctx.Err() == nil {
			time.Sleep(restartPause)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes a namespace.
func (w *world) namespace(name string) {
	w.t.Helper()
	_, err := w.Client.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.must(err)
	time.Sleep(time.Minute) // it gets its service account
}

// addNode adds a node that is ready, and keeps its lease.
func (w *world) addNode(name string) {
	w.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1000"), "memory": resource.MustParse("1Ti"), "pods": resource.MustParse("10000")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2." + strings.TrimPrefix(name, "node-")}}
	_, err := w.Client.CoreV1().Nodes().Create(w.ctx, n, metav1.CreateOptions{})
	w.must(err)
	leases := w.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	_, err = leases.Create(w.ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}}}, metav1.CreateOptions{})
	w.must(err)
	w.supervisor.Go(func() {
		for {
			select {
			case <-w.ctx.Done():
				return
			case <-time.After(heartbeat):
			}
			patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
			_, err := leases.Patch(w.ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
			if err == nil {
				err = w.post(name)
			}
			if err != nil && w.ctx.Err() == nil {
				w.t.Errorf("heartbeat: %v", err)
			}
		}
	})
}

// post has a node contradict who says that it is not ready.
func (w *world) post(name string) error {
	node, err := w.Client.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for i := range node.Status.Conditions {
		c := &node.Status.Conditions[i]
		if c.Type != corev1.NodeReady || c.Status == corev1.ConditionTrue {
			continue
		}
		c.Status, c.LastHeartbeatTime = corev1.ConditionTrue, metav1.Now()
		if _, err := w.Client.CoreV1().Nodes().UpdateStatus(w.ctx, node, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// kubelet is all nodes: pods become ready a second after they were made and bound, those of Jobs succeed five seconds later, and deleted ones are gone.
type kubelet struct {
	client kubernetes.Interface
	get    func(namespace, name string) (*corev1.Pod, error)
	loop   *controller.Loop
}

func newKubelet(t *testing.T, e *controllertest.Env) *kubelet {
	t.Helper()
	pods := e.Informers.Core().V1().Pods()
	k := &kubelet{client: e.Client, get: func(namespace, name string) (*corev1.Pod, error) { return pods.Lister().Pods(namespace).Get(name) }}
	k.loop = controller.NewLoop("kubelet", k.Reconcile, controller.Options{Synced: []cache.InformerSynced{pods.Informer().HasSynced}})
	if err := controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: func(p *corev1.Pod) {
		if p.Spec.NodeName != "" {
			k.loop.AddObject(p)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	return k
}

// Run runs the nodes.
func (k *kubelet) Run(ctx context.Context) error { return k.loop.Run(ctx) }

// Reconcile takes a pod a step further.
func (k *kubelet) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	p, err := k.get(namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	wait := func(since time.Time, d time.Duration) bool {
		left := time.Until(since.Add(d))
		if left > 0 {
			k.loop.AddAfter(key, left)
		}
		return left > 0
	}
	pods := k.client.CoreV1().Pods(namespace)
	now := metav1.Now()
	switch {
	case p.DeletionTimestamp != nil:
		grace := int64(0)
		if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions(string(p.UID))}); !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	case p.Status.Phase == corev1.PodPending:
		if wait(p.CreationTimestamp.Time, time.Second) {
			return nil
		}
		p = p.DeepCopy()
		p.Status.Phase, p.Status.StartTime, p.Status.PodIP = corev1.PodRunning, &now, "10.0.0.1"
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}
		_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	case p.Status.Phase == corev1.PodRunning && readiness(p).Status != corev1.ConditionTrue: // somebody believes that the node is gone
		if wait(readiness(p).LastTransitionTime.Time, 10*time.Second) {
			return nil
		}
		p = p.DeepCopy()
		readiness(p).Status, readiness(p).LastTransitionTime = corev1.ConditionTrue, now
		_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	case p.Status.Phase == corev1.PodRunning && p.Spec.RestartPolicy == corev1.RestartPolicyNever:
		if wait(p.Status.StartTime.Time, 5*time.Second) {
			return nil
		}
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: now}}}}
		readiness(p).Status, readiness(p).Reason = corev1.ConditionFalse, "PodCompleted"
		_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the newer pod is on its way
	}
	return err
}

// readiness is the condition of a pod that runs.
func readiness(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return &corev1.PodCondition{}
}

// state says how the workloads of a namespace are, without what is different each time: names that are drawn, times, revisions.
func (w *world) state(namespace string) string {
	w.t.Helper()
	ctx, all := w.ctx, metav1.ListOptions{}
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	n := func(i *int32) int32 {
		if i == nil {
			return -1
		}
		return *i
	}
	deployments, err := w.Client.AppsV1().Deployments(namespace).List(ctx, all)
	w.must(err)
	for _, d := range deployments.Items {
		s := &d.Status
		var conditions []string
		for _, c := range s.Conditions {
			conditions = append(conditions, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
		}
		slices.Sort(conditions)
		say("Deployment %s wants %d has %d updated %d ready %d available %d unavailable %d seen %v revision %s %q", d.Name, n(d.Spec.Replicas), s.Replicas, s.UpdatedReplicas, s.ReadyReplicas,
			s.AvailableReplicas, s.UnavailableReplicas, s.ObservedGeneration == d.Generation, d.Annotations["deployment.kubernetes.io/revision"], conditions)
	}
	sets, err := w.Client.AppsV1().ReplicaSets(namespace).List(ctx, all)
	w.must(err)
	for _, r := range sets.Items {
		say("ReplicaSet of %s image %s wants %d has %d ready %d available %d seen %v revision %s", owner(&r), r.Spec.Template.Spec.Containers[0].Image, n(r.Spec.Replicas), r.Status.Replicas,
			r.Status.ReadyReplicas, r.Status.AvailableReplicas, r.Status.ObservedGeneration == r.Generation, r.Annotations["deployment.kubernetes.io/revision"])
	}
	stateful, err := w.Client.AppsV1().StatefulSets(namespace).List(ctx, all)
	w.must(err)
	for _, r := range stateful.Items {
		s := &r.Status
		say("StatefulSet %s wants %d has %d ready %d current %d updated %d available %d done %v seen %v", r.Name, n(r.Spec.Replicas), s.Replicas, s.ReadyReplicas, s.CurrentReplicas, s.UpdatedReplicas,
			s.AvailableReplicas, s.CurrentRevision == s.UpdateRevision, s.ObservedGeneration == r.Generation)
	}
	daemons, err := w.Client.AppsV1().DaemonSets(namespace).List(ctx, all)
	w.must(err)
	for _, d := range daemons.Items {
		s := &d.Status
		say("DaemonSet %s wants %d has %d ready %d updated %d available %d unavailable %d misscheduled %d seen %v", d.Name, s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberReady,
			s.UpdatedNumberScheduled, s.NumberAvailable, s.NumberUnavailable, s.NumberMisscheduled, s.ObservedGeneration == d.Generation)
	}
	jobs, err := w.Client.BatchV1().Jobs(namespace).List(ctx, all)
	w.must(err)
	for _, j := range jobs.Items {
		var conditions []string
		for _, c := range j.Status.Conditions {
			conditions = append(conditions, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
		}
		uncounted := j.Status.UncountedTerminatedPods
		say("Job of %s active %d succeeded %d failed %d indexes %q ended %v settled %v %q", owner(&j), j.Status.Active, j.Status.Succeeded, j.Status.Failed, j.Status.CompletedIndexes,
			j.Status.CompletionTime != nil, uncounted == nil || len(uncounted.Succeeded)+len(uncounted.Failed) == 0, conditions)
	}
	crons, err := w.Client.BatchV1().CronJobs(namespace).List(ctx, all)
	w.must(err)
	for _, c := range crons.Items {
		say("CronJob %s active %d scheduled %v succeeded %v", c.Name, len(c.Status.Active), c.Status.LastScheduleTime != nil, c.Status.LastSuccessfulTime != nil)
	}
	budgets, err := w.Client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, all)
	w.must(err)
	for _, b := range budgets.Items {
		say("PodDisruptionBudget %s allows %d healthy %d of %d expected %d", b.Name, b.Status.DisruptionsAllowed, b.Status.CurrentHealthy, b.Status.DesiredHealthy, b.Status.ExpectedPods)
	}
	revisions, err := w.Client.AppsV1().ControllerRevisions(namespace).List(ctx, all)
	w.must(err)
	for _, r := range revisions.Items {
		say("ControllerRevision %d of %s", r.Revision, owner(&r))
	}
	slices_, err := w.Client.DiscoveryV1().EndpointSlices(namespace).List(ctx, all)
	w.must(err)
	for _, s := range slices_.Items {
		ready := 0
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready++
			}
		}
		say("EndpointSlice of %s: %d, %d ready", s.Labels["kubernetes.io/service-name"], len(s.Endpoints), ready)
	}
	pods, err := w.Client.CoreV1().Pods(namespace).List(ctx, all)
	w.must(err)
	for _, p := range pods.Items {
		name := ""
		if strings.HasPrefix(owner(&p), "StatefulSet") {
			name = p.Name
		}
		where := ""
		if strings.HasPrefix(owner(&p), "DaemonSet") {
			where = p.Spec.NodeName
		}
		say("Pod %s of %s image %s %s going %v index %q on %q finalizers %v", name, owner(&p), p.Spec.Containers[0].Image, p.Status.Phase, p.DeletionTimestamp != nil,
			p.Annotations["batch.kubernetes.io/job-completion-index"], where, p.Finalizers)
	}
	out = append(out, w.apart(namespace)...)
	out = append(out, w.network(namespace)...)
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// owner is the kind of what controls an object, and its name if it is not drawn.
func owner(o metav1.Object) string {
	ref := metav1.GetControllerOf(o)
	switch {
	case ref == nil:
		return "nobody (" + o.GetName() + ")"
	case ref.Kind == "ReplicaSet" || ref.Kind == "Job" || ref.Kind == "Pod":
		return ref.Kind
	}
	return ref.Kind + "/" + ref.Name
}

// difference compares two states.
func difference(want, got string) error {
	if want == got {
		return nil
	}
	var errs []string
	have := strings.Split(got, "\n")
	for l := range strings.SplitSeq(want, "\n") {
		if i := slices.Index(have, l); i >= 0 {
			have = slices.Delete(have, i, i+1)
		} else {
			errs = append(errs, "missing: "+l)
		}
	}
	for _, l := range have {
		errs = append(errs, "too much: "+l)
	}
	return errors.New(strings.Join(errs, "\n"))
}

var _ clock.Clock = (*skewed)(nil)
