package registration

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/pressure"
)

const (
	leaseNamespace = corev1.NamespaceNodeLease
	leaseSeconds   = 40
	maxImages      = 50
	retryDelay     = time.Second
	maxRetryDelay  = 30 * time.Second
	// settle is how long changes that nobody waits for (the list of images) are collected.
	settle = 10 * time.Second
)

// Config is what a Registrar is given.
type Config struct {
	NodeName          string
	Hostname          string
	Client            kubernetes.Interface
	Runtime           cri.RuntimeService
	Images            cri.ImageManagerService
	Machine           Machine
	Capacity          corev1.ResourceList
	Allocatable       corev1.ResourceList
	Plugged           func() (capacity, allocatable corev1.ResourceList) // devices of plugins, all and those that can be had; nil is none
	IPs               []string
	Port              int32
	Labels            map[string]string
	Taints            []corev1.Taint
	PodCIDRs          func() []string // that a new Node asks for; nil is none
	Version           string
	Register          bool
	HeartbeatInterval time.Duration
	StatusInterval    time.Duration
	Clock             clock.WithTicker
	Log               *slog.Logger
	// Event records an event about the node.
	Event func(eventType, reason, message string)
	// NetworkReady is called when the network of pods works that did not; nil is nobody.
	NetworkReady func()
}

// Registrar writes the Node and the Lease. Run owns it; the other methods are safe for concurrent use.
type Registrar struct {
	Config
	urgent chan struct{}
	lazy   chan struct{}
	ready  chan struct{}
	once   sync.Once
	state  atomic.Pointer[pressure.State]
	node   atomic.Pointer[corev1.Node] // as last written
	// network is what is wrong with the network of pods, nil if nothing is.
	network atomic.Pointer[string]
}

// New makes a Registrar.
func New(c Config) *Registrar {
	r := &Registrar{Config: c, urgent: make(chan struct{}, 1), lazy: make(chan struct{}, 1), ready: make(chan struct{})}
	r.state.Store(&pressure.State{})
	return r
}

// Ready is closed when the API has a Node that is ready.
func (r *Registrar) Ready() <-chan struct{} { return r.ready }

// Node is the Node as it was last written, nil before.
func (r *Registrar) Node() *corev1.Node { return r.node.Load() }

// NetworkProblem is what the runtime said last of the network of pods, "" if it works.
func (r *Registrar) NetworkProblem() string {
	if p := r.network.Load(); p != nil {
		return *p
	}
	return ""
}

// SetPressure changes the pressure conditions.
func (r *Registrar) SetPressure(s pressure.State) {
	if old := r.state.Swap(&s); *old != s {
		poke(r.urgent)
	}
}

// ImagesChanged has the list of images written in a while.
func (r *Registrar) ImagesChanged() { poke(r.lazy) }

// Changed has the status written now if it is another.
func (r *Registrar) Changed() { poke(r.urgent) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run registers the node and keeps its status until ctx ends.
func (r *Registrar) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.lease(ctx) })
	r.Event(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	delay := retryDelay
	var interval <-chan time.Time
	if r.StatusInterval > 0 {
		t := r.Clock.NewTicker(r.StatusInterval)
		defer t.Stop()
		interval = t.C()
	}
	force := true
	for {
		again := time.Duration(0)
		ready, err := r.sync(ctx, force)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.Log.Warn("cannot register the node; trying again", "error", err, "in", delay)
			again = delay
			delay = min(2*delay, maxRetryDelay)
		case !ready:
			force, again, delay = false, retryDelay, retryDelay // the runtime or its network isn't up yet
		default:
			force, delay = false, retryDelay
			r.once.Do(func() { close(r.ready) })
		}
		var timer <-chan time.Time
		stop := func() bool { return false }
		if again > 0 {
			t := r.Clock.NewTimer(again)
			timer = t.C()
			stop = t.Stop
		}
		select {
		case <-ctx.Done():
			stop()
			return
		case <-timer:
		case <-r.urgent:
		case <-interval:
			force = true
		case <-r.lazy:
			t := r.Clock.NewTimer(settle)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C():
			case <-r.urgent:
				t.Stop()
			}
		}
		stop()
	}
}

// sync writes the Node if it differs, or anyway if force is set.
func (r *Registrar) sync(ctx context.Context, force bool) (ready bool, err error) {
	client := r.Client.CoreV1().Nodes()
	have, err := client.Get(ctx, r.NodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && r.Register:
		return r.create(ctx)
	case err != nil:
		return false, fmt.Errorf("get node: %w", err)
	}
	if r.Register {
		if have, err = r.reconcileLabels(ctx, have); err != nil {
			return false, err
		}
	}
	next := have.DeepCopy()
	r.fillStatus(ctx, next, &have.Status)
	if !force && statusSame(&have.Status, &next.Status) {
		r.node.Store(have)
		return isReady(&have.Status), nil
	}
	r.announce(&have.Status, &next.Status)
	got, err := client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return false, fmt.Errorf("write node status: %w", err)
	}
	r.node.Store(got)
	return isReady(&got.Status), nil
}

// create makes the Node. Its status goes with it: if the API server drops it, it is written once more.
func (r *Registrar) create(ctx context.Context) (ready bool, err error) {
	client := r.Client.CoreV1().Nodes()
	want := r.fresh()
	r.fillStatus(ctx, want, nil)
	have, err := client.Create(ctx, want, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("create node: %w", err)
	}
	r.announce(nil, &want.Status)
	r.Log.Info("registered the node", "node", r.NodeName)
	if !statusSame(&have.Status, &want.Status) {
		next := have.DeepCopy()
		next.Status = want.Status
		if have, err = client.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return false, fmt.Errorf("write node status: %w", err)
		}
	}
	r.node.Store(have)
	return isReady(&have.Status), nil
}

func isReady(s *corev1.NodeStatus) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.NodeReady {
			return s.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// wellKnown are the labels of every node.
func (r *Registrar) wellKnown() map[string]string {
	out := map[string]string{
		corev1.LabelHostname:      r.Hostname,
		corev1.LabelOSStable:      runtime.GOOS,
		corev1.LabelArchStable:    runtime.GOARCH,
		"beta.kubernetes.io/os":   runtime.GOOS,
		"beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, r.Labels)
	return out
}

// attachedForIt is the annotation of nodes whose volumes the control plane attaches.
const attachedForIt = "volumes.kubernetes.io/controller-managed-attach-detach"

func (r *Registrar) fresh() *corev1.Node {
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: r.NodeName, Labels: r.wellKnown(), Annotations: map[string]string{attachedForIt: "true"}},
		Spec:       corev1.NodeSpec{Taints: slices.Clone(r.Taints)},
	}
	if r.PodCIDRs != nil {
		if n.Spec.PodCIDRs = r.PodCIDRs(); len(n.Spec.PodCIDRs) > 0 {
			n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
		}
	}
	return n
}

func (r *Registrar) reconcileLabels(ctx context.Context, have *corev1.Node) (*corev1.Node, error) {
	missing := false
	for k, v := range r.wellKnown() {
		if have.Labels[k] != v {
			missing = true
		}
	}
	if !missing {
		return have, nil
	}
	next := have.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, r.wellKnown())
	got, err := r.Client.CoreV1().Nodes().Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update node labels: %w", err)
	}
	return got, nil
}

// statusSame compares all but the times of the last heartbeat.
func statusSame(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
	}
	return apiequality.Semantic.DeepEqual(x, y)
}

// SameResources says whether two states of a node have the same resources.
func SameResources(a, b *corev1.NodeStatus) bool {
	same := func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 }
	return maps.EqualFunc(a.Capacity, b.Capacity, same) && maps.EqualFunc(a.Allocatable, b.Allocatable, same)
}

// fillStatus computes the node's status.
func (r *Registrar) fillStatus(ctx context.Context, node *corev1.Node, old *corev1.NodeStatus) {
	s := &node.Status
	s.Capacity = r.Capacity.DeepCopy()
	s.Allocatable = r.Allocatable.DeepCopy()
	if r.Plugged != nil {
		capacity, allocatable := r.Plugged()
		maps.Copy(s.Capacity, capacity)
		maps.Copy(s.Allocatable, allocatable)
	}
	if old != nil {
		// Extended resources belong to others, who say how many there are; all of them can be had.
		for name, q := range old.Capacity {
			if _, ok := s.Capacity[name]; !ok && strings.Contains(string(name), "/") {
				s.Capacity[name] = q
				s.Allocatable[name] = q
			}
		}
	}
	s.Addresses = nil
	for _, ip := range r.IPs {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.Hostname})
	s.DaemonEndpoints = corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: r.Port}}
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: r.Machine.MachineID, SystemUUID: r.Machine.SystemUUID, BootID: r.Machine.BootID,
		KernelVersion: r.Machine.Kernel, OSImage: r.Machine.OSImage,
		KubeletVersion: r.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if r.Machine.SwapBytes > 0 {
		bytes := r.Machine.SwapBytes
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &bytes}
	}
	if v, err := r.Runtime.Version(ctx, "v1"); err == nil {
		s.NodeInfo.ContainerRuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
	}
	s.Images = r.images(ctx)
	r.conditions(ctx, s)
}

func (r *Registrar) images(ctx context.Context) []corev1.ContainerImage {
	list, err := r.Images.ListImages(ctx, nil)
	if err != nil {
		return nil
	}
	slices.SortFunc(list, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Id, b.Id))
	})
	var out []corev1.ContainerImage
	for _, i := range list {
		if len(out) == maxImages {
			break
		}
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) > 5 {
			names = names[:5]
		}
		if len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
		}
	}
	return out
}

func (r *Registrar) conditions(ctx context.Context, s *corev1.NodeStatus) {
	p := *r.state.Load()
	set := func(t corev1.NodeConditionType, status bool, reason, message string) {
		now := metav1.NewTime(r.Clock.Now().Truncate(time.Second))
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
		if status {
			c.Status = corev1.ConditionTrue
		}
		for i := range s.Conditions {
			if s.Conditions[i].Type == t {
				if s.Conditions[i].Status == c.Status {
					c.LastTransitionTime = s.Conditions[i].LastTransitionTime
				}
				s.Conditions[i] = c
				return
			}
		}
		s.Conditions = append(s.Conditions, c)
	}
	choose := func(t corev1.NodeConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		if bad {
			set(t, true, badReason, badMessage)
		} else {
			set(t, false, goodReason, goodMessage)
		}
	}
	choose(corev1.NodeMemoryPressure, p.Memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	choose(corev1.NodeDiskPressure, p.Disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	choose(corev1.NodePIDPressure, p.PID, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available")
	if problems := r.runtimeProblems(ctx, s); len(problems) > 0 {
		set(corev1.NodeReady, false, "KubeletNotReady", several(problems))
		return
	}
	set(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
}

// several are problems as the kubelet writes them.
func several(problems []string) string {
	if len(problems) == 1 {
		return problems[0]
	}
	return "[" + strings.Join(problems, ", ") + "]"
}

// runtimeProblems asks the runtime how it is, and notes what it can do.
func (r *Registrar) runtimeProblems(ctx context.Context, s *corev1.NodeStatus) []string {
	resp, err := r.Runtime.Status(ctx, false)
	if err != nil {
		return []string{"container runtime is down: " + err.Error()}
	}
	var problems []string
	var network *string
	for _, c := range resp.GetStatus().GetConditions() {
		switch {
		case c.Status:
		case c.Type == "NetworkReady":
			text := fmt.Sprintf("container runtime network not ready: NetworkReady=%v reason:%v message:%v", c.Status, c.Reason, c.Message)
			problems, network = append(problems, text), &text
		case c.Type == "RuntimeReady":
			problems = append(problems, fmt.Sprintf("container runtime not ready: RuntimeReady=%v reason:%v message:%v", c.Status, c.Reason, c.Message))
		}
	}
	if was := r.network.Swap(network); was != nil && network == nil && r.NetworkReady != nil {
		r.NetworkReady()
	}
	s.RuntimeHandlers = nil
	for _, h := range resp.RuntimeHandlers {
		rro, userns := h.GetFeatures().GetRecursiveReadOnlyMounts(), h.GetFeatures().GetUserNamespaces()
		s.RuntimeHandlers = append(s.RuntimeHandlers, corev1.NodeRuntimeHandler{
			Name: h.Name, Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &rro, UserNamespaces: &userns},
		})
	}
	s.DeclaredFeatures = declaredFeatures()
	s.Features = nil
	if f := resp.Features; f != nil {
		policy := f.SupplementalGroupsPolicy
		s.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &policy}
	}
	return problems
}

// declaredFeatures are what other parts of a cluster of mixed versions must know of a node before they use it (KEP-5328), sorted.
func declaredFeatures() []string {
	return []string{
		"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits",
	}
}

// announce records the events that people look for.
func (r *Registrar) announce(old, now *corev1.NodeStatus) {
	find := func(s *corev1.NodeStatus, t corev1.NodeConditionType) corev1.ConditionStatus {
		if s != nil {
			for i := range s.Conditions {
				if s.Conditions[i].Type == t {
					return s.Conditions[i].Status
				}
			}
		}
		return ""
	}
	for _, e := range []struct {
		t       corev1.NodeConditionType
		yes, no string
	}{
		{corev1.NodeMemoryPressure, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		{corev1.NodeDiskPressure, "NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		{corev1.NodePIDPressure, "NodeHasInsufficientPID", "NodeHasSufficientPID"},
		{corev1.NodeReady, "NodeReady", "NodeNotReady"},
	} {
		before, after := find(old, e.t), find(now, e.t)
		if before == after {
			continue
		}
		reason := e.no
		if after == corev1.ConditionTrue {
			reason = e.yes
		}
		r.Event(corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", r.NodeName, reason))
	}
}

// lease makes the node's lease, and renews it if there is a heartbeat.
func (r *Registrar) lease(ctx context.Context) {
	if !r.Register {
		return
	}
	client := r.Client.CoordinationV1().Leases(leaseNamespace)
	renew := func() error {
		now := metav1.NewMicroTime(r.Clock.Now())
		have, err := client.Get(ctx, r.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			seconds := int32(leaseSeconds)
			name := r.NodeName
			lease := &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: r.NodeName, Namespace: leaseNamespace},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
			}
			if node := r.node.Load(); node != nil {
				lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
			}
			_, err = client.Create(ctx, lease, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		next := have.DeepCopy()
		next.Spec.RenewTime = &now
		_, err = client.Update(ctx, next, metav1.UpdateOptions{})
		return err
	}
	select {
	case <-r.ready: // the owner must exist first
	case <-ctx.Done():
		return
	}
	delay := retryDelay
	for {
		wait := r.HeartbeatInterval
		if err := renew(); err != nil {
			if ctx.Err() != nil {
				return
			}
			r.Log.Debug("cannot renew the node's lease; trying again", "error", err)
			wait, delay = delay, min(2*delay, maxRetryDelay)
		} else {
			delay = retryDelay
			if wait == 0 {
				return
			}
		}
		t := r.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C():
		}
	}
}
