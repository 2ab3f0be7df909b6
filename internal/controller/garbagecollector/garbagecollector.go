package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/controller"
)

// Resource is one whose objects are watched: every one that can be deleted, but for events.
type Resource struct {
	GVR      schema.GroupVersionResource
	Kind     string
	Informer cache.SharedIndexInformer
}

// unseenPause is how long a dependent waits for another look when one of its owners cannot be judged yet: its kind is not known (its definition may
// come), or it is there but no watch has told of it, so that none might tell of its end either.
const unseenPause = 30 * time.Second

// errNever says that an owner reference cannot hold and that no other look will change that: a namespaced owner of an object that is in no namespace.
var errNever = errors.New("an object in no namespace cannot have an owner in one")

// Config is what a Controller needs.
type Config struct {
	Metadata  metadata.Interface
	Resources []Resource
	// Resolve finds the resource of an owner reference, and whether it is namespaced.
	Resolve func(schema.GroupVersionKind) (gvr schema.GroupVersionResource, namespaced, ok bool)
	// Recorder is told of owner references that cannot hold.
	Recorder record.EventRecorder
	Log      *slog.Logger
	Metrics  *controller.Metrics
}

// Controller collects garbage. Its keys are uids.
type Controller struct {
	metadata metadata.Interface
	recorder record.EventRecorder
	graph    *graph
	remove   *controller.Loop
	orphan   *controller.Loop
	pause    time.Duration // unseenPause
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	c := &Controller{metadata: cfg.Metadata, recorder: cfg.Recorder, pause: unseenPause, graph: &graph{nodes: map[types.UID]*node{}, resolve: cfg.Resolve}}
	var synced []cache.InformerSynced
	for _, r := range cfg.Resources {
		synced = append(synced, r.Informer.HasSynced)
	}
	c.remove = controller.NewLoop("garbage-collector", c.Reconcile, controller.Options{Workers: 8, Synced: synced, Log: cfg.Log, Metrics: cfg.Metrics})
	c.orphan = controller.NewLoop("garbage-collector-orphan", c.reconcileOrphan, controller.Options{Workers: 4, Synced: synced, Log: cfg.Log, Metrics: cfg.Metrics})
	for _, r := range cfg.Resources {
		if err := controller.Watch(r.Informer, controller.Handlers[metav1.Object]{
			Changed: func(obj metav1.Object) { c.queue(c.graph.upsert(r.GVR, r.GVR.GroupVersion().WithKind(r.Kind), obj)) },
			Delete:  func(obj metav1.Object) { c.queue(c.graph.delete(obj.GetUID())) },
		}); err != nil {
			return nil, fmt.Errorf("garbagecollector: %s: %w", r.GVR.Resource, err)
		}
	}
	return c, nil
}

// Run collects until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	errs := make([]error, 2)
	loops.Go(func() { errs[0] = c.remove.Run(ctx) })
	loops.Go(func() { errs[1] = c.orphan.Run(ctx) })
	loops.Wait()
	return errors.Join(errs...)
}

// Changed tells of an object that no informer of Config watches: of a custom resource, say.
func (c *Controller) Changed(gvr schema.GroupVersionResource, obj metav1.Object) {
	var kind schema.GroupVersionKind
	if o, ok := obj.(runtime.Object); ok {
		kind = o.GetObjectKind().GroupVersionKind()
	}
	c.queue(c.graph.upsert(gvr, kind, obj))
}

// Deleted tells that such an object is gone.
func (c *Controller) Deleted(obj metav1.Object) { c.queue(c.graph.delete(obj.GetUID())) }

func (c *Controller) queue(w work) {
	for _, uid := range w.remove {
		c.remove.Add(string(uid))
	}
	for _, uid := range w.orphan {
		c.orphan.Add(string(uid))
	}
	for _, i := range w.invalid {
		d := i.dependent
		c.recorder.Eventf(&corev1.ObjectReference{APIVersion: i.kind.GroupVersion().String(), Kind: i.kind.Kind, Namespace: d.namespace, Name: d.name, UID: d.uid},
			corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
			i.ref.APIVersion, i.ref.Kind, d.namespace, i.ref.Name, i.ref.UID, d.namespace)
	}
}

func (c *Controller) client(id identity) metadata.ResourceInterface {
	if id.namespace != "" {
		return c.metadata.Resource(id.gvr).Namespace(id.namespace)
	}
	return c.metadata.Resource(id.gvr)
}

// live asks the server for an object; nil when it is not there (or a namesake is).
func (c *Controller) live(ctx context.Context, id identity) (*metav1.PartialObjectMetadata, error) {
	obj, err := c.client(id).Get(ctx, id.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && obj.UID != id.uid {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("get %s %s: %w", id.gvr.Resource, id.name, err)
	}
	return obj, nil
}

// Reconcile looks whether one object should go.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	v, known := c.graph.view(types.UID(key))
	if !known {
		return nil
	}
	if v.virtual {
		return nil // its dependents look for it, each where its own reference says
	}
	obj, err := c.live(ctx, v.identity)
	if err != nil || obj == nil {
		return err // that it is gone an informer will say
	}
	if v.foreground {
		return c.foreground(ctx, v, obj)
	}
	if len(obj.OwnerReferences) == 0 || obj.DeletionTimestamp != nil {
		return nil
	}
	owners, err := c.classify(ctx, obj)
	if errors.Is(err, errNever) {
		return nil
	} else if err != nil {
		return err
	}
	if owners.unsure {
		c.remove.AddAfter(key, c.pause)
	}
	switch {
	case owners.unknown:
		return nil // nothing is deleted, or forgotten, on a guess
	case len(owners.solid) > 0:
		// Somebody still wants it: forget those that are gone or going.
		if len(owners.dangling)+len(owners.waiting) == 0 {
			return nil
		}
		return c.dropOwners(ctx, v.identity, obj, append(owners.dangling, owners.waiting...))
	case len(owners.waiting) > 0 && len(v.dependents) > 0:
		// The owner waits for its dependents, and this one has some of its own: they go first. A cycle would wait for ever, so a
		// dependent that is itself an owner in the foreground makes this one not block.
		for _, d := range v.dependents {
			if dv, ok := c.graph.view(d.uid); ok && dv.foreground {
				if err := c.unblock(ctx, v.identity, obj); err != nil {
					return err
				}
				break
			}
		}
		return c.delete(ctx, v.identity, obj, metav1.DeletePropagationForeground)
	default:
		return c.delete(ctx, v.identity, obj, policyOf(obj))
	}
}

// policyOf is how the object's own dependents fare: as its finalizers say, or in the background.
func policyOf(obj metav1.Object) metav1.DeletionPropagation {
	switch {
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// classes are an object's owners by how they fare.
type classes struct {
	solid    []types.UID
	dangling []types.UID // do not exist
	waiting  []types.UID // are being deleted and wait for their dependents
	unknown  bool        // one is of a kind that is not known
	unsure   bool        // one is to be looked for again
}

func (c *Controller) classify(ctx context.Context, obj *metav1.PartialObjectMetadata) (classes, error) {
	var out classes
	for _, ref := range obj.OwnerReferences {
		if c.graph.absent.has(ref, obj.Namespace) {
			out.dangling = append(out.dangling, ref.UID)
			continue
		}
		gvr, namespaced, ok := c.graph.resolve(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
		switch {
		case !ok:
			out.unknown, out.unsure = true, true
			continue
		case namespaced && obj.Namespace == "":
			return classes{}, errNever
		}
		id := identity{gvr: gvr, name: ref.Name, uid: ref.UID}
		if namespaced {
			id.namespace = obj.Namespace
		}
		owner, err := c.live(ctx, id)
		switch {
		case err != nil:
			return classes{}, err
		case owner == nil:
			c.graph.absent.add(coordinatesOf(ref, id.namespace))
			out.dangling = append(out.dangling, ref.UID)
		case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
			out.waiting = append(out.waiting, ref.UID)
		default:
			out.solid = append(out.solid, ref.UID)
			if o, known := c.graph.view(ref.UID); known && o.virtual {
				out.unsure = true
			}
		}
	}
	return out, nil
}

// foreground takes one step of a foreground deletion: when no dependent blocks any more, the finalizer goes and the object with it.
func (c *Controller) foreground(ctx context.Context, v view, obj *metav1.PartialObjectMetadata) error {
	blocked := false
	for _, d := range v.dependents {
		if d.blocking {
			blocked = true
		}
		if !d.deleting {
			c.remove.Add(string(d.uid))
		}
	}
	if blocked {
		return nil
	}
	return c.removeFinalizer(ctx, v.identity, obj, metav1.FinalizerDeleteDependents)
}

// reconcileOrphan cuts an object's dependents loose and then lets it go.
func (c *Controller) reconcileOrphan(ctx context.Context, key string) error {
	v, known := c.graph.view(types.UID(key))
	if !known {
		return nil
	}
	obj, err := c.live(ctx, v.identity)
	if err != nil || obj == nil {
		return err
	}
	if !slices.Contains(obj.Finalizers, metav1.FinalizerOrphanDependents) {
		return nil
	}
	var errs []error
	for _, d := range v.dependents {
		child, err := c.live(ctx, d.identity)
		if err != nil {
			errs = append(errs, err)
		} else if child != nil {
			errs = append(errs, c.dropOwners(ctx, d.identity, child, []types.UID{v.uid}))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.removeFinalizer(ctx, v.identity, obj, metav1.FinalizerOrphanDependents)
}

// delete deletes an object whose owners are still those that obj has: somebody may have given it another one, or cut it loose, since they were judged.
func (c *Controller) delete(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	del := func(p *metav1.Preconditions) error {
		return c.client(id).Delete(ctx, id.name, metav1.DeleteOptions{Preconditions: p, PropagationPolicy: &policy})
	}
	err := del(&metav1.Preconditions{UID: &id.uid, ResourceVersion: &obj.ResourceVersion})
	if apierrors.IsConflict(err) {
		// Changes of everything else, a busy status say, must not keep it alive.
		now, liveErr := c.live(ctx, id)
		switch {
		case liveErr != nil:
			return liveErr
		case now == nil:
			return nil
		case now.ResourceVersion != obj.ResourceVersion && slices.EqualFunc(now.OwnerReferences, obj.OwnerReferences, sameOwner):
			err = del(&metav1.Preconditions{UID: &id.uid})
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", id.gvr.Resource, id.name, err)
	}
	return nil
}

func sameOwner(a, b metav1.OwnerReference) bool { return apiequality.Semantic.DeepEqual(a, b) }

// patchMeta is a merge patch of metadata; the revision makes it fail when somebody came between.
type patchMeta struct {
	ResourceVersion string                   `json:"resourceVersion"`
	OwnerReferences *[]metav1.OwnerReference `json:"ownerReferences,omitempty"`
	Finalizers      *[]string                `json:"finalizers,omitempty"`
}

func (c *Controller) patch(ctx context.Context, id identity, meta patchMeta) error {
	data, err := json.Marshal(map[string]patchMeta{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	if _, err := c.client(id).Patch(ctx, id.name, types.MergePatchType, data, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s %s: %w", id.gvr.Resource, id.name, err)
	}
	return nil
}

func (c *Controller) dropOwners(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, uids []types.UID) error {
	kept := []metav1.OwnerReference{}
	for _, ref := range obj.OwnerReferences {
		if !slices.Contains(uids, ref.UID) {
			kept = append(kept, ref)
		}
	}
	if len(kept) == len(obj.OwnerReferences) {
		return nil
	}
	return c.patch(ctx, id, patchMeta{ResourceVersion: obj.ResourceVersion, OwnerReferences: &kept})
}

func (c *Controller) unblock(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata) error {
	refs := slices.Clone(obj.OwnerReferences)
	no := false
	for i := range refs {
		refs[i].BlockOwnerDeletion = &no
	}
	return c.patch(ctx, id, patchMeta{ResourceVersion: obj.ResourceVersion, OwnerReferences: &refs})
}

func (c *Controller) removeFinalizer(ctx context.Context, id identity, obj *metav1.PartialObjectMetadata, finalizer string) error {
	kept := []string{}
	for _, f := range obj.Finalizers {
		if f != finalizer {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(obj.Finalizers) {
		return nil
	}
	return c.patch(ctx, id, patchMeta{ResourceVersion: obj.ResourceVersion, Finalizers: &kept})
}
