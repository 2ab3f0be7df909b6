package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// lostAfter is when a request that does not show up was deleted for sure.
	lostAfter = 10 * time.Minute
	// overdueAfter is how late a certificate may be replaced without a complaint.
	overdueAfter = 10 * time.Minute
	// spread keeps the pods of a cluster from asking for new certificates all at once.
	spread = 5 * time.Minute
)

// errNotIssued says that the signer has not answered yet.
var errNotIssued = errors.New("credential bundle is not issued yet")

// certificateKey names a certificate of a pod.
type certificateKey struct {
	volume string
	source int
}

// certificate is a key of a pod with the certificates that a signer gave for it, and the request for the next (KEP-4317). Only one goroutine at a time
// sets up a pod's volumes: its fields need no lock.
type certificate struct {
	key, chain        []byte // PEM; nil until the first is issued
	refresh, notAfter time.Time
	pending           *certificateRequest // nil: nothing is asked for
	refused           error               // nobody will answer otherwise any more
	saidOverdue       bool
	saidExpired       bool
}

type certificateRequest struct {
	name   string
	key    []byte // PEM
	lostAt time.Time
}

// podCertificate projects a key that the node made for the pod and the certificates that a signer gave for it.
func (b *build) podCertificate(ctx context.Context, source int, p *corev1.PodCertificateProjection, defaultMode *int32) error {
	c := b.m.certificate(b.pod.UID, certificateKey{b.volume, source})
	again, err := b.m.renew(ctx, b.pod, p, c)
	if err != nil {
		return err
	}
	if b.refresh.IsZero() || again.Before(b.refresh) {
		b.refresh = again
	}
	for _, f := range []struct {
		path string
		data []byte
	}{
		{p.CredentialBundlePath, slices.Concat(c.key, c.chain)}, {p.KeyPath, c.key}, {p.CertificateChainPath, c.chain},
	} {
		if f.path == "" {
			continue
		}
		if err := b.private(f.path, f.data, defaultMode); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) certificate(pod types.UID, key certificateKey) *certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.issued[pod] == nil {
		m.issued[pod] = map[certificateKey]*certificate{}
	}
	c := m.issued[pod][key]
	if c == nil {
		c = &certificate{}
		m.issued[pod][key] = c
	}
	return c
}

// renew makes c hold certificates, as new as they can be had, and says when to look again. Without any it is an error: the signer's answer wakes the pod.
func (m *Manager) renew(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection, c *certificate) (again time.Time, _ error) {
	if c.refused != nil {
		return time.Time{}, c.refused
	}
	now := m.clock.Now()
	if c.pending == nil && (c.chain == nil || !now.Before(c.refresh)) {
		pending, err := m.request(ctx, pod, p)
		switch {
		case err == nil:
			c.pending = pending
		case c.chain == nil:
			return time.Time{}, err
		default:
			m.complain(pod, c, now)
			return now.Add(time.Minute), nil // the old one still lives
		}
	}
	if c.pending != nil {
		if err := m.collect(ctx, pod, c, now); err != nil && (c.chain == nil || c.refused != nil) {
			return time.Time{}, err
		}
	}
	if c.chain == nil {
		return time.Time{}, errNotIssued
	}
	if c.pending == nil {
		if now.Before(c.refresh) {
			return c.refresh, nil
		}
		return now.Add(time.Minute), nil
	}
	m.complain(pod, c, now)
	again = c.pending.lostAt
	if t := c.refresh.Add(overdueAfter); !c.saidOverdue && t.Before(again) {
		again = t
	}
	if !c.saidExpired && c.notAfter.Before(again) {
		again = c.notAfter
	}
	return again.Add(time.Second), nil
}

// complain tells once of a certificate that should have been replaced, and once of one that is over.
func (m *Manager) complain(pod *corev1.Pod, c *certificate, now time.Time) {
	if !c.saidOverdue && now.After(c.refresh.Add(overdueAfter)) {
		c.saidOverdue = true
		m.event(pod, "CertificateOverdueForRefresh", "PodCertificate refresh overdue")
	}
	if !c.saidExpired && now.After(c.notAfter) {
		c.saidExpired = true
		m.event(pod, "CertificateExpired", "PodCertificate expired")
	}
}

// collect looks for the answer to the request that is under way.
func (m *Manager) collect(ctx context.Context, pod *corev1.Pod, c *certificate, now time.Time) error {
	r, err := m.certificates.Request(ctx, pod.Namespace, c.pending.name)
	switch {
	case apierrors.IsNotFound(err):
		// The watch may be late, or somebody deleted it.
		if now.After(c.pending.lostAt) {
			err = fmt.Errorf("PodCertificateRequest %q appears to have been deleted", pod.Namespace+"/"+c.pending.name)
			c.pending = nil
			return err
		}
		return errNotIssued
	case err != nil:
		return err
	}
	name := pod.Namespace + "/" + r.Name
	for i := range r.Status.Conditions {
		answer := &r.Status.Conditions[i]
		switch answer.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			if r.Status.BeginRefreshAt == nil || r.Status.NotAfter == nil {
				continue
			}
			*c = certificate{
				key: c.pending.key, chain: onlyCertificates([]byte(r.Status.CertificateChain)),
				refresh: r.Status.BeginRefreshAt.Add(jitter()), notAfter: r.Status.NotAfter.Time,
			}
			return nil
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			c.pending, c.refused = nil, fmt.Errorf("PodCertificateRequest was permanently denied: reason=%q message=%q", answer.Reason, answer.Message)
			m.event(pod, answer.Type, fmt.Sprintf("PodCertificateRequest %s was denied, reason=%q, message=%q", name, answer.Reason, answer.Message))
			return c.refused
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			c.pending, c.refused = nil, fmt.Errorf("PodCertificateRequest was permanently failed: reason=%q message=%q", answer.Reason, answer.Message)
			m.event(pod, answer.Type, fmt.Sprintf("PodCertificateRequest %s failed, reason=%q, message=%q", name, answer.Reason, answer.Message))
			return c.refused
		}
	}
	return errNotIssued
}

// request makes a key and asks the signer for certificates for it.
func (m *Manager) request(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (*certificateRequest, error) {
	account, err := m.client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("while fetching service account: %w", err)
	}
	node, err := m.client.CoreV1().Nodes().Get(ctx, m.nodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("while fetching the node: %w", err)
	}
	key, err := newKey(p.KeyType)
	if err != nil {
		return nil, err
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	made, err := m.client.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: node.UID, MaxExpirationSeconds: p.MaxExpirationSeconds, StubPKCS10Request: stub,
			UnverifiedUserAnnotations: p.UserAnnotations,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	return &certificateRequest{
		name: made.Name, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), lostAt: m.clock.Now().Add(lostAfter + jitter()),
	}, nil
}

// newKey makes a key of one of the kinds that the API knows.
func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

// onlyCertificates drops what a chain contains besides certificates: headers, and text between them.
func onlyCertificates(chain []byte) []byte {
	var out []byte
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return out
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: block.Bytes})...)
	}
}

func jitter() time.Duration { return mathrand.N(spread) }
