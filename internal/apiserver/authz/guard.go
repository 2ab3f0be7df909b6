package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/celox/celox/internal/apiserver/request"
)

// Guard keeps users from granting what they do not hold. Whoever is in system:masters, or may "escalate" the role or "bind" it,
// may grant anything.
type Guard struct {
	authorizer request.Authorizer
	rbac       *RBAC
}

// NewGuard returns a Guard.
func NewGuard(authorizer request.Authorizer, rbac *RBAC) *Guard {
	return &Guard{authorizer: authorizer, rbac: rbac}
}

// Check returns the error for a write of an RBAC object that grants too much; old is nil for a create. Objects of other
// kinds are none of its business.
func (g *Guard) Check(ctx context.Context, u user.Info, name string, obj, old runtime.Object) error {
	var resource string
	var meta, oldMeta metav1.Object
	switch o := obj.(type) {
	case *rbacv1.Role:
		resource, meta = "roles", o
	case *rbacv1.ClusterRole:
		resource, meta = "clusterroles", o
	case *rbacv1.RoleBinding:
		resource, meta = "rolebindings", o
	case *rbacv1.ClusterRoleBinding:
		resource, meta = "clusterrolebindings", o
	default:
		return nil
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	if old != nil {
		oldMeta, _ = old.(metav1.Object)
		if oldMeta != nil && onlyForCollector(obj, old) {
			return nil
		}
	}
	if name == "" {
		name = meta.GetName()
	}
	gr := schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
	switch o := obj.(type) {
	case *rbacv1.Role:
		return g.role(ctx, u, gr, name, o.Namespace, o.Rules, false)
	case *rbacv1.ClusterRole:
		aggregates := o.AggregationRule != nil
		if oldRole, ok := old.(*rbacv1.ClusterRole); ok && oldRole.AggregationRule != nil {
			aggregates = true
		}
		return g.role(ctx, u, gr, name, "", o.Rules, aggregates)
	case *rbacv1.RoleBinding:
		return g.binding(ctx, u, gr, name, o.Namespace, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return g.binding(ctx, u, gr, name, "", o.RoleRef)
	}
	return nil
}

// onlyForCollector tells whether an update changes only what lets the garbage collector finish a deletion.
func onlyForCollector(obj, old runtime.Object) bool {
	newCopy, okNew := obj.DeepCopyObject().(metav1.Object)
	oldCopy, okOld := old.DeepCopyObject().(metav1.Object)
	if !okNew || !okOld {
		return false
	}
	for _, o := range []metav1.Object{newCopy, oldCopy} {
		o.SetOwnerReferences(nil)
		o.SetFinalizers(nil)
		o.SetManagedFields(nil)
	}
	return apiequality.Semantic.DeepEqual(newCopy, oldCopy)
}

func (g *Guard) role(ctx context.Context, u user.Info, gr schema.GroupResource, name, namespace string, rules []rbacv1.PolicyRule, aggregates bool) error {
	d, _, err := g.authorizer.Authorize(ctx, request.Attributes{
		User: u, Verb: "escalate", Group: gr.Group, Version: "v1", Resource: gr.Resource, Namespace: namespace, Name: name, ResourceRequest: true,
	})
	if err != nil {
		return err
	}
	if d == request.Allow {
		return nil
	}
	if err := g.holds(ctx, u, namespace, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	if aggregates && g.holds(ctx, u, namespace, everything()) != nil {
		return apierrors.NewForbidden(gr, name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (g *Guard) binding(ctx context.Context, u user.Info, gr schema.GroupResource, name, namespace string, ref rbacv1.RoleRef) error {
	a := request.Attributes{User: u, Verb: "bind", Group: gr.Group, Version: "v1", Namespace: namespace, Name: ref.Name, ResourceRequest: true}
	key := ref.Name
	switch ref.Kind {
	case "Role":
		a.Resource = "roles"
		key = namespace + "/" + ref.Name
	case "ClusterRole":
		a.Resource = "clusterroles"
	default:
		return nil // validation refuses it
	}
	d, _, err := g.authorizer.Authorize(ctx, a)
	if err != nil {
		return err
	}
	if d == request.Allow {
		return nil
	}
	rules, ok, err := g.rbac.rulesOf(ctx, namespace, key)
	if err != nil {
		return err
	}
	if !ok {
		return apierrors.NewNotFound(gr, ref.Name)
	}
	if err := g.holds(ctx, u, namespace, rules); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	return nil
}

// rulesOf returns the rules of a role by its key in the index.
func (r *RBAC) rulesOf(ctx context.Context, namespace, key string) ([]rbacv1.PolicyRule, bool, error) {
	if err := r.refresh(ctx, namespace); err != nil {
		return nil, false, err
	}
	r.index.mu.RLock()
	defer r.index.mu.RUnlock()
	rules, ok := r.index.rules[key]
	return rules, ok, nil
}

// holds returns an error that lists the rules that u does not hold in namespace.
func (g *Guard) holds(ctx context.Context, u user.Info, namespace string, wanted []rbacv1.PolicyRule) error {
	held, resolutionErr := g.rbac.RulesFor(ctx, u, namespace)
	covered, missing := validation.Covers(held, wanted)
	if covered {
		return nil
	}
	var lines []string
	for _, rule := range compact(missing) {
		lines = append(lines, ruleText(rule))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(lines, "\n"))
	if resolutionErr != nil {
		text += fmt.Sprintf("; resolution errors: %v", resolutionErr)
	}
	return errors.New(text)
}

// compact joins the verbs of rules that agree in all else.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for _, rule := range rules {
		verbs := rule.Verbs
		rule.Verbs = nil
		key := ruleText(rule)
		if i, ok := at[key]; ok {
			for _, v := range verbs {
				if !slices.Contains(out[i].Verbs, v) {
					out[i].Verbs = append(out[i].Verbs, v)
				}
			}
			continue
		}
		at[key] = len(out)
		rule.Verbs = slices.Clone(verbs)
		out = append(out, rule)
	}
	return out
}

func ruleText(rule rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"NonResourceURLs", rule.NonResourceURLs},
		{"ResourceNames", rule.ResourceNames}, {"Verbs", rule.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
