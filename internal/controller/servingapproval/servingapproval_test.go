package servingapproval

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(t *testing.T, change func(*certificatesv1.CertificateSigningRequest, *x509.CertificateRequest)) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: certificatesv1.KubeletServingSignerName, Username: "system:node:a", Groups: []string{"system:nodes", "system:authenticated"},
	}}
	req := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}, DNSNames: []string{"a"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}
	change(csr, req)
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return csr
}

func node(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		kind := corev1.NodeHostName
		if _, err := netip.ParseAddr(a); err == nil {
			kind = corev1.NodeInternalIP
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
	}
	return n
}

func TestJudge(t *testing.T) {
	type csr = *certificatesv1.CertificateSigningRequest
	type req = *x509.CertificateRequest
	ip := func(a string) []net.IP { return []net.IP{net.ParseIP(a)} }
	nodes := []*corev1.Node{
		node("a", "10.0.0.1", "fd00::1", "a", "a.example", "127.0.0.1", "10.96.0.1", "10.0.0.9", "localhost", "kubernetes.default.svc", "shared"), node("b", "10.0.0.2", "b", "10.0.0.9", "shared"),
	}
	for _, c := range []struct {
		name   string
		change func(csr, req)
		want   string
	}{
		{"its name and address", func(csr, req) {}, ""},
		{"an address of the other family", func(_ csr, r req) { r.IPAddresses = ip("fd00::1") }, ""},
		{"a name that it says that it has", func(_ csr, r req) { r.DNSNames = []string{"a.example"} }, ""},
		{"somebody else asks", func(c csr, _ req) { c.Spec.Username = "alice" }, "not made by a node"},
		{"not of the group", func(c csr, _ req) { c.Spec.Groups = nil }, "not made by a node"},
		{"for another node", func(_ csr, r req) { r.Subject.CommonName = "system:node:b" }, "for somebody else"},
		{"for the administrator", func(_ csr, r req) { r.Subject.Organization = []string{"system:masters"} }, "for somebody else"},
		{"for more groups", func(_ csr, r req) { r.Subject.Organization = []string{"system:nodes", "system:masters"} }, "for somebody else"},
		{"a URI", func(_ csr, r req) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "more than names and addresses"},
		{"nothing", func(_ csr, r req) { r.DNSNames, r.IPAddresses = nil, nil }, "no name and no address"},
		{"unknown", func(c csr, r req) { c.Spec.Username, r.Subject.CommonName = "system:node:x", "system:node:x" }, "not known yet"},
		{"an address that is not its own", func(_ csr, r req) { r.IPAddresses = ip("10.0.0.3") }, "has no address 10.0.0.3"},
		{"another node's address", func(_ csr, r req) { r.IPAddresses = ip("10.0.0.2") }, "has no address 10.0.0.2"},
		{"an address that two say that they have", func(_ csr, r req) { r.IPAddresses = ip("10.0.0.9") }, "is an address of node b"},
		{"a service's address", func(_ csr, r req) { r.IPAddresses = ip("10.96.0.1") }, "no node's address"},
		{"loopback", func(_ csr, r req) { r.IPAddresses = ip("127.0.0.1") }, "no node's address"},
		{"another node's name", func(_ csr, r req) { r.DNSNames = []string{"b"} }, "has no name b"},
		{"a name that two have", func(_ csr, r req) { r.DNSNames = []string{"shared"} }, "is the name of node b"},
		{"the API's name", func(_ csr, r req) { r.DNSNames = []string{"kubernetes.default.svc"} }, "no node's name"},
		{"localhost", func(_ csr, r req) { r.DNSNames = []string{"localhost"} }, "no node's name"},
		{"one good, one not", func(_ csr, r req) { r.DNSNames = []string{"a", "www.example"} }, "has no name www.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(request(t, c.change), nodes, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := judge(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Username: "system:node:a", Groups: []string{"system:nodes"}, Request: []byte("x")}}, nodes, nil); got == "" {
		t.Error("nonsense is approved")
	}
}
