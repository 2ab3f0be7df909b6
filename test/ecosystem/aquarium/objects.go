package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
)

// kept is how many changes a watcher may be behind.
const kept = 1000

// change is one line of the journal: an object that was written, or deleted.
type change struct {
	Revision int64                      `json:"revision"`
	Kind     watch.EventType            `json:"kind"`
	Resource string                     `json:"resource"`
	Object   *unstructured.Unstructured `json:"object"`
	Before   *unstructured.Unstructured `json:"-"`
}

// objects are all there are. What is in it is never changed, only replaced.
type objects struct {
	group string

	mu       sync.Mutex
	file     *os.File                              // guarded by mu
	revision int64                                 // guarded by mu
	now      map[string]*unstructured.Unstructured // guarded by mu; by resource, namespace and name
	changes  []change                              // guarded by mu; the last ones
	wake     chan struct{}                         // guarded by mu; closed at the next change
}

// open reads the journal, or begins one.
func open(path, group string) (*objects, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	o := &objects{group: group, file: f, revision: 1, now: map[string]*unstructured.Unstructured{}, wake: make(chan struct{})}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var c change
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, errors.Join(fmt.Errorf("the journal: %w", err), f.Close())
		}
		o.put(c)
	}
	if err := lines.Err(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

func (o *objects) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.file.Close()
}

func keyOf(resource, namespace, name string) string { return resource + "/" + namespace + "/" + name }

// put takes a change over; mu is held, or nobody knows o yet.
func (o *objects) put(c change) {
	key := keyOf(c.Resource, c.Object.GetNamespace(), c.Object.GetName())
	o.revision, c.Before = c.Revision, o.now[key]
	if o.now[key] = c.Object; c.Kind == watch.Deleted {
		delete(o.now, key)
	}
	o.changes = append(o.changes, c)
	o.changes = o.changes[max(0, len(o.changes)-kept):]
	close(o.wake)
	o.wake = make(chan struct{})
}

// write makes a change in the journal and then here; mu is held.
func (o *objects) write(kind watch.EventType, resource string, u *unstructured.Unstructured) error {
	c := change{Revision: o.revision + 1, Kind: kind, Resource: resource, Object: u}
	u.SetResourceVersion(strconv.FormatInt(c.Revision, 10))
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if _, err := o.file.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := o.file.Sync(); err != nil {
		return err
	}
	o.put(c)
	return nil
}

// list returns what a filter lets through, sorted, and the revision.
func (o *objects) list(resource, namespace string, want func(*unstructured.Unstructured) bool) ([]*unstructured.Unstructured, int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*unstructured.Unstructured
	for _, key := range slices.Sorted(maps.Keys(o.now)) {
		u := o.now[key]
		if len(key) > len(resource) && key[:len(resource)+1] == resource+"/" && (namespace == "" || u.GetNamespace() == namespace) && want(u) {
			out = append(out, u)
		}
	}
	return out, o.revision
}

func (o *objects) of(resource string) schema.GroupResource {
	return schema.GroupResource{Group: o.group, Resource: resource}
}

func (o *objects) notFound(resource, name string) error {
	return apierrors.NewNotFound(o.of(resource), name)
}

func (o *objects) get(resource, namespace, name string) (*unstructured.Unstructured, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if u := o.now[keyOf(resource, namespace, name)]; u != nil {
		return u, nil
	}
	return nil, o.notFound(resource, name)
}

func (o *objects) create(resource string, u *unstructured.Unstructured) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if u.GetName() == "" && u.GetGenerateName() != "" {
		u.SetName(u.GetGenerateName() + string(uuid.NewUUID())[:5])
	}
	if u.GetName() == "" {
		return apierrors.NewBadRequest("the object has no name")
	}
	if o.now[keyOf(resource, u.GetNamespace(), u.GetName())] != nil {
		return apierrors.NewAlreadyExists(o.of(resource), u.GetName())
	}
	u.SetUID(uuid.NewUUID())
	u.SetCreationTimestamp(metav1.NewTime(time.Now()))
	u.SetGeneration(1)
	delete(u.Object, "status")
	return o.write(watch.Added, resource, u)
}

// update replaces an object by what edit makes of it. One that has been on its way out goes with its last finalizer.
func (o *objects) update(resource, namespace, name string, status bool, edit func(old *unstructured.Unstructured) (*unstructured.Unstructured, error)) (*unstructured.Unstructured, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.now[keyOf(resource, namespace, name)]
	if old == nil {
		return nil, o.notFound(resource, name)
	}
	u, err := edit(old.DeepCopy())
	if err != nil {
		return nil, err
	}
	if v := u.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(o.of(resource), name, errors.New("the object has been modified"))
	}
	if id := u.GetUID(); id != "" && id != old.GetUID() {
		return nil, apierrors.NewConflict(o.of(resource), name, errors.New("it is another object"))
	}
	if status {
		said := u.Object["status"]
		u = old.DeepCopy()
		u.Object["status"] = said
	} else if u.Object["status"] = old.Object["status"]; u.Object["status"] == nil {
		delete(u.Object, "status")
	}
	u.SetName(name)
	u.SetNamespace(namespace)
	u.SetUID(old.GetUID())
	u.SetCreationTimestamp(old.GetCreationTimestamp())
	u.SetDeletionTimestamp(old.GetDeletionTimestamp())
	u.SetGeneration(old.GetGeneration())
	u.SetResourceVersion(old.GetResourceVersion())
	if fmt.Sprint(u.Object["spec"]) != fmt.Sprint(old.Object["spec"]) {
		u.SetGeneration(old.GetGeneration() + 1)
	}
	kind := watch.Modified
	if u.GetDeletionTimestamp() != nil && len(u.GetFinalizers()) == 0 {
		kind = watch.Deleted
	}
	return u, o.write(kind, resource, u)
}

// remove deletes an object, or marks it if there is a finalizer. Whoever says which object is meant has to be right.
func (o *objects) remove(resource, namespace, name string, p *metav1.Preconditions) (*unstructured.Unstructured, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.now[keyOf(resource, namespace, name)]
	if old == nil {
		return nil, o.notFound(resource, name)
	}
	if p != nil && (p.UID != nil && *p.UID != old.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion()) {
		return nil, apierrors.NewConflict(o.of(resource), name, errors.New("it is another object"))
	}
	u := old.DeepCopy()
	if len(u.GetFinalizers()) == 0 {
		return u, o.write(watch.Deleted, resource, u)
	}
	if u.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(time.Now())
		u.SetDeletionTimestamp(&now)
		return u, o.write(watch.Modified, resource, u)
	}
	return u, nil
}

// after returns the changes after a revision, and what is closed at the next one.
func (o *objects) after(revision int64) ([]change, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.revision - int64(len(o.changes)) // the revision before the oldest change that is known
	if revision < first {
		return nil, nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", revision, first))
	}
	if revision >= o.revision {
		return nil, o.wake, nil
	}
	return slices.Clone(o.changes[revision-first:]), o.wake, nil
}
