package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		FieldNames: []string{"spec.signerName", "spec.podName", "spec.nodeName"},
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
	}
	return errs
}
