package certificates

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// The life of a pod's certificate, in seconds: at least an hour, at most 91 days, a day unless asked otherwise.
const (
	minPodSeconds     int32 = 3600
	maxPodSeconds     int32 = 91 * 86400
	defaultPodSeconds int32 = 86400
	maxOwnSeconds     int32 = 86400 // what the project's own signers are asked for at most
)

const (
	maxUID        = 128      // bytes
	maxStub       = 10 << 10 // of a request, in bytes
	maxChain      = 10 << 10 // of certificates, in bytes
	maxClockSkew  = 5 * time.Minute
	refreshMargin = 10 * time.Minute // that a certificate lives at least before and after it is to be refreshed
)

func validatePodRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	p, s := field.NewPath("spec"), &r.Spec
	errs := check.SignerName(s.SignerName, p.Child("signerName"))
	errs = append(errs, check.UserAnnotations(s.UnverifiedUserAnnotations, p.Child("unverifiedUserAnnotations"))...)
	for _, f := range []struct{ name, value, uid string }{
		{"pod", s.PodName, string(s.PodUID)}, {"serviceAccount", s.ServiceAccountName, string(s.ServiceAccountUID)}, {"node", string(s.NodeName), string(s.NodeUID)},
	} {
		errs = append(errs, check.DNSSubdomain(f.value, p.Child(f.name+"Name"))...)
		switch uid := p.Child(f.name + "UID"); {
		case f.uid == "":
			errs = append(errs, field.Invalid(uid, f.uid, "must not be empty"))
		case len(f.uid) > maxUID:
			errs = append(errs, field.TooLong(uid, f.uid, maxUID))
		}
	}
	at := p.Child("maxExpirationSeconds")
	if s.MaxExpirationSeconds == nil {
		return append(errs, field.Required(at, "must be set"))
	}
	most := maxPodSeconds
	if check.OwnSigner(s.SignerName) {
		most = maxOwnSeconds
	}
	if n := *s.MaxExpirationSeconds; n < minPodSeconds || n > most {
		errs = append(errs, field.Invalid(at, n, fmt.Sprintf("must be in the range [%d, %d]", minPodSeconds, most)))
	}
	if len(s.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(p, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
	}
	if err := checkStub(s.StubPKCS10Request, p.Child("stubPKCS10Request")); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkStub looks at the request that proves who holds the key: it must parse, the key be of a kind that the node can make, and sign the request.
func checkStub(der []byte, p *field.Path) *field.Error {
	if len(der) > maxStub {
		return field.TooLong(p, der, maxStub)
	}
	bad := func(text string) *field.Error { return field.Invalid(p, field.OmitValueType{}, text) }
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return bad("must be a valid PKCS#10 CSR")
	}
	switch key := r.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return field.Invalid(p, "curve "+key.Params().Name, "elliptic public keys must use curve P256, P384, or P521")
		}
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return field.Invalid(p, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")
		}
	default:
		return bad("unknown public key type; supported types are Ed25519, ECDSA, and RSA")
	}
	if r.CheckSignature() != nil {
		return bad("invalid signature")
	}
	return nil
}

// validatePodStatus lets the signer answer once, in one of three ways. Who asks when is now; what a complaint would only repeat is not
// looked at.
func validatePodStatus(r, old *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	p, s := field.NewPath("status"), &r.Status
	errs := validateAnswers(s.Conditions, p.Child("conditions"))
	if len(errs) > 0 {
		return errs
	}
	same := func(with certificatesv1.PodCertificateRequestStatus, text string) field.ErrorList {
		if apiequality.Semantic.DeepEqual(*s, with) {
			return nil
		}
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, text)}
	}
	if answerOf(old) != "" {
		return same(old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	}
	switch answerOf(r) {
	case "":
		return same(old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	case certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(r, now, p)
	}
	return same(certificatesv1.PodCertificateRequestStatus{Conditions: s.Conditions}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")
}

// validateAnswers wants at most one condition, that being an answer.
func validateAnswers(conditions []metav1.Condition, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	answers := []string{
		certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed,
	}
	known := 0
	for i, c := range conditions {
		// Upstream writes the number as if it were a field.
		at := p.Child(fmt.Sprintf("[%d]", i))
		switch c.Type {
		case answers[0], answers[1], answers[2]:
			if known++; known > 1 {
				errs = append(errs, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
			}
			if c.Status != metav1.ConditionTrue {
				errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, answers))
		}
	}
	return append(errs, metav1validation.ValidateConditions(conditions, p)...)
}

// answerOf is how a request was answered; "" is not yet.
func answerOf(r *certificatesv1.PodCertificateRequest) string {
	for _, c := range r.Status.Conditions {
		if c.Status == metav1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// validateIssued wants a chain whose first certificate is for the key of the request and lives as the status says. One complaint at a
// time is enough: what follows depends on it.
func validateIssued(r *certificatesv1.PodCertificateRequest, now time.Time, p *field.Path) field.ErrorList {
	s, chain := &r.Status, p.Child("certificateChain")
	if len(s.CertificateChain) > maxChain {
		return field.ErrorList{field.TooLong(chain, s.CertificateChain, maxChain)}
	}
	leaf, rest, text := firstCertificate(s.CertificateChain)
	if text != "" {
		return field.ErrorList{field.Invalid(chain, s.CertificateChain, text)}
	}
	errs := validateNames(leaf, chain)
	if request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request); err == nil && !bytes.Equal(request.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
		return append(errs, field.Invalid(chain, s.CertificateChain, "leaf certificate was not issued to the requested public key"))
	}
	errs = append(errs, validateTimes(r, leaf, now, p)...)
	if len(errs) > 0 {
		return errs
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != certificateBlock {
			return field.ErrorList{field.Invalid(chain, s.CertificateChain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return field.ErrorList{field.Invalid(chain, s.CertificateChain, "intermediate certificate does not parse as valid X.509")}
		}
	}
}

// firstCertificate returns the certificate that a chain begins with, and what follows, or what is wrong.
func firstCertificate(chain string) (leaf *x509.Certificate, rest []byte, text string) {
	block, rest := pem.Decode([]byte(chain))
	switch {
	case block == nil:
		return nil, nil, "issued certificate chain must contain at least one certificate"
	case block.Type != certificateBlock:
		return nil, nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, "leaf certificate does not parse as valid X.509"
	}
	return leaf, rest, ""
}

// validateNames wants names in a certificate that libraries agree about.
func validateNames(leaf *x509.Certificate, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range leaf.DNSNames {
		if name == "" {
			errs = append(errs, field.Invalid(p, name, "leaf certificate should not contain empty DNSName"))
		}
		if strings.Contains(name, "..") {
			errs = append(errs, field.Invalid(p, name, "leaf certificate's DNSName should not contain '..'"))
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			errs = append(errs, field.Invalid(p, name, "leaf certificate's DNSName should not start or end with '.'"))
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			errs = append(errs, field.Invalid(p, address, "leaf certificate should not contain invalid EmailAddress"))
		}
	}
	return errs
}

// validateTimes wants a status to say what its certificate says, and a life of the certificate that leaves time to refresh it.
func validateTimes(r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate, now time.Time, p *field.Path) field.ErrorList {
	s, before, after, refresh := &r.Status, p.Child("notBefore"), p.Child("notAfter"), p.Child("beginRefreshAt")
	var errs field.ErrorList
	if s.NotBefore == nil {
		errs = append(errs, field.Required(before, "must be present and consistent with the issued certificate"))
	}
	if s.NotAfter == nil {
		errs = append(errs, field.Required(after, "must be present and consistent with the issued certificate"))
	}
	if s.BeginRefreshAt == nil {
		errs = append(errs, field.Required(refresh, "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	if len(errs) > 0 {
		return errs
	}
	one := func(at *field.Path, value any, text string) field.ErrorList {
		return field.ErrorList{field.Invalid(at, value, text)}
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch from, to, at := s.NotBefore.Time, s.NotAfter.Time, s.BeginRefreshAt.Time; {
	case !from.Equal(leaf.NotBefore):
		return one(before, from, "must be set to the NotBefore time encoded in the leaf certificate")
	case from.Sub(now).Abs() >= maxClockSkew:
		return one(before, from, "must be set to within 5 minutes of kube-apiserver's current time")
	case !to.Equal(leaf.NotAfter):
		return one(after, to, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < time.Duration(minPodSeconds)*time.Second:
		return one(p.Child("certificateChain"), life, "leaf certificate lifetime must be >= 1 hour")
	case r.Spec.MaxExpirationSeconds != nil && life > time.Duration(*r.Spec.MaxExpirationSeconds)*time.Second:
		return one(p.Child("certificateChain"), life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", *r.Spec.MaxExpirationSeconds))
	case at.Before(from.Add(refreshMargin)):
		return one(refresh, at, "must be at least 10 minutes after status.notBefore")
	case at.After(to.Add(-refreshMargin)):
		return one(refresh, at, "must be at least 10 minutes before status.notAfter")
	}
	return nil
}
