package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
)

// serveVirtual serves kinds that are computed: questions that are answered at once, and the health of components.
func (s *Server) serveVirtual(x *exchange) error {
	i := x.info
	if i.Verb == "watch" && x.res.verbs["list"] && x.r.Method == http.MethodGet {
		return apierrors.NewMethodNotSupported(x.res.gr, "watch")
	}
	if x.r.Method == http.MethodHead || !x.res.verbs[i.Verb] {
		return methodNotAllowed()
	}
	if x.res.kind.Resource == "componentstatuses" {
		return x.componentStatuses()
	}
	switch {
	case i.Verb != "create" || i.NameInPath:
		return methodNotAllowed()
	case x.res.kind.Namespaced && i.Namespace == "":
		return methodNotAllowed()
	case x.res.kind.Resource == "bindings":
		return x.bind("")
	}
	return x.review()
}

// review answers a question that was posted.
func (x *exchange) review() error {
	accept, err := negotiate.ParseTablelessAccept(x.r.Header)
	if err != nil {
		return err
	}
	o, err := x.createOptions()
	if err != nil {
		return err
	}
	obj, err := x.decodeHub(o.validation)
	if err != nil {
		return err
	}
	if err := x.ensureNamespace(obj); err != nil {
		return err
	}
	wipeSystemMeta(obj)
	if obj, err = x.track(nil, obj, "", o); err != nil {
		return err
	}
	a := x.attributes(admission.Create, obj, nil, o.dryRun)
	a.Options = o.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return err
	}
	if err := x.answer(obj); err != nil {
		return err
	}
	return x.show(http.StatusCreated, accept, shown{obj: obj})
}

// answer fills in the status of a review.
func (x *exchange) answer(obj api.Object) error {
	switch r := obj.(type) {
	case *authenticationv1.TokenReview:
		return x.reviewToken(r)
	case *authenticationv1.SelfSubjectReview:
		r.ObjectMeta = metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(x.s.clock.Now().UTC()).Rfc3339Copy()}
		r.Status.UserInfo = userInfo(x.user)
		return nil
	case *authorizationv1.SubjectAccessReview:
		if errs := append(validateSubject(&r.Spec), emptyMeta(&r.ObjectMeta, "must be empty")...); len(errs) > 0 {
			return apierrors.NewInvalid(reviewGroup, "", errs)
		}
		return x.reviewAccess(subject(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.LocalSubjectAccessReview:
		errs := append(validateSubject(&r.Spec), emptyMeta(&r.ObjectMeta, "must be empty except for namespace")...)
		if ra := r.Spec.ResourceAttributes; ra != nil && ra.Namespace != r.Namespace {
			errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), ra.Namespace, "must match metadata.namespace"))
		}
		if na := r.Spec.NonResourceAttributes; na != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "nonResourceAttributes"), shownAttributes(na), "disallowed on this kind of request"))
		}
		if len(errs) > 0 {
			return apierrors.NewInvalid(reviewGroup, "", errs)
		}
		return x.reviewAccess(subject(&r.Spec), r.Spec.ResourceAttributes, nil, &r.Status)
	case *authorizationv1.SelfSubjectAccessReview:
		errs := append(validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), validateSelectors(r.Spec.ResourceAttributes)...)
		if errs = append(errs, emptyMeta(&r.ObjectMeta, "must be empty")...); len(errs) > 0 {
			return apierrors.NewInvalid(reviewGroup, "", errs)
		}
		return x.reviewAccess(x.user, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.SelfSubjectRulesReview:
		if r.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
		if x.s.cfg.RuleResolver == nil {
			return notImplemented("rules to review")
		}
		var err error
		r.Status, err = x.s.cfg.RuleResolver.RulesFor(x.ctx, x.user, r.Spec.Namespace)
		r.ObjectMeta, r.Spec = metav1.ObjectMeta{}, authorizationv1.SelfSubjectRulesReviewSpec{} // the answer says no more than what was asked for
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("nobody answers a %T", obj))
}

// reviewGroup names reviews in messages as upstream does: by their group only.
var reviewGroup = schema.GroupKind{Group: authorizationv1.GroupName}

func (x *exchange) reviewToken(r *authenticationv1.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if x.s.cfg.TokenReviewer == nil {
		return notImplemented("tokens to review")
	}
	u, audiences, err := x.s.cfg.TokenReviewer.ReviewToken(x.ctx, r.Spec.Token, r.Spec.Audiences)
	if err != nil {
		r.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
		return nil
	}
	if u == nil {
		return nil
	}
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(u), Audiences: audiences}
	return nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	if u == nil {
		return authenticationv1.UserInfo{}
	}
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

func subject(s *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[strings.ToLower(k)] = v
	}
	return u
}

// accessReviewer is an authorizer that can tell more than a decision: which parts of the question it did not look at.
type accessReviewer interface {
	Review(ctx context.Context, u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus
}

func (x *exchange) reviewAccess(u user.Info, ra *authorizationv1.ResourceAttributes, na *authorizationv1.NonResourceAttributes, status *authorizationv1.SubjectAccessReviewStatus) error {
	if r, ok := x.s.cfg.Authorizer.(accessReviewer); ok {
		*status = r.Review(x.ctx, u, ra, na)
		return nil
	}
	a := request.Attributes{User: u}
	if ra != nil {
		a.ResourceRequest = true
		a.Verb, a.Namespace, a.Group, a.Version = ra.Verb, ra.Namespace, ra.Group, ra.Version
		a.Resource, a.Subresource, a.Name = ra.Resource, ra.Subresource, ra.Name
	}
	if na != nil {
		a.Verb, a.Path = na.Verb, na.Path
	}
	d, reason, err := x.s.cfg.Authorizer.Authorize(x.ctx, a)
	*status = authorizationv1.SubjectAccessReviewStatus{Allowed: d == request.Allow, Denied: d == request.Deny, Reason: reason}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return nil
}

// plainAttributes shows NonResourceAttributes in messages under the names that upstream's internal type has.
type plainAttributes struct {
	Path string
	Verb string
}

func shownAttributes(na *authorizationv1.NonResourceAttributes) plainAttributes {
	return plainAttributes{Path: na.Path, Verb: na.Verb}
}

func validateAttributes(ra *authorizationv1.ResourceAttributes, na *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	const one = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
	if ra != nil && na != nil {
		errs = append(errs, field.Invalid(spec, shownAttributes(na), one))
	}
	if ra == nil && na == nil {
		errs = append(errs, field.Invalid(spec, nil, one))
	}
	return errs
}

// validateSelectors checks the selectors of a question (KEP-4601): raw or taken apart, not both.
func validateSelectors(ra *authorizationv1.ResourceAttributes) field.ErrorList {
	if ra == nil {
		return nil
	}
	p := field.NewPath("spec", "resourceAttributes")
	var errs field.ErrorList
	shape := func(p *field.Path, raw string, requirements int) {
		switch {
		case raw != "" && requirements > 0:
			errs = append(errs, field.Invalid(p.Child("rawSelector"), raw, "may not specified at the same time as requirements"))
		case raw == "" && requirements == 0:
			errs = append(errs, field.Required(p.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", p)))
		}
	}
	if f := ra.FieldSelector; f != nil {
		p := p.Child("fieldSelector")
		shape(p, f.RawSelector, len(f.Requirements))
		for i, r := range f.Requirements {
			errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(r, metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, p.Child("requirements").Index(i))...)
		}
	}
	if l := ra.LabelSelector; l != nil {
		p := p.Child("labelSelector")
		shape(p, l.RawSelector, len(l.Requirements))
		for i, r := range l.Requirements {
			errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(r, metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, p.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// emptyMeta demands of a question that it has no metadata: nothing of it is kept.
func emptyMeta(m *metav1.ObjectMeta, text string) field.ErrorList {
	bare := *m
	bare.ManagedFields, bare.Namespace = nil, ""
	if equality.Semantic.DeepEqual(bare, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), *m, text)}
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return append(errs, validateSelectors(s.ResourceAttributes)...)
}

// token makes a token for a service account.
func (x *exchange) token() error {
	accept, err := negotiate.ParseTablelessAccept(x.r.Header)
	if err != nil {
		return err
	}
	o, err := x.createOptions()
	if err != nil {
		return err
	}
	obj, err := x.decode(tokenTarget, o.validation)
	if err != nil {
		return err
	}
	in, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return apierrors.NewBadRequest("not a TokenRequest object")
	}
	if in.Namespace != "" && in.Namespace != x.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if x.s.cfg.TokenIssuer == nil {
		return notImplemented("issuer of tokens")
	}
	a := x.attributes(admission.Create, in, nil, o.dryRun)
	a.Kind, a.Options = tokenTarget.Kind, o.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return err
	}
	out, err := x.s.cfg.TokenIssuer.Request(x.ctx, x.info.Namespace, x.info.Name, in)
	if err != nil {
		return err
	}
	out.TypeMeta = metav1.TypeMeta{Kind: tokenTarget.Kind.Kind, APIVersion: tokenTarget.Kind.GroupVersion().String()}
	form := negotiate.Accept{Media: accept.Media, Pretty: accept.Pretty}
	if accept.Shape == negotiate.Metadata {
		x.send(http.StatusCreated, form, partial(out, accept.MetaVersion))
		return nil
	}
	x.send(http.StatusCreated, form, out)
	return nil
}

var tokenTarget = negotiate.Target{
	Kind: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), Internal: "authentication",
	New: func() runtime.Object { return &authenticationv1.TokenRequest{} },
}

// componentStatuses shows the health of the control plane's parts as the API of old did.
func (x *exchange) componentStatuses() error {
	accept, err := negotiate.ParseAccept(x.r.Header)
	if err != nil {
		return err
	}
	var sel selection
	if !x.info.NameInPath {
		o, err := x.listOptions()
		if err != nil {
			return err
		}
		sel = x.selection(&o)
	}
	list := []corev1.ComponentStatus{}
	for _, c := range x.s.cfg.Components {
		cs := corev1.ComponentStatus{
			TypeMeta:   metav1.TypeMeta{Kind: "ComponentStatus", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: c.Name},
			Conditions: []corev1.ComponentCondition{{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}},
		}
		if sel.name != "" && sel.name != cs.Name || sel.filter != nil && !sel.filter(&cs) {
			continue
		}
		if err := c.Run(x.ctx); err != nil {
			cs.Conditions[0] = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: "unhealthy", Error: err.Error()}
		}
		list = append(list, cs)
	}
	if x.info.NameInPath {
		for i := range list {
			if list[i].Name == x.info.Name {
				return x.show(http.StatusOK, accept, shown{obj: &list[i]})
			}
		}
		return apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, x.info.Name)
	}
	if accept.Shape == negotiate.Table {
		rows := make([]shown, len(list))
		for i := range list {
			rows[i] = shown{obj: &list[i]}
		}
		return x.showTable(http.StatusOK, accept, rows, metav1.ListMeta{})
	}
	out := &corev1.ComponentStatusList{TypeMeta: metav1.TypeMeta{Kind: "ComponentStatusList", APIVersion: "v1"}, Items: list}
	for i := range out.Items {
		out.Items[i].TypeMeta = metav1.TypeMeta{}
	}
	x.send(http.StatusOK, negotiate.Accept{Media: accept.Media, Pretty: accept.Pretty}, out)
	return nil
}
