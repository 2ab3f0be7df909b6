package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// gate knows whom the cluster's front proxy vouches for, and asks the cluster what they may do.
type gate struct {
	client                kubernetes.Interface
	proxies               *x509.CertPool
	names                 []string // of the proxies, empty: any
	users, groups, extras []string // names of headers
}

// newGate reads what the cluster says of its front proxy.
func newGate(ctx context.Context, client kubernetes.Interface) (*gate, error) {
	m, err := client.CoreV1().ConfigMaps("kube-system").Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	g := &gate{client: client, proxies: x509.NewCertPool()}
	if !g.proxies.AppendCertsFromPEM([]byte(m.Data["requestheader-client-ca-file"])) {
		return nil, errors.New("the cluster says of no authority for its front proxy")
	}
	for key, list := range map[string]*[]string{
		"requestheader-allowed-names": &g.names, "requestheader-username-headers": &g.users, "requestheader-group-headers": &g.groups,
		"requestheader-extra-headers-prefix": &g.extras,
	} {
		if err := json.Unmarshal([]byte(m.Data[key]), list); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return g, nil
}

// who is the user in whose name a request is made.
func (g *gate) who(r *http.Request) (*authorizationv1.SubjectAccessReviewSpec, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, errors.New("no certificate")
	}
	more := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		more.AddCert(c)
	}
	proxy := r.TLS.PeerCertificates[0]
	if _, err := proxy.Verify(x509.VerifyOptions{Roots: g.proxies, Intermediates: more, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, err
	}
	if len(g.names) > 0 && !slices.Contains(g.names, proxy.Subject.CommonName) {
		return nil, fmt.Errorf("%s is no front proxy", proxy.Subject.CommonName)
	}
	u := &authorizationv1.SubjectAccessReviewSpec{Extra: map[string]authorizationv1.ExtraValue{}}
	for _, name := range g.users {
		if u.User == "" {
			u.User = r.Header.Get(name)
		}
	}
	if u.User == "" {
		return nil, errors.New("no user")
	}
	for _, name := range g.groups {
		u.Groups = append(u.Groups, r.Header.Values(name)...)
	}
	for name, values := range r.Header {
		for _, prefix := range g.extras {
			if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
				key, err := url.PathUnescape(strings.ToLower(name[len(prefix):]))
				if err != nil {
					return nil, err
				}
				u.Extra[key] = append(u.Extra[key], values...)
			}
		}
	}
	return u, nil
}

// may asks the cluster whether the user may do this.
func (g *gate) may(ctx context.Context, u *authorizationv1.SubjectAccessReviewSpec, a *authorizationv1.ResourceAttributes, path, verb string) (string, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: *u}
	if a != nil {
		review.Spec.ResourceAttributes = a
	} else {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: path, Verb: verb}
	}
	got, err := g.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if !got.Status.Allowed {
		return fmt.Sprintf("User %q cannot %s here: %s", u.User, verb, got.Status.Reason), nil
	}
	return "", nil
}

func contextOf(ctx context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return ctx }
}
