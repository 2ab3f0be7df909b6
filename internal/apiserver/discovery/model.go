package discovery

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"sort"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
)

// Group is an API group with what it serves.
type Group struct {
	Name string
	// Priority orders the groups, high first; equal ones are ordered by name.
	Priority int32
	// Versions are in the order of preference.
	Versions []Version
}

// Version is one version of a group.
type Version struct {
	Version string
	// Resources are the resources and their subresources ("pods", "pods/log"), each after its parent.
	Resources []metav1.APIResource
	// Stale says that the resources come from an earlier answer of an aggregated server that cannot be asked now.
	Stale bool
	// KindsInFull says that the aggregated document names the kinds with their group and version, as it does for custom resources.
	KindsInFull bool
	// quiet versions are only in the aggregated document.
	quiet bool
}

// StorageVersionHash is how discovery tells in which version a resource is stored: it changes when the version does.
func StorageVersionHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// builtIn describes the groups of a catalogue, the core group first.
func builtIn(c *api.Catalogue) []Group {
	var groups []Group
	for _, g := range c.Groups() {
		out := Group{Name: g.Name}
		out.Priority, _ = api.Priority(schema.GroupVersion{Group: g.Name})
		for _, v := range g.Versions {
			version := Version{Version: v.Version}
			for _, k := range v.Kinds {
				version.Resources = append(version.Resources, resources(k)...)
			}
			out.Versions = append(out.Versions, version)
		}
		groups = append(groups, out)
	}
	return groups
}

// resources describes a kind: itself, then its subresources by name.
func resources(k *api.Kind) []metav1.APIResource {
	main := metav1.APIResource{
		Name:         k.Resource,
		SingularName: k.Singular,
		Namespaced:   k.Namespaced,
		Kind:         k.Kind,
		Verbs:        sorted(k.ResourceVerbs()),
		ShortNames:   k.ShortNames,
		Categories:   k.Categories,
	}
	if !k.Virtual {
		main.StorageVersionHash = StorageVersionHash(k.HubKind())
	}
	out := []metav1.APIResource{main}
	subs := slices.Clone(k.Subresources)
	sort.Slice(subs, func(i, j int) bool { return subs[i].Name < subs[j].Name })
	for _, s := range subs {
		r := metav1.APIResource{
			Name:       k.Resource + "/" + s.Name,
			Namespaced: k.Namespaced,
			Kind:       k.Kind,
			Verbs:      sorted(s.Verbs),
		}
		if s.Kind.Kind != "" {
			r.Kind = s.Kind.Kind
			// Only a kind from another group version is named in full.
			if s.Kind.GroupVersion() != k.HubKind().GroupVersion() {
				r.Group, r.Version = s.Kind.Group, s.Kind.Version
			}
		}
		out = append(out, r)
	}
	return out
}

func sorted(verbs []string) []string {
	v := slices.Clone(verbs)
	slices.Sort(v)
	return v
}

// withHidden adds the hidden versions of the catalogue's kinds, without verbs: enough for a client to find the resource of an
// old manifest's kind, and too little for it to list or prefer it.
func withHidden(groups []Group, c *api.Catalogue) []Group {
	for _, k := range c.Kinds() {
		for i := range k.Versions {
			v := &k.Versions[i]
			if !v.Hidden {
				continue
			}
			gv := k.GroupVersion(v)
			g := slices.IndexFunc(groups, func(g Group) bool { return g.Name == gv.Group })
			if g < 0 {
				groups = append(groups, Group{Name: gv.Group})
				g = len(groups) - 1
			}
			n := slices.IndexFunc(groups[g].Versions, func(v Version) bool { return v.Version == gv.Version })
			if n < 0 {
				groups[g].Versions = append(groups[g].Versions, Version{Version: gv.Version, quiet: true})
				n = len(groups[g].Versions) - 1
			}
			groups[g].Versions[n].Resources = append(groups[g].Versions[n].Resources, metav1.APIResource{
				Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind, Verbs: []string{},
			})
		}
	}
	return groups
}

// aggregated turns a group into its entry of the aggregated document.
func aggregated(g Group) apidiscoveryv2.APIGroupDiscovery {
	out := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.Name}}
	for _, v := range g.Versions {
		d := apidiscoveryv2.APIVersionDiscovery{Version: v.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		if v.Stale {
			d.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
		}
		for _, r := range v.Resources {
			kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
			if v.KindsInFull && r.Version == "" {
				kind.Group, kind.Version = g.Name, v.Version
			}
			parent, sub, isSub := strings.Cut(r.Name, "/")
			if !isSub {
				scope := apidiscoveryv2.ScopeCluster
				if r.Namespaced {
					scope = apidiscoveryv2.ScopeNamespace
				}
				d.Resources = append(d.Resources, apidiscoveryv2.APIResourceDiscovery{
					Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
					Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
				})
				continue
			}
			n := slices.IndexFunc(d.Resources, func(o apidiscoveryv2.APIResourceDiscovery) bool { return o.Resource == parent })
			if n < 0 {
				// An aggregated server may serve a part of a resource that it does not serve itself.
				scope := apidiscoveryv2.ScopeCluster
				if r.Namespaced {
					scope = apidiscoveryv2.ScopeNamespace
				}
				d.Resources = append(d.Resources, apidiscoveryv2.APIResourceDiscovery{Resource: parent, Scope: scope, ResponseKind: &metav1.GroupVersionKind{}})
				n = len(d.Resources) - 1
			}
			d.Resources[n].Subresources = append(d.Resources[n].Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub, ResponseKind: kind, Verbs: r.Verbs,
			})
		}
		out.Versions = append(out.Versions, d)
	}
	return out
}

// legacyGroup turns a group into its legacy entry; false if it has nothing to show there.
func legacyGroup(g Group) (metav1.APIGroup, bool) {
	out := metav1.APIGroup{Name: g.Name}
	for _, v := range g.Versions {
		if !v.quiet {
			out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{
				GroupVersion: schema.GroupVersion{Group: g.Name, Version: v.Version}.String(), Version: v.Version,
			})
		}
	}
	if len(out.Versions) == 0 {
		return out, false
	}
	out.PreferredVersion = out.Versions[0]
	return out, true
}
