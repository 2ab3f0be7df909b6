package authz

import (
	"context"
	"errors"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// Authorizer decides for the whole API server. It may be used from many goroutines.
type Authorizer struct {
	nodes *Nodes
	rbac  *RBAC
	// openPaths may be read by everyone, whoever he is.
	openPaths []string
}

// New returns an Authorizer; nodes may be nil. Everyone, even the unknown, may get openPaths, before there are any roles that say so.
func New(nodes *Nodes, rbac *RBAC, openPaths []string) *Authorizer {
	return &Authorizer{nodes: nodes, rbac: rbac, openPaths: openPaths}
}

// Authorize says whether the user may do what is asked. Anything but Allow is a refusal; the reason is for the user.
func (z *Authorizer) Authorize(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	d, reason, err := z.decide(ctx, a)
	if d != request.Allow && a.User != nil && !a.ResourceRequest && a.Verb == "get" && slices.Contains(z.openPaths, a.Path) {
		return request.Allow, "", nil
	}
	return d, reason, err
}

// decide is Authorize by what is configured in the API alone, which is what reviews are about.
func (z *Authorizer) decide(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.User == nil {
		return request.Deny, "", nil
	}
	if slices.Contains(a.User.GetGroups(), user.SystemPrivilegedGroup) {
		return request.Allow, "", nil
	}
	var refusal string // of those who have no opinion, each with its name before it
	if z.nodes != nil {
		d, reason, err := z.nodes.Authorize(ctx, a)
		if err != nil || d != request.NoOpinion {
			return d, reason, err
		}
		if reason != "" {
			refusal = "node: " + reason
		}
	}
	d, reason, err := z.rbac.Authorize(ctx, a)
	switch {
	case d != request.NoOpinion:
		return d, reason, err
	case reason == "":
		return d, refusal, err
	case refusal != "":
		refusal += "\n"
	}
	return d, refusal + "rbac: " + reason, err
}

// Review answers the access reviews: whether u may do what one of the two attributes describes.
func (z *Authorizer) Review(ctx context.Context, u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := request.Attributes{User: u}
	var ignored []error
	switch {
	case r != nil:
		a.ResourceRequest = true
		a.Verb, a.Namespace, a.Group, a.Version = r.Verb, r.Namespace, r.Group, r.Version
		a.Resource, a.Subresource, a.Name = r.Resource, r.Subresource, r.Name
		if f := r.FieldSelector; f != nil && f.RawSelector != "" {
			if _, err := fields.ParseSelector(f.RawSelector); err != nil {
				ignored = append(ignored, errors.New("spec.resourceAttributes.fieldSelector ignored due to parse error"))
			} else {
				a.FieldSelector = f.RawSelector
			}
		}
		if l := r.LabelSelector; l != nil && l.RawSelector != "" {
			if _, err := labels.Parse(l.RawSelector); err != nil {
				ignored = append(ignored, errors.New("spec.resourceAttributes.labelSelector ignored due to parse error"))
			}
		}
	case n != nil:
		a.Verb, a.Path = n.Verb, n.Path
	}
	d, reason, err := z.decide(ctx, a)
	if err != nil {
		ignored = append(ignored, err)
	}
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: d == request.Allow, Denied: d == request.Deny, Reason: reason}
	if len(ignored) > 0 {
		status.EvaluationError = utilerrors.NewAggregate(ignored).Error()
	}
	return status
}

// RulesFor answers a SelfSubjectRulesReview.
func (z *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) (authorizationv1.SubjectRulesReviewStatus, error) {
	if namespace == "" {
		return authorizationv1.SubjectRulesReviewStatus{}, apierrors.NewBadRequest("no namespace on request")
	}
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	add := func(rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			if len(rule.Resources) > 0 {
				status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
					Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
			}
			if len(rule.NonResourceURLs) > 0 {
				status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
					Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
			}
		}
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		add(everything())
	}
	if z.nodes != nil {
		if _, ok := nodeName(u); ok {
			status.Incomplete = true
			status.EvaluationError = "node authorizer does not support user rule resolution"
		}
	}
	rules, err := z.rbac.RulesFor(ctx, u, namespace)
	add(rules)
	if err != nil {
		status.Incomplete = true
		if status.EvaluationError != "" {
			status.EvaluationError += ", "
		}
		status.EvaluationError += err.Error()
	}
	return status, nil
}

func everything() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
	}
}
