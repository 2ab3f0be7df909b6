package authz

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/celox/celox/internal/store"
)

// kind is one of the four kinds that RBAC is made of.
type kind int8

const (
	roles kind = iota
	clusterRoles
	roleBindings
	clusterRoleBindings
	kinds
)

// index finds the rules that reach a user. It is safe for concurrent use.
type index struct {
	mu sync.RWMutex // guards all below
	// seen is the revision of each object that the index holds, by the object's key.
	seen [kinds]map[string]seen
	// rules are those of each role by "namespace/name", and of each cluster role by name.
	rules map[string][]rbacv1.PolicyRule
	// cluster holds the grants of cluster role bindings, namespaces those of role bindings.
	cluster    subjects
	namespaces map[string]*subjects
}

type seen struct {
	revision int64
	object   store.Object
}

// subjects are the grants of one scope by who gets them.
type subjects struct {
	users, groups map[string][]*grant
}

// grant is one subject of one binding.
type grant struct {
	binding string // key of the binding
	role    string // key in index.rules
	ref     rbacv1.RoleRef
	reason  string
}

func newIndex() *index {
	x := &index{rules: map[string][]rbacv1.PolicyRule{}, namespaces: map[string]*subjects{}, cluster: newSubjects()}
	for k := range x.seen {
		x.seen[k] = map[string]seen{}
	}
	return x
}

func newSubjects() subjects {
	return subjects{users: map[string][]*grant{}, groups: map[string][]*grant{}}
}

// put takes in an object unless a newer state of it is known.
func (x *index) put(k kind, key string, revision int64, obj store.Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putLocked(k, key, revision, obj)
}

func (x *index) putLocked(k kind, key string, revision int64, obj store.Object) {
	old, ok := x.seen[k][key]
	if ok && old.revision >= revision {
		return
	}
	if ok {
		x.removeLocked(k, key)
	}
	x.seen[k][key] = seen{revision: revision, object: obj}
	switch o := obj.(type) {
	case *rbacv1.Role:
		x.rules[key] = o.Rules
	case *rbacv1.ClusterRole:
		x.rules[key] = o.Rules
	case *rbacv1.RoleBinding:
		s := x.namespaces[o.Namespace]
		if s == nil {
			n := newSubjects()
			s = &n
			x.namespaces[o.Namespace] = s
		}
		role := o.RoleRef.Name
		if o.RoleRef.Kind == "Role" {
			role = o.Namespace + "/" + role
		}
		for _, sub := range o.Subjects {
			s.add(sub, &grant{
				binding: key, role: role, ref: o.RoleRef,
				reason: fmt.Sprintf("RBAC: allowed by RoleBinding %q of %s %q to %s", o.Name+"/"+o.Namespace, o.RoleRef.Kind, o.RoleRef.Name, describe(sub)),
			}, o.Namespace)
		}
	case *rbacv1.ClusterRoleBinding:
		for _, sub := range o.Subjects {
			x.cluster.add(sub, &grant{
				binding: key, role: o.RoleRef.Name, ref: o.RoleRef,
				reason: fmt.Sprintf("RBAC: allowed by ClusterRoleBinding %q of %s %q to %s", o.Name, o.RoleRef.Kind, o.RoleRef.Name, describe(sub)),
			}, "")
		}
	}
}

// remove forgets an object unless a state of it newer than revision is known.
func (x *index) remove(k kind, key string, revision int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s, ok := x.seen[k][key]; ok && s.revision <= revision {
		x.removeLocked(k, key)
	}
}

func (x *index) removeLocked(k kind, key string) {
	switch o := x.seen[k][key].object.(type) {
	case *rbacv1.Role, *rbacv1.ClusterRole:
		delete(x.rules, key)
	case *rbacv1.RoleBinding:
		if s := x.namespaces[o.Namespace]; s != nil {
			s.drop(key, o.Subjects, o.Namespace)
			if len(s.users)+len(s.groups) == 0 {
				delete(x.namespaces, o.Namespace)
			}
		}
	case *rbacv1.ClusterRoleBinding:
		x.cluster.drop(key, o.Subjects, "")
	}
	delete(x.seen[k], key)
}

// replace makes the index hold exactly items of kind k in namespace ("" is all).
func (x *index) replace(k kind, namespace string, items []*store.Item, revision int64) {
	x.mu.RLock()
	current := true
	for _, it := range items {
		if s, ok := x.seen[k][it.Key]; !ok || s.revision < it.Revision {
			current = false
			break
		}
	}
	if current && namespace == "" {
		current = len(items) == len(x.seen[k])
	}
	x.mu.RUnlock()
	if current && namespace == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	listed := make(map[string]bool, len(items))
	for _, it := range items {
		listed[it.Key] = true
		x.putLocked(k, it.Key, it.Revision, it.Object)
	}
	for key, s := range x.seen[k] {
		if !listed[key] && s.revision <= revision && (namespace == "" || strings.HasPrefix(key, namespace+"/")) {
			x.removeLocked(k, key)
		}
	}
}

// subjectKey says by which name a subject is found; the second result tells groups from users.
func subjectKey(s rbacv1.Subject, namespace string) (name string, group, ok bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return s.Name, false, true
	case rbacv1.GroupKind:
		return s.Name, true, true
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return "system:serviceaccount:" + namespace + ":" + s.Name, false, namespace != ""
	}
	return "", false, false
}

func (s *subjects) add(sub rbacv1.Subject, g *grant, namespace string) {
	name, group, ok := subjectKey(sub, namespace)
	if !ok {
		return
	}
	m := s.users
	if group {
		m = s.groups
	}
	at, _ := slices.BinarySearchFunc(m[name], g, func(a, b *grant) int { return strings.Compare(a.binding, b.binding) })
	m[name] = slices.Insert(slices.Clip(m[name]), at, g)
}

func (s *subjects) drop(binding string, subs []rbacv1.Subject, namespace string) {
	for _, sub := range subs {
		name, group, ok := subjectKey(sub, namespace)
		if !ok {
			continue
		}
		m := s.users
		if group {
			m = s.groups
		}
		// Readers hold no copy of a slice beyond their lock, so it is changed in place.
		if kept := slices.DeleteFunc(m[name], func(g *grant) bool { return g.binding == binding }); len(kept) > 0 {
			m[name] = kept
		} else {
			delete(m, name)
		}
	}
}

func describe(s rbacv1.Subject) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+s.Namespace)
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name)
}

// visit calls f with the rules of each grant to the user until it returns false. A grant of a role that does not exist is
// given to missing. The namespace is that of the request, "" for the cluster.
func (x *index) visit(name string, groups []string, namespace string, f func(*grant, []rbacv1.PolicyRule) bool, missing func(*grant)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.cluster.visit(x, name, groups, f, missing) || namespace == "" {
		return
	}
	if s := x.namespaces[namespace]; s != nil {
		s.visit(x, name, groups, f, missing)
	}
}

func (s *subjects) visit(x *index, name string, groups []string, f func(*grant, []rbacv1.PolicyRule) bool, missing func(*grant)) bool {
	if !visitGrants(x, s.users[name], f, missing) {
		return false
	}
	for _, g := range groups {
		if !visitGrants(x, s.groups[g], f, missing) {
			return false
		}
	}
	return true
}

func visitGrants(x *index, grants []*grant, f func(*grant, []rbacv1.PolicyRule) bool, missing func(*grant)) bool {
	for _, g := range grants {
		rules, ok := x.rules[g.role]
		if !ok {
			if missing != nil {
				missing(g)
			}
			continue
		}
		if !f(g, rules) {
			return false
		}
	}
	return true
}
