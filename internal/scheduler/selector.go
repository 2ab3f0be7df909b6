package scheduler

import (
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// requirement is one condition on a node's labels or, if field is set, on its name.
type requirement struct {
	field    bool
	operator v1.NodeSelectorOperator
	key      uint32
	values   []uint32
	number   int64 // for Gt and Lt
	invalid  bool  // never matches
}

func (r *requirement) matches(s *Snapshot, n *node) bool {
	if r.invalid {
		return false
	}
	var value uint32
	var has bool
	if r.field {
		value, has = s.strings.id(n.name), true
	} else {
		value, has = n.value(r.key)
	}
	switch r.operator {
	case v1.NodeSelectorOpIn:
		return has && slices.Contains(r.values, value)
	case v1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(r.values, value)
	case v1.NodeSelectorOpExists:
		return has
	case v1.NodeSelectorOpDoesNotExist:
		return !has
	case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
		if !has {
			return false
		}
		x, ok := s.number(value)
		return ok && (r.operator == v1.NodeSelectorOpGt && x > r.number || r.operator == v1.NodeSelectorOpLt && x < r.number)
	}
	return false
}

// nodeSelector is a pod's node selector and the required part of its node affinity.
type nodeSelector struct {
	all []requirement // of the selector
	// terms are of the affinity, one of which must match; limited says that there are any, even if none can.
	terms   [][]requirement
	limited bool
}

func (q *nodeSelector) matches(s *Snapshot, n *node) bool {
	for i := range q.all {
		if !q.all[i].matches(s, n) {
			return false
		}
	}
	return !q.limited || slices.ContainsFunc(q.terms, func(t []requirement) bool { return matchesAll(s, n, t) })
}

func matchesAll(s *Snapshot, n *node, t []requirement) bool {
	for i := range t {
		if !t[i].matches(s, n) {
			return false
		}
	}
	return true
}

type preferredTerm struct {
	weight int64
	term   []requirement
}

func (s *Snapshot) newNodeSelector(labels map[string]string, a *v1.NodeAffinity) nodeSelector {
	var q nodeSelector
	for k, v := range labels {
		q.all = append(q.all, requirement{operator: v1.NodeSelectorOpIn, key: s.strings.id(k), values: []uint32{s.strings.id(v)}})
	}
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return q
	}
	q.limited = true
	for i := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if t := s.newTerm(&a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i]); t != nil {
			q.terms = append(q.terms, t)
		}
	}
	return q
}

func (s *Snapshot) newPreferred(a *v1.NodeAffinity) []preferredTerm {
	if a == nil {
		return nil
	}
	var out []preferredTerm
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		p := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
		if t := s.newTerm(&p.Preference); t != nil && p.Weight != 0 {
			out = append(out, preferredTerm{int64(p.Weight), t})
		}
	}
	return out
}

// newTerm is nil for an empty term, which matches nothing.
func (s *Snapshot) newTerm(t *v1.NodeSelectorTerm) []requirement {
	var out []requirement
	for _, part := range []struct {
		field bool
		from  []v1.NodeSelectorRequirement
	}{{false, t.MatchExpressions}, {true, t.MatchFields}} {
		for _, e := range part.from {
			r := requirement{field: part.field, operator: e.Operator, key: s.strings.id(e.Key)}
			r.invalid = part.field && e.Key != "metadata.name"
			for _, v := range e.Values {
				r.values = append(r.values, s.strings.id(v))
			}
			if e.Operator == v1.NodeSelectorOpGt || e.Operator == v1.NodeSelectorOpLt {
				var err error
				if len(e.Values) != 1 {
					r.invalid = true
				} else if r.number, err = strconv.ParseInt(e.Values[0], 10, 64); err != nil {
					r.invalid = true
				}
			}
			out = append(out, r)
		}
	}
	return out
}

// onlyNodes are the names of the nodes that can match at all, if every term names some.
func onlyNodes(a *v1.NodeAffinity) []string {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	var out []string
	for _, t := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		i := slices.IndexFunc(t.MatchFields, func(r v1.NodeSelectorRequirement) bool {
			return r.Key == "metadata.name" && r.Operator == v1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil
		}
		out = append(out, t.MatchFields[i].Values...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
