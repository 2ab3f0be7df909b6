package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
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
		ValidateNameOf: func(obj api.Object, name string, prefix bool) []string {
			return validateBundleName(obj.(*certificatesv1.ClusterTrustBundle).Spec.SignerName, name, prefix)
		},
		Validate: api.Check(func(b *certificatesv1.ClusterTrustBundle) field.ErrorList { return validateBundle(b, nil) }),
		ValidateUpdate: api.CheckUpdate(func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return append(validateBundle(b, old), check.Immutable(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
		}),
		FieldNames: []string{"spec.signerName"},
		Fields: func(o api.Object) fields.Set {
			return fields.Set{"spec.signerName": o.(*certificatesv1.ClusterTrustBundle).Spec.SignerName}
		},
		Columns: api.Columns(
			table.Name(),
			table.Column("SignerName", table.String, certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		),
		Row: api.Row(func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
			return []any{b.Name, table.OrNone(b.Spec.SignerName)}
		}),
	}
}

// validateBundleName wants the name of a signer's bundle to begin with the signer, and that of another not to look like one.
func validateBundleName(signer, name string, prefix bool) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{"ClusterTrustBundle without signer name must not have \":\" in its name"}
		}
		return apivalidation.NameIsDNSSubdomain(name, prefix)
	}
	begin := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, begin)
	if !ok {
		return []string{"ClusterTrustBundle for signerName " + signer + " must be named with prefix " + begin}
	}
	return apivalidation.NameIsDNSSubdomain(rest, prefix)
}

func validateBundle(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
	p := field.NewPath("spec")
	var errs field.ErrorList
	if signer := b.Spec.SignerName; signer != "" {
		errs = append(errs, check.SignerName(signer, p.Child("signerName"))...)
	}
	if old != nil && old.Spec.TrustBundle == b.Spec.TrustBundle {
		return errs // what was accepted once stays
	}
	return append(errs, validateTrustAnchors(b.Spec.TrustBundle, p.Child("trustBundle"))...)
}

// validateTrustAnchors wants PEM blocks of certificates of authorities, none of them twice. Complaints count from 0 and never show the bundle.
func validateTrustAnchors(bundle string, p *field.Path) field.ErrorList {
	if len(bundle) > maxTrustBundle {
		return field.ErrorList{field.TooLong(p, "", maxTrustBundle)}
	}
	var errs field.ErrorList
	bad := func(format string, args ...any) {
		errs = append(errs, field.Invalid(p, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	places := map[string][]int{} // by certificate
	var order []string
	rest := []byte(bundle)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if why := notAnAnchor(block); why != "" {
			bad("entry %d %s", i, why)
			continue
		}
		der := string(block.Bytes)
		if places[der] == nil {
			order = append(order, der)
		}
		places[der] = append(places[der], i)
	}
	switch {
	case len(errs) > 0:
		return errs // what is said of the rest would repeat it
	case len(order) == 0:
		bad("at least one trust anchor must be provided")
	}
	for _, der := range order {
		if len(places[der]) > 1 {
			bad("duplicate trust anchor (indices %v)", places[der])
		}
	}
	return errs
}

// notAnAnchor says what keeps a block from being the certificate of an authority, nothing if it is one.
func notAnAnchor(block *pem.Block) string {
	switch {
	case block.Type != certificateBlock:
		return "has bad block type: " + block.Type
	case len(block.Headers) > 0:
		return "has PEM block headers"
	}
	switch cert, err := x509.ParseCertificate(block.Bytes); {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
