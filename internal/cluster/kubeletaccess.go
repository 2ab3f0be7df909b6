package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	nodeserver "github.com/celox/celox/internal/node/server"
)

// As kubelets: what the API server allowed is believed for allowedLife, what it refused for refusedLife, and whose a token is for tokenLife.
const (
	allowedLife = 5 * time.Minute
	refusedLife = 30 * time.Second
	tokenLife   = 2 * time.Minute
	// mostRemembered bounds what is remembered; beyond it everything is asked anew.
	mostRemembered = 1000
)

// kubeletAccess asks the API server who may use an agent's own API.
type kubeletAccess struct {
	client kubernetes.Interface

	mu      sync.Mutex // guards what follows
	tokens  map[[sha256.Size]byte]knownUser
	answers map[question]answer
}

type knownUser struct {
	user  user.Info // nil: nobody's
	until time.Time
}

type question struct{ user, groups, verb, subresource, path string }

type answer struct {
	allowed bool
	reason  string
	until   time.Time
}

func newKubeletAccess(c kubernetes.Interface) *kubeletAccess {
	return &kubeletAccess{client: c, tokens: map[[sha256.Size]byte]knownUser{}, answers: map[question]answer{}}
}

// authenticate finds out who asks: by a certificate of the cluster's authority, which TLS has checked, or by a token.
func (k *kubeletAccess) authenticate(r *http.Request) (user.Info, bool, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName == "" {
			return nil, false, nil
		}
		return &user.DefaultInfo{Name: subject.CommonName, Groups: append(subject.Organization[:len(subject.Organization):len(subject.Organization)], user.AllAuthenticated)}, true, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return nil, false, nil
	}
	u, err := k.whose(r.Context(), token)
	return u, u != nil, err
}

func (k *kubeletAccess) whose(ctx context.Context, token string) (user.Info, error) {
	key := sha256.Sum256([]byte(token))
	k.mu.Lock()
	known, ok := k.tokens[key]
	k.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.user, nil
	}
	review, err := k.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the API server whose a token is: %w", err)
	}
	known = knownUser{until: time.Now().Add(tokenLife)}
	if review.Status.Authenticated {
		extra := map[string][]string{}
		for name, values := range review.Status.User.Extra {
			extra[name] = values
		}
		known.user = &user.DefaultInfo{Name: review.Status.User.Username, UID: review.Status.User.UID, Groups: review.Status.User.Groups, Extra: extra}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.tokens) >= mostRemembered {
		clear(k.tokens)
	}
	k.tokens[key] = known
	return known.user, nil
}

// authorize asks the API server.
func (k *kubeletAccess) authorize(ctx context.Context, u user.Info, a nodeserver.Attributes) (bool, string, error) {
	key := question{u.GetName(), strings.Join(u.GetGroups(), "\x00"), a.Verb, a.Subresource, a.Path}
	k.mu.Lock()
	known, ok := k.answers[key]
	k.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.allowed, known.reason, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for name, values := range u.GetExtra() {
		extra[name] = values
	}
	review, err := k.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: a.Verb, Version: "v1", Resource: "nodes", Subresource: a.Subresource, Name: a.Node},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, "", fmt.Errorf("ask the API server who may use this node: %w", err)
	}
	if review.Status.EvaluationError != "" && !review.Status.Allowed {
		return false, review.Status.Reason, errors.New(review.Status.EvaluationError)
	}
	known = answer{allowed: review.Status.Allowed, reason: review.Status.Reason, until: time.Now().Add(refusedLife)}
	if known.allowed {
		known.until = time.Now().Add(allowedLife)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.answers) >= mostRemembered {
		clear(k.answers)
	}
	k.answers[key] = known
	return known.allowed, known.reason, nil
}
