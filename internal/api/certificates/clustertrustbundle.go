package certificates

import (
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// maxTrustBundle limits a bundle, in bytes (KEP-3257).
const maxTrustBundle = 1 << 20

func clusterTrustBundle() *api.Kind {
	return &api.Kind{
		Group:    "certificates.k8s.io",
		Kind:     "ClusterTrustBundle",
		Resource: "clustertrustbundles",
		Singular: "clustertrustbundle",
		Prefix:   "clustertrustbundles",
		Versions: []api.Version{api.NewVersion[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList]("v1")},
		Hub:      "v1",
		// The name of a signer's bundle begins with the signer: "example.com:name:rest".
		ValidateName: func(name string, prefix bool) []string {
			if i := strings.LastIndex(name, ":"); i >= 0 {
				name = name[i+1:]
			}
			return apivalidation.NameIsDNSSubdomain(name, prefix)
		},
		Validate: api.Check(validateBundle),
		ValidateUpdate: api.CheckUpdate(func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return append(validateBundle(b), check.Immutable(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
		}),
		FieldNames: []string{"spec.signerName"},
		Fields: func(o api.Object) fields.Set {
			return fields.Set{"spec.signerName": o.(*certificatesv1.ClusterTrustBundle).Spec.SignerName}
		},
		Columns: api.Columns(
			table.Name(),
			table.Column("SignerName", table.String, certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(b *certificatesv1.ClusterTrustBundle, now time.Time) []any {
			return []any{b.Name, table.OrNone(b.Spec.SignerName), table.Age(b, now)}
		}),
	}
}

func validateBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	p, name := field.NewPath("spec"), field.NewPath("metadata", "name")
	var errs field.ErrorList
	if signer := b.Spec.SignerName; signer == "" {
		if strings.Contains(b.Name, ":") {
			errs = append(errs, field.Invalid(name, b.Name, "ClusterTrustBundle without signer name must not have \":\" in its name"))
		}
	} else {
		if prefix := strings.ReplaceAll(signer, "/", ":") + ":"; !strings.HasPrefix(b.Name, prefix) {
			errs = append(errs, field.Invalid(name, b.Name, "ClusterTrustBundle for signerName "+signer+" must be named with prefix "+prefix))
		}
		errs = append(errs, validateSigner(signer, p.Child("signerName"))...)
	}
	at := p.Child("trustBundle")
	if len(b.Spec.TrustBundle) > maxTrustBundle {
		return append(errs, field.TooLong(at, "", maxTrustBundle))
	}
	if err := parseCertificates([]byte(b.Spec.TrustBundle)); err != nil {
		errs = append(errs, field.Invalid(at, "<value omitted>", err.Error()))
	}
	return errs
}
