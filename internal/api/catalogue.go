package api

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// Catalogue is all kinds of the API. It never changes after NewCatalogue and is safe for concurrent use.
type Catalogue struct {
	kinds       []*Kind
	scheme      *runtime.Scheme
	codecs      serializer.CodecFactory
	groups      []Group
	byResource  map[schema.GroupVersionResource]entry
	byKind      map[schema.GroupVersionKind]entry
	byGroupRes  map[schema.GroupResource]*Kind
	codecByKind map[*Kind]Codec
}

type entry struct {
	kind    *Kind
	version *Version
}

// Group is one API group as discovery shows it.
type Group struct {
	Name string
	// Versions lists the versions that discovery shows, the preferred one first.
	Versions []GroupVersion
}

// GroupVersion is one version of a group.
type GroupVersion struct {
	Version string
	// Kinds are sorted by resource.
	Kinds []*Kind
}

// Preferred is the version that clients use when they have no reason to use another.
func (g Group) Preferred() string { return g.Versions[0].Version }

// groupPriority is the rank of the built-in groups among each other and among aggregated ones, as upstream gives it
// (groupPriorityMinimum of the APIService that stands for the group). Clients look for an unqualified resource name in the
// order of discovery, which is this one, then the name's.
func groupPriority(name string) (priority int32, ok bool) {
	switch name {
	case "", "apiregistration.k8s.io":
		return 18000, true
	case "apps":
		return 17800, true
	case "events.k8s.io":
		return 17750, true
	case "authentication.k8s.io":
		return 17700, true
	case "authorization.k8s.io":
		return 17600, true
	case "autoscaling":
		return 17500, true
	case "batch":
		return 17400, true
	case "certificates.k8s.io":
		return 17300, true
	case "networking.k8s.io":
		return 17200, true
	case "policy":
		return 17100, true
	case "rbac.authorization.k8s.io":
		return 17000, true
	case "storage.k8s.io":
		return 16800, true
	case "admissionregistration.k8s.io", "apiextensions.k8s.io":
		return 16700, true
	case "scheduling.k8s.io":
		return 16600, true
	case "coordination.k8s.io":
		return 16500, true
	case "node.k8s.io":
		return 16300, true
	case "discovery.k8s.io", "resource.k8s.io":
		return 16200, true
	case "flowcontrol.apiserver.k8s.io":
		return 16100, true
	case "storagemigration.k8s.io":
		return 15800, true
	}
	return 0, false
}

// Priorities of the group versions of custom resources.
const (
	CustomGroupPriority   int32 = 1000
	CustomVersionPriority int32 = 100
)

// Priority returns groupPriorityMinimum and versionPriority of the APIService of a group version.
func Priority(gv schema.GroupVersion) (group, version int32) {
	group, ok := groupPriority(gv.Group)
	if !ok {
		return CustomGroupPriority, CustomVersionPriority
	}
	switch {
	case gv.Group == "":
		return group, 1
	case gv.Version == "v2":
		return group, 30
	case gv.Group == "flowcontrol.apiserver.k8s.io" || gv.Group == "resource.k8s.io":
		return group, 21
	}
	return group, 15
}

// AllVerbs returns the verbs of a resource that says nothing else.
func AllVerbs() []string {
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

// ResourceVerbs returns the verbs of the kind's main resource.
func (k *Kind) ResourceVerbs() []string {
	if k.Verbs == nil {
		return AllVerbs()
	}
	return k.Verbs
}

// HubVersion returns the version whose Go type is the hub, nil if there is none (NewCatalogue refuses such a kind).
func (k *Kind) HubVersion() *Version {
	for i := range k.Versions {
		if v := &k.Versions[i]; v.Version == k.Hub && (v.Group == "" || v.Group == k.Group) {
			return v
		}
	}
	return nil
}

// NewCatalogue puts kinds together. It refuses kinds that contradict themselves or each other: the error names all of them. It
// completes the kinds: hidden versions get their deprecation warnings. The kinds belong to the catalogue from then on.
func NewCatalogue(kinds []*Kind) (*Catalogue, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, fmt.Errorf("registering the API types: %w", err)
	}
	c := &Catalogue{
		kinds:       kinds,
		scheme:      scheme,
		codecs:      serializer.NewCodecFactory(scheme, serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf()),
		byResource:  map[schema.GroupVersionResource]entry{},
		byKind:      map[schema.GroupVersionKind]entry{},
		byGroupRes:  map[schema.GroupResource]*Kind{},
		codecByKind: map[*Kind]Codec{},
	}
	var errs []error
	prefixes := map[string]*Kind{}
	for _, k := range kinds {
		if err := c.add(k); err != nil {
			errs = append(errs, fmt.Errorf("kind %s: %w", k.GroupKind(), err))
			continue
		}
		if !k.Virtual {
			if other := prefixes[k.Prefix]; other != nil {
				errs = append(errs, fmt.Errorf("kind %s: the store prefix %q is already taken by %s", k.GroupKind(), k.Prefix, other.GroupKind()))
			}
			prefixes[k.Prefix] = k
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c.groups = groupsOf(kinds)
	return c, nil
}

func (c *Catalogue) add(k *Kind) error {
	switch {
	case k.Kind == "" || k.Resource == "" || k.Singular == "":
		return errors.New("kind, resource and singular name are all wanted")
	case !k.Virtual && k.Prefix == "":
		return errors.New("a stored kind wants a store prefix")
	case len(k.Columns) > 0 && k.Row == nil:
		return errors.New("columns without a row")
	case k.Fields != nil && len(k.FieldNames) == 0:
		return errors.New("fields without field names")
	}
	hub := k.HubVersion()
	if hub == nil {
		return fmt.Errorf("the hub version %q is not among its versions", k.Hub)
	}
	if hub.ToHub != nil || hub.FromHub != nil {
		return errors.New("the hub version needs no conversion")
	}
	if _, ok := hub.New().(Object); !ok && !k.Virtual {
		return fmt.Errorf("the hub type %T is not an Object", hub.New())
	}
	for i := range k.Versions {
		v := &k.Versions[i]
		gvk := k.GroupVersion(v).WithKind(k.Kind)
		if err := c.registered(gvk, v); err != nil {
			return err
		}
		gvr := gvk.GroupVersion().WithResource(k.Resource)
		if other, ok := c.byResource[gvr]; ok {
			return fmt.Errorf("resource %s is already taken by %s", gvr, other.kind.GroupKind())
		}
		if other, ok := c.byKind[gvk]; ok {
			return fmt.Errorf("kind %s is already taken by resource %s", gvk, other.kind.GroupResource())
		}
		if v.Hidden && v.Deprecated == "" {
			v.Deprecated = deprecation(v.New(), gvk)
		}
		e := entry{k, v}
		c.byResource[gvr], c.byKind[gvk] = e, e
		if gr := gvr.GroupResource(); c.byGroupRes[gr] == nil || gr.Group == k.Group {
			c.byGroupRes[gr] = k
		}
	}
	for _, s := range k.Subresources {
		if s.Name == "" || len(s.Verbs) == 0 {
			return fmt.Errorf("subresource %q wants a name and verbs", s.Name)
		}
		if !s.Kind.Empty() && !c.scheme.Recognizes(s.Kind) {
			return fmt.Errorf("subresource %q: the scheme does not know %s", s.Name, s.Kind)
		}
	}
	if !k.Virtual {
		c.codecByKind[k] = newCodec(c, k, hub)
	}
	return nil
}

// registered checks that the scheme knows the version's Go types by the names that clients will use.
func (c *Catalogue) registered(gvk schema.GroupVersionKind, v *Version) error {
	if v.New == nil {
		return fmt.Errorf("version %s has no constructor", gvk.GroupVersion())
	}
	known, ok := c.scheme.AllKnownTypes()[gvk]
	if !ok {
		return fmt.Errorf("the scheme does not know %s", gvk)
	}
	if got := reflect.TypeOf(v.New()).Elem(); got != known {
		return fmt.Errorf("%s is %s, the scheme says %s", gvk, got, known)
	}
	if v.NewList != nil && !c.scheme.Recognizes(gvk.GroupVersion().WithKind(gvk.Kind+"List")) {
		return fmt.Errorf("the scheme does not know the list of %s", gvk)
	}
	return nil
}

// Kinds returns all kinds. Read-only.
func (c *Catalogue) Kinds() []*Kind { return c.kinds }

// ByResource finds the kind and version that serve a resource, hidden versions included.
func (c *Catalogue) ByResource(r schema.GroupVersionResource) (*Kind, *Version, bool) {
	e, ok := c.byResource[r]
	return e.kind, e.version, ok
}

// ByKind finds the kind and version that a document with this apiVersion and kind speaks of, hidden versions included.
func (c *Catalogue) ByKind(g schema.GroupVersionKind) (*Kind, *Version, bool) {
	e, ok := c.byKind[g]
	return e.kind, e.version, ok
}

// ByGroupResource finds the kind of a resource whose version nobody named.
func (c *Catalogue) ByGroupResource(r schema.GroupResource) (*Kind, bool) {
	k, ok := c.byGroupRes[r]
	return k, ok
}

// Groups returns the groups in the order of discovery, the core group first, without hidden versions. Read-only.
func (c *Catalogue) Groups() []Group { return c.groups }

// Scheme returns the Go types by apiVersion and kind: every version of every kind, the types of meta/v1 in each group, and the
// options that subresources read from query parameters. Read-only; it converts nothing between versions.
func (c *Catalogue) Scheme() *runtime.Scheme { return c.scheme }

// Serializers returns JSON, YAML and protobuf, in this order, each with its strict and streaming form. They decode into the
// version that a document names and encode what they are given: no conversion, no defaults.
func (c *Catalogue) Serializers() []runtime.SerializerInfo { return c.codecs.SupportedMediaTypes() }

// NegotiatedSerializer returns Serializers in the form that client-go and others want.
func (c *Catalogue) NegotiatedSerializer() runtime.NegotiatedSerializer {
	return c.codecs.WithoutConversion()
}

// Codec returns the stored form of a kind. It panics for a virtual kind, which has none.
func (c *Catalogue) Codec(k *Kind) Codec {
	codec, ok := c.codecByKind[k]
	if !ok {
		panic(fmt.Sprintf("%s is not a stored kind of this catalogue", k.GroupKind()))
	}
	return codec
}

// New makes an empty hub object with its apiVersion and kind.
func (c *Catalogue) New(k *Kind) runtime.Object {
	o := k.HubVersion().New()
	o.GetObjectKind().SetGroupVersionKind(k.HubKind())
	return o
}

// ToHub turns an object of version v into the hub type, with apiVersion and kind set. The result may be obj itself or share
// parts with it: obj belongs to the caller and is given away.
func (c *Catalogue) ToHub(k *Kind, v *Version, obj runtime.Object) (Object, error) {
	if v.ToHub != nil {
		hub, err := v.ToHub(obj)
		if err != nil {
			return nil, err
		}
		hub.GetObjectKind().SetGroupVersionKind(k.HubKind())
		return hub, nil
	}
	want := k.HubVersion()
	if v != want {
		hub := want.New()
		if err := throughJSON(obj, hub); err != nil {
			return nil, fmt.Errorf("converting to %s: %w", k.HubKind(), err)
		}
		obj = hub
	}
	o, ok := obj.(Object)
	if !ok {
		return nil, fmt.Errorf("%T is not an object of %s", obj, k.HubKind())
	}
	o.GetObjectKind().SetGroupVersionKind(k.HubKind())
	return o, nil
}

// FromHub turns a hub object into version v, with apiVersion and kind set. For the hub version this is obj itself; otherwise
// the result may share parts with obj, and is read-only as far as obj is.
func (c *Catalogue) FromHub(k *Kind, v *Version, obj Object) (runtime.Object, error) {
	if v.Version == k.Hub && (v.Group == "" || v.Group == k.Group) {
		return obj, nil
	}
	var out runtime.Object
	if v.FromHub != nil {
		var err error
		if out, err = v.FromHub(obj); err != nil {
			return nil, err
		}
	} else {
		out = v.New()
		if err := throughJSON(obj, out); err != nil {
			return nil, fmt.Errorf("converting to %s: %w", k.GroupVersion(v).WithKind(k.Kind), err)
		}
	}
	out.GetObjectKind().SetGroupVersionKind(k.GroupVersion(v).WithKind(k.Kind))
	return out, nil
}

// groupsOf sorts the visible versions of kinds into groups.
func groupsOf(kinds []*Kind) []Group {
	type place struct {
		group, version string
	}
	members := map[place][]*Kind{}
	versions := map[string][]string{}
	for _, k := range kinds {
		for i := range k.Versions {
			v := &k.Versions[i]
			if v.Hidden {
				continue
			}
			gv := k.GroupVersion(v)
			p := place{gv.Group, gv.Version}
			if members[p] == nil {
				versions[gv.Group] = append(versions[gv.Group], gv.Version)
			}
			members[p] = append(members[p], k)
		}
	}
	var groups []Group
	for name, vs := range versions {
		g := Group{Name: name}
		slices.SortFunc(vs, func(a, b string) int { return compareVersions(b, a) })
		for _, v := range vs {
			m := members[place{name, v}]
			slices.SortFunc(m, func(a, b *Kind) int { return strings.Compare(a.Resource, b.Resource) })
			g.Versions = append(g.Versions, GroupVersion{Version: v, Kinds: m})
		}
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		i, _ := Priority(schema.GroupVersion{Group: a.Name})
		j, _ := Priority(schema.GroupVersion{Group: b.Name})
		if i != j {
			return int(j - i)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return groups
}
