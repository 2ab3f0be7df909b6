package custom

import (
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/discovery"
)

// Discovery tells which groups custom resources make; it is a discovery.Source.
type Discovery struct{ *Registry }

// Groups implements discovery.Source.
func (d Discovery) Groups() []string { return d.Registry.Groups() }

// Group implements discovery.Source: the versions that are served, the preferred one first, and their resources.
func (d Discovery) Group(name string) discovery.Group {
	g := discovery.Group{Name: name, Priority: api.CustomGroupPriority}
	all, _ := d.Definitions(name)
	for _, s := range all {
		crd := s.Newest()
		if !isTrue(crd, apiextensionsv1.Established) {
			continue
		}
		hash := ""
		for _, v := range s.Versions() {
			if v.spec.Storage {
				hash = discovery.StorageVersionHash(v.gvk)
			}
		}
		for _, v := range s.Versions() {
			n := slices.IndexFunc(g.Versions, func(o discovery.Version) bool { return o.Version == v.spec.Name })
			if n < 0 {
				n = len(g.Versions)
				g.Versions = append(g.Versions, discovery.Version{Version: v.spec.Name, KindsInFull: true})
			}
			g.Versions[n].Resources = append(g.Versions[n].Resources, v.discovered(crd, hash)...)
		}
	}
	slices.SortStableFunc(g.Versions, func(a, b discovery.Version) int { return compareVersions(b.Version, a.Version) })
	return g
}

// discovered describes the version's resource and its subresources. The order of the verbs is upstream's.
func (v *Version) discovered(crd *CRD, hash string) []metav1.APIResource {
	names := &crd.Status.AcceptedNames
	verbs := metav1.Verbs{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	if isTrue(crd, apiextensionsv1.Terminating) {
		verbs = metav1.Verbs{"delete", "deletecollection", "get", "list", "watch"}
	}
	namespaced := v.def.Namespaced()
	out := []metav1.APIResource{{
		Name: names.Plural, SingularName: names.Singular, Namespaced: namespaced, Kind: names.Kind, Verbs: verbs,
		ShortNames: names.ShortNames, Categories: names.Categories, StorageVersionHash: hash,
	}}
	if v.hasStatus() {
		out = append(out, metav1.APIResource{Name: names.Plural + "/status", Namespaced: namespaced, Kind: names.Kind, Verbs: api.StatusVerbs()})
	}
	if v.Scale() != nil {
		scale := schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
		out = append(out, metav1.APIResource{
			Name: names.Plural + "/scale", Group: scale.Group, Version: scale.Version, Kind: scale.Kind, Namespaced: namespaced, Verbs: api.StatusVerbs(),
		})
	}
	return out
}
