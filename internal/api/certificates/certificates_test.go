package certificates_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/certificates"
)

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "me"}}, key(t))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func certificate(t *testing.T) []byte {
	t.Helper()
	k := key(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestCertificateSigningRequest(t *testing.T) {
	r := request(t)
	doc := func(rest string) string { return "metadata: {name: a}\nspec: {request: " + r + ", " + rest + "}" }
	apitest.Check(t, certificates.Kinds(), "CertificateSigningRequest", []apitest.Case{
		{"minimal", doc("signerName: a.b/c, usages: [client auth]"), ""},
		{"no request", "spec: {request: AAAA, signerName: a.b/c, usages: [client auth]}", "PEM block type must be CERTIFICATE REQUEST"},
		{"no usages", doc("signerName: a.b/c"), "spec.usages: Required value"},
		{"usages", doc("signerName: a.b/c, usages: [any, any, all]"), "spec.usages[2]: Unsupported value: \"all\"\nspec.usages[1]: Duplicate value: \"any\""},
		{"no signer", doc("usages: [any]"), "spec.signerName: Required value"},
		{"no domain", doc("signerName: a, usages: [any]"), "must be a fully qualified domain and path of the form 'example.com/signer-name'"},
		{"one segment", doc("signerName: a/b, usages: [any]"), "should be a domain with at least two segments separated by dots"},
		{"anybody", doc("signerName: kubernetes.io/legacy-unknown, usages: [any]"), "the legacy signerName is not allowed via this API version"},
		{"short", doc("signerName: a.b/c, usages: [any], expirationSeconds: 599"), "may not specify a duration less than 600 seconds (10 minutes)"},
	})
}

// TestDoors: the approver approves or denies, the signer issues or fails, and the user changes nothing.
func TestDoors(t *testing.T) {
	c := apitest.Catalogue(t, certificates.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CertificateSigningRequest")
	obj, errs := apitest.Create(t, c, k, "metadata: {name: a}\nspec: {request: "+request(t)+", signerName: a.b/c, usages: [any], username: u, expirationSeconds: 3600}")
	if len(errs) > 0 {
		t.Fatal(apitest.Text(errs))
	}
	asked := obj.(*certificatesv1.CertificateSigningRequest)
	condition := func(types ...certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		var out []certificatesv1.CertificateSigningRequestCondition
		for _, typ := range types {
			out = append(out, certificatesv1.CertificateSigningRequestCondition{Type: typ, Status: corev1.ConditionTrue})
		}
		return out
	}

	approval := k.Subresources[slices.IndexFunc(k.Subresources, func(s api.Subresource) bool { return s.Name == "approval" })]
	approved := asked.DeepCopy()
	approved.Spec.SignerName, approved.Status.Certificate = "x", []byte("forged")
	approved.Status.Conditions = condition(certificatesv1.CertificateApproved)
	approval.PrepareForUpdate(approved, asked)
	if got := apitest.Text(approval.ValidateUpdate(approved, asked)); got != "" {
		t.Error(got)
	}
	if approved.Spec.SignerName != "a.b/c" || approved.Status.Certificate != nil || approved.Status.Conditions[0].LastUpdateTime.IsZero() {
		t.Errorf("approved: %+v", approved)
	}
	both := approved.DeepCopy()
	both.Status.Conditions = condition(certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)
	if got := apitest.Text(approval.ValidateUpdate(both, approved)); !strings.Contains(got, "must specify at most one of: `conditions[{\"type\": \"Approved\"}]`") {
		t.Error(got)
	}
	failed := approved.DeepCopy()
	failed.Status.Conditions = condition(certificatesv1.CertificateApproved, certificatesv1.CertificateFailed)
	if got := apitest.Text(approval.ValidateUpdate(failed, approved)); got != "" {
		t.Errorf("an approver may not fail a request: %q", got)
	}
	if got := apitest.Text(k.ValidateStatusUpdate(approved, asked)); !strings.Contains(got, "updates may not add a condition of type \"Approved\"") {
		t.Errorf("a signer may approve: %q", got)
	}

	issued := approved.DeepCopy()
	issued.Status.Certificate = certificate(t)
	k.PrepareForStatusUpdate(issued, approved)
	if got := apitest.Text(k.ValidateStatusUpdate(issued, approved)); got != "" {
		t.Error(got)
	}
	if got := apitest.Row(k, issued, time.Now()); got != "a|<unknown>|a.b/c|u|60m|Approved,Issued" {
		t.Error(got)
	}
	again := issued.DeepCopy()
	again.Status.Certificate = certificate(t)
	if got := apitest.Text(k.ValidateStatusUpdate(again, issued)); !strings.Contains(got, "updates may not modify existing certificate content") {
		t.Error(got)
	}
	garbage := approved.DeepCopy()
	garbage.Status.Certificate = []byte("x")
	if got := apitest.Text(k.ValidateStatusUpdate(garbage, approved)); !strings.Contains(got, "must contain at least one CERTIFICATE PEM block") {
		t.Error(got)
	}

	user := issued.DeepCopy()
	user.Spec.Username, user.Status, user.Labels = "root", certificatesv1.CertificateSigningRequestStatus{}, map[string]string{"a": "b"}
	k.PrepareForUpdate(user, issued)
	if user.Spec.Username != "u" || len(user.Status.Certificate) == 0 || user.Labels["a"] != "b" {
		t.Errorf("user wrote %+v", user)
	}
}

// anchor is a certificate of an authority, or one that is none.
func anchor(t *testing.T, isCA bool) *pem.Block {
	t.Helper()
	k := key(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return &pem.Block{Type: "CERTIFICATE", Bytes: der}
}

// TestStoredFaults: what is wrong with a stored request may stay, and what is wrong besides may not come.
func TestStoredFaults(t *testing.T) {
	r := request(t)
	doc := func(usages, conditions string) string {
		return "metadata: {name: a}\nspec: {request: " + r + ", signerName: kubernetes.io/legacy-unknown, usages: [" + usages + "]}\nstatus: {conditions: [" + conditions + "]}"
	}
	const approved, denied = `{type: Approved, status: "True"}`, `{type: Denied, status: "True"}`
	apitest.CheckChanges(t, certificates.Kinds(), "CertificateSigningRequest", "status", []apitest.Change{
		{"all of them", doc("x, x", `{status: "True"}, `+approved+", "+denied+", "+denied), doc("x, x", `{status: "True"}, `+approved+", "+denied+", "+denied), ""},
		{"another type twice", doc("x", approved), doc("x", approved+`, {type: A, status: "True"}, {type: A, status: "True"}`), `status.conditions[2].type: Duplicate value: "A"`},
		{"no type", doc("x", approved), doc("x", approved+`, {status: "True"}`), "status.conditions[1].type: Required value"},
		{"both", doc("x", approved), doc("x", approved+", "+denied),
			"must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`\nupdates may not add a condition of type \"Denied\""},
	})
}

// TestSignature: who asks must have the key.
func TestSignature(t *testing.T) {
	der, err := base64.StdEncoding.DecodeString(request(t))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(der)
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block))
	c := apitest.Catalogue(t, certificates.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CertificateSigningRequest")
	_, errs := apitest.Create(t, c, k, "metadata: {name: a}\nspec: {request: "+forged+", signerName: a.b/c, usages: [client auth]}")
	if len(errs) != 1 || errs[0].Field != "spec.request" {
		t.Errorf("a forged request: %v", errs)
	}
}

func TestClusterTrustBundle(t *testing.T) {
	c := apitest.Catalogue(t, certificates.Kinds())
	k := apitest.Kind(t, c.Kinds(), "ClusterTrustBundle")
	a, b, leaf := anchor(t, true), anchor(t, true), anchor(t, false)
	headed := &pem.Block{Type: "CERTIFICATE", Bytes: a.Bytes, Headers: map[string]string{"A": "b"}}
	bundle := func(name, signer string, blocks ...*pem.Block) *certificatesv1.ClusterTrustBundle {
		out := &certificatesv1.ClusterTrustBundle{}
		out.Name, out.Spec.SignerName = name, signer
		for _, x := range blocks {
			out.Spec.TrustBundle += "in between\n" + string(pem.EncodeToMemory(x))
		}
		return out
	}
	const hidden = `spec.trustBundle: Invalid value: "<value omitted>": `
	for _, tt := range []struct {
		name string
		obj  *certificatesv1.ClusterTrustBundle
		want string
	}{
		{"two", bundle("a", "", a, b), ""},
		{"of a signer", bundle("example.com:s:a", "example.com/s", a), ""},
		{"nothing", bundle("a", ""), hidden + "at least one trust anchor must be provided"},
		{"twice", bundle("a", "", a, b, a), hidden + "duplicate trust anchor (indices [0 2])"},
		{"no authority", bundle("a", "", a, leaf), hidden + "entry 1 does not have the CA bit set"},
		{"headers", bundle("a", "", headed), hidden + "entry 0 has PEM block headers"},
		{"a key", bundle("a", "", &pem.Block{Type: "PRIVATE KEY", Bytes: a.Bytes}), hidden + "entry 0 has bad block type: PRIVATE KEY"},
		{"garbage", bundle("a", "", &pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}, a, a), hidden + "entry 0 does not parse as X.509"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := apitest.Text(k.Validate(tt.obj)); got != tt.want && (tt.want == "" || !strings.Contains(got, tt.want) || strings.Contains(got, "\n")) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
	for _, tt := range []struct {
		signer, name string
		prefix       bool
		want         string
	}{
		{"", "a", false, ""},
		{"", "example.com:s:a", false, `ClusterTrustBundle without signer name must not have ":" in its name`},
		{"example.com/s", "example.com:s:a", false, ""},
		{"example.com/s", "example.com:s:a-", true, ""},
		{"example.com/s", "a", false, "ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:"},
		{"example.com/s", "x", true, "ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:"},
	} {
		if got := strings.Join(k.ValidateNameOf(bundle(tt.name, tt.signer), tt.name, tt.prefix), "\n"); got != tt.want {
			t.Errorf("%s of %q: got %q, want %q", tt.name, tt.signer, got, tt.want)
		}
	}
	stored := bundle("a", "", leaf)
	if got := apitest.Text(k.ValidateUpdate(stored.DeepCopy(), stored)); got != "" {
		t.Errorf("a stored bundle is judged again: %s", got)
	}
}
