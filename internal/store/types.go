package store

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is an API object.
type Object interface {
	runtime.Object
	metav1.Object
}

// Codec turns objects into stored bytes and back: upstream's layout, "k8s\x00" and a protobuf runtime.Unknown for built-in
// kinds, JSON for custom ones. Append appends an object's bytes. Decode returns an object with TypeMeta set and without a resourceVersion; it does not keep data.
type Codec interface {
	Append(to []byte, obj Object) ([]byte, error)
	Decode(data []byte) (Object, error)
}

// Resource tells the store all it needs to know of one resource.
type Resource struct {
	GroupResource schema.GroupResource
	// Prefix is where its keys live below /registry/, e.g. "pods", "services/specs", "minions", "deployments".
	Prefix     string
	Namespaced bool
	Codec      Codec
	// Indexes name functions whose values are kept per object, so that a list or watch can ask for one value
	// (e.g. "spec.nodeName" of pods) at the cost of its matches.
	Indexes map[string]func(Object) []string
	// Share, if set, has an object share with others what is equal in them; stored is what it is stored as. It is called before anybody else sees the object.
	Share func(obj Object, stored []byte)
}

// Form names one encoding of an object: a media type and the group version it is shown in.
type Form struct {
	MediaType    string
	GroupVersion schema.GroupVersion
}

// GetOptions asks for a revision of the object that is at least MinRevision; 0 asks for the newest (linearizable),
// AnyRevision for whatever is in memory.
type GetOptions struct {
	MinRevision int64
	AnyRevision bool
}

// Match says how ListOptions.Revision is meant.
type Match int8

// The matches: as metav1.ResourceVersionMatch, with "" resolved by the caller.
const (
	MostRecent   Match = iota // linearizable; Revision is ignored
	NotOlderThan              // at least Revision; 0: any
	Exact                     // exactly Revision
)

// ListOptions selects a part of a collection.
type ListOptions struct {
	Namespace string // "" is all
	Name      string // "" is all
	Revision  int64
	Match     Match
	// Filter leaves out objects; nil takes all.
	Filter func(Object) bool
	// Index and IndexValue narrow the list by one of Resource.Indexes.
	Index, IndexValue string
	Limit             int64  // 0: all
	Continue          string // a token of an earlier List
}

// List is a consistent part of a collection at one revision, in key order.
type List struct {
	Items    []*Item
	Revision int64
	// Continue is the token for the rest, "" at the end.
	Continue string
	// Remaining counts what follows; nil when unknown (a filter is set) or at the end.
	Remaining *int64
}

// EventType is what happened, seen through a watcher's filter.
type EventType int8

// The event types. An object that leaves the filter is Deleted, one that enters it Added.
const (
	Added EventType = iota
	Modified
	Deleted
	Bookmark
)

// Event is one step of a watch. For Deleted, Item is the last state with the deletion's revision as its resourceVersion.
// For Bookmark, Item is nil and Initial says that the initial events have all been sent.
type Event struct {
	Type     EventType
	Item     *Item
	Revision int64
	Initial  bool

	change *change // what all watchers share of it; nil for initial objects and bookmarks
}

// WatchOptions selects events.
type WatchOptions struct {
	Namespace, Name   string
	Index, IndexValue string
	Filter            func(Object) bool
	// Select is a Filter that wants to see whole items, which remember what was made of them.
	Select func(*Item) bool
	// FilterName names what Filter and Select do together: of the watchers of a collection with the same name one is asked for all. With
	// an empty name each is asked.
	FilterName string
	// Revision is where to start, exclusive. With 0, or with SendInitial, the current objects come first as Added.
	Revision    int64
	SendInitial bool
	// FromNow starts after the newest revision and sends no initial objects.
	FromNow bool
	// Bookmarks asks for a Bookmark from time to time, and after the initial events if SendInitial is set.
	Bookmarks bool
	// Settled, if set, is called once by Next, when the objects of the beginning have been read and only changes follow.
	Settled func()
}

// Mutation is what a MutateFunc wants done: Object written, or, with Delete, the key removed. Neither is a no-op.
type Mutation struct {
	// Object with Delete is what those who watch this store are shown as the last state; without it they see the state before. It is written nowhere.
	Object Object
	Delete bool
	TTL    time.Duration // with Object: the key vanishes after this time; 0 is never
}

// MutateFunc sees the current state (nil if there is none) and says what is to become of it. It may be called again when another
// writer came between; it must copy what it changes.
type MutateFunc func(current *Item) (Mutation, error)

// Reader is the reading half of a Collection, for those who only look.
type Reader interface {
	Get(ctx context.Context, key string, o GetOptions) (*Item, error)
	List(ctx context.Context, o ListOptions) (List, error)
	Watch(ctx context.Context, o WatchOptions) (*Watcher, error)
}
