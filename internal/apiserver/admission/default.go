package admission

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/request"
)

// Objects is everything that the default plugins look at. A missing object is a NotFound error of the API; what is returned
// is read-only.
type Objects interface {
	Namespaces
	LimitRanges
	ServiceAccounts
	PodsAndNodes
	Volumes
	PriorityClasses
	RuntimeClasses
	StorageClasses
	IngressClasses
	Quotas
}

// Deps is what the default plugins need.
type Deps struct {
	Objects Objects
	// Authorizer says who may sign and approve certificates.
	Authorizer request.Authorizer
	// Guard keeps users from granting what they do not hold; nil lets them.
	Guard *authz.Guard
	// Configured are the plugins that users configure: policies and webhooks, in upstream's order. They see what the built-in ones
	// have made of an object.
	Configured Chain
	// PodSecurity is the configuration of the plugin of that name; nil is upstream's default.
	PodSecurity *PodSecurityConfig
	// Charger writes the usage of quotas; nil turns quotas off.
	Charger Charger
	// LimitedResources are what nobody may use without a quota.
	LimitedResources []LimitedResource
}

// Default returns the plugins that upstream turns on by default, in upstream's order. An error means that a library refused its own
// table of checks.
func Default(d Deps) (Chain, error) {
	security, err := NewPodSecurity(d.Objects, d.PodSecurity)
	if err != nil {
		return nil, err
	}
	chain := Chain{
		NewNamespaceLifecycle(d.Objects),
		NewLimitRanger(d.Objects),
		NewServiceAccount(d.Objects),
		NewNodeRestriction(d.Objects, d.Objects, d.Authorizer),
		TaintNodesByCondition{},
		security,
		NewPriority(d.Objects),
		DefaultTolerationSeconds{},
		NewDefaultStorageClass(d.Objects),
		StorageObjectInUseProtection{},
		NewPersistentVolumeClaimResize(d.Objects),
		NewRuntimeClass(d.Objects),
		NewCertificates(d.Authorizer),
		NewClusterTrustBundleAttest(d.Authorizer),
		NewDefaultIngressClass(d.Objects),
		NewPodTopologyLabels(d.Objects),
		NewNodeDeclaredFeatureValidator(d.Objects),
		NewPodResizeValidator(d.Objects),
	}
	chain = append(chain, d.Configured...)
	if d.Guard != nil {
		chain = append(chain, NewEscalation(d.Guard))
	}
	if d.Charger != nil {
		chain = append(chain, NewResourceQuota(d.Objects, d.Charger, d.LimitedResources))
	}
	return chain, nil
}

// Forbidden refuses a for a reason, by the name that it has or will begin with.
func Forbidden(a *Attributes, reason error) *apierrors.StatusError {
	name := a.Name
	if name == "" {
		name = "Unknown"
		switch m, ok := a.Object.(metav1.Object); {
		case !ok:
		case m.GetName() != "":
			name = m.GetName()
		case m.GetGenerateName() != "":
			name = m.GetGenerateName()
		}
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), name, reason)
}

func forbid(a *Attributes, reason error) *apierrors.StatusError { return Forbidden(a, reason) }

func forbidText(a *Attributes, reason string) *apierrors.StatusError {
	return forbid(a, errors.New(reason))
}

// is tells whether a is about a resource, or about a subresource if that is named.
func (a *Attributes) is(group, resource, subresource string) bool {
	return a.Resource.Resource == resource && a.Resource.Group == group && a.Subresource == subresource
}

func (a *Attributes) groupResource() schema.GroupResource { return a.Resource.GroupResource() }
