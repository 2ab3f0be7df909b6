package scheduler

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// budgets are the disruption budgets, by namespace and name.
type budgets struct {
	byNamespace map[string]map[string]*budget
	generation  uint64
}

type budget struct {
	selector labels.Selector
	allowed  int32
	// disrupted are pods whose eviction the budget has counted already.
	disrupted map[string]bool
}

func newBudgets() budgets { return budgets{byNamespace: map[string]map[string]*budget{}} }

// SetBudget tells of a disruption budget; preemption prefers victims that none protects.
func (s *Snapshot) SetBudget(b *policyv1.PodDisruptionBudget) {
	n := &budget{selector: selectorOf(b.Spec.Selector), allowed: b.Status.DisruptionsAllowed, disrupted: map[string]bool{}}
	for name := range b.Status.DisruptedPods {
		n.disrupted[name] = true
	}
	in := s.budgets.byNamespace[b.Namespace]
	if in == nil {
		in = map[string]*budget{}
		s.budgets.byNamespace[b.Namespace] = in
	}
	if in[b.Name] == nil {
		// Nodes whose pods nothing protected so far are tried again.
		clear(s.evictions)
	}
	in[b.Name] = n
	s.budgets.generation++
}

// RemoveBudget tells that a disruption budget is gone.
func (s *Snapshot) RemoveBudget(namespace, name string) {
	delete(s.budgets.byNamespace[namespace], name)
	if len(s.budgets.byNamespace[namespace]) == 0 {
		delete(s.budgets.byNamespace, namespace)
	}
	s.budgets.generation++
}

// violated says of each of some pods whether evicting it, after those before it, is more than a budget allows; nil if that is so for none. guarded says that
// a budget was asked.
func (b *budgets) violated(pods []*placed) (out []bool, guarded bool) {
	if len(b.byNamespace) == 0 {
		return nil, false
	}
	var left map[*budget]int32
	for i, q := range pods {
		if len(q.pod.Labels) == 0 {
			continue
		}
		for _, g := range b.byNamespace[q.pod.Namespace] {
			if !g.selector.Matches(labels.Set(q.pod.Labels)) {
				continue
			}
			guarded = true
			if g.disrupted[q.pod.Name] {
				continue
			}
			if left == nil {
				left = map[*budget]int32{}
			}
			n, ok := left[g]
			if !ok {
				n = g.allowed
			}
			left[g] = n - 1
			if n <= 0 {
				if out == nil {
					out = make([]bool, len(pods))
				}
				out[i] = true
			}
		}
	}
	return out, guarded
}
