package apiserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
)

// resource is one version of a kind with all that can be prepared for serving it. Read-only once made.
type resource struct {
	kind    *api.Kind
	version *api.Version
	gvk     schema.GroupVersionKind
	gvr     schema.GroupVersionResource
	// gr is the group and resource that errors name: the version's own group.
	gr  schema.GroupResource
	col collection // nil for virtual kinds
	// hub says that this version's Go type is what the store holds.
	hub     bool
	verbs   map[string]bool
	subs    map[string]*subresource
	tracker *apply.Tracker
	// shownAs shows objects to admission in the versions that its webhooks and policies want.
	shownAs admission.Versions
	// managers keep managed fields, by subresource.
	managers map[string]manager
	// custom is set for custom resources: the version of their definition, and the definition.
	custom *custom.Version
	served *custom.Served

	target negotiate.Target
	forms  forms
	// deprecated is the warning that every request is answered with, or "".
	deprecated string
	// removed is the release that does not have it any more, "" if nobody knows.
	removed string
}

type subresource struct {
	*api.Subresource
	verbs map[string]bool
}

// forms are the beginnings of the encodings of one version.
type forms struct {
	gv schema.GroupVersion
	// jsonHead begins the JSON of an object with its type: {"kind":"Pod","apiVersion":"v1",
	jsonHead []byte
	// listHead begins the JSON of a list, up to and with its opening brace of metadata's value.
	listHead []byte
	// continues says that lists show their continue token even when there is none, as those of custom objects do.
	continues bool
	// protoHead is the envelope of a protobuf object up to the length of its bytes; protoListHead that of a list.
	protoHead, protoListHead []byte
}

func newResource(k *api.Kind, v *api.Version, col *store.Collection, t *apply.Tracker) *resource {
	gv := k.GroupVersion(v)
	r := &resource{
		kind: k, version: v, gvk: gv.WithKind(k.Kind), gvr: gv.WithResource(k.Resource), tracker: t,
		hub:   v == k.HubVersion(),
		verbs: set(k.ResourceVerbs()),
		subs:  map[string]*subresource{},
	}
	if col != nil {
		r.col = storeCollection{col}
	}
	r.gr = r.gvr.GroupResource()
	r.managers = map[string]manager{"": t.Manager(k, v, "")}
	for i := range k.Subresources {
		sub := &k.Subresources[i]
		r.subs[sub.Name] = &subresource{Subresource: sub, verbs: set(sub.Verbs)}
		if !k.Virtual {
			r.managers[sub.Name] = t.Manager(k, v, sub.Name)
		}
	}
	if r.deprecated = v.Deprecated; r.deprecated == "" && !v.Hidden {
		r.deprecated = deprecation(v.New(), r.gvk)
	}
	if l, ok := v.New().(interface {
		APILifecycleRemoved() (major, minor int)
	}); ok && r.deprecated != "" {
		major, minor := l.APILifecycleRemoved()
		r.removed = fmt.Sprintf("%d.%d", major, minor)
	}
	r.target = negotiate.Target{Kind: r.gvk, New: v.New, Internal: internalName(gv.Group)}
	if gv.Group == definitionResource.Group || gv.Group == "apiregistration.k8s.io" {
		r.target.Gone = []schema.GroupVersion{{Group: gv.Group, Version: "v1beta1"}}
	}
	r.forms = newForms(r.gvk)
	return r
}

// deprecation is the warning for a Go type that declares its end itself.
func deprecation(obj runtime.Object, gvk schema.GroupVersionKind) string {
	l, ok := obj.(interface {
		APILifecycleDeprecated() (major, minor int)
	})
	if !ok {
		return ""
	}
	major, minor := l.APILifecycleDeprecated()
	if major == 0 {
		return ""
	}
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", gvk.GroupVersion(), gvk.Kind, major, minor)
	if l, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		if r := l.APILifecycleReplacement(); r.Kind != "" {
			text += fmt.Sprintf("; use %s %s", r.GroupVersion(), r.Kind)
		}
	}
	return text
}

// internalName is what upstream's messages call the Go package of a group's internal types.
func internalName(group string) string {
	if group == "" || group == eventsGroup {
		return "core"
	}
	name, _, _ := strings.Cut(group, ".")
	return name
}

func set(words []string) map[string]bool {
	m := make(map[string]bool, len(words))
	for _, w := range words {
		m[w] = true
	}
	return m
}

func newForms(gvk schema.GroupVersionKind) forms {
	f := forms{gv: gvk.GroupVersion()}
	apiVersion := f.gv.String()
	f.jsonHead = []byte(`{"kind":"` + gvk.Kind + `","apiVersion":"` + apiVersion + `",`)
	f.listHead = []byte(`{"kind":"` + gvk.Kind + `List","apiVersion":"` + apiVersion + `","metadata":`)
	f.protoHead = protoHead(apiVersion, gvk.Kind)
	f.protoListHead = protoHead(apiVersion, gvk.Kind+"List")
	return f
}

// protoHead is the magic, the type and the tag of the raw bytes of a runtime.Unknown; their length follows.
func protoHead(apiVersion, kind string) []byte {
	m := runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}
	head := []byte{'k', '8', 's', 0, 1<<3 | 2}
	head = binary.AppendUvarint(head, uint64(m.Size()))
	if b, err := m.Marshal(); err == nil { // two strings: never fails
		head = append(head, b...)
	}
	return append(head, 2<<3|2)
}

// protoTail ends the envelope: an empty content encoding and type.
var protoTail = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

// key is where an object of the resource is stored.
func (r *resource) key(namespace, name string) string {
	if r.kind.Namespaced {
		return namespace + "/" + name
	}
	return name
}

// form names the cached encoding of whole objects.
func (r *resource) form(media string) store.Form {
	return store.Form{MediaType: media, GroupVersion: r.forms.gv}
}

// shown is an object to show: as the store holds it with its cached encodings, or one that was never stored (a dry run).
type shown struct {
	obj  store.Object
	item *store.Item
}

func stored(i *store.Item) shown { return shown{obj: i.Object, item: i} }

// encoded returns one form of the object, from the cache if there is one.
func (o shown) encoded(f store.Form, encode func(store.Object) ([]byte, error)) ([]byte, error) {
	if o.item != nil {
		return o.item.Encoded(f, encode)
	}
	return encode(o.obj)
}

// bytes returns the whole object in a media type: JSON with its type in front (without a newline), or the bare protobuf message.
func (s *Server) bytes(r *resource, o shown, media string) ([]byte, error) {
	return o.encoded(r.form(media), func(obj store.Object) ([]byte, error) {
		v, err := s.cfg.Catalogue.FromHub(r.kind, r.version, obj)
		if err != nil {
			return nil, err
		}
		if media == negotiate.JSON && r.custom == nil {
			return s.json.Write(v)
		}
		return encodeObject(v, media)
	})
}

// metadataForms are the envelopes of PartialObjectMetadata by version of meta.k8s.io.
var (
	metadataV1      = newForms(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1", Kind: "PartialObjectMetadata"})
	metadataV1Beta1 = newForms(schema.GroupVersionKind{Group: metav1.GroupName, Version: "v1beta1", Kind: "PartialObjectMetadata"})
)

func metadataForms(version string) *forms {
	if version == "v1beta1" {
		return &metadataV1Beta1
	}
	return &metadataV1
}

// metadataBytes returns the object's metadata as a PartialObjectMetadata, in the forms of bytes.
func metadataBytes(k *api.Kind, o shown, media, version string) ([]byte, error) {
	f := store.Form{MediaType: media + ";as=PartialObjectMetadata", GroupVersion: metadataForms(version).gv}
	return o.encoded(f, func(obj store.Object) ([]byte, error) {
		p := partial(obj, version)
		if len(k.Unversioned) > 0 {
			p.Annotations = without(p.Annotations, k.Unversioned)
		}
		return encodeObject(p, media)
	})
}

// without is the map without some keys, nil when nothing is left.
func without(m map[string]string, keys []string) map[string]string {
	out := maps.Clone(m)
	for _, k := range keys {
		delete(out, k)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func partial(obj store.Object, version string) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.GroupName + "/" + version}}
	if m, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if om, ok := m.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *om
			return p
		}
	}
	p.Name, p.GenerateName, p.Namespace, p.UID = obj.GetName(), obj.GetGenerateName(), obj.GetNamespace(), obj.GetUID()
	p.ResourceVersion, p.Generation, p.CreationTimestamp = obj.GetResourceVersion(), obj.GetGeneration(), obj.GetCreationTimestamp()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = obj.GetDeletionTimestamp(), obj.GetDeletionGracePeriodSeconds()
	p.Labels, p.Annotations, p.OwnerReferences, p.Finalizers = obj.GetLabels(), obj.GetAnnotations(), obj.GetOwnerReferences(), obj.GetFinalizers()
	p.ManagedFields = obj.GetManagedFields()
	return p
}

// listItem is the JSON of an object as a list's item, without its type: built-in lists say the type once. The opening brace
// is left out.
func listItem(full, head []byte) (item []byte, braced bool) {
	if bytes.HasPrefix(full, head) {
		return full[len(head):], false
	}
	return full, true
}

func (r *resource) serves(verb, sub string) bool {
	if sub == "" {
		return r.verbs[verb]
	}
	s := r.subs[sub]
	return s != nil && s.verbs[verb]
}

// isField says whether a field selector may name the field.
func (r *resource) isField(name string) bool {
	switch name {
	case "metadata.name":
		return true
	case "metadata.namespace":
		// Kinds without fields of their own have the library's, which doesn't ask whether they are in namespaces.
		return !r.kind.NotByNamespace && (r.kind.Namespaced || r.custom == nil && len(r.kind.FieldNames) == 0)
	}
	if r.gvr.Group == eventsGroup && strings.HasPrefix(name, "involvedObject.") {
		return false
	}
	return slices.Contains(r.kind.FieldNames, r.fieldOf(name))
}

// eventsGroup is the newer door to events, where some fields have other names.
const eventsGroup = "events.k8s.io"

// fieldOf translates the name that a field has in this version into the hub's.
func (r *resource) fieldOf(name string) string {
	if r.gvr.Group != eventsGroup {
		return name
	}
	if rest, ok := strings.CutPrefix(name, "regarding."); ok {
		return "involvedObject." + rest
	}
	if name == "reportingController" {
		return "reportingComponent"
	}
	return name
}
