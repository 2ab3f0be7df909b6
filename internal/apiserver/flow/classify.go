package flow

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// serviceAccountPrefix begins the user names of service accounts; namespace and name follow, with a colon between them.
const serviceAccountPrefix = "system:serviceaccount:"

// schema is a FlowSchema made ready for matching. Read-only.
type schema struct {
	name  string
	level *level
	stats *stats // the level's for this schema; guarded by its lock
	rules []rule
	by    flowcontrolv1.FlowDistinguisherMethodType
	// seed is the hash that the hashes of the schema's flows begin with.
	seed uint64
	// uid and levelUID are header values, shared by all answers.
	uid, levelUID []string
}

// rule is one PolicyRulesWithSubjects.
type rule struct {
	users, groups []string
	accounts      []flowcontrolv1.ServiceAccountSubject
	resources     []flowcontrolv1.ResourcePolicyRule
	paths         []flowcontrolv1.NonResourcePolicyRule
}

func newSchema(o *flowcontrolv1.FlowSchema, l *level) *schema {
	l.mu.Lock()
	counts := l.statsOf(o.Name)
	l.mu.Unlock()
	s := &schema{
		name: o.Name, level: l, stats: counts, seed: hash(fnvOffset, o.Name),
		uid: []string{string(o.UID)}, levelUID: []string{l.uid},
	}
	if d := o.Spec.DistinguisherMethod; d != nil {
		s.by = d.Type
	}
	for i := range o.Spec.Rules {
		in := &o.Spec.Rules[i]
		r := rule{resources: in.ResourceRules, paths: in.NonResourceRules}
		for j := range in.Subjects {
			switch sub := &in.Subjects[j]; {
			case sub.Kind == flowcontrolv1.SubjectKindUser && sub.User != nil:
				r.users = append(r.users, sub.User.Name)
			case sub.Kind == flowcontrolv1.SubjectKindGroup && sub.Group != nil:
				r.groups = append(r.groups, sub.Group.Name)
			case sub.Kind == flowcontrolv1.SubjectKindServiceAccount && sub.ServiceAccount != nil:
				r.accounts = append(r.accounts, *sub.ServiceAccount)
			}
		}
		s.rules = append(s.rules, r)
	}
	return s
}

// byPrecedence is the order in which schemas are tried: the lowest number first, equal ones by name.
func byPrecedence(a, b *flowcontrolv1.FlowSchema) int {
	return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
}

// matches says whether any rule of the schema covers what u asks.
func (s *schema) matches(u user.Info, i *request.Info) bool {
	for n := range s.rules {
		if r := &s.rules[n]; r.asks(i) && r.isFor(u) {
			return true
		}
	}
	return false
}

func (r *rule) isFor(u user.Info) bool {
	name := u.GetName()
	for _, want := range r.users {
		if want == flowcontrolv1.NameAll || want == name {
			return true
		}
	}
	if len(r.groups) > 0 {
		groups := u.GetGroups()
		for _, want := range r.groups {
			if want == flowcontrolv1.NameAll || slices.Contains(groups, want) {
				return true
			}
		}
	}
	if len(r.accounts) == 0 {
		return false
	}
	rest, ok := strings.CutPrefix(name, serviceAccountPrefix)
	if !ok {
		return false
	}
	ns, account, ok := strings.Cut(rest, ":")
	if !ok {
		return false
	}
	for j := range r.accounts {
		if a := &r.accounts[j]; a.Namespace == ns && (a.Name == flowcontrolv1.NameAll || a.Name == account) {
			return true
		}
	}
	return false
}

// asks says whether the rule covers the resource and verb, or the path, of a request.
func (r *rule) asks(i *request.Info) bool {
	if !i.IsResource {
		for j := range r.paths {
			if p := &r.paths[j]; oneOf(p.Verbs, i.Verb) && pathOf(p.NonResourceURLs, i.Path) {
				return true
			}
		}
		return false
	}
	for j := range r.resources {
		p := &r.resources[j]
		if oneOf(p.Verbs, i.Verb) && oneOf(p.APIGroups, i.Group) && resourceOf(p.Resources, i) && namespaceOf(p, i.Namespace) {
			return true
		}
	}
	return false
}

// every stands for all values of a list.
const every = "*"

func oneOf(list []string, s string) bool {
	for _, w := range list {
		if w == every || w == s {
			return true
		}
	}
	return false
}

// resourceOf compares "pods" and "pods/status" without putting the latter together.
func resourceOf(list []string, i *request.Info) bool {
	for _, w := range list {
		if w == every {
			return true
		}
		if i.Subresource == "" {
			if w == i.Resource {
				return true
			}
			continue
		}
		if rest, ok := strings.CutPrefix(w, i.Resource); ok && len(rest) == len(i.Subresource)+1 && rest[0] == '/' && rest[1:] == i.Subresource {
			return true
		}
	}
	return false
}

func namespaceOf(p *flowcontrolv1.ResourcePolicyRule, ns string) bool {
	if ns == "" {
		return p.ClusterScope
	}
	return oneOf(p.Namespaces, ns)
}

// pathOf compares a path with those of a rule, of which "*" at the end stands for any rest.
func pathOf(list []string, path string) bool {
	for _, w := range list {
		if w == every || w == path {
			return true
		}
		if head, ok := strings.CutSuffix(w, every); ok && strings.HasPrefix(path, head) {
			return true
		}
	}
	return false
}

// distinguisher tells the flows of a schema apart.
func (s *schema) distinguisher(u user.Info, i *request.Info) string {
	switch s.by {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return u.GetName()
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return i.Namespace
	}
	return ""
}
