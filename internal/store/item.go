package store

import (
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Item is one object at one revision. It is shared by everyone and never changes.
type Item struct {
	// Object is read-only. TypeMeta and resourceVersion are set.
	Object Object
	// Key is "namespace/name", or "name" of a cluster-scoped object.
	Key string
	// Revision is the resourceVersion as a number.
	Revision int64
	// Size is how many bytes the object has as it is stored.
	Size int

	// sum is a hash of the stored bytes, which tells whether a write would change them.
	sum uint64

	encodings atomic.Pointer[encoding]
	forms     atomic.Pointer[form]
	encoding  sync.Mutex // held while a new encoding is computed
}

// encoding is one link of an item's short list of encodings.
type encoding struct {
	form Form
	data []byte
	next *encoding
}

// form is one link of an item's short list of the forms that it has in other versions.
type form struct {
	gv   schema.GroupVersion
	item *Item
	next *form
}

// As returns the item as it is in another version, if Show has been told of it.
func (i *Item) As(gv schema.GroupVersion) (*Item, bool) {
	for f := i.forms.Load(); f != nil; f = f.next {
		if f.gv == gv {
			return f.item, true
		}
	}
	return nil, false
}

// Show remembers obj as what the item is in another version, for everyone who asks As, and returns the item of it: the one that was
// remembered first. obj is given away; it must not be the item's own.
func (i *Item) Show(gv schema.GroupVersion, obj Object) *Item {
	next := &form{gv: gv, item: newItem(obj, i.Key, i.Revision, i.sum, i.Size)}
	for {
		next.next = i.forms.Load()
		if item, ok := i.As(gv); ok {
			return item
		}
		if i.forms.CompareAndSwap(next.next, next) {
			return next.item
		}
	}
}

func newItem(obj Object, key string, revision int64, sum uint64, size int) *Item {
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return &Item{Object: obj, Key: key, Revision: revision, Size: size, sum: sum}
}

// at returns a copy of the item that carries another revision: the last state of an object as its deletion shows it.
func (i *Item) at(revision int64) *Item {
	return newItem(i.Object.DeepCopyObject().(Object), i.Key, revision, i.sum, i.Size)
}

// Encoded returns the object in form f. It calls encode at most once per Item and Form, whoever asks; an error is not
// remembered. The bytes must not be modified.
func (i *Item) Encoded(f Form, encode func(Object) ([]byte, error)) ([]byte, error) {
	if data, ok := i.lookup(f); ok {
		return data, nil
	}
	i.encoding.Lock()
	defer i.encoding.Unlock()
	if data, ok := i.lookup(f); ok {
		return data, nil
	}
	data, err := encode(i.Object)
	if err != nil {
		return nil, err
	}
	i.encodings.Store(&encoding{form: f, data: data, next: i.encodings.Load()})
	return data, nil
}

// Cached returns the object in form f if Encoded has been asked for it before.
func (i *Item) Cached(f Form) ([]byte, bool) { return i.lookup(f) }

func (i *Item) lookup(f Form) ([]byte, bool) {
	for e := i.encodings.Load(); e != nil; e = e.next {
		if e.form == f {
			return e.data, true
		}
	}
	return nil, false
}
