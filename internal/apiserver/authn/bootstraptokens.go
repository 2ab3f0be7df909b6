package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
)

// The data of a secret of type bootstrap.kubernetes.io/token, as Kubernetes documents them, and one of our own.
const (
	BootstrapTokenID          = "token-id"
	BootstrapTokenSecret      = "token-secret"
	BootstrapTokenExpiration  = "expiration"
	BootstrapTokenDescription = "description"
	BootstrapTokenGroups      = "auth-extra-groups"
	// BootstrapTokenAuthentication has to be "true", or the token is not for logging in.
	BootstrapTokenAuthentication = "usage-bootstrap-authentication"
	// BootstrapTokenHash stands in the place of BootstrapTokenSecret in secrets of ours: see HashBootstrapToken.
	BootstrapTokenHash = "token-hash"

	// BootstrapTokenName begins the names of the secrets; the token's id is the rest.
	BootstrapTokenName = "bootstrap-token-"

	bootstrapUser  = "system:bootstrap:"
	bootstrapGroup = "system:bootstrappers"
)

var (
	bootstrapToken = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	// bootstrapGroups are those that a token may put its bearer into.
	bootstrapGroups = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)
)

// HashBootstrapToken is what is kept of a token, so that who reads the secrets of kube-system, or a backup of the store, cannot join a node: the
// SHA-256 of the token, in hexadecimal. A token has 82 bits of chance; there is nothing to try out.
func HashBootstrapToken(id, secret string) string {
	sum := sha256.Sum256([]byte(id + "." + secret))
	return hex.EncodeToString(sum[:])
}

// ParseBootstrapToken takes ID.SECRET apart.
func ParseBootstrapToken(token string) (id, secret string, ok bool) {
	m := bootstrapToken.FindStringSubmatch(token)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// BootstrapTokens are the tokens with which nodes ask for their first certificate.
type BootstrapTokens struct {
	// Secrets finds the secrets. A missing one is a NotFound error.
	Secrets interface {
		Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	}
	Clock clock.PassiveClock // nil is the real one
}

// authenticate tells whom a token stands for. That it is none of these is no error.
func (b *BootstrapTokens) authenticate(ctx context.Context, token string) (user.Info, bool, error) {
	if b == nil {
		return nil, false, nil
	}
	id, secret, ok := ParseBootstrapToken(token)
	if !ok {
		return nil, false, nil
	}
	s, err := b.Secrets.Secret(ctx, metav1.NamespaceSystem, BootstrapTokenName+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	now := time.Now()
	if b.Clock != nil {
		now = b.Clock.Now()
	}
	if s.Type != corev1.SecretTypeBootstrapToken || s.DeletionTimestamp != nil || string(s.Data[BootstrapTokenID]) != id ||
		!holds(s, id, secret) || BootstrapTokenExpired(s, now) || string(s.Data[BootstrapTokenAuthentication]) != "true" {
		return nil, false, nil
	}
	groups := []string{bootstrapGroup}
	if text := string(s.Data[BootstrapTokenGroups]); text != "" {
		for g := range strings.SplitSeq(text, ",") {
			if !bootstrapGroups.MatchString(g) {
				return nil, false, nil
			}
			groups = append(groups, g)
		}
	}
	return &user.DefaultInfo{Name: bootstrapUser + id, Groups: withAuthenticated(groups)}, true, nil
}

// holds compares without telling by its time how much was right.
func holds(s *corev1.Secret, id, secret string) bool {
	if kept := s.Data[BootstrapTokenSecret]; len(kept) > 0 {
		return subtle.ConstantTimeCompare(kept, []byte(secret)) == 1
	}
	return subtle.ConstantTimeCompare(s.Data[BootstrapTokenHash], []byte(HashBootstrapToken(id, secret))) == 1
}

// BootstrapTokenExpired says whether the token of a secret is over. What cannot be read as a time is over, too.
func BootstrapTokenExpired(s *corev1.Secret, now time.Time) bool {
	text := string(s.Data[BootstrapTokenExpiration])
	if text == "" {
		return false
	}
	end, err := time.Parse(time.RFC3339, text)
	return err != nil || !now.Before(end)
}
