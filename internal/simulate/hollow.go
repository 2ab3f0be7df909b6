package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
)

const (
	// runForAnnotation says of a pod how long it runs on a hollow node before it has succeeded.
	runForAnnotation = "simulate.celox.dev/run-for"
	// leasePeriod and leaseSeconds are the kubelet's.
	leasePeriod  = 10 * time.Second
	leaseSeconds = 40
	// statusPeriod is how often the kubelet reports a status that hasn't changed.
	statusPeriod = 5 * time.Minute
	// hands is how many calls hollow nodes have under way at once. Thousands of kubelets would have more: with few, pods would wait for the simulation, not for the server.
	hands = 256
)

type taskKind int

const (
	taskRun taskKind = iota
	taskRefresh
	taskFinish
	taskRemove
	taskLease
	taskStatus
)

// task is something that a hollow node must do.
type task struct {
	kind            taskKind
	namespace, name string
	uid             types.UID
}

// hollowNode is a node's kubelet.
type hollowNode struct {
	zone   string
	failed bool
	lease  *coordinationv1.Lease // as last written; used by one hand at a time
}

// hollow plays the kubelets of all nodes.
type hollow struct {
	client                kubernetes.Interface
	lister                corelisters.PodLister
	startDelay, stopDelay time.Duration
	virtual               bool
	queue                 workqueue.TypedDelayingInterface[task]

	mu    sync.Mutex
	nodes map[string]*hollowNode
	ip    uint32
}

func newHollow(c kubernetes.Interface, s *Scenario) *hollow {
	return &hollow{
		client: c, startDelay: s.StartDelay.Duration, stopDelay: s.StopDelay.Duration, virtual: s.VirtualDelays,
		queue: workqueue.NewTypedDelayingQueue[task](), nodes: map[string]*hollowNode{},
	}
}

// run works until ctx ends.
func (h *hollow) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range hands {
		wg.Go(func() {
			for {
				t, shutdown := h.queue.Get()
				if shutdown {
					return
				}
				if err := h.do(ctx, t); err != nil && ctx.Err() == nil {
					h.queue.AddAfter(t, time.Second) // as a kubelet would
				}
				h.queue.Done(t)
			}
		})
	}
	<-ctx.Done()
	h.queue.ShutDown()
	wg.Wait()
}

// after queues a task for when a pod's delay is over.
func (h *hollow) after(t task, d time.Duration) {
	if h.virtual {
		d = 0
	}
	h.queue.AddAfter(t, d)
}

// add takes over the kubelet of a node that exists; n is its number, by which the times of heartbeats are spread.
func (h *hollow) add(name, zone string, n int) {
	h.mu.Lock()
	h.nodes[name] = &hollowNode{zone: zone}
	h.mu.Unlock()
	h.queue.Add(task{kind: taskLease, name: name})
	h.queue.AddAfter(task{kind: taskStatus, name: name}, statusPeriod/2+time.Duration(n%300)*time.Second)
}

// alive returns a node unless it has failed or isn't ours.
func (h *hollow) alive(name string) *hollowNode {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.nodes[name]; n != nil && !n.failed {
		return n
	}
	return nil
}

// stop stops the kubelets of nodes: at most count (if it isn't 0) of a zone (if it isn't empty). It returns their names.
func (h *hollow) stop(count int, zone string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name, n := range h.nodes {
		if !n.failed && (zone == "" || n.zone == zone) && (count == 0 || len(out) < count) {
			n.failed = true
			out = append(out, name)
		}
	}
	return out
}

// restart brings kubelets back; they look at their pods anew.
func (h *hollow) restart(ctx context.Context, names []string) error {
	back := map[string]bool{}
	h.mu.Lock()
	for _, name := range names {
		if n := h.nodes[name]; n != nil {
			n.failed = false
			back[name] = true
		}
	}
	h.mu.Unlock()
	for _, name := range names {
		if err := h.heartbeat(ctx, name); err != nil {
			return err
		}
		h.queue.Add(task{kind: taskLease, name: name})
	}
	all, err := h.lister.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, p := range all {
		if back[p.Spec.NodeName] {
			h.changed(p)
		}
	}
	return nil
}

// changed looks whether a node has something to do for a pod.
func (h *hollow) changed(pod *v1.Pod) {
	if pod.Spec.NodeName == "" || h.alive(pod.Spec.NodeName) == nil {
		return
	}
	t := task{namespace: pod.Namespace, name: pod.Name, uid: pod.UID}
	switch {
	case pod.DeletionTimestamp != nil:
		t.kind = taskRemove
		h.after(t, h.stopDelay)
	case pod.Status.Phase == v1.PodPending || pod.Status.Phase == "":
		t.kind = taskRun
		h.after(t, h.startDelay)
	case pod.Status.Phase == v1.PodRunning && !ready(pod):
		// Somebody took the node for dead; its kubelet knows better.
		t.kind = taskRefresh
		h.queue.Add(t)
	case pod.Status.Phase == v1.PodRunning && pod.Annotations[runForAnnotation] != "":
		d, err := time.ParseDuration(pod.Annotations[runForAnnotation])
		if err == nil {
			t.kind = taskFinish
			h.after(t, d)
		}
	}
}

func (h *hollow) do(ctx context.Context, t task) error {
	switch t.kind {
	case taskLease:
		return h.renew(ctx, t.name)
	case taskStatus:
		if h.alive(t.name) == nil {
			return nil
		}
		h.queue.AddAfter(t, statusPeriod)
		return h.heartbeat(ctx, t.name)
	}
	pod, err := h.lister.Pods(t.namespace).Get(t.name)
	if err != nil || pod.UID != t.uid || h.alive(pod.Spec.NodeName) == nil {
		return nil // gone meanwhile
	}
	switch t.kind {
	case taskRun:
		if pod.Status.Phase != v1.PodPending || pod.DeletionTimestamp != nil {
			return nil
		}
		return h.report(ctx, pod, v1.PodRunning)
	case taskRefresh:
		if pod.Status.Phase != v1.PodRunning || pod.DeletionTimestamp != nil || ready(pod) {
			return nil
		}
		return h.report(ctx, pod, v1.PodRunning)
	case taskFinish:
		if pod.Status.Phase != v1.PodRunning || pod.DeletionTimestamp != nil {
			return nil
		}
		return h.report(ctx, pod, v1.PodSucceeded)
	default:
		now := int64(0)
		err := h.client.CoreV1().Pods(t.namespace).Delete(ctx, t.name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(t.uid))})
		return tolerate(err)
	}
}

func ready(pod *v1.Pod) bool {
	c := condition(pod, v1.PodReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// tolerate takes it as it is that an object is gone or another.
func tolerate(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// report writes a pod's status as its kubelet would.
func (h *hollow) report(ctx context.Context, pod *v1.Pod, phase v1.PodPhase) error {
	now := metav1.Now()
	isReady := v1.ConditionTrue
	if phase != v1.PodRunning {
		isReady = v1.ConditionFalse
	}
	status := v1.PodStatus{Phase: phase}
	if pod.Status.Phase != v1.PodRunning {
		// A pod keeps the address that it got first.
		h.mu.Lock()
		h.ip++
		ip := fmt.Sprintf("10.%d.%d.%d", 128+h.ip>>16&127, h.ip>>8&255, h.ip&255)
		h.mu.Unlock()
		status.HostIP, status.PodIP, status.PodIPs, status.StartTime = "192.0.2.1", ip, []v1.PodIP{{IP: ip}}, &now
	}
	for _, t := range []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady} {
		c := v1.PodCondition{Type: t, Status: isReady, LastTransitionTime: now}
		if t == v1.PodInitialized {
			c.Status = v1.ConditionTrue
		}
		status.Conditions = append(status.Conditions, c)
	}
	for _, c := range pod.Spec.Containers {
		s := v1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: "hollow://" + string(pod.UID), Ready: phase == v1.PodRunning}
		if phase == v1.PodRunning {
			s.State.Running = &v1.ContainerStateRunning{StartedAt: now}
		} else {
			s.State.Terminated = &v1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}
		}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = h.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return tolerate(err)
}

// renew writes a node's lease and comes back for the next time.
func (h *hollow) renew(ctx context.Context, name string) error {
	n := h.alive(name)
	if n == nil {
		return nil
	}
	leases := h.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	now := metav1.NowMicro()
	seconds := int32(leaseSeconds)
	var err error
	if n.lease == nil {
		n.lease, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1.NamespaceNodeLease, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			n.lease, err = leases.Get(ctx, name, metav1.GetOptions{})
		}
	} else {
		next := n.lease.DeepCopy()
		next.Spec.RenewTime = &now
		n.lease, err = leases.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		n.lease = nil
		return err
	}
	h.queue.AddAfter(task{kind: taskLease, name: name}, leasePeriod)
	return nil
}

// heartbeat writes a node's Ready condition.
func (h *hollow) heartbeat(ctx context.Context, name string) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": nodeConditions()}})
	if err != nil {
		return err
	}
	_, err = h.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return tolerate(err)
}

func nodeConditions() []v1.NodeCondition {
	now := metav1.Now()
	var out []v1.NodeCondition
	for _, t := range []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure, v1.NodeReady} {
		c := v1.NodeCondition{Type: t, Status: v1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now, Reason: "KubeletHasSufficient"}
		if t == v1.NodeReady {
			c.Status, c.Reason = v1.ConditionTrue, "KubeletReady"
		}
		out = append(out, c)
	}
	return out
}
