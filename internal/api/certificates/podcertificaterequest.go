package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// shownFields is a request as complaints show it: with the fields that only older versions have.
type shownFields struct {
	SignerName                string
	PodName                   string
	PodUID                    string
	ServiceAccountName        string
	ServiceAccountUID         string
	NodeName                  string
	NodeUID                   string
	MaxExpirationSeconds      *int32
	PKIXPublicKey             []byte
	ProofOfPossession         []byte
	StubPKCS10Request         []byte
	UnverifiedUserAnnotations map[string]string
}

func shownSpec(s *certificatesv1.PodCertificateRequestSpec) shownFields {
	return shownFields{
		SignerName: s.SignerName, PodName: s.PodName, PodUID: string(s.PodUID), ServiceAccountName: s.ServiceAccountName, ServiceAccountUID: string(s.ServiceAccountUID),
		NodeName: string(s.NodeName), NodeUID: string(s.NodeUID), MaxExpirationSeconds: s.MaxExpirationSeconds,
		StubPKCS10Request: s.StubPKCS10Request, UnverifiedUserAnnotations: s.UnverifiedUserAnnotations,
	}
}

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
			return field.ErrorList{field.Invalid(field.NewPath("spec"), check.Rendered(shownSpec(&r.Spec)), check.ImmutableText)}
		}),
		ValidateStatusUpdate: api.CheckUpdate(func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return validatePodStatus(r, old, time.Now())
		}),
		NotByNamespace: true,
		FieldNames:     []string{"spec.signerName", "spec.podName", "spec.nodeName"},
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
			table.Column("State", table.String, "Is the request Pending, Issued, Denied, or Failed?"),
			table.Column("UnverifiedUserAnnotations", table.String, spec["unverifiedUserAnnotations"]),
		),
		Row: api.Row(func(r *certificatesv1.PodCertificateRequest, _ time.Time) []any {
			state := "Pending"
			for _, c := range r.Status.Conditions {
				switch c.Type {
				case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
					state = c.Type
				}
			}
			return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, labels.FormatLabels(r.Spec.UnverifiedUserAnnotations)}
		}),
	}
}
