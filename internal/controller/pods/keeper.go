package pods

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/owner"
)

const (
	// firstBatch is how many creations are tried at first; each success doubles the batch. A quota that refuses one refuses all: it is asked once, and
	// told in one event.
	firstBatch = 1
	// deleters is how many deletions are under way at the same time.
	deleters = 16
	// byController indexes pods by the uid of their controller; pods without one are found under their namespace and orphans.
	byController = "celox.controller"
	orphans      = "-"
)

// Owner is an object that controls pods.
type Owner interface {
	metav1.Object
	runtime.Object
}

// Config is what a Keeper needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	// Kind of the owners; their keys are queued through Queue when one of their pods changes.
	Kind  schema.GroupVersionKind
	Queue func(key string)
	// Matching returns the owners whose selector matches an orphan; nil if orphans are never adopted.
	Matching func(*corev1.Pod) []metav1.Object
	// Fresh asks the server for an owner.
	Fresh func(ctx context.Context, namespace, name string) (metav1.Object, error)
	// Finalizer, if set, is what every pod of the owner carries; an adopted one gets it.
	Finalizer string
	// Say, if set, words the events about what was done ("create" or "delete") to a pod, err nil if it was; "" is no event.
	Say func(o Owner, verb, pod string, err error) string
	// Seen, if set, is told of every change of a pod that has an owner of the kind.
	Seen func(old, pod *corev1.Pod)
}

// Keeper keeps the pods of all owners of one kind. Its methods may be called from many goroutines.
type Keeper struct {
	Config
	index   cache.Indexer
	synced  cache.InformerSynced
	pending *controller.Pending
}

// New registers a keeper with the pod informer, which the caller starts.
func New(c Config) (*Keeper, error) {
	informer := c.Informers.Core().V1().Pods().Informer()
	k := &Keeper{Config: c, index: informer.GetIndexer(), synced: informer.HasSynced, pending: controller.NewPending(c.Clock)}
	// Controllers of pods share one index.
	if _, there := k.index.GetIndexers()[byController]; !there {
		if err := informer.AddIndexers(cache.Indexers{byController: controllerUID}); err != nil {
			return nil, fmt.Errorf("index pods: %w", err)
		}
	}
	return k, controller.Watch(informer, controller.Handlers[*corev1.Pod]{
		Add:    func(pod *corev1.Pod) { k.seen(nil, pod) },
		Update: k.seen,
		Delete: func(pod *corev1.Pod) {
			k.pending.ObserveDeleted(pod.UID)
			k.queueOwner(pod)
		},
	})
}

// HasSynced says that the first list of pods has been delivered.
func (k *Keeper) HasSynced() bool { return k.synced() }

func controllerUID(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOf(pod); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{pod.Namespace + "/" + orphans}, nil
}

func (k *Keeper) seen(old, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		k.pending.ObserveDeleted(pod.UID)
	} else {
		k.pending.ObserveCreated(pod.UID)
	}
	if old != nil {
		was, is := metav1.GetControllerOf(old), metav1.GetControllerOf(pod)
		if was != nil && (is == nil || is.UID != was.UID) {
			k.queueOwner(old)
		}
	}
	if metav1.GetControllerOf(pod) != nil {
		if k.queueOwner(pod) && k.Seen != nil {
			k.Seen(old, pod)
		}
		return
	}
	// An orphan with labels may fit a selector: whoever matches should have a look. An update matters only if labels or owners changed.
	if k.Matching == nil || len(pod.Labels) == 0 || old != nil && maps.Equal(old.Labels, pod.Labels) && metav1.GetControllerOf(old) == nil {
		return
	}
	for _, o := range k.Matching(pod) {
		k.Queue(cache.MetaObjectToName(o).String())
	}
}

func (k *Keeper) queueOwner(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.Kind != k.Kind.Kind || ref.APIVersion != k.Kind.GroupVersion().String() {
		return false
	}
	k.Queue(pod.Namespace + "/" + ref.Name)
	return true
}

// Matching returns those of all owners whose selector matches a pod without an owner. An empty selector matches nothing.
func Matching[T metav1.Object](pod *corev1.Pod, all []T, err error, selector func(T) *metav1.LabelSelector) []metav1.Object {
	if err != nil || len(pod.Labels) == 0 {
		return nil // a cache does not fail
	}
	var found []metav1.Object
	for _, o := range all {
		s, err := metav1.LabelSelectorAsSelector(selector(o))
		if err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			found = append(found, o)
		}
	}
	return found
}

// Settled says that everything that was created and deleted for key has been seen by the informer, or was given up: only then may pods be counted.
func (k *Keeper) Settled(key string) bool { return k.pending.Settled(key) }

// Forget drops what is remembered for key, when its owner is gone.
func (k *Keeper) Forget(key string) { k.pending.Forget(key) }

// Owned returns the cached pods that uid controls and that are as asked; they are read-only.
func (k *Keeper) Owned(uid types.UID, is func(*corev1.Pod) bool) []*corev1.Pod {
	return k.find(string(uid), is)
}

func (k *Keeper) find(value string, is func(*corev1.Pod) bool) []*corev1.Pod {
	found, err := k.index.ByIndex(byController, value)
	if err != nil {
		return nil // cannot be: New registered the index
	}
	var pods []*corev1.Pod
	for _, obj := range found {
		if p := obj.(*corev1.Pod); is(p) {
			pods = append(pods, p)
		}
	}
	return pods
}

// All is every pod.
func All(*corev1.Pod) bool { return true }

// Claim returns the pods of o that match the selector and are as asked, after adopting orphans that match and releasing pods that no longer do.
func (k *Keeper) Claim(ctx context.Context, o Owner, selector labels.Selector, is func(*corev1.Pod) bool) ([]*corev1.Pod, error) {
	claim := owner.Decide(o, selector, append(k.Owned(o.GetUID(), is), k.find(o.GetNamespace()+"/"+orphans, is)...))
	pods := claim.Owned
	if len(claim.Adopt) > 0 {
		// The cached owner may be gone or replaced; adopting for it would leak. Ask the server once.
		fresh, err := k.Fresh(ctx, o.GetNamespace(), o.GetName())
		if err != nil {
			return nil, fmt.Errorf("confirm %s before adopting: %w", k.Kind.Kind, err)
		}
		if fresh.GetUID() != o.GetUID() || fresh.GetDeletionTimestamp() != nil {
			return nil, fmt.Errorf("%s %s/%s was replaced or is being deleted: not adopting", k.Kind.Kind, o.GetNamespace(), o.GetName())
		}
	}
	for _, p := range claim.Adopt {
		patch, err := owner.AdoptPatch(p, *metav1.NewControllerRef(o, k.Kind), k.Finalizer)
		if err != nil {
			return nil, err
		}
		adopted, err := k.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("adopt pod %s: %w", p.Name, err)
		}
		pods = append(pods, adopted)
	}
	for _, p := range claim.Release {
		patch, err := owner.ReleasePatch(p, o.GetUID())
		if err != nil {
			return nil, err
		}
		_, err = k.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		// Gone, or replaced by a namesake: nothing is left to release.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release pod %s: %w", p.Name, err)
		}
	}
	return pods, nil
}

// FromTemplate makes the pod that a template describes, with a name that the server completes.
func (k *Keeper) FromTemplate(o Owner, t *corev1.PodTemplateSpec) *corev1.Pod {
	t = t.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    o.GetName() + "-",
			Namespace:       o.GetNamespace(),
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o, k.Kind)},
		},
		Spec: t.Spec,
	}
}

// CreateAll creates pods in growing batches and stops at the first batch with an error. It returns how many were created.
func (k *Keeper) CreateAll(ctx context.Context, key string, o Owner, pods []*corev1.Pod) (int, error) {
	created := 0
	for batch := firstBatch; len(pods) > 0; batch *= 2 {
		batch = min(batch, len(pods))
		errs := make([]error, batch)
		var calls sync.WaitGroup
		for i := range batch {
			calls.Go(func() { _, errs[i] = k.Create(ctx, key, o, pods[i]) })
		}
		calls.Wait()
		for _, err := range errs {
			if err == nil {
				created++
			}
		}
		if err := errors.Join(errs...); err != nil {
			return created, err
		}
		pods = pods[batch:]
	}
	return created, nil
}

// Create creates a pod and says so in an event. In a namespace that is being deleted it does nothing and returns no error: the owner goes as well.
func (k *Keeper) Create(ctx context.Context, key string, o Owner, pod *corev1.Pod) (*corev1.Pod, error) {
	var created *corev1.Pod
	err := k.pending.Create(key, func() (types.UID, error) {
		var err error
		created, err = k.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return created.UID, nil
	})
	if err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil, nil
		}
		k.tell(o, "create", pod.Name, err)
		return nil, fmt.Errorf("create pod: %w", err)
	}
	k.tell(o, "create", created.Name, nil)
	return created, nil
}

// tell writes an event about what was done to a pod.
func (k *Keeper) tell(o Owner, verb, pod string, err error) {
	kind, reason := corev1.EventTypeNormal, "Successful"
	if err != nil {
		kind, reason = corev1.EventTypeWarning, "Failed"
	}
	say := k.Say
	if say == nil {
		say = plainly
	}
	if text := say(o, verb, pod, err); text != "" {
		k.Recorder.Event(o, kind, reason+strings.ToUpper(verb[:1])+verb[1:], text)
	}
}

// plainly are the words of most controllers.
func plainly(_ Owner, verb, pod string, err error) string {
	switch {
	case verb == "create" && err == nil:
		return "Created pod: " + pod
	case verb == "create":
		return "Error creating: " + err.Error()
	case err == nil:
		return "Deleted pod: " + pod
	}
	return "Error deleting: " + err.Error()
}

// Cause is what the server said, without what was added on the way; of several errors it is the first's. Conditions show it.
func Cause(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}

// DeleteAll deletes pods, several at the same time.
func (k *Keeper) DeleteAll(ctx context.Context, key string, o Owner, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var calls sync.WaitGroup
	limit := make(chan struct{}, deleters)
	for i, p := range pods {
		limit <- struct{}{}
		calls.Go(func() {
			defer func() { <-limit }()
			errs[i] = k.Delete(ctx, key, o, p)
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// Delete deletes a pod and says so in an event. One that is gone already is no error. A conflict is one: a namesake may be in its place, of which
// the next look knows, but the server may also have meant that it should be tried again, and nothing else would bring the next look about.
func (k *Keeper) Delete(ctx context.Context, key string, o Owner, p *corev1.Pod) error {
	err := k.pending.Delete(key, p.UID, func() error {
		return k.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	})
	switch {
	case err == nil:
		k.tell(o, "delete", p.Name, nil)
	case apierrors.IsNotFound(err):
	case apierrors.IsConflict(err):
		return fmt.Errorf("delete pod %s: %w", p.Name, err)
	default:
		k.tell(o, "delete", p.Name, err)
		return fmt.Errorf("delete pod %s: %w", p.Name, err)
	}
	return nil
}
