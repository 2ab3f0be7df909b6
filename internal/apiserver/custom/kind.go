package custom

import (
	"fmt"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/util/jsonpath"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/webhook"
)

// Hooks are what definitions need of their surroundings.
type Hooks struct {
	// Webhooks calls conversion webhooks; nil: none can be called.
	Webhooks *webhook.Client

	// meta is what the definitions of one registry share.
	meta *metaTypes
}

// APIKind describes the version's objects to the generic handler. Its hub is the version itself: each version is served as if it were
// the only one.
func (v *Version) APIKind() *api.Kind {
	names := &v.def.crd.Status.AcceptedNames
	k := &api.Kind{
		Group: v.gvk.Group, Kind: v.gvk.Kind, Resource: names.Plural, Singular: names.Singular,
		ShortNames: names.ShortNames, Categories: names.Categories, Namespaced: v.def.Namespaced(),
		Prefix: v.gvk.Group + "/" + names.Plural, StoredAsJSON: true,
		Versions:      []api.Version{{Version: v.gvk.Version, New: v.New, NewList: nil, Deprecated: v.deprecation()}},
		Hub:           v.gvk.Version,
		HasGeneration: true,
		Default: func(obj api.Object) {
			// A schema that can't be compiled has been refused when the object was decoded.
			_ = v.Default(custom(obj))
		},
		PrepareForCreate: func(obj api.Object) {
			if v.hasStatus() {
				delete(custom(obj).Fields, "status")
			}
		},
		PrepareForUpdate:       v.prepareUpdate,
		PrepareForStatusUpdate: prepareStatusUpdate,
		GenerationChanged:      func(obj, old api.Object) bool { return !sameFields(custom(obj), custom(old)) },
		Warnings:               finalizerWarnings,
	}
	if v.hasStatus() {
		k.Subresources = append(k.Subresources, api.Status())
	}
	if v.Scale() != nil {
		k.Subresources = append(k.Subresources, api.Scale())
	}
	v.addColumns(k)
	v.addFields(k)
	return k
}

// New makes an empty object of the version.
func (v *Version) New() runtime.Object {
	return &Object{TypeMeta: metav1.TypeMeta{APIVersion: v.gvk.GroupVersion().String(), Kind: v.gvk.Kind}}
}

// custom is the type of all objects that the handler hands to a custom kind.
func custom(obj api.Object) *Object {
	return obj.(*Object) //nolint:forcetypeassert // a kind is only ever given its own hub type
}

func (v *Version) deprecation() string {
	switch {
	case !v.spec.Deprecated:
		return ""
	case v.spec.DeprecationWarning != nil:
		return *v.spec.DeprecationWarning
	}
	text := fmt.Sprintf("%s %s is deprecated", v.gvk.GroupVersion(), v.gvk.Kind)
	best := ""
	for i := range v.def.crd.Spec.Versions {
		o := &v.def.crd.Spec.Versions[i]
		if o.Served && !o.Deprecated && compareVersions(o.Name, v.spec.Name) > 0 && (best == "" || compareVersions(o.Name, best) > 0) {
			best = o.Name
		}
	}
	if best != "" {
		text += fmt.Sprintf("; use %s/%s %s", v.gvk.Group, best, v.gvk.Kind)
	}
	return text
}

func (v *Version) prepareUpdate(obj, old api.Object) {
	o, before := custom(obj), custom(old)
	if !v.hasStatus() {
		return
	}
	if status, ok := before.Fields["status"]; ok {
		if o.Fields == nil {
			o.Fields = map[string]any{}
		}
		o.Fields["status"] = status
		return
	}
	delete(o.Fields, "status")
}

// prepareStatusUpdate keeps everything but the status, the managed fields and the version that the update started from.
func prepareStatusUpdate(obj, old api.Object) {
	o, before := custom(obj), custom(old)
	status, has := o.Fields["status"]
	managed, version := o.ManagedFields, o.ResourceVersion
	next := before.shallow()
	next.ManagedFields, next.ResourceVersion = managed, version
	*o = *next
	if has {
		if o.Fields == nil {
			o.Fields = map[string]any{}
		}
		o.Fields["status"] = status
	} else {
		delete(o.Fields, "status")
	}
}

// finalizerWarnings are about new finalizers that have no domain.
func finalizerWarnings(obj, old api.Object) []string {
	added := slices.Clone(obj.GetFinalizers())
	if old != nil {
		added = slices.DeleteFunc(added, func(f string) bool { return slices.Contains(old.GetFinalizers(), f) })
	}
	slices.Sort(added)
	var out []string
	const where = "metadata.finalizers"
	for _, f := range slices.Compact(added) {
		for _, msg := range validation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("%s: %q: %s", where, f, msg))
		}
		switch {
		case strings.Contains(f, "/"), f == metav1.FinalizerOrphanDependents, f == metav1.FinalizerDeleteDependents, f == "kubernetes":
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", where, f))
		default:
			out = append(out, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", where, f))
		}
	}
	return out
}

// addFields makes the version's selectable fields selectable.
func (v *Version) addFields(k *api.Kind) {
	if len(v.spec.SelectableFields) == 0 {
		return
	}
	type selectable struct {
		name string
		path *jsonpath.JSONPath
	}
	var all []selectable
	for _, f := range v.spec.SelectableFields {
		s := selectable{name: strings.TrimPrefix(f.JSONPath, "."), path: jsonpath.New("selectableField").AllowMissingKeys(true)}
		if s.path.Parse("{"+f.JSONPath+"}") != nil {
			s.path = nil
		}
		all = append(all, s)
		k.FieldNames = append(k.FieldNames, s.name)
	}
	k.Fields = func(obj api.Object) fields.Set {
		set := make(fields.Set, len(all)+2)
		content := custom(obj).content(custom(obj).visible())
		for _, s := range all {
			set[s.name] = ""
			if s.path == nil {
				continue
			}
			if results, err := s.path.FindResults(content); err == nil && len(results) > 0 && len(results[0]) > 0 {
				if value := results[0][0].Interface(); value != nil {
					set[s.name] = fmt.Sprint(value)
				}
			}
		}
		return set
	}
}

// listKind is the kind of lists.
func (v *Version) listKind() string { return v.def.crd.Status.AcceptedNames.ListKind }

// ListKind returns the kind of the version's lists.
func (v *Version) ListKind() string { return v.listKind() }

// Terminating says whether the definition is on its way out: nothing new may be made.
func Terminating(crd *CRD) bool {
	if crd.DeletionTimestamp != nil {
		return true
	}
	for i := range crd.Status.Conditions {
		if c := &crd.Status.Conditions[i]; c.Type == apiextensionsv1.Terminating {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
