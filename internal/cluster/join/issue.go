package join

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/internal/apiserver/authn"
	"github.com/celox/celox/internal/apiserver/bootstrap"
)

// Issued is a token that a cluster knows, without its secret, which the cluster does not know either.
type Issued struct {
	ID          string     `json:"id"`
	Expires     *time.Time `json:"expires,omitempty"` // nil: never
	Description string     `json:"description,omitempty"`
	Groups      []string   `json:"groups"`
	// Joins says whether the token is for joining; others may have made tokens for other ends.
	Joins bool `json:"joins"`
}

// Issue makes a token known to a cluster, until expires (the zero time is for ever).
func Issue(ctx context.Context, client kubernetes.Interface, t Token, expires time.Time, description string) (Issued, error) {
	data := map[string]string{
		authn.BootstrapTokenID: t.ID, authn.BootstrapTokenHash: authn.HashBootstrapToken(t.ID, t.Secret),
		authn.BootstrapTokenAuthentication: "true", authn.BootstrapTokenGroups: bootstrap.JoiningGroup,
	}
	if description != "" {
		data[authn.BootstrapTokenDescription] = description
	}
	if !expires.IsZero() {
		data[authn.BootstrapTokenExpiration] = expires.UTC().Format(time.RFC3339)
	}
	made, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: authn.BootstrapTokenName + t.ID}, Type: corev1.SecretTypeBootstrapToken, StringData: data,
	}, metav1.CreateOptions{})
	if err != nil {
		return Issued{}, fmt.Errorf("make a token: %w", err)
	}
	return issued(made), nil
}

func issued(s *corev1.Secret) Issued {
	i := Issued{
		ID: strings.TrimPrefix(s.Name, authn.BootstrapTokenName), Description: string(s.Data[authn.BootstrapTokenDescription]), Groups: []string{},
		Joins: string(s.Data[authn.BootstrapTokenAuthentication]) == "true",
	}
	if end, err := time.Parse(time.RFC3339, string(s.Data[authn.BootstrapTokenExpiration])); err == nil {
		i.Expires = &end
	}
	if g := string(s.Data[authn.BootstrapTokenGroups]); g != "" {
		i.Groups = strings.Split(g, ",")
	}
	return i
}

// Tokens lists the tokens of a cluster that are good at a time, by their ids.
func Tokens(ctx context.Context, client kubernetes.Interface, now time.Time) ([]Issued, error) {
	l, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String()})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	out := []Issued{}
	for i := range l.Items {
		if s := &l.Items[i]; strings.HasPrefix(s.Name, authn.BootstrapTokenName) && !authn.BootstrapTokenExpired(s, now) {
			out = append(out, issued(s))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// tokenID is what a token is called.
var tokenID = regexp.MustCompile(`\A[a-z0-9]{6}\z`)

// Revoke makes a token, named by its id or as a whole, useless.
func Revoke(ctx context.Context, client kubernetes.Interface, name string) (id string, err error) {
	id, _, _ = strings.Cut(strings.TrimSpace(name), ".")
	if !tokenID.MatchString(id) {
		return "", errors.New("that is no token and no id of one: an id has six letters or digits")
	}
	secret := authn.BootstrapTokenName + id
	s, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, secret, metav1.GetOptions{})
	if err == nil && s.Type != corev1.SecretTypeBootstrapToken {
		return "", fmt.Errorf("secret %s is no token", secret)
	}
	if err == nil {
		err = client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, secret, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	}
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("there is no token %s", id)
	}
	if err != nil {
		return "", fmt.Errorf("remove token %s: %w", id, err)
	}
	return id, nil
}

// AdvertisedServer is where a cluster says that its API is reached: what agents are to be told.
func AdvertisedServer(ctx context.Context, client kubernetes.Interface) (string, error) {
	l, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("find the address of the API: %w", err)
	}
	if len(l.Endpoints) == 0 || len(l.Endpoints[0].Addresses) == 0 || len(l.Ports) == 0 || l.Ports[0].Port == nil {
		return "", errors.New("find the address of the API: the cluster does not say")
	}
	u, err := ServerURL(fmt.Sprintf("https://%s", hostPort(l.Endpoints[0].Addresses[0], *l.Ports[0].Port)))
	if err != nil {
		return "", err
	}
	return u.String(), nil
}
