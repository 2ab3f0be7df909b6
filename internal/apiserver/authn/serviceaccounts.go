package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
)

const (
	serviceAccountPrefix = "system:serviceaccount:"
	serviceAccountsGroup = "system:serviceaccounts"

	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
	extraNodeUID  = "authentication.kubernetes.io/node-uid"

	// leeway is how far clocks may be apart, and how long a token outlives the deletion mark of what it is bound to.
	leeway = time.Minute
	// rememberedTokens bounds the signatures that are remembered as good.
	rememberedTokens = 8192
)

// ServiceAccountUserName is the user that a service account is.
func ServiceAccountUserName(namespace, name string) string {
	return serviceAccountPrefix + namespace + ":" + name
}

// ServiceAccountGroups are the groups that a service account is in.
func ServiceAccountGroups(namespace string) []string {
	return []string{serviceAccountsGroup, serviceAccountsGroup + ":" + namespace}
}

// Objects are what tokens are bound to. A missing object is a NotFound error; what is returned is not modified.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// ServiceAccounts makes and checks service account tokens. It may be used from many goroutines.
type ServiceAccounts struct {
	issuer  *Issuer
	objects Objects
	clock   clock.PassiveClock
	// signed remembers the claims of tokens whose signature was good, by the token's hash.
	signed *generations[[sha256.Size]byte, *claims]
	notes  *notes // nil: uses are not noted
}

// NewServiceAccounts returns a ServiceAccounts; a nil clock is the real one.
func NewServiceAccounts(issuer *Issuer, objects Objects, c clock.PassiveClock) *ServiceAccounts {
	if c == nil {
		c = clock.RealClock{}
	}
	return &ServiceAccounts{
		issuer: issuer, objects: objects, clock: c,
		signed: newGenerations[[sha256.Size]byte, *claims](rememberedTokens),
	}
}

// Authenticate tells which service account a token stands for; nil audiences are those of this API server.
func (s *ServiceAccounts) Authenticate(ctx context.Context, token string, audiences []string) (Authenticated, error) {
	if len(token) > maxTokenBytes {
		return Authenticated{}, errInvalidToken
	}
	if len(audiences) == 0 {
		audiences = s.issuer.audiences
	}
	key := sha256.Sum256([]byte(token))
	c, ok := s.signed.get(key)
	if !ok {
		var err error
		if c, err = s.issuer.parse(token); err != nil {
			return Authenticated{}, err
		}
		s.signed.put(key, c)
	}
	var a Authenticated
	var err error
	if c.legacy {
		a, err = s.checkLegacy(ctx, c, token, audiences)
	} else {
		a, err = s.checkBound(ctx, c, audiences)
	}
	if err != nil {
		return Authenticated{}, utilerrors.NewAggregate([]error{errInvalidToken, err})
	}
	return a, nil
}

// maxTokenBytes bounds what is parsed; real tokens have about one kilobyte.
const maxTokenBytes = 64 << 10

// errBinding hides from strangers what exactly no longer fits.
var errBinding = errors.New("service account token has been invalidated")

// checkBound checks the times, the audience and the bound objects of a token (KEP-1205).
func (s *ServiceAccounts) checkBound(ctx context.Context, c *claims, audiences []string) (Authenticated, error) {
	now := s.clock.Now()
	switch {
	case c.Expiry == nil || now.After(c.Expiry.Time()):
		return Authenticated{}, errors.New("service account token has expired")
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return Authenticated{}, errors.New("service account token is not valid yet")
	case c.Kubernetes == nil:
		return Authenticated{}, errors.New("service account token has no kubernetes.io claim")
	}
	shared := slices.DeleteFunc(slices.Clone(audiences), func(a string) bool { return !slices.Contains([]string(c.Audience), a) })
	if len(shared) == 0 {
		return Authenticated{}, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), audiences)
	}
	k := c.Kubernetes
	if _, err := s.checkAccount(ctx, now, k.Namespace, k.ServiceAccount); err != nil {
		return Authenticated{}, err
	}
	extra := map[string][]string{}
	if c.ID != "" {
		extra[user.CredentialIDKey] = []string{"JTI=" + c.ID}
	}
	if ref := k.Secret; ref != nil {
		obj, err := s.objects.Secret(ctx, k.Namespace, ref.Name)
		if err != nil {
			return Authenticated{}, invalidated(err)
		}
		if !alive(obj, ref.UID, now) {
			return Authenticated{}, errBinding
		}
	}
	if ref := k.Pod; ref != nil {
		obj, err := s.objects.Pod(ctx, k.Namespace, ref.Name)
		if err != nil {
			return Authenticated{}, invalidated(err)
		}
		if !alive(obj, ref.UID, now) {
			return Authenticated{}, errBinding
		}
		extra[extraPodName], extra[extraPodUID] = []string{ref.Name}, []string{ref.UID}
	}
	if ref := k.Node; ref != nil {
		// A token of a pod only tells its node; a token of a node dies with it.
		if k.Pod == nil {
			obj, err := s.objects.Node(ctx, ref.Name)
			if err != nil {
				return Authenticated{}, invalidated(err)
			}
			if !alive(obj, ref.UID, now) {
				return Authenticated{}, errBinding
			}
		}
		extra[extraNodeName] = []string{ref.Name}
		if ref.UID != "" {
			extra[extraNodeUID] = []string{ref.UID}
		}
	}
	s.noteAge(ctx, c, now)
	return Authenticated{User: accountUser(k.Namespace, k.ServiceAccount, extra), Audiences: shared}, nil
}

func (s *ServiceAccounts) checkAccount(ctx context.Context, now time.Time, namespace string, ref objectRef) (*corev1.ServiceAccount, error) {
	obj, err := s.objects.ServiceAccount(ctx, namespace, ref.Name)
	if err != nil {
		return nil, invalidated(err)
	}
	if !alive(obj, ref.UID, now) {
		return nil, errBinding
	}
	return obj, nil
}

func invalidated(err error) error {
	if apierrors.IsNotFound(err) {
		return errBinding
	}
	return err
}

// alive tells whether obj is the one that was bound, and not deleted for longer than the leeway.
func alive(obj metav1.Object, uid string, now time.Time) bool {
	deleted := obj.GetDeletionTimestamp()
	return obj.GetUID() == types.UID(uid) && (deleted == nil || !deleted.Time.Before(now.Add(-leeway)))
}

func accountUser(namespace string, ref objectRef, extra map[string][]string) *user.DefaultInfo {
	return &user.DefaultInfo{
		Name:   ServiceAccountUserName(namespace, ref.Name),
		UID:    ref.UID,
		Groups: append(ServiceAccountGroups(namespace), user.AllAuthenticated),
		Extra:  extra,
	}
}
