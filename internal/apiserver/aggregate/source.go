package aggregate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/celox/celox/internal/apiserver/discovery"
	"github.com/celox/celox/internal/apiserver/openapi"
)

// Revision implements the sources of discovery and OpenAPI.
func (a *Aggregator) Revision() uint64 { return a.revision.Load() }

// Groups implements discovery.Source.
func (a *Aggregator) Groups() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.groups))
}

// GroupRevision implements discovery.Source.
func (a *Aggregator) GroupRevision(name string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.groups[name]
}

// Group implements discovery.Source: the versions of a group that other servers have, and what they last said of their resources.
func (a *Aggregator) Group(name string) discovery.Group {
	a.mu.Lock()
	var all []*backend
	for _, b := range a.backends {
		if b.spec.Group == name {
			all = append(all, b)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y *backend) int {
		return cmp.Or(-cmp.Compare(x.spec.VersionPriority, y.spec.VersionPriority), -version.CompareKubeAwareVersionStrings(x.gv.Version, y.gv.Version))
	})
	g := discovery.Group{Name: name}
	for _, b := range all {
		g.Priority = max(g.Priority, b.spec.GroupPriorityMinimum)
		v := discovery.Version{Version: b.gv.Version, Stale: !b.available.Load()}
		if f := b.found.Load(); f != nil {
			v.Resources = f.resources
		}
		g.Versions = append(g.Versions, v)
	}
	return g
}

// Namespaced returns the resources of other servers whose objects are in namespaces and can be listed and deleted, each in the version that
// is preferred, and the group versions of servers that do not say at the moment what they have.
func (a *Aggregator) Namespaced() (found []schema.GroupVersionResource, unknown []schema.GroupVersion) {
	groups := a.Groups()
	slices.Sort(groups)
	for _, name := range groups {
		seen := map[string]bool{}
		for _, v := range a.Group(name).Versions {
			gv := schema.GroupVersion{Group: name, Version: v.Version}
			if v.Stale {
				unknown = append(unknown, gv)
				continue
			}
			for _, r := range v.Resources {
				if r.Namespaced && !seen[r.Name] && !strings.Contains(r.Name, "/") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "delete") {
					seen[r.Name] = true
					found = append(found, gv.WithResource(r.Name))
				}
			}
		}
	}
	return found, unknown
}

// Documents implements openapi.Source: the names of the documents that other servers have.
func (a *Aggregator) Documents() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]uint64{}
	for _, b := range a.backends {
		if f := b.found.Load(); f != nil && f.openAPI != nil {
			out["apis/"+b.gv.String()] = a.groups[b.gv.Group]
		}
	}
	return out
}

// Document implements openapi.Source.
func (a *Aggregator) Document(name string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.backends {
		if f := b.found.Load(); f != nil && "apis/"+b.gv.String() == name {
			return f.openAPI, nil
		}
	}
	return nil, nil
}

// HashV2 implements openapi.Merger.
func (a *Aggregator) HashV2() string {
	var out strings.Builder
	for _, f := range a.described() {
		out.WriteString(f.v2Hash)
		out.WriteByte(';')
	}
	return out.String()
}

// V2 implements openapi.Merger: what other servers say of their group versions.
func (a *Aggregator) V2() ([]openapi.Addition, error) {
	var out []openapi.Addition
	for _, f := range a.described() {
		out = append(out, f.v2)
	}
	return out, nil
}

// described returns what was found out about the servers that have an OpenAPI v2 document, in the order of their names.
func (a *Aggregator) described() []*found {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*found
	for _, name := range slices.Sorted(maps.Keys(a.backends)) {
		if f := a.backends[name].found.Load(); f != nil && len(f.v2.Paths) > 0 {
			out = append(out, f)
		}
	}
	return out
}

// Has says whether another server has a group version.
func (a *Aggregator) Has(gv schema.GroupVersion) bool { return (*a.table.Load())[gv] != nil }

// HasGroup says whether another server has a version of the group.
func (a *Aggregator) HasGroup(name string) bool { return a.GroupRevision(name) != 0 }
