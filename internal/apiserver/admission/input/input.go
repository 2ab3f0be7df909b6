package input

import (
	"context"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/request"
)

// Request describes a write that came through its own door and is shown through d, without its objects.
func Request(a *admission.Attributes, d admission.Door) *admissionv1.AdmissionRequest {
	dryRun := a.DryRun
	kind, resource := metav1.GroupVersionKind(a.Kind), metav1.GroupVersionResource(a.Resource)
	return &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(d.Kind), Resource: metav1.GroupVersionResource(d.Resource), SubResource: a.Subresource,
		RequestKind: &kind, RequestResource: &resource, RequestSubResource: a.Subresource,
		Name: a.Name, Namespace: a.Namespace, Operation: admissionv1.Operation(a.Operation), UserInfo: UserInfo(a.User), DryRun: &dryRun,
		Options: runtime.RawExtension{Object: options(a.Options)},
	}
}

// UserInfo is u as the API shows it.
func UserInfo(u user.Info) authenticationv1.UserInfo {
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

// options gives the options of a write their apiVersion and kind.
func options(o runtime.Object) runtime.Object {
	of := func(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: kind} }
	switch o := o.(type) {
	case *metav1.CreateOptions:
		c := *o
		c.TypeMeta = of("CreateOptions")
		return &c
	case *metav1.UpdateOptions:
		c := *o
		c.TypeMeta = of("UpdateOptions")
		return &c
	case *metav1.PatchOptions:
		c := *o
		c.TypeMeta = of("PatchOptions")
		return &c
	case *metav1.DeleteOptions:
		c := *o
		c.TypeMeta = of("DeleteOptions")
		return &c
	}
	return o
}

// Show returns both objects of a write as the kind of d; what is not there is nil.
func Show(a *admission.Attributes, kind schema.GroupVersionKind) (obj, old runtime.Object, err error) {
	show := func(o runtime.Object) (runtime.Object, error) {
		if o == nil || a.Versions == nil {
			return o, nil
		}
		return a.Versions.Show(o, kind)
	}
	if obj, err = show(a.Object); err != nil {
		return nil, nil, err
	}
	old, err = show(a.OldObject)
	return obj, old, err
}

// Of is what expressions see of a write that is shown through d.
func Of(a *admission.Attributes, d admission.Door, obj, old runtime.Object, z request.Authorizer) expression.Input {
	in := expression.Input{Object: obj, OldObject: old, Request: Request(a, d), User: a.User, Resource: resource{a}}
	if z != nil {
		in.Authorizer = asker{z}
	}
	return in
}

// resource is what authorizer.requestResource is about.
type resource struct{ a *admission.Attributes }

func (r resource) GetName() string                          { return r.a.Name }
func (r resource) GetNamespace() string                     { return r.a.Namespace }
func (r resource) GetResource() schema.GroupVersionResource { return r.a.Resource }
func (r resource) GetSubresource() string                   { return r.a.Subresource }

// asker asks the API server's authorizer for the library of expressions.
type asker struct{ to request.Authorizer }

func (z asker) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	d, reason, err := z.to.Authorize(ctx, request.Attributes{
		User: a.GetUser(), Verb: a.GetVerb(), Namespace: a.GetNamespace(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(), Resource: a.GetResource(),
		Subresource: a.GetSubresource(), Name: a.GetName(), ResourceRequest: a.IsResourceRequest(), Path: a.GetPath(),
	})
	switch d {
	case request.Allow:
		return authorizer.DecisionAllow, reason, err
	case request.Deny:
		return authorizer.DecisionDeny, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}
