package dynamicresources

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// results are the choices in the API's form, one for each claim.
func (s *search) results(n Node) []*resourcev1.AllocationResult {
	out := make([]*resourcev1.AllocationResult, len(s.claims))
	for i := range out {
		out[i] = &resourcev1.AllocationResult{NodeSelector: s.nodeSelector(i, n)}
		out[i].Devices.Config = s.config(i)
	}
	for k := range s.picks {
		p := &s.picks[k]
		r := resourcev1.DeviceRequestAllocationResult{
			Request: p.o.name, Driver: p.d.id.Driver, Pool: p.d.id.Pool, Device: p.d.id.Device, Tolerations: p.o.tolerations,
			BindingConditions: p.d.BindingConditions, BindingFailureConditions: p.d.BindingFailureConditions,
		}
		if p.o.admin {
			yes := true
			r.AdminAccess = &yes
		}
		if p.d.shared() {
			id := s.v.newID()
			r.ShareID, r.ConsumedCapacity = &id, p.take
		}
		to := &out[p.o.claim].Devices
		to.Results = append(to.Results, r)
	}
	return out
}

// nodeSelector says which nodes can reach all devices of a claim; nil is all.
func (s *search) nodeSelector(claim int, n Node) *v1.NodeSelector {
	var term v1.NodeSelectorTerm
	for k := range s.picks {
		p := &s.picks[k]
		if p.o.claim != claim {
			continue
		}
		if p.d.reach.node != "" || value(p.d.BindsToNode) {
			return &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn, Values: []string{n.Name()}},
			}}}}
		}
		if sel := p.d.reach.selector; sel != nil {
			for i := range sel.NodeSelectorTerms { // one, says the API
				merge(&term.MatchFields, sel.NodeSelectorTerms[i].MatchFields)
				merge(&term.MatchExpressions, sel.NodeSelectorTerms[i].MatchExpressions)
			}
		}
	}
	if len(term.MatchFields)+len(term.MatchExpressions) == 0 {
		return nil
	}
	return &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{term}}
}

func merge(to *[]v1.NodeSelectorRequirement, from []v1.NodeSelectorRequirement) {
	for _, r := range from {
		if !slices.ContainsFunc(*to, func(o v1.NodeSelectorRequirement) bool {
			return o.Key == r.Key && o.Operator == r.Operator && slices.Equal(o.Values, r.Values)
		}) {
			*to = append(*to, r)
		}
	}
}

// config is what drivers are told: of the classes that were used, each once, then of the claim what is about the options that were chosen.
func (s *search) config(claim int) []resourcev1.DeviceAllocationConfiguration {
	var out []resourcev1.DeviceAllocationConfiguration
	var used []*option
	type span struct{ from, to int }
	classes := map[string]span{}
	for _, o := range s.chosen {
		if o.claim != claim {
			continue
		}
		used = append(used, o)
		at, ok := classes[o.class.Name]
		if !ok {
			at.from = len(out)
			for i := range o.class.Spec.Config {
				out = append(out, resourcev1.DeviceAllocationConfiguration{
					Source: resourcev1.AllocationConfigSourceClass, DeviceConfiguration: o.class.Spec.Config[i].DeviceConfiguration,
				})
			}
			at.to = len(out)
			classes[o.class.Name] = at
		}
		for i := at.from; i < at.to; i++ {
			out[i].Requests = append(out[i].Requests, o.name)
		}
	}
	meant := func(requests []string, o *option) bool {
		return slices.Contains(requests, o.main) || slices.Contains(requests, o.name)
	}
	for _, c := range s.claims[claim].Spec.Devices.Config {
		if len(c.Requests) == 0 || slices.ContainsFunc(used, func(o *option) bool { return meant(c.Requests, o) }) {
			out = append(out, resourcev1.DeviceAllocationConfiguration{Source: resourcev1.AllocationConfigSourceClaim, Requests: c.Requests, DeviceConfiguration: c.DeviceConfiguration})
		}
	}
	for i := range out {
		if !slices.ContainsFunc(used, func(o *option) bool { return !meant(out[i].Requests, o) }) {
			out[i].Requests = nil // none means all
		}
	}
	return out
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
