package api

import (
	"iter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is an API object.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is one resource of the API with everything that is particular to it. The hub is the Go type that the process holds
// in memory and that all functions below take: the type of k8s.io/api in the storage version. Functions may be nil where
// there is nothing to do.
type Kind struct {
	Group      string
	Kind       string // e.g. "Pod"
	Resource   string // e.g. "pods"
	Singular   string // e.g. "pod"
	ShortNames []string
	Categories []string
	Namespaced bool
	// Prefix is where the store keeps it below /registry/: "pods", "services/specs", "minions", ...
	Prefix string
	// StoredAsJSON says that the stored form is JSON though the type has a protobuf form (CustomResourceDefinition, APIService).
	StoredAsJSON bool

	// Versions lists the served versions, the preferred one first. Hub names the one whose Go type is the hub.
	Versions []Version
	Hub      string

	// Verbs are the verbs of the main resource; nil is all eight (create delete deletecollection get list patch update watch).
	Verbs []string
	// Subresources besides the main resource, e.g. "status", "scale", "log".
	Subresources []Subresource

	// HasGeneration says that metadata.generation counts the changes of the spec. GenerationChanged, if set, decides for an
	// update whether it counts; otherwise any change outside metadata and status does.
	HasGeneration     bool
	GenerationChanged func(obj, old Object) bool

	// PrepareForCreate clears what a client may not set (status, ...). PrepareForUpdate and PrepareForStatusUpdate put back from
	// old what this door may not change; the status door exists when a "status" subresource does.
	PrepareForCreate       func(obj Object)
	PrepareForUpdate       func(obj, old Object)
	PrepareForStatusUpdate func(obj, old Object)

	// Resets names, for a door ("" is the main resource, else a subresource), the fields that it puts back, as dotted paths:
	// nobody comes to own them through it. A door that is not named resets "status", and the status door "spec", where the kind
	// has a status door at all.
	Resets map[string][]string
	// Unversioned names annotations that are a field's form in the API versions only: what shows an object's metadata without
	// the object (Table, PartialObjectMetadata) lacks them.
	Unversioned []string

	// Default fills in absent fields, as upstream's defaulting does; idempotent.
	Default func(obj Object)
	// Stored, if set, fills in what an older server left out of the object that it stored, where Default may not: there the client
	// has the choice. Idempotent.
	Stored func(obj Object)
	// ValidateName returns complaints about a name (not prefix); nil means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string
	// DeclaresName says that what ValidateName checks is declared on the type upstream: its complaints are told with what types declare.
	DeclaresName bool
	// ValidateNameOf, if set, is asked instead where good names depend on what the object says besides.
	ValidateNameOf func(obj Object, name string, prefix bool) []string
	// MetadataLast says that the metadata of a new object is looked at only when all else is right, and with the rules for names that
	// every kind has.
	MetadataLast bool
	// Validate and its kin check everything but ObjectMeta, which the server checks by itself with ValidateName.
	Validate             func(obj Object) field.ErrorList
	ValidateUpdate       func(obj, old Object) field.ErrorList
	ValidateStatusUpdate func(obj, old Object) field.ErrorList
	// ValidateInNamespace checks what depends on the labels of the object's namespace, at any door, and is told first; old is nil on create.
	ValidateInNamespace func(obj, old Object, labels map[string]string) field.ErrorList
	// Warnings are shown to the client in Warning headers; old is nil on create.
	Warnings func(obj, old Object) []string
	// StatusWarnings are the same for what the status door writes.
	StatusWarnings func(obj, old Object) []string

	// Canonicalize normalizes an object after validation (rarely needed).
	Canonicalize func(obj Object)

	AllowCreateOnUpdate      bool
	AllowUnconditionalUpdate bool
	// GracePeriod returns the seconds that a deletion of obj waits before the object is removed, given what the client
	// asked (nil: nothing). Nil function: kinds are removed at once.
	GracePeriod func(obj Object, asked *int64) int64
	// ReturnDeleted says that a delete is answered with the object as it was, where other kinds answer with a Status.
	ReturnDeleted bool
	// DefaultPropagation is how dependents fare when a delete says nothing; "" is background.
	DefaultPropagation metav1.DeletionPropagation

	// Fields are what field selectors may name besides metadata.name and metadata.namespace; FieldNames lists them all.
	Fields     func(obj Object) fields.Set
	FieldNames []string
	// NotByNamespace says that a field selector may not name metadata.namespace, where objects are in namespaces. Where they are not, it may if there are no Fields.
	NotByNamespace bool
	// FieldRefusal, if set, is what is said of a field that a selector may not name; nil is the usual words.
	FieldRefusal func(gvk schema.GroupVersionKind, name string) string
	// Indexes are kept by the store for lists and watches that select one value of a field.
	Indexes map[string]func(obj Object) []string

	// TTL is how long an object lives; only events have one.
	TTL time.Duration

	// Columns and Row make the Table. Row's cells match Columns; "Age" cells are made with Age. Nil means Name and Created At.
	Columns []metav1.TableColumnDefinition
	Row     Cells
	// ListRow, if set, makes the cells of a list, where they depend on the objects beside each; Row makes those of an object by itself.
	ListRow func(list iter.Seq[Object]) Cells
	// RowConditions, if set, are what a row of the Table is marked with ("Completed": kubectl's users see it no more).
	RowConditions func(obj Object) []metav1.TableRowCondition

	// Connect-only and virtual kinds (TokenReview, Binding, ...) are not stored; the server has code for them.
	Virtual bool
}

// Cells makes the cells of an object's row in a Table.
type Cells = func(obj Object, now time.Time) []any

// Version is one served version of a Kind.
type Version struct {
	// Group is set where a version lives in another group than its kind: extensions/v1beta1 Deployment, and
	// events.k8s.io/v1 Event, which is a second door to the core Event. "" is the kind's own group.
	Group   string
	Version string
	// New makes an empty object of this version's Go type.
	New func() runtime.Object
	// NewList makes an empty list of this version.
	NewList func() runtime.Object
	// ToHub and FromHub convert; nil means that the Go type is the hub, or has the same JSON form as the hub (then the
	// server converts through it). ToHub applies the defaults that only this version has (e.g. extensions/v1beta1).
	ToHub   func(in runtime.Object) (Object, error)
	FromHub func(in Object) (runtime.Object, error)
	// Readable, if set, says what is wrong with an object's annotations that once were fields: what cannot be read is refused before anything else is looked at.
	Readable func(annotations map[string]string) error
	// Validate, if set, checks what only this door checks, besides the kind's own validation of the hub; old is nil on create.
	Validate func(obj, old Object) field.ErrorList
	// Deprecated, when set, is the warning that every request of this version is answered with.
	Deprecated string
	// Hidden versions answer requests but are not listed in discovery (apps/v1beta1, extensions/v1beta1).
	Hidden bool
}

// Subresource is a named part of a resource.
type Subresource struct {
	Name string // "status", "scale", "log", "exec", "binding", ...
	// Kind is the kind it speaks, zero for the parent's own.
	Kind  schema.GroupVersionKind
	Verbs []string
	// PrepareForUpdate and ValidateUpdate are the rules of a door to the parent's own kind other than "status" (resize,
	// ephemeralcontainers, approval, finalize): what it may not change is put back from old, the rest is checked.
	PrepareForUpdate func(obj, old Object)
	ValidateUpdate   func(obj, old Object) field.ErrorList
	// NoTable says that what is shown through this door can't be shown as rows of a table.
	NoTable bool
}

// ResetFields returns the fields that a door puts back, as Resets describes them.
func (k *Kind) ResetFields(door string) []string {
	if paths, ok := k.Resets[door]; ok {
		return paths
	}
	for i := range k.Subresources {
		if k.Subresources[i].Name != "status" {
			continue
		}
		switch door {
		case "", "finalize":
			return []string{"status"}
		case "status":
			return []string{"spec"}
		}
	}
	return nil
}

// GroupKind returns the kind's group and name.
func (k *Kind) GroupKind() schema.GroupKind { return schema.GroupKind{Group: k.Group, Kind: k.Kind} }

// GroupVersion returns the group and version that v answers to.
func (k *Kind) GroupVersion(v *Version) schema.GroupVersion {
	if v.Group != "" {
		return schema.GroupVersion{Group: v.Group, Version: v.Version}
	}
	return schema.GroupVersion{Group: k.Group, Version: v.Version}
}

// GroupResource returns the kind's group and resource.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// HubKind returns the group, version and kind of the hub.
func (k *Kind) HubKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Hub, Kind: k.Kind}
}
