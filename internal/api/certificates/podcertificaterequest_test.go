package certificates_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/certificates"
)

func podRequest(t *testing.T, signer crypto.Signer, more string) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
metadata: {name: a}
spec: {signerName: example.com/s, podName: p, podUID: u, serviceAccountName: s, serviceAccountUID: u, nodeName: node-1, nodeUID: u, stubPKCS10Request: %s%s}`,
		base64.StdEncoding.EncodeToString(der), more)
}

func TestPodCertificateRequest(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged := podRequest(t, key(t), "")
	i := strings.Index(forged, "stubPKCS10Request: ") + 150
	forged = forged[:i] + "AAAA" + forged[i+4:]
	apitest.Check(t, certificates.Kinds(), "PodCertificateRequest", []apitest.Case{
		{"fine", podRequest(t, key(t), ""), ""},
		{"too short", podRequest(t, key(t), ", maxExpirationSeconds: 60"), "must be in the range [3600, 7862400]"},
		{"too long for the project's own", strings.Replace(podRequest(t, key(t), ", maxExpirationSeconds: 86401"), "example.com/s", "kubernetes.io/s", 1), "must be in the range [3600, 86400]"},
		{"names", strings.NewReplacer("podName: p", "podName: A_B", "nodeName: node-1", "nodeName: ''", "nodeUID: u", "nodeUID: ''", "podUID: u", "podUID: "+strings.Repeat("u", 129)).Replace(podRequest(t, key(t), "")),
			"spec.podName: Invalid value: \"A_B\"\nspec.podUID: Too long: may not be more than 128 bytes\nspec.nodeName: Invalid value: \"\"\nspec.nodeUID: Invalid value: \"\": must not be empty"},
		{"a weak key", podRequest(t, small, ""), `spec.stubPKCS10Request: Invalid value: "2048-bit modulus": RSA keys must have modulus size 3072 or 4096`},
		{"no request", "spec: {signerName: example.com/s, podName: p, podUID: u, serviceAccountName: s, serviceAccountUID: u, nodeName: node-1, nodeUID: u}", "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"},
		{"no request at all", "spec: {signerName: example.com/s, podName: p, podUID: u, serviceAccountName: s, serviceAccountUID: u, nodeName: node-1, nodeUID: u, stubPKCS10Request: AAAA}", "spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"},
		{"a forged request", forged, "spec.stubPKCS10Request"},
		{"a bare annotation", podRequest(t, key(t), ", unverifiedUserAnnotations: {a: b}"), "must be a domain-prefixed key"},
		{"an annotation without a name", podRequest(t, key(t), ", unverifiedUserAnnotations: {'': b}"), "spec.unverifiedUserAnnotations: Required value"},
	})
}

func TestPodCertificateRequestStatus(t *testing.T) {
	c := apitest.Catalogue(t, certificates.Kinds())
	k := apitest.Kind(t, c.Kinds(), "PodCertificateRequest")
	mine := key(t)
	obj, errs := apitest.Create(t, c, k, podRequest(t, mine, ""))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	asked := obj.(*certificatesv1.PodCertificateRequest)
	from := time.Now().UTC().Truncate(time.Second)
	answer := func(signed crypto.Signer, life time.Duration) *certificatesv1.PodCertificateRequest {
		r := asked.DeepCopy()
		leaf := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "p"}, NotBefore: from, NotAfter: from.Add(life)}
		der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, signed.Public(), signed)
		if err != nil {
			t.Fatal(err)
		}
		begin, middle, end := metav1.NewTime(from), metav1.NewTime(from.Add(life/2)), metav1.NewTime(from.Add(life))
		r.Status = certificatesv1.PodCertificateRequestStatus{
			CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), NotBefore: &begin, BeginRefreshAt: &middle, NotAfter: &end,
			Conditions: []metav1.Condition{{Type: "Issued", Status: "True", Reason: "R", LastTransitionTime: begin}},
		}
		return r
	}
	denied := func(r *certificatesv1.PodCertificateRequest) *certificatesv1.PodCertificateRequest {
		out := r.DeepCopy()
		out.Status.Conditions = []metav1.Condition{{Type: "Denied", Status: "True", Reason: "R", LastTransitionTime: metav1.NewTime(from)}}
		return out
	}
	issued := answer(mine, 2*time.Hour)
	if got := apitest.Text(k.ValidateStatusUpdate(issued, asked)); got != "" {
		t.Error(got)
	}
	again := issued.DeepCopy()
	again.Status.NotAfter = again.Status.NotBefore
	none := issued.DeepCopy()
	none.Status.Conditions = nil
	withChain := denied(issued)
	other := asked.DeepCopy()
	other.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "True", Reason: "R", LastTransitionTime: metav1.NewTime(from)}}
	two := denied(asked)
	two.Status.Conditions = append(two.Status.Conditions, metav1.Condition{Type: "Failed", Status: "True", Reason: "R", LastTransitionTime: metav1.NewTime(from)})
	early, tooLate := answer(mine, 2*time.Hour), answer(mine, 2*time.Hour)
	early.Status.BeginRefreshAt, tooLate.Status.BeginRefreshAt = early.Status.NotBefore, tooLate.Status.NotAfter
	another := answer(mine, 2*time.Hour)
	another.Status.NotBefore = another.Status.NotAfter
	chain := func(text string) *certificatesv1.PodCertificateRequest {
		r := answer(mine, 2*time.Hour)
		r.Status.CertificateChain = text
		return r
	}
	whole := issued.Status.CertificateChain
	little := denied(asked)
	little.Status.Conditions[0].Status = "False"
	late := answer(mine, 2*time.Hour)
	late.Status.BeginRefreshAt = nil
	for _, x := range []struct {
		name     string
		now, was *certificatesv1.PodCertificateRequest
		told     string
	}{
		{"issued again", again, issued, "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"},
		{"denied", denied(asked), asked, ""},
		{"denied, with a certificate", withChain, asked, "status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest"},
		{"ready", other, asked, `status.conditions.[0].type: Unsupported value: "Ready": supported values: "Issued", "Denied", "Failed"`},
		{"denied and failed", two, asked, `status.conditions.[1].type: Invalid value: "Failed": There may be at most one condition`},
		{"refreshed at once", early, asked, "status.beginRefreshAt: Invalid value"},
		{"refreshed when it ends", tooLate, asked, "must be at least 10 minutes before status.notAfter"},
		{"another beginning", another, asked, "must be set to the NotBefore time encoded in the leaf certificate"},
		{"no certificate", chain("x"), asked, "issued certificate chain must contain at least one certificate"},
		{"a key", chain(strings.ReplaceAll(whole, "CERTIFICATE", "PRIVATE KEY")), asked, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"},
		{"a key behind it", chain(whole + strings.ReplaceAll(whole, "CERTIFICATE", "PRIVATE KEY")), asked, "issued certificate chain must consist entirely of"},
		{"garbage behind it", chain(whole + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), asked, "intermediate certificate does not parse as valid X.509"},
		{"a long chain", chain(strings.Repeat(whole, 40)), asked, "status.certificateChain: Too long: may not be more than 10240 bytes"},
		{"a certificate and no condition", none, asked, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`},
		{"denied a little", little, asked, `supported values: "True"`},
		{"for another key", answer(key(t), 2*time.Hour), asked, "leaf certificate was not issued to the requested public key"},
		{"too short a life", answer(mine, time.Minute), asked, "leaf certificate lifetime must be >= 1 hour"},
		{"too long a life", answer(mine, 48*time.Hour), asked, "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"},
		{"never refreshed", late, asked, "status.beginRefreshAt: Required value"},
	} {
		if got := apitest.Text(k.ValidateStatusUpdate(x.now, x.was)); !strings.Contains(got, x.told) || x.told == "" && got != "" {
			t.Errorf("%s: %q, want %q", x.name, got, x.told)
		}
	}
}
