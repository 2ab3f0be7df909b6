package objects

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// Kind is what an object is.
type Kind int8

// The kinds that pods name in their own namespace.
const (
	ConfigMap Kind = iota
	Secret
)

func (k Kind) resource() schema.GroupResource {
	if k == Secret {
		return schema.GroupResource{Resource: "secrets"}
	}
	return schema.GroupResource{Resource: "configmaps"}
}

// Ref names an object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// Store watches objects for pods. Its methods are safe for concurrent use. Objects that it returns are read-only.
type Store struct {
	client kubernetes.Interface
	clock  clock.Clock
	wake   func(types.UID)

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	entries map[Ref]*entry
	pods    map[types.UID]map[Ref]bool
}

type entry struct {
	users  map[types.UID]bool
	cancel context.CancelFunc
	synced chan struct{} // closed when object or absence is known
	once   sync.Once

	mu     sync.Mutex
	object runtime.Object
	err    error
}

// New makes a Store that calls wake for each pod that uses an object which changed.
func New(client kubernetes.Interface, c clock.Clock, wake func(types.UID)) *Store {
	ctx, stop := context.WithCancel(context.Background())
	return &Store{
		client: client, clock: c, wake: wake, ctx: ctx, stop: stop,
		entries: map[Ref]*entry{}, pods: map[types.UID]map[Ref]bool{},
	}
}

// Close ends all watches and waits for them.
func (s *Store) Close() {
	s.stop()
	s.wg.Wait()
}

// Use says which objects the pod needs from now on: new ones begin to be watched, those that nobody needs end.
func (s *Store) Use(pod types.UID, refs []Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	want := make(map[Ref]bool, len(refs))
	for _, r := range refs {
		want[r] = true
		e := s.entries[r]
		if e == nil {
			ctx, cancel := context.WithCancel(s.ctx)
			e = &entry{users: map[types.UID]bool{}, cancel: cancel, synced: make(chan struct{})}
			s.entries[r] = e
			s.wg.Go(func() { s.follow(ctx, r, e) })
		}
		e.users[pod] = true
	}
	for r := range s.pods[pod] {
		if want[r] {
			continue
		}
		if e := s.entries[r]; e != nil {
			delete(e.users, pod)
			if len(e.users) == 0 {
				e.cancel()
				delete(s.entries, r)
			}
		}
	}
	if len(want) == 0 {
		delete(s.pods, pod)
	} else {
		s.pods[pod] = want
	}
}

// ConfigMap returns the object as it is now; the error is the API's, e.g. NotFound. An object that no pod uses is fetched.
func (s *Store) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := s.get(ctx, Ref{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret is as ConfigMap.
func (s *Store) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := s.get(ctx, Ref{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

func (s *Store) get(ctx context.Context, r Ref) (runtime.Object, error) {
	s.mu.Lock()
	e := s.entries[r]
	s.mu.Unlock()
	if e == nil {
		return s.fetch(ctx, r)
	}
	select {
	case <-e.synced:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.object == nil && e.err == nil {
		return nil, apierrors.NewNotFound(r.Kind.resource(), r.Name)
	}
	return e.object, e.err
}

func (s *Store) fetch(ctx context.Context, r Ref) (runtime.Object, error) {
	if r.Kind == Secret {
		return asObject(s.client.CoreV1().Secrets(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{}))
	}
	return asObject(s.client.CoreV1().ConfigMaps(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{}))
}

func asObject[T runtime.Object](obj T, err error) (runtime.Object, error) {
	if err != nil {
		return nil, err
	}
	return obj, nil
}

// follow gets and watches one object until ctx ends.
func (s *Store) follow(ctx context.Context, r Ref, e *entry) {
	const firstDelay, maxDelay = 100 * time.Millisecond, 30 * time.Second
	delay := firstDelay
	for ctx.Err() == nil {
		version, err := s.list(ctx, r, e)
		if err == nil {
			delay = firstDelay
			err = s.watch(ctx, r, e, version)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue // the watch ran its time
		}
		timer := s.clock.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		delay = min(2*delay, maxDelay)
	}
}

func (s *Store) list(ctx context.Context, r Ref, e *entry) (version string, err error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", r.Name).String()}
	var found runtime.Object
	if r.Kind == Secret {
		list, lerr := s.client.CoreV1().Secrets(r.Namespace).List(ctx, options)
		if err = lerr; err == nil {
			version = list.ResourceVersion
			for i := range list.Items {
				if list.Items[i].Name == r.Name {
					found = &list.Items[i]
				}
			}
		}
	} else {
		list, lerr := s.client.CoreV1().ConfigMaps(r.Namespace).List(ctx, options)
		if err = lerr; err == nil {
			version = list.ResourceVersion
			for i := range list.Items {
				if list.Items[i].Name == r.Name {
					found = &list.Items[i]
				}
			}
		}
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	s.set(r, e, found, err)
	return version, err
}

// set keeps the last good object when the API server cannot be asked.
func (s *Store) set(r Ref, e *entry, obj runtime.Object, err error) {
	e.mu.Lock()
	if err != nil && e.object != nil && !apierrors.IsForbidden(err) {
		e.mu.Unlock()
		return
	}
	changed := version(e.object) != version(obj) || (e.err == nil) != (err == nil)
	e.object, e.err = obj, err
	e.mu.Unlock()
	first := false
	e.once.Do(func() { first = true; close(e.synced) })
	if first || !changed {
		return
	}
	s.mu.Lock()
	users := make([]types.UID, 0, len(e.users))
	for uid := range e.users {
		users = append(users, uid)
	}
	s.mu.Unlock()
	for _, uid := range users {
		s.wake(uid)
	}
}

func version(obj runtime.Object) string {
	if m, ok := obj.(metav1.Object); ok && m != nil {
		return string(m.GetUID()) + "/" + m.GetResourceVersion()
	}
	return ""
}

func (s *Store) watch(ctx context.Context, r Ref, e *entry, from string) error {
	options := metav1.ListOptions{
		FieldSelector:       fields.OneTermEqualSelector("metadata.name", r.Name).String(),
		ResourceVersion:     from,
		AllowWatchBookmarks: true,
	}
	var w watch.Interface
	var err error
	if r.Kind == Secret {
		w, err = s.client.CoreV1().Secrets(r.Namespace).Watch(ctx, options)
	} else {
		w, err = s.client.CoreV1().ConfigMaps(r.Namespace).Watch(ctx, options)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if event.Type == watch.Error {
				return apierrors.FromObject(event.Object)
			}
			m, isMeta := event.Object.(metav1.Object)
			if !isMeta || m.GetName() != r.Name || m.GetNamespace() != r.Namespace {
				continue
			}
			switch event.Type {
			case watch.Added, watch.Modified:
				s.set(r, e, event.Object, nil)
			case watch.Deleted:
				s.set(r, e, nil, nil)
			}
		}
	}
}
