package attachdetach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Indices of the informers.
const (
	podsByNode         = "attachdetach.node"   // pods with claims, by node
	podsByClaim        = "attachdetach.claim"  // pods by the keys of their claims
	attachmentsByNode  = "attachdetach.node"   // attachments, by node
	attachmentsByClaim = "attachdetach.volume" // attachments, by volume
)

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	Log       *slog.Logger
	Metrics   *controller.Metrics
	// Registry gets the counter of forced detachments; nil counts nothing.
	Registry prometheus.Registerer
}

// Controller reconciles nodes; its keys are their names.
type Controller struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	drivers  storagelisters.CSIDriverLister
	recorder record.EventRecorder
	clock    clock.PassiveClock
	forced   *prometheus.CounterVec
	took     *prometheus.HistogramVec
	loop     *controller.Loop

	pods, attachments cache.Indexer

	mu sync.Mutex // guards all below
	// creating are attachments that were asked for and that no informer has shown yet.
	creating map[string]*storagev1.VolumeAttachment
	since    map[string]time.Time // since when an attachment should go
	blocked  map[types.UID]string // what was last told to a pod about another node having its volume
	// left is what nodes that are gone had mounted when they were last heard of.
	left map[string][]corev1.UniqueVolumeName
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	f := cfg.Informers
	nodes, pods, claims, volumes := f.Core().V1().Nodes(), f.Core().V1().Pods(), f.Core().V1().PersistentVolumeClaims(), f.Core().V1().PersistentVolumes()
	attachments, drivers := f.Storage().V1().VolumeAttachments(), f.Storage().V1().CSIDrivers()
	c := &Controller{
		client: cfg.Client, nodes: nodes.Lister(), claims: claims.Lister(), volumes: volumes.Lister(), drivers: drivers.Lister(), recorder: cfg.Recorder, clock: cfg.Clock,
		forced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attach_detach_controller_attachdetach_controller_forced_detaches", Help: "Number of times the A/D Controller performed a forced detach",
		}, []string{"reason"}),
		took: newOperations(),
		pods: pods.Informer().GetIndexer(), attachments: attachments.Informer().GetIndexer(),
		creating: map[string]*storagev1.VolumeAttachment{}, since: map[string]time.Time{}, blocked: map[types.UID]string{},
		left: map[string][]corev1.UniqueVolumeName{},
	}
	if cfg.Registry != nil {
		if err := errors.Join(cfg.Registry.Register(c.forced), cfg.Registry.Register(c.took), cfg.Registry.Register(volumeCounts{c})); err != nil {
			return nil, fmt.Errorf("attachdetach: %w", err)
		}
	}
	var synced []cache.InformerSynced
	for _, i := range []cache.SharedIndexInformer{nodes.Informer(), pods.Informer(), claims.Informer(), volumes.Informer(), attachments.Informer(), drivers.Informer()} {
		synced = append(synced, i.HasSynced)
	}
	// One worker: whether a volume may be attached to a node depends on what was done about other nodes.
	c.loop = controller.NewLoop("attachdetach", c.Reconcile, controller.Options{Workers: 1, Synced: synced, Log: cfg.Log, Metrics: cfg.Metrics})
	claim := func(p *corev1.PersistentVolumeClaim) { c.queueUsers(p.Namespace + "/" + p.Name) }
	err := errors.Join(
		pods.Informer().AddIndexers(cache.Indexers{podsByNode: nodeOfPod, podsByClaim: claimsOfPod}),
		attachments.Informer().AddIndexers(cache.Indexers{attachmentsByNode: nodeOfAttachment, attachmentsByClaim: volumeOfAttachment}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: c.podChanged, Delete: c.podGone}),
		controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{Update: func(old, p *corev1.PersistentVolumeClaim) {
			if old.Status.Phase != p.Status.Phase || old.Spec.VolumeName != p.Spec.VolumeName {
				claim(p)
			}
		}, Add: claim}),
		controller.Watch(volumes.Informer(), controller.Handlers[*corev1.PersistentVolume]{Add: func(v *corev1.PersistentVolume) {
			if r := v.Spec.ClaimRef; r != nil && v.Spec.CSI != nil {
				c.queueUsers(r.Namespace + "/" + r.Name)
			}
			for _, a := range c.attachmentsOf(v.Name) {
				c.loop.Add(a.Spec.NodeName)
			}
		}}),
		controller.Watch(attachments.Informer(), controller.Handlers[*storagev1.VolumeAttachment]{
			Add: c.attachmentChanged, Update: c.attachmentUpdated, Delete: c.attachmentGone,
		}),
		controller.Watch(drivers.Informer(), controller.Handlers[*storagev1.CSIDriver]{
			Changed: func(*storagev1.CSIDriver) { c.queueAll() }, Delete: func(*storagev1.CSIDriver) { c.queueAll() },
		}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{Changed: c.nodeChanged, Delete: c.nodeGone}),
	)
	if err != nil {
		return nil, fmt.Errorf("attachdetach: %w", err)
	}
	return c, nil
}

// Run attaches and detaches until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func nodeOfPod(obj any) ([]string, error) {
	if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" && len(claims(p)) > 0 {
		return []string{p.Spec.NodeName}, nil
	}
	return nil, nil
}

func claimsOfPod(obj any) ([]string, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	var keys []string
	for name := range claims(p) {
		keys = append(keys, p.Namespace+"/"+name)
	}
	return keys, nil
}

// claims are the names of a pod's claims, and whether the pod owns them.
func claims(p *corev1.Pod) map[string]bool {
	var out map[string]bool
	for i := range p.Spec.Volumes {
		name, owned := "", false
		switch v := &p.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name, owned = ephemeral.VolumeClaimName(p, v), true
		default:
			continue
		}
		if out == nil {
			out = map[string]bool{}
		}
		out[name] = owned
	}
	return out
}

func nodeOfAttachment(obj any) ([]string, error) {
	if a, ok := obj.(*storagev1.VolumeAttachment); ok {
		return []string{a.Spec.NodeName}, nil
	}
	return nil, nil
}

func volumeOfAttachment(obj any) ([]string, error) {
	if a, ok := obj.(*storagev1.VolumeAttachment); ok && a.Spec.Source.PersistentVolumeName != nil {
		return []string{*a.Spec.Source.PersistentVolumeName}, nil
	}
	return nil, nil
}

func (c *Controller) podChanged(p *corev1.Pod) {
	if p.Spec.NodeName != "" && len(claims(p)) > 0 {
		c.loop.Add(p.Spec.NodeName)
	}
}

func (c *Controller) podGone(p *corev1.Pod) {
	c.mu.Lock()
	delete(c.blocked, p.UID)
	c.mu.Unlock()
	c.podChanged(p)
}

// nodeChanged has a node looked at that has attachments, or says that it has.
func (c *Controller) nodeChanged(n *corev1.Node) {
	on, _ := c.attachments.IndexKeys(attachmentsByNode, n.Name) // the index is there
	pods, _ := c.pods.IndexKeys(podsByNode, n.Name)
	if len(on)+len(pods)+len(n.Status.VolumesAttached) > 0 {
		c.loop.Add(n.Name)
	}
}

// nodeGone remembers what a node had mounted: that its object is gone does not say that it does not run.
func (c *Controller) nodeGone(n *corev1.Node) {
	c.mu.Lock()
	c.left[n.Name] = n.Status.VolumesInUse
	c.mu.Unlock()
	c.loop.Add(n.Name)
}

// used says which volumes a node may have mounted; nothing is known of one that was gone already when this process began.
func (c *Controller) used(name string, n *corev1.Node) func(corev1.UniqueVolumeName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	mounted, known := c.left[name]
	if n != nil {
		delete(c.left, name)
		mounted, known = n.Status.VolumesInUse, true
	}
	return func(v corev1.UniqueVolumeName) bool { return !known || slices.Contains(mounted, v) }
}

// queueUsers has the nodes looked at that have pods with the claim.
func (c *Controller) queueUsers(claim string) {
	for _, p := range c.podsWith(claim) {
		if p.Spec.NodeName != "" {
			c.loop.Add(p.Spec.NodeName)
		}
	}
}

func (c *Controller) queueAll() {
	for _, name := range c.pods.ListIndexFuncValues(podsByNode) {
		c.loop.Add(name)
	}
}

func (c *Controller) podsWith(claim string) []*corev1.Pod {
	found, _ := c.pods.ByIndex(podsByClaim, claim) // the index is there
	return typed[*corev1.Pod](found)
}

func typed[T any](objects []any) []T {
	out := make([]T, 0, len(objects))
	for _, obj := range objects {
		if t, ok := obj.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

func (c *Controller) attachmentChanged(a *storagev1.VolumeAttachment) {
	c.mu.Lock()
	delete(c.creating, a.Name)
	c.mu.Unlock()
	c.loop.Add(a.Spec.NodeName)
}

// attachmentUpdated tells the pods that wait for a volume how it goes.
func (c *Controller) attachmentUpdated(old, a *storagev1.VolumeAttachment) {
	c.attachmentChanged(a)
	volume := ptr.Deref(a.Spec.Source.PersistentVolumeName, "")
	kind, reason, text := "", "", ""
	switch {
	case a.Status.Attached && !old.Status.Attached:
		kind, reason, text = corev1.EventTypeNormal, "SuccessfulAttachVolume", fmt.Sprintf("AttachVolume.Attach succeeded for volume %q ", volume)
	case a.Status.AttachError != nil && (old.Status.AttachError == nil || old.Status.AttachError.Message != a.Status.AttachError.Message):
		kind, reason, text = corev1.EventTypeWarning, "FailedAttachVolume", fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", volume, a.Status.AttachError.Message)
	default:
		return
	}
	c.attached(a)
	v, err := c.volumes.Get(volume)
	if err != nil || v.Spec.ClaimRef == nil {
		return
	}
	for _, p := range c.podsWith(v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name) {
		if p.Spec.NodeName == a.Spec.NodeName {
			c.recorder.Event(p, kind, reason, text)
		}
	}
}

// attachmentGone has also those nodes looked at that wait for the volume to be free.
func (c *Controller) attachmentGone(a *storagev1.VolumeAttachment) {
	c.mu.Lock()
	delete(c.since, a.Name)
	c.mu.Unlock()
	c.detached(a)
	c.attachmentChanged(a)
	if v, err := c.volumes.Get(ptr.Deref(a.Spec.Source.PersistentVolumeName, "")); err == nil && v.Spec.ClaimRef != nil {
		c.queueUsers(v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name)
	}
}

// attachmentsOf are all attachments of a volume, also those on their way.
func (c *Controller) attachmentsOf(volume string) []*storagev1.VolumeAttachment {
	found, _ := c.attachments.ByIndex(attachmentsByClaim, volume) // the index is there
	out := typed[*storagev1.VolumeAttachment](found)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.creating {
		if *a.Spec.Source.PersistentVolumeName == volume {
			out = append(out, a)
		}
	}
	return out
}

// terminated says that a pod needs its volumes no more.
func terminated(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	if p.DeletionTimestamp == nil {
		return false
	}
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i].State; s.Terminated == nil && s.Waiting == nil {
			return false
		}
	}
	return true
}

// attachable is the volume behind a pod's claim, if it is bound and has to be attached.
func (c *Controller) attachable(p *corev1.Pod, name string, owned bool) *corev1.PersistentVolume {
	claim, err := c.claims.PersistentVolumeClaims(p.Namespace).Get(name)
	if err != nil || claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound || owned && !metav1.IsControlledBy(claim, p) {
		return nil
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil || v.Spec.CSI == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID {
		return nil
	}
	// A driver that does not say, needs it.
	if d, err := c.drivers.Get(v.Spec.CSI.Driver); err == nil && !ptr.Deref(d.Spec.AttachRequired, true) {
		return nil
	}
	return v
}

func (c *Controller) stateOf(name string) (state, error) {
	s := state{name: name, now: c.clock.Now()}
	var err error
	if s.node, err = c.nodes.Get(name); apierrors.IsNotFound(err) {
		s.node = nil
	} else if err != nil {
		return s, fmt.Errorf("get node: %w", err)
	}
	pods, err := c.pods.ByIndex(podsByNode, name)
	if err != nil {
		return s, fmt.Errorf("pods of node %s: %w", name, err)
	}
	for _, p := range typed[*corev1.Pod](pods) {
		if terminated(p) {
			continue
		}
		for claim, owned := range claims(p) {
			if v := c.attachable(p, claim, owned); v != nil {
				s.needs = append(s.needs, need{v, p})
			}
		}
	}
	s.used = c.used(name, s.node)
	found, err := c.attachments.ByIndex(attachmentsByNode, name)
	if err != nil {
		return s, fmt.Errorf("attachments of node %s: %w", name, err)
	}
	all := typed[*storagev1.VolumeAttachment](found)
	c.mu.Lock()
	for _, a := range c.creating {
		if a.Spec.NodeName == name {
			all = append(all, a)
		}
	}
	c.mu.Unlock()
	for _, a := range all {
		v, err := c.volumes.Get(ptr.Deref(a.Spec.Source.PersistentVolumeName, ""))
		if err != nil || v.Spec.CSI == nil || a.Name != attachmentName(v, name) {
			continue // somebody else's
		}
		s.attachments = append(s.attachments, attachment{a, v})
	}
	s.elsewhere = func(volume string) []*storagev1.VolumeAttachment {
		var out []*storagev1.VolumeAttachment
		for _, a := range c.attachmentsOf(volume) {
			if a.Spec.NodeName != name {
				out = append(out, a)
			}
		}
		return out
	}
	s.since = func(attachment string) time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.since[attachment]
	}
	return s, nil
}

// Reconcile does what is to be done about one node.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	s, err := c.stateOf(name)
	if err != nil {
		return err
	}
	p := decide(s)
	c.note(s, p)
	var errs []error
	for _, a := range p.create {
		errs = append(errs, c.create(ctx, a))
	}
	if p.changed {
		// A node must not mount what is about to go, so it is told first.
		if err := c.report(ctx, name, p.report); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	for _, d := range p.detach {
		err := c.client.StorageV1().VolumeAttachments().Delete(ctx, d.name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(d.uid)})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete attachment %s: %w", d.name, err))
			continue
		}
		if d.forced != "" {
			c.forced.WithLabelValues(d.forced).Inc()
		}
	}
	if p.again > 0 {
		c.loop.AddAfter(name, p.again)
	}
	return errors.Join(errs...)
}

// note remembers since when attachments wait to go, and tells pods, once, that another node has their volume.
func (c *Controller) note(s state, p plan) {
	waiting := map[string]bool{}
	for _, name := range p.waiting {
		waiting[name] = true
	}
	c.mu.Lock()
	if len(s.attachments) == 0 {
		delete(c.left, s.name)
	}
	for _, a := range s.attachments {
		if !waiting[a.Name] {
			delete(c.since, a.Name)
		} else if c.since[a.Name].IsZero() {
			c.since[a.Name] = s.now
		}
	}
	c.mu.Unlock()
	for _, n := range p.blocked {
		var users []*corev1.Pod
		if r := n.volume.Spec.ClaimRef; r != nil {
			for _, u := range c.podsWith(r.Namespace + "/" + r.Name) {
				if u.Spec.NodeName != "" && u.Spec.NodeName != s.name && !terminated(u) {
					users = append(users, u)
				}
			}
		}
		text := blockedText(n, users)
		c.mu.Lock()
		news := c.blocked[n.pod.UID] != text
		c.blocked[n.pod.UID] = text
		c.mu.Unlock()
		if news {
			c.recorder.Event(n.pod, corev1.EventTypeWarning, "FailedAttachVolume", text)
		}
	}
}

func (c *Controller) create(ctx context.Context, a *storagev1.VolumeAttachment) error {
	c.mu.Lock()
	c.creating[a.Name] = a // before it can be seen
	c.mu.Unlock()
	_, err := c.client.StorageV1().VolumeAttachments().Create(ctx, a, metav1.CreateOptions{})
	if err == nil {
		return nil
	}
	c.mu.Lock()
	delete(c.creating, a.Name)
	c.mu.Unlock()
	if apierrors.IsAlreadyExists(err) {
		return nil // its event comes
	}
	return fmt.Errorf("create attachment %s: %w", a.Name, err)
}

func (c *Controller) report(ctx context.Context, node string, attached []corev1.AttachedVolume) error {
	if attached == nil {
		attached = []corev1.AttachedVolume{}
	}
	data, err := json.Marshal(map[string]any{"status": map[string]any{"volumesAttached": attached}})
	if err != nil {
		return fmt.Errorf("encode status of node %s: %w", node, err)
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch status of node %s: %w", node, err)
	}
	return nil
}
