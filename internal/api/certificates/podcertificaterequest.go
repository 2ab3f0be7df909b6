package certificates

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// The life of a pod's certificate, in seconds: at least an hour, at most 91 days, a day unless asked otherwise.
const (
	minPodSeconds     int32 = 3600
	maxPodSeconds     int32 = 91 * 86400
	defaultPodSeconds int32 = 86400
	maxOwnSeconds     int32 = 86400 // what the project's own signers are asked for at most
)

func podCertificateRequest() *api.Kind {
	spec := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:        "certificates.k8s.io",
		Kind:         "PodCertificateRequest",
		Resource:     "podcertificaterequests",
		Singular:     "podcertificaterequest",
		Namespaced:   true,
		Prefix:       "podcertificaterequests",
		Versions:     []api.Version{api.NewVersion[certificatesv1.PodCertificateRequest, certificatesv1.PodCertificateRequestList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
		Resets:       map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		Default: api.On(func(r *certificatesv1.PodCertificateRequest) {
			if r.Spec.MaxExpirationSeconds == nil {
				n := defaultPodSeconds
				r.Spec.MaxExpirationSeconds = &n
			}
		}),
		PrepareForCreate: api.On(func(r *certificatesv1.PodCertificateRequest) {
			r.Status = certificatesv1.PodCertificateRequestStatus{}
		}),
		PrepareForUpdate: api.OnUpdate(func(r, old *certificatesv1.PodCertificateRequest) { r.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(r, old *certificatesv1.PodCertificateRequest) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		}),
		Validate: api.Check(validatePodRequest),
		ValidateUpdate: api.CheckUpdate(func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			if apiequality.Semantic.DeepEqual(r.Spec, old.Spec) {
				return nil
			}
			return field.ErrorList{field.Invalid(field.NewPath("spec"), check.Rendered(r.Spec), check.ImmutableText)}
		}),
		ValidateStatusUpdate: api.CheckUpdate(validatePodStatus),
		FieldNames:           []string{"spec.signerName", "spec.podName", "spec.nodeName"},
		Fields: func(o api.Object) fields.Set {
			s := &o.(*certificatesv1.PodCertificateRequest).Spec
			return fields.Set{"spec.signerName": s.SignerName, "spec.podName": s.PodName, "spec.nodeName": string(s.NodeName)}
		},
		Columns: api.Columns(
			table.Name(),
			table.Column("PodName", table.String, spec["podName"]),
			table.Column("ServiceAccountName", table.String, spec["serviceAccountName"]),
			table.Column("NodeName", table.String, spec["nodeName"]),
			table.Column("SignerName", table.String, spec["signerName"]),
			table.Column("State", table.String, "Whether the request was issued, denied, failed, or is pending."),
			table.AgeColumn(),
		),
		Row: api.Row(func(r *certificatesv1.PodCertificateRequest, now time.Time) []any {
			state := "Pending"
			for _, c := range r.Status.Conditions {
				if c.Status == "True" {
					state = c.Type
				}
			}
			return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, table.Age(r, now)}
		}),
	}
}

func validatePodRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	p, s := field.NewPath("spec"), &r.Spec
	errs := validateSigner(s.SignerName, p.Child("signerName"))
	for _, f := range []struct{ name, value string }{
		{"podName", s.PodName}, {"serviceAccountName", s.ServiceAccountName}, {"nodeName", string(s.NodeName)},
	} {
		if f.value == "" {
			errs = append(errs, field.Required(p.Child(f.name), ""))
		} else {
			errs = append(errs, check.DNSSubdomain(f.value, p.Child(f.name))...)
		}
	}
	for _, f := range []struct{ name, value string }{
		{"podUID", string(s.PodUID)}, {"serviceAccountUID", string(s.ServiceAccountUID)}, {"nodeUID", string(s.NodeUID)},
	} {
		if f.value == "" {
			errs = append(errs, field.Required(p.Child(f.name), ""))
		}
	}
	at := p.Child("maxExpirationSeconds")
	switch n := s.MaxExpirationSeconds; {
	case n == nil:
		errs = append(errs, field.Required(at, "must be set"))
	case *n < minPodSeconds || *n > maxPodSeconds:
		errs = append(errs, field.Invalid(at, *n, "must be in the range [3600, 7862400]"))
	case strings.HasPrefix(s.SignerName, "kubernetes.io/") && *n > maxOwnSeconds:
		errs = append(errs, field.Invalid(at, *n, "if signerName is prefixed with \"kubernetes.io\", maxExpirationSeconds must be in the range [3600, 86400]"))
	}
	if err := parseStub(s.StubPKCS10Request); err != nil {
		errs = append(errs, field.Invalid(p.Child("stubPKCS10Request"), field.OmitValueType{}, err.Error()))
	}
	at = p.Child("unverifiedUserAnnotations")
	errs = append(errs, check.Annotations(s.UnverifiedUserAnnotations, at)...)
	for _, key := range check.Keys(s.UnverifiedUserAnnotations) {
		if !strings.Contains(key, "/") {
			errs = append(errs, field.Invalid(at, key, "must be domain-prefixed"))
		}
	}
	return errs
}

// parseStub checks a request that proves who holds the key: it must parse, be signed with the key, and the key be of a kind
// that the node can make.
func parseStub(der []byte) error {
	if len(der) == 0 {
		return errors.New("must be a DER-serialized PKCS#10 request")
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return fmt.Errorf("must be a DER-serialized PKCS#10 request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return fmt.Errorf("must be signed with the key that it is about: %w", err)
	}
	switch key := r.PublicKey.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits == 3072 || bits == 4096 {
			return nil
		}
	}
	return errors.New("key must be one of RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521, or ED25519")
}

// validatePodStatus checks how a signer answers: once, with one condition, and with a certificate and its times if that is "Issued".
func validatePodStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	p, s, was := field.NewPath("status"), &r.Status, &old.Status
	at := p.Child("conditions")
	errs := metav1validation.ValidateConditions(s.Conditions, at)
	answer := ""
	for i, c := range s.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
			certificatesv1.PodCertificateRequestConditionTypeFailed:
			if c.Status != metav1.ConditionTrue {
				errs = append(errs, field.NotSupported(at.Index(i).Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
			}
			if answer != "" {
				errs = append(errs, field.Invalid(at, field.OmitValueType{}, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
			}
			answer = c.Type
		}
	}
	if len(was.Conditions) > 0 {
		if !apiequality.Semantic.DeepEqual(s, was) {
			errs = append(errs, field.Invalid(p, field.OmitValueType{}, "immutable after a terminal condition is set"))
		}
		return errs
	}
	given := s.CertificateChain != "" || s.NotBefore != nil || s.BeginRefreshAt != nil || s.NotAfter != nil
	switch {
	case answer == certificatesv1.PodCertificateRequestConditionTypeIssued:
		return append(errs, validateIssued(r, p)...)
	case given:
		errs = append(errs, field.Forbidden(p.Child("certificateChain"), "may only be set together with the condition \"Issued\""))
	}
	return errs
}

// validateIssued wants a chain whose first certificate is for the key of the request and lives as the status says.
func validateIssued(r *certificatesv1.PodCertificateRequest, p *field.Path) field.ErrorList {
	s, chain := &r.Status, p.Child("certificateChain")
	if err := parseCertificates([]byte(s.CertificateChain)); err != nil {
		return field.ErrorList{field.Invalid(chain, field.OmitValueType{}, err.Error())}
	}
	block, _ := pem.Decode([]byte(s.CertificateChain))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return field.ErrorList{field.Invalid(chain, field.OmitValueType{}, err.Error())}
	}
	var errs field.ErrorList
	if request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request); err == nil && !bytes.Equal(request.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
		errs = append(errs, field.Invalid(chain, field.OmitValueType{}, "leaf certificate was not issued to the requested public key"))
	}
	for _, f := range []struct {
		name string
		time *metav1.Time
		want time.Time
	}{{"notBefore", s.NotBefore, leaf.NotBefore}, {"notAfter", s.NotAfter, leaf.NotAfter}} {
		switch {
		case f.time == nil:
			errs = append(errs, field.Required(p.Child(f.name), "must be present and consistent with the issued certificate"))
		case !f.time.Time.Equal(f.want):
			errs = append(errs, field.Invalid(p.Child(f.name), *f.time, "must be set to the "+f.name+" time encoded in the leaf certificate"))
		}
	}
	refresh := p.Child("beginRefreshAt")
	switch t := s.BeginRefreshAt; {
	case t == nil:
		errs = append(errs, field.Required(refresh, "must be present and consistent with the issued certificate"))
	case t.Time.Before(leaf.NotBefore) || t.Time.After(leaf.NotAfter):
		errs = append(errs, field.Invalid(refresh, *t, "must be between the times from which and until which the certificate is valid"))
	}
	if most := r.Spec.MaxExpirationSeconds; most != nil {
		switch life := leaf.NotAfter.Sub(leaf.NotBefore); {
		case life < time.Duration(minPodSeconds)*time.Second:
			errs = append(errs, field.Invalid(chain, leaf.NotAfter.Sub(leaf.NotBefore).String(), "leaf certificate lifetime must be >= 1 hour"))
		case life > time.Duration(*most)*time.Second:
			errs = append(errs, field.Invalid(chain, life.String(), fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", *most)))
		}
	}
	return errs
}
