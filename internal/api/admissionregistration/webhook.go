package admissionregistration

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// What a webhook has if it does not say, and bounds of what it may say.
const (
	defaultTimeoutSeconds  int32 = 10
	maxTimeoutSeconds      int32 = 30
	defaultPort            int32 = 443
	maxMatchConditions           = 64
	admissionReviewVersion       = "v1, v1beta1"
)

// webhook is what mutating and validating webhooks have in common; its parts point into theirs.
type webhook struct {
	name              string
	client            *admissionregistrationv1.WebhookClientConfig
	rules             []admissionregistrationv1.RuleWithOperations
	failurePolicy     **admissionregistrationv1.FailurePolicyType
	matchPolicy       **admissionregistrationv1.MatchPolicyType
	namespaceSelector **metav1.LabelSelector
	objectSelector    **metav1.LabelSelector
	sideEffects       *admissionregistrationv1.SideEffectClass
	reinvocation      *admissionregistrationv1.ReinvocationPolicyType // of mutating ones
	timeoutSeconds    **int32
	versions          []string
	conditions        []admissionregistrationv1.MatchCondition
}

func set[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func (w webhook) setDefaults() {
	set(w.failurePolicy, admissionregistrationv1.Fail)
	set(w.matchPolicy, admissionregistrationv1.Equivalent)
	set(w.namespaceSelector, metav1.LabelSelector{})
	set(w.objectSelector, metav1.LabelSelector{})
	set(w.timeoutSeconds, defaultTimeoutSeconds)
	for i := range w.rules {
		set(&w.rules[i].Scope, admissionregistrationv1.AllScopes)
	}
	if s := w.client.Service; s != nil {
		set(&s.Port, defaultPort)
	}
}

// validateWebhooks checks the hooks of one configuration and that their names differ. Match conditions that the old ones had as well
// were good once and stay so.
func validateWebhooks(hooks, old []webhook) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	unchanged := len(hooks) == len(old)
	stored := map[string]bool{}
	for i := range old {
		unchanged = unchanged && slices.Equal(hooks[i].conditions, old[i].conditions)
		maps.Copy(stored, conditionsOf(old[i].conditions))
	}
	c, may := newChecker(false, false, stored), allow(old)
	for i, h := range hooks {
		p := field.NewPath("webhooks").Index(i)
		errs = append(errs, h.validate(may, p)...)
		if !unchanged {
			errs = append(errs, validateMatchConditions(h.conditions, c, p.Child("matchConditions"))...)
		}
		errs = append(errs, validateVersions(h.versions, may, p.Child("admissionReviewVersions"))...)
		if h.name != "" && names[h.name] && !may.sameNames {
			errs = append(errs, field.Duplicate(p.Child("name"), h.name))
		}
		names[h.name] = true
	}
	return errs
}

// allowances are faults that an update may leave or make, because the stored configuration is from a time when they were none.
type allowances struct{ anySideEffects, unknownVersions, sameNames, badSelectors bool }

func allow(old []webhook) allowances {
	var may allowances
	names := map[string]bool{}
	for _, h := range old {
		may.sameNames = may.sameNames || names[h.name]
		names[h.name] = true
		may.unknownVersions = may.unknownVersions || len(h.versions) > 0 && !slices.ContainsFunc(h.versions, acceptedVersion)
		may.anySideEffects = may.anySideEffects || h.sideEffects == nil || !slices.Contains(allowances{}.sideEffects(), string(*h.sideEffects))
		for _, s := range []*metav1.LabelSelector{*h.namespaceSelector, *h.objectSelector} {
			may.badSelectors = may.badSelectors || s != nil && len(check.Selector(s, nil, false)) > 0
		}
	}
	return may
}

// sideEffects are the classes that may be named.
func (a allowances) sideEffects() []string {
	if a.anySideEffects {
		return []string{string(admissionregistrationv1.SideEffectClassNone), string(admissionregistrationv1.SideEffectClassNoneOnDryRun),
			string(admissionregistrationv1.SideEffectClassSome), string(admissionregistrationv1.SideEffectClassUnknown)}
	}
	return []string{string(admissionregistrationv1.SideEffectClassNone), string(admissionregistrationv1.SideEffectClassNoneOnDryRun)}
}

func (w webhook) validate(may allowances, p *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(p.Child("name"), w.name)
	for i := range w.rules {
		errs = append(errs, validateRule(&w.rules[i], p.Child("rules").Index(i))...)
	}
	if f := *w.failurePolicy; f != nil {
		errs = append(errs, check.OneOf(*f, p.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	}
	if m := *w.matchPolicy; m != nil {
		errs = append(errs, check.OneOf(*m, p.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	}
	if w.sideEffects == nil {
		errs = append(errs, field.Required(p.Child("sideEffects"), "must specify one of "+strings.Join(may.sideEffects(), ", ")))
	} else {
		errs = append(errs, check.OneOf(string(*w.sideEffects), p.Child("sideEffects"), may.sideEffects()...)...)
	}
	if t := *w.timeoutSeconds; t != nil && (*t < 1 || *t > maxTimeoutSeconds) {
		errs = append(errs, field.Invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	if s := *w.namespaceSelector; s != nil {
		errs = append(errs, check.Selector(s, p.Child("namespaceSelector"), may.badSelectors)...)
	}
	if s := *w.objectSelector; s != nil {
		errs = append(errs, check.Selector(s, p.Child("objectSelector"), may.badSelectors)...)
	}
	if w.reinvocation != nil {
		errs = append(errs, check.OneOf(*w.reinvocation, p.Child("reinvocationPolicy"), admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
	}
	client := p.Child("clientConfig")
	switch {
	case (w.client.URL == nil) == (w.client.Service == nil):
		errs = append(errs, field.Required(client, "exactly one of url or service is required"))
	case w.client.URL != nil:
		errs = append(errs, validateURL(*w.client.URL, client.Child("url"))...)
	default:
		errs = append(errs, validateService(w.client.Service, client.Child("service"))...)
	}
	return errs
}

func acceptedVersion(v string) bool { return v == "v1" || v == "v1beta1" }

func validateVersions(versions []string, may allowances, p *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(p, "must specify one of "+admissionReviewVersion)}
	}
	var errs field.ErrorList
	seen, known := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(p.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		errs = append(errs, check.Each(validation.IsDNS1035Label(v), p.Index(i), v)...)
		known = known || acceptedVersion(v)
	}
	if !known && !may.unknownVersions {
		errs = append(errs, field.Invalid(p, versions, "must include at least one of "+admissionReviewVersion))
	}
	return errs
}

func validateURL(text string, p *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(p, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(p, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(p, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(p, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(p, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(p, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

func validateService(s *admissionregistrationv1.ServiceReference, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Upstream takes the one for the other.
	if s.Namespace == "" {
		errs = append(errs, field.Required(p.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(p.Child("namespace"), ""))
	}
	if s.Port != nil {
		for _, text := range validation.IsValidPortNum(int(*s.Port)) {
			errs = append(errs, field.Invalid(p.Child("port"), *s.Port, "port is not valid: "+text))
		}
	}
	if s.Path == nil {
		return errs
	}
	path, at := *s.Path, p.Child("path")
	if path == "/" || path == "" {
		return errs
	}
	if path == "//" {
		return append(errs, field.Invalid(at, path, "segment[0] may not be empty"))
	}
	if !strings.HasPrefix(path, "/") {
		errs = append(errs, field.Invalid(at, path, "must start with a '/'"))
	}
	for i, segment := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, text := range validation.IsDNS1123Subdomain(segment) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d]: %s", i, text)))
		}
	}
	return errs
}

func validateRule(r *admissionregistrationv1.RuleWithOperations, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	operations := p.Child("operations")
	switch {
	case len(r.Operations) == 0:
		errs = append(errs, field.Required(operations, ""))
	case len(r.Operations) > 1 && slices.Contains(r.Operations, admissionregistrationv1.OperationAll):
		errs = append(errs, field.Invalid(operations, r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, o := range r.Operations {
		errs = append(errs, check.OneOf(o, operations.Index(i), admissionregistrationv1.OperationAll, admissionregistrationv1.Connect,
			admissionregistrationv1.Create, admissionregistrationv1.Delete, admissionregistrationv1.Update)...)
	}
	for _, l := range []struct {
		name, what string
		list       []string
		empty      bool // whether an element may be empty: the core group
	}{{"apiGroups", "API groups", r.APIGroups, true}, {"apiVersions", "API versions", r.APIVersions, false}} {
		at := p.Child(l.name)
		switch {
		case len(l.list) == 0:
			errs = append(errs, field.Required(at, ""))
		case len(l.list) > 1 && slices.Contains(l.list, "*"):
			errs = append(errs, field.Invalid(at, l.list, "if '*' is present, must not specify other "+l.what))
		}
		for i, v := range l.list {
			if v == "" && !l.empty {
				errs = append(errs, field.Required(at.Index(i), ""))
			}
		}
	}
	errs = append(errs, validateResources(r.Resources, p.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, check.OneOf(*r.Scope, p.Child("scope"), admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
	}
	return errs
}

// validateResources wants no resource to be covered by a wildcard beside it.
func validateResources(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	subresourcesOfAll, resourcesOfAll := map[string]bool{}, map[string]bool{} // "*/x" and "x/*"
	// Upstream looks at the last resource without a subresource only.
	last := ""
	for i, r := range list {
		at := p.Index(i)
		if r == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		resource, sub, isSub := strings.Cut(r, "/")
		if !isSub {
			last = r
			continue
		}
		if resourcesOfAll[resource] {
			errs = append(errs, field.Invalid(at, r, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, r)))
		}
		if subresourcesOfAll[sub] {
			errs = append(errs, field.Invalid(at, r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		if sub == "*" {
			resourcesOfAll[resource] = true
		}
		if resource == "*" {
			subresourcesOfAll[sub] = true
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		errs = append(errs, field.Invalid(p, list, "if '*/*' is present, must not specify other resources"))
	}
	if slices.Contains(list, "*") && last != "*" {
		errs = append(errs, field.Invalid(p, list, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// validateMatchConditions checks names and expressions.
func validateMatchConditions(list []admissionregistrationv1.MatchCondition, c *checker, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxMatchConditions {
		errs = append(errs, field.TooMany(p, len(list), maxMatchConditions))
	}
	names := map[string]bool{}
	for i := range list {
		at, name := p.Index(i), list[i].Name
		if text := strings.TrimSpace(list[i].Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, c.condition(text, at.Child("expression"))...)
		}
		switch {
		case name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		default:
			errs = append(errs, check.QualifiedName(name, at.Child("name"))...)
			if names[name] {
				errs = append(errs, field.Duplicate(at.Child("name"), name))
			}
			names[name] = true
		}
	}
	return errs
}
