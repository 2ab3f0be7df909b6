package store

import (
	"strconv"
	"sync"
	"sync/atomic"
)

// Item is one object at one revision. It is shared by everyone and never changes.
type Item struct {
	// Object is read-only. TypeMeta and resourceVersion are set.
	Object Object
	// Key is "namespace/name", or "name" of a cluster-scoped object.
	Key string
	// Revision is the resourceVersion as a number.
	Revision int64

	// sum is a hash of the stored bytes, which tells whether a write would change them.
	sum uint64

	encodings atomic.Pointer[encoding]
	encoding  sync.Mutex // held while a new encoding is computed
}

// encoding is one link of an item's short list of encodings.
type encoding struct {
	form Form
	data []byte
	next *encoding
}

func newItem(obj Object, key string, revision int64, sum uint64) *Item {
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return &Item{Object: obj, Key: key, Revision: revision, sum: sum}
}

// at returns a copy of the item that carries another revision: the last state of an object as its deletion shows it.
func (i *Item) at(revision int64) *Item {
	return newItem(i.Object.DeepCopyObject().(Object), i.Key, revision, i.sum)
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

func (i *Item) lookup(f Form) ([]byte, bool) {
	for e := i.encodings.Load(); e != nil; e = e.next {
		if e.form == f {
			return e.data, true
		}
	}
	return nil, false
}
