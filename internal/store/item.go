package store

import (
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	encodings atomic.Pointer[encodings]
	forms     atomic.Pointer[form]
	shelf     *shelf // keeps the encodings for a while; nil keeps them for as long as the item
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
	next := &form{gv: gv, item: i.shelf.item(obj, i.Key, i.Revision, i.sum, i.Size)}
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

// item makes an item whose encodings the shelf keeps.
func (s *shelf) item(obj Object, key string, revision int64, sum uint64, size int) *Item {
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if m := metaOf(obj); m != nil {
		if namespace, name, ok := strings.Cut(key, "/"); ok && m.Namespace == namespace && m.Name == name {
			m.Namespace, m.Name = namespace, name // one text for all three
		}
	}
	return &Item{Object: obj, Key: key, Revision: revision, Size: size, sum: sum, shelf: s}
}

// at returns a copy of the item that carries another revision: the last state of an object as its deletion shows it. It shares what it can with the item.
func (i *Item) at(revision int64) *Item {
	return i.shelf.item(outer(i.Object), i.Key, revision, i.sum, i.Size)
}

// outer copies an object for one who changes nothing but its resourceVersion.
func outer(obj Object) Object {
	if metaOf(obj) != nil {
		v := reflect.New(reflect.TypeOf(obj).Elem())
		v.Elem().Set(reflect.ValueOf(obj).Elem())
		if c, ok := v.Interface().(Object); ok && metaOf(c) != metaOf(obj) {
			return c
		}
	}
	return obj.DeepCopyObject().(Object)
}

// metaOf is the metadata of an object that has it in a struct of its own, else nil.
func metaOf(obj Object) *metav1.ObjectMeta {
	if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return m
		}
	}
	return nil
}

// Encoded returns the object in form f. Whoever asks, it calls encode once per Item and Form for as long as the store remembers (see shelf), and an error is not
// remembered. The bytes must not be modified. Encode must not ask for the encoding of another item.
func (i *Item) Encoded(f Form, encode func(Object) ([]byte, error)) ([]byte, error) {
	if data, ok := i.Cached(f); ok {
		return data, nil
	}
	maker := i.shelf.maker(i.Revision)
	maker.Lock()
	defer maker.Unlock()
	if data, ok := i.Cached(f); ok {
		return data, nil
	}
	data, err := encode(i.Object)
	if err != nil {
		return nil, err
	}
	i.encodings.CompareAndSwap(nil, &encodings{})
	all := i.encodings.Load()
	all.list.Store(&encoding{form: f, data: data, next: all.list.Load()})
	i.shelf.keep(all, len(data))
	return data, nil
}

// Cached returns the object in form f if Encoded has been asked for it not long ago.
func (i *Item) Cached(f Form) ([]byte, bool) { return i.encodings.Load().lookup(f) }
