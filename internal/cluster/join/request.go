package join

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const nodeUser = "system:node:"

// errRefused is wrapped where the cluster said no to a request.
var errRefused = errors.New("the cluster refused the certificate")

// errNoCertificate is what clients of the node's API come up against until the cluster has approved its certificate.
var errNoCertificate = errors.New("the cluster has not given this node a serving certificate yet")

// wish is a certificate that a node asks for.
type wish struct {
	node   string
	signer string
	dns    []string
	ips    []net.IP
}

func clientWish(node string) wish {
	return wish{node: node, signer: certificatesv1.KubeAPIServerClientKubeletSignerName}
}

func (w wish) usages() []certificatesv1.KeyUsage {
	if w.signer == certificatesv1.KubeletServingSignerName {
		return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	}
	return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
}

// request asks for a certificate and waits until it is there, which for one that a person has to approve may be long.
func request(ctx context.Context, client kubernetes.Interface, w wish) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: nodeUser + w.node, Organization: []string{user.NodesGroup}}, DNSNames: w.dns, IPAddresses: w.ips,
	}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	api := client.CertificatesV1().CertificateSigningRequests()
	made, err := api.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: w.signer, Usages: w.usages(),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	for {
		got, err := api.Get(ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return nil, nil, fmt.Errorf("ask for a certificate: %w", err)
		}
		if cert, err := outcome(got); cert != nil || err != nil {
			return cert, keyPEM, err
		}
		if err := changed(ctx, client, got); err != nil {
			return nil, nil, fmt.Errorf("wait for a certificate: %w", err)
		}
	}
}

// outcome is what became of a request; nothing while it is not decided.
func outcome(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		if c.Status != corev1.ConditionFalse && (c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) {
			return nil, fmt.Errorf("%w: %s: %s", errRefused, c.Reason, c.Message)
		}
	}
	if len(csr.Status.Certificate) > 0 {
		return csr.Status.Certificate, nil
	}
	return nil, nil
}

// changed waits until a request is another, or may be.
func changed(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) error {
	w, err := client.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", csr.Name).String(), ResourceVersion: csr.ResourceVersion,
	})
	if err != nil {
		return err
	}
	defer w.Stop()
	select {
	case <-w.ResultChan(): // an event or the end: it is read again
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// First gets the first client certificate of a node, with a token.
func First(ctx context.Context, server *url.URL, ca []byte, t Token, node string) (certPEM, keyPEM []byte, err error) {
	c, err := kubernetes.NewForConfig(&rest.Config{Host: server.String(), BearerToken: t.Bearer(), TLSClientConfig: rest.TLSClientConfig{CAData: ca}, UserAgent: "celox-agent"})
	if err != nil {
		return nil, nil, fmt.Errorf("join: %w", err)
	}
	if err := nameIsFree(ctx, c, node); err != nil {
		return nil, nil, transient(err, server)
	}
	certPEM, keyPEM, err = request(ctx, c, clientWish(node))
	return certPEM, keyPEM, transient(err, server)
}

// transient marks errors that may pass by themselves.
func transient(err error, server *url.URL) error {
	var failed *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed):
		return Explain(failed.Err, server, time.Now())
	case apierrors.IsServiceUnavailable(err), apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsInternalError(err):
		return passing("the server at %s: %w", server.Host, err)
	}
	return err
}
