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
		ValidateStatusUpdate: api.CheckUpdate(func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return validatePodStatus(r, old, time.Now())
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
