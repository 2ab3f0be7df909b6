package authn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/store"
)

const (
	defaultExpirationSeconds = 60 * 60
	minExpirationSeconds     = 10 * 60
	maxExpirationSeconds     = 1 << 32
	// askedByOldClients is the expiration of the tokens in pods whose programs may never read them again: such tokens
	// live for extendedSeconds, and warn after what was asked (KEP-1205, graceful transition).
	askedByOldClients = 60*60 + 7
	extendedSeconds   = 365 * 24 * 60 * 60
)

var tokenRequestKind = schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}

// Request answers a POST of a TokenRequest to serviceaccounts/token: in is completed with defaults and with the token in
// its status.
func (s *ServiceAccounts) Request(ctx context.Context, namespace, name string, in *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := in.DeepCopy()
	if out.Name != "" && out.Name != name {
		return nil, apierrors.NewInvalid(tokenRequestKind, name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), out.Name, "must match the service account name if specified")})
	}
	if out.Namespace != "" && out.Namespace != namespace {
		return nil, apierrors.NewInvalid(tokenRequestKind, name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "namespace"), out.Namespace, "must match the service account namespace if specified")})
	}
	account, err := s.objects.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if out.UID != "" && out.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", out.UID, account.UID))
	}
	out.UID = account.UID
	if out.Spec.ExpirationSeconds == nil {
		out.Spec.ExpirationSeconds = new(int64(defaultExpirationSeconds))
	}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = slices.Clone(s.issuer.audiences[:1])
	}
	if errs := validateTokenRequest(out); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequestKind, out.Name, errs)
	}
	bound, err := s.boundObject(ctx, account, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	return s.issue(ctx, account, out, bound)
}

// issue signs the token that a complete and valid request asks for and puts it into the request's status. The token lives with
// bound, a pod, a secret or a node, or with account alone if that is nil.
func (s *ServiceAccounts) issue(ctx context.Context, account *corev1.ServiceAccount, out *authenticationv1.TokenRequest, bound store.Object) (*authenticationv1.TokenRequest, error) {
	k, err := s.claimsOf(ctx, account, bound)
	if err != nil {
		return nil, err
	}
	now := s.clock.Now()
	seconds := *out.Spec.ExpirationSeconds
	ends := now.Add(time.Duration(seconds) * time.Second)
	claimed := ends
	if seconds == askedByOldClients && k.Pod != nil && s.forThisServer(out.Spec.Audiences) {
		k.WarnAfter = jwt.NewNumericDate(ends)
		claimed = now.Add(extendedSeconds * time.Second)
	}
	out.Status.Token, err = s.issuer.sign(claims{
		Claims: jwt.Claims{
			Issuer:    s.issuer.name,
			Subject:   ServiceAccountUserName(account.Namespace, account.Name),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			Expiry:    jwt.NewNumericDate(claimed),
			ID:        uuid.NewString(),
		},
		Audience:   out.Spec.Audiences,
		Kubernetes: k,
	})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.Status.ExpirationTimestamp = metav1.NewTime(ends)
	out.Name, out.Namespace = account.Name, account.Namespace
	out.CreationTimestamp = metav1.NewTime(now)
	return out, nil
}

func validateTokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := *r.Spec.ExpirationSeconds; {
	case seconds < minExpirationSeconds:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > maxExpirationSeconds:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// forThisServer tells whether audiences are just the ones that this API server answers to.
func (s *ServiceAccounts) forThisServer(audiences []string) bool {
	return !slices.ContainsFunc(audiences, func(a string) bool { return !slices.Contains(s.issuer.audiences, a) })
}

// claimsOf makes the claims of a token for account that lives with bound.
func (s *ServiceAccounts) claimsOf(ctx context.Context, account *corev1.ServiceAccount, bound store.Object) (*boundClaims, error) {
	k := &boundClaims{
		Namespace:      account.Namespace,
		ServiceAccount: objectRef{Name: account.Name, UID: string(account.UID)},
	}
	if bound == nil {
		return k, nil
	}
	ref := &objectRef{Name: bound.GetName(), UID: string(bound.GetUID())}
	switch o := bound.(type) {
	case *corev1.Pod:
		k.Pod = ref
		var err error
		if k.Node, err = s.nodeOf(ctx, o); err != nil {
			return nil, err
		}
	case *corev1.Secret:
		k.Secret = ref
	case *corev1.Node:
		k.Node = ref
	default:
		return nil, apierrors.NewInternalError(fmt.Errorf("cannot bind a token to a %T", bound))
	}
	return k, nil
}

// boundObject finds what a token for account is to live with; nil is the account alone.
func (s *ServiceAccounts) boundObject(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (store.Object, error) {
	if ref == nil {
		return nil, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var obj store.Object
	var err error
	switch gvk.GroupKind() { // the version is not looked at
	case schema.GroupKind{Kind: "Pod"}:
		var pod *corev1.Pod
		if pod, err = s.objects.Pod(ctx, account.Namespace, ref.Name); err == nil && pod.Spec.ServiceAccountName != account.Name {
			err = apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		obj = pod
	case schema.GroupKind{Kind: "Secret"}:
		obj, err = s.objects.Secret(ctx, account.Namespace, ref.Name)
	case schema.GroupKind{Kind: "Node"}:
		obj, err = s.objects.Node(ctx, ref.Name)
	default:
		err = apierrors.NewBadRequest("cannot bind token to object of type " + gvk.String())
	}
	if err != nil {
		return nil, err
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return obj, nil
}

// nodeOf tells the node of a pod, if it has one; a node that is gone is told by its name alone.
func (s *ServiceAccounts) nodeOf(ctx context.Context, pod *corev1.Pod) (*objectRef, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	node, err := s.objects.Node(ctx, pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return &objectRef{Name: pod.Spec.NodeName}, nil
	case err != nil:
		return nil, err
	}
	return &objectRef{Name: node.Name, UID: string(node.UID)}, nil
}

// LegacyToken makes the token for a secret of type kubernetes.io/service-account-token. It has no end of its own.
func (s *ServiceAccounts) LegacyToken(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return s.issuer.sign(claims{
		Claims:           jwt.Claims{Issuer: legacyIssuer, Subject: ServiceAccountUserName(account.Namespace, account.Name)},
		LegacyNamespace:  account.Namespace,
		LegacySecret:     secret.Name,
		LegacyAccount:    account.Name,
		LegacyAccountUID: string(account.UID),
	})
}
