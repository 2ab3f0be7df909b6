package bootstrapsigner

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What tokens are made of.
const (
	namePrefix   = "bootstrap-token-"
	idKey        = "token-id"
	secretKey    = "token-secret"
	expiryKey    = "expiration"
	signUsageKey = "usage-bootstrap-signing"
	idLength     = 6
)

// isToken says whether a secret is a token.
func isToken(s *corev1.Secret) bool {
	return s.Namespace == metav1.NamespaceSystem && s.Type == corev1.SecretTypeBootstrapToken
}

// left is how long a token is good from now on: 0 or less is not at all. Whether it ever ends is the second result. A time that cannot be
// read is over: nobody knows what was meant.
func left(s *corev1.Secret, now time.Time) (time.Duration, bool) {
	text := string(s.Data[expiryKey])
	if text == "" {
		return 0, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, true
	}
	return at.Sub(now), true
}

// signs returns the id and the secret of a token that things are to be signed with.
func signs(s *corev1.Secret, now time.Time) (id string, secret []byte, ok bool) {
	id, secret = string(s.Data[idKey]), s.Data[secretKey]
	if rest, named := strings.CutPrefix(s.Name, namePrefix); !isToken(s) || s.DeletionTimestamp != nil || !named || rest != id || !isID(id) || len(secret) == 0 ||
		string(s.Data[signUsageKey]) != "true" {
		return "", nil, false
	}
	if d, ends := left(s, now); ends && d <= 0 {
		return "", nil, false
	}
	return id, secret, true
}

func isID(id string) bool {
	return len(id) == idLength && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}
