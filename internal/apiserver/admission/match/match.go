package match

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
)

// Namespaces finds namespaces.
type Namespaces interface {
	Namespace(ctx context.Context, name string) (*corev1.Namespace, error)
}

// Criteria say what somebody is about. They never change once made.
type Criteria struct {
	rules, excluded   []admissionregistrationv1.NamedRuleWithOperations
	equivalent        bool
	namespaces        labels.Selector
	objects           labels.Selector
	selectorErr       error
	everythingIfEmpty bool
}

// Webhook returns the criteria of a webhook. It is about nothing if it has no rules.
func Webhook(rules []admissionregistrationv1.RuleWithOperations, policy *admissionregistrationv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) *Criteria {
	named := make([]admissionregistrationv1.NamedRuleWithOperations, len(rules))
	for i := range rules {
		named[i].RuleWithOperations = rules[i]
	}
	c := &Criteria{rules: named, equivalent: policy != nil && *policy == admissionregistrationv1.Equivalent}
	c.selectors(namespaces, objects)
	return c
}

// Resources returns the criteria of a policy or a binding. Without rules they are about everything, without m as well.
func Resources(m *admissionregistrationv1.MatchResources) *Criteria {
	c := &Criteria{everythingIfEmpty: true}
	if m == nil {
		c.selectors(&metav1.LabelSelector{}, &metav1.LabelSelector{})
		return c
	}
	c.rules, c.excluded = m.ResourceRules, m.ExcludeResourceRules
	c.equivalent = m.MatchPolicy != nil && *m.MatchPolicy == admissionregistrationv1.Equivalent
	c.selectors(m.NamespaceSelector, m.ObjectSelector)
	return c
}

// selectors parses both; an absent one selects nothing, as everywhere in the API (defaults put an empty one in its place).
func (c *Criteria) selectors(namespaces, objects *metav1.LabelSelector) {
	if c.namespaces, c.selectorErr = metav1.LabelSelectorAsSelector(namespaces); c.selectorErr != nil {
		return
	}
	c.objects, c.selectorErr = metav1.LabelSelectorAsSelector(objects)
}

// door is the way that a write takes, or an equivalent one.
func door(a *admission.Attributes) admission.Door {
	return admission.Door{Resource: a.Resource, Kind: a.Kind}
}

// Match says whether a is one of what c is about, and as what it is shown.
func (c *Criteria) Match(ctx context.Context, a *admission.Attributes, namespaces Namespaces) (admission.Door, bool, error) {
	if c.selectorErr != nil {
		return admission.Door{}, false, apierrors.NewInternalError(c.selectorErr)
	}
	inNamespace, nsErr := c.matchNamespace(ctx, a, namespaces)
	if !inNamespace && nsErr == nil || !c.matchObject(a) {
		return admission.Door{}, false, nil
	}
	if _, out := c.byRules(c.excluded, a, false); out {
		return admission.Door{}, false, nil
	}
	d := door(a)
	if len(c.rules) > 0 || !c.everythingIfEmpty {
		var ok bool
		if d, ok = c.byRules(c.rules, a, false); !ok {
			return admission.Door{}, false, nil
		}
	}
	if nsErr != nil {
		return admission.Door{}, false, nsErr
	}
	if d.Kind.Empty() {
		return admission.Door{}, false, apierrors.NewInternalError(fmt.Errorf("unable to convert to %v: unknown kind", d.Resource))
	}
	return d, true, nil
}

// could says whether a write like a, of whatever name and labels, can be one of what c is about.
func (c *Criteria) could(a *admission.Attributes) bool {
	if c.selectorErr != nil || len(c.rules) == 0 && c.everythingIfEmpty {
		return true
	}
	_, ok := c.byRules(c.rules, a, true)
	return ok
}

func (c *Criteria) matchNamespace(ctx context.Context, a *admission.Attributes, namespaces Namespaces) (bool, error) {
	if a.Namespace == "" && a.Resource.Resource != "namespaces" || c.namespaces.Empty() {
		return true, nil // what is in no namespace is never left out
	}
	if a.Resource.Resource == "namespaces" && a.Subresource == "" && (a.Operation == admission.Create || a.Operation == admission.Update) {
		return c.namespaces.Matches(labelsOf(a.Object)), nil
	}
	ns, err := namespaces.Namespace(ctx, a.Namespace)
	switch {
	case apierrors.IsNotFound(err):
		return false, err
	case err != nil:
		return false, apierrors.NewInternalError(err)
	}
	return c.namespaces.Matches(labels.Set(ns.Labels)), nil
}

func (c *Criteria) matchObject(a *admission.Attributes) bool {
	if c.objects.Empty() {
		return true
	}
	selects := func(obj runtime.Object) bool {
		m, ok := obj.(metav1.Object)
		return ok && c.objects.Matches(labels.Set(m.GetLabels()))
	}
	return a.Object != nil && selects(a.Object) || a.OldObject != nil && selects(a.OldObject)
}

func labelsOf(obj runtime.Object) labels.Set {
	if m, ok := obj.(metav1.Object); ok {
		return m.GetLabels()
	}
	return nil
}

// byRules finds the door by which a rule is about a, or about a write like it of another name; the request's own comes first.
func (c *Criteria) byRules(rules []admissionregistrationv1.NamedRuleWithOperations, a *admission.Attributes, anyName bool) (admission.Door, bool) {
	own := door(a)
	named := func(r *admissionregistrationv1.NamedRuleWithOperations) bool {
		return anyName || len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.Name)
	}
	for i := range rules {
		if r := &rules[i]; fits(&r.RuleWithOperations, a, a.Resource) && named(r) {
			return own, true
		}
	}
	if !c.equivalent || a.Versions == nil || len(rules) == 0 {
		return own, false
	}
	doors := a.Versions.Doors(a.Subresource)
	for i := range rules {
		r := &rules[i]
		for _, d := range doors {
			if d.Resource != a.Resource && fits(&r.RuleWithOperations, a, d.Resource) && named(r) {
				return d, true
			}
		}
	}
	return own, false
}

// fits says whether a rule is about a write through a resource.
func fits(r *admissionregistrationv1.RuleWithOperations, a *admission.Attributes, gvr schema.GroupVersionResource) bool {
	return inScope(r.Scope, a, gvr) && operates(r.Operations, a.Operation) && listed(r.APIGroups, gvr.Group) && listed(r.APIVersions, gvr.Version) &&
		slices.ContainsFunc(r.Resources, func(text string) bool {
			resource, sub, _ := strings.Cut(text, "/")
			return (resource == "*" || resource == gvr.Resource) && (sub == "*" || sub == a.Subresource)
		})
}

func listed(list []string, value string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return s == "*" || s == value })
}

func operates(list []admissionregistrationv1.OperationType, op admission.Operation) bool {
	return slices.ContainsFunc(list, func(o admissionregistrationv1.OperationType) bool {
		return o == admissionregistrationv1.OperationAll || string(o) == string(op)
	})
}

// inScope knows that a namespace is in no namespace though requests for it carry its name as theirs.
func inScope(scope *admissionregistrationv1.ScopeType, a *admission.Attributes, gvr schema.GroupVersionResource) bool {
	if scope == nil {
		return true
	}
	cluster := a.Namespace == "" || gvr == schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	switch *scope {
	case admissionregistrationv1.AllScopes:
		return true
	case admissionregistrationv1.NamespacedScope:
		return !cluster
	case admissionregistrationv1.ClusterScope:
		return cluster
	}
	return false
}

// Exempt says whether a is nobody's business that is configured: about policies and their bindings, or about a question that
// authentication and authorization are asked, which must be answered whatever is configured.
func Exempt(a *admission.Attributes) bool {
	switch a.Resource.Group {
	case admissionregistrationv1.GroupName:
		switch a.Resource.Resource {
		case "validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings":
			return true
		}
	case "authentication.k8s.io", "authorization.k8s.io":
		switch a.Resource.Resource {
		case "tokenreviews", "selfsubjectreviews", "subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews":
			return true
		}
	}
	return false
}

// ExemptFromWebhooks says the same to webhooks, which must not touch their own configuration either.
func ExemptFromWebhooks(a *admission.Attributes) bool {
	if a.Resource.Group == admissionregistrationv1.GroupName {
		switch a.Resource.Resource {
		case "validatingwebhookconfigurations", "mutatingwebhookconfigurations":
			return true
		}
	}
	return Exempt(a)
}
