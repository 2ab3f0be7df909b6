package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	kubeletUsages = []certificatesv1.KeyUsage{"digital signature", "client auth"}
	noon          = time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC)
)

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: noon.Add(-24 * time.Hour), NotAfter: noon.Add(1000 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func request(t *testing.T, cn string, change ...func(*x509.CertificateRequest)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	req := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn, Organization: []string{"system:nodes"}}}
	for _, c := range change {
		c(req)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func dns(r *x509.CertificateRequest)    { r.DNSNames = []string{"a.example"} }
func ip(r *x509.CertificateRequest)     { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }
func mail(r *x509.CertificateRequest)   { r.EmailAddresses = []string{"a@example.com"} }
func uri(r *x509.CertificateRequest)    { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }
func nobody(r *x509.CertificateRequest) { r.Subject.Organization = nil }
func masters(r *x509.CertificateRequest) {
	r.Subject.Organization = []string{"system:nodes", "system:masters"}
}

func TestCheck(t *testing.T) {
	const client, kubelet, serving = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
	type change = func(*x509.CertificateRequest)
	for _, c := range []struct {
		signer, cn string
		usages     string
		changes    []change
		want       string
	}{
		{client, "alice", "client auth", []change{masters, mail}, ""},
		{client, "alice", "client auth,digital signature,key encipherment", nil, ""},
		{client, "alice", "digital signature", nil, "missing required usage for client certificate: client auth"},
		{client, "alice", "client auth,server auth", nil, "invalid usage for client certificate: server auth"},
		{kubelet, "system:node:a", "client auth,digital signature", nil, ""},
		{kubelet, "system:node:a", "key encipherment,client auth,digital signature", nil, ""},
		{kubelet, "system:node:a", "client auth", nil, "usages did not match"},
		{kubelet, "system:node:a", "server auth,digital signature", nil, "usages did not match"},
		{kubelet, "alice", "client auth,digital signature", nil, "subject common name does not begin with system:node: "},
		{kubelet, "system:node:a", "client auth,digital signature", []change{masters}, "subject organization is not system:nodes"},
		{kubelet, "system:node:a", "client auth,digital signature", []change{nobody}, "subject organization is not system:nodes"},
		{kubelet, "system:node:a", "client auth,digital signature", []change{dns}, "DNS subjectAltNames are not allowed"},
		{kubelet, "system:node:a", "client auth,digital signature", []change{ip}, "IP subjectAltNames are not allowed"},
		{kubelet, "system:node:a", "client auth,digital signature", []change{mail}, "Email subjectAltNames are not allowed"},
		{kubelet, "system:node:a", "client auth,digital signature", []change{uri}, "URI subjectAltNames are not allowed"},
		{serving, "system:node:a", "server auth,digital signature", []change{dns}, ""},
		{serving, "system:node:a", "server auth,digital signature,key encipherment", []change{dns, ip}, ""},
		{serving, "system:node:a", "server auth,digital signature", nil, "DNS or IP subjectAltName is required"},
		{serving, "system:node:a", "server auth,digital signature", []change{ip, uri}, "URI subjectAltNames are not allowed"},
		{serving, "system:node:a", "server auth,digital signature", []change{ip, mail}, "Email subjectAltNames are not allowed"},
		{serving, "a", "server auth,digital signature", []change{ip}, "subject common name does not begin with system:node: "},
		{serving, "system:node:a", "client auth,digital signature", []change{ip}, "usages did not match"},
		{legacySigner, "anything", "any", []change{masters}, ""},
	} {
		req, err := parse(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: request(t, c.cn, c.changes...)}})
		if err != nil {
			t.Fatal(err)
		}
		var usages []certificatesv1.KeyUsage
		for u := range strings.SplitSeq(c.usages, ",") {
			usages = append(usages, certificatesv1.KeyUsage(u))
		}
		if err := check(c.signer, req, usages); err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) || err == nil && c.want != "" {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestSign(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		name    string
		seconds *int32
		now     time.Time
		life    time.Duration // from now
	}{
		{"a year, less what it is backdated", nil, noon, lifetime - backdate},
		{"as asked", ptr.To(int32(3600)), noon, time.Hour},
		{"eight hours and more are backdated", ptr.To(int32(8 * 3600)), noon, 8*time.Hour - backdate},
		{"ten minutes at least", ptr.To(int32(1)), noon, 10 * time.Minute},
		{"a year at most", ptr.To(int32(1 << 30)), noon, lifetime - backdate},
		{"not longer than its authority", nil, noon.Add(999 * 24 * time.Hour), 24 * time.Hour},
	} {
		req, err := parse(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: request(t, "system:node:a", ip, dns)}})
		if err != nil {
			t.Fatal(err)
		}
		data, err := a.sign(req, []certificatesv1.KeyUsage{"digital signature", "key encipherment", "server auth", "client auth"}, c.seconds, c.now)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.NotAfter.Sub(c.now); got != c.life || !cert.NotBefore.Equal(c.now.Add(-backdate)) {
			t.Errorf("%s: from %v, lives %v, want %v", c.name, cert.NotBefore, got, c.life)
		}
		if err := cert.CheckSignatureFrom(a.cert); err != nil || cert.IsCA || cert.Subject.CommonName != "system:node:a" || len(cert.DNSNames) != 1 || len(cert.IPAddresses) != 1 ||
			cert.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment || len(cert.ExtKeyUsage) != 2 {
			t.Errorf("%s: %v %+v", c.name, err, cert)
		}
		if _, err := a.sign(req, []certificatesv1.KeyUsage{"magic"}, nil, noon); err == nil {
			t.Error("an unknown usage is signed")
		}
		if _, err := a.sign(req, kubeletUsages, nil, noon.Add(1001*24*time.Hour)); err == nil {
			t.Error("an expired authority signs")
		}
	}
}

func TestOver(t *testing.T) {
	at := func(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(d)) }
	cond := func(kind certificatesv1.RequestConditionType, d time.Duration) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: at(d)}
	}
	for _, c := range []struct {
		conditions []certificatesv1.CertificateSigningRequestCondition
		issued     bool
		want       time.Duration
	}{
		{nil, false, 24 * time.Hour},
		{[]certificatesv1.CertificateSigningRequestCondition{cond("Approved", time.Hour)}, true, 2 * time.Hour},
		{[]certificatesv1.CertificateSigningRequestCondition{cond("Approved", time.Hour)}, false, 25 * time.Hour}, // its signer may take its time
		{[]certificatesv1.CertificateSigningRequestCondition{{Type: "Approved", Status: corev1.ConditionTrue}}, true, 24 * time.Hour},
		{[]certificatesv1.CertificateSigningRequestCondition{cond("Denied", 23*time.Hour+30*time.Minute)}, false, 24*time.Hour + 30*time.Minute},
		{[]certificatesv1.CertificateSigningRequestCondition{cond("Approved", time.Hour), cond("Failed", 2*time.Hour)}, false, 3 * time.Hour},
	} {
		csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}, Status: certificatesv1.CertificateSigningRequestStatus{Conditions: c.conditions}}
		if c.issued {
			csr.Status.Certificate = []byte("a certificate")
		}
		if got := over(csr).Sub(noon); got != c.want {
			t.Errorf("%+v: over after %v, want %v", c.conditions, got, c.want)
		}
	}
}

// stage plays with the controller over the API in virtual time.
func stage(t *testing.T, play func(t *testing.T, e *controllertest.Env, a authority)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e, a := controllertest.Start(t), newAuthority(t)
		c, err := New(e.Client, e.Informers, a.cert, a.key, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Run(t, c)
		time.Sleep(time.Second) // who waits for caches looks at times
		play(t, e, a)
	})
}

func create(t *testing.T, e *controllertest.Env, name, signer string, data []byte, usages ...certificatesv1.KeyUsage) {
	t.Helper()
	_, err := e.Client.CertificatesV1().CertificateSigningRequests().Create(context.Background(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: data, SignerName: signer, Usages: usages, Username: "somebody"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func get(t *testing.T, e *controllertest.Env, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	csr, err := e.Client.CertificatesV1().CertificateSigningRequests().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestLifeOfARequest(t *testing.T) {
	stage(t, func(t *testing.T, e *controllertest.Env, a authority) {
		ctx := context.Background()
		requests := e.Client.CertificatesV1().CertificateSigningRequests()
		create(t, e, "kubelet", certificatesv1.KubeAPIServerClientKubeletSignerName, request(t, "system:node:a"), kubeletUsages...)
		csr := get(t, e, "kubelet")
		if len(csr.Status.Certificate) == 0 || len(csr.Status.Conditions) != 1 || csr.Status.Conditions[0].Reason != "AutoApproved" ||
			csr.Status.Conditions[0].Message != "Auto approving kubelet client certificate after SubjectAccessReview." {
			t.Errorf("status %+v", csr.Status)
		}
		approve := func(name string) {
			t.Helper()
			csr := get(t, e, name)
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Me"})
			if _, err := requests.UpdateApproval(ctx, name, csr, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		create(t, e, "person", certificatesv1.KubeAPIServerClientSignerName, request(t, "alice"), "client auth")
		if csr := get(t, e, "person"); len(csr.Status.Conditions) != 0 {
			t.Errorf("nobody was asked: %+v", csr.Status)
		}
		approve("person")
		if csr := get(t, e, "person"); len(csr.Status.Certificate) == 0 {
			t.Errorf("not signed: %+v", csr.Status)
		}
		create(t, e, "wrong", certificatesv1.KubeletServingSignerName, request(t, "system:node:a"), "server auth", "digital signature")
		approve("wrong")
		if csr := get(t, e, "wrong"); len(csr.Status.Conditions) != 2 || csr.Status.Conditions[1].Type != certificatesv1.CertificateFailed ||
			csr.Status.Conditions[1].Reason != "SignerValidationFailure" || csr.Status.Conditions[1].Message != "DNS or IP subjectAltName is required" {
			t.Errorf("status %+v", csr.Status)
		}
		create(t, e, "foreign", "example.com/signer", request(t, "x"), "client auth")
		approve("foreign")
		create(t, e, "waits", "example.com/signer", request(t, "x"), "client auth")
		if csr := get(t, e, "foreign"); len(csr.Status.Certificate) != 0 || len(csr.Status.Conditions) != 1 {
			t.Errorf("not ours: %+v", csr.Status)
		}
		time.Sleep(59 * time.Minute)
		for _, name := range []string{"kubelet", "person", "wrong", "foreign", "waits"} {
			get(t, e, name)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, name := range []string{"kubelet", "person", "wrong"} {
			if _, err := requests.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
		get(t, e, "foreign")
		get(t, e, "waits")
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		for _, name := range []string{"foreign", "waits"} {
			if _, err := requests.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
	})
}
