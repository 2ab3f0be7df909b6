package check

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of a signer's name: the domain and the path are limited each, and so is the name of a service account's resource
// name, of which a signer's has the form.
const maxSignerName = 571

// SignerName wants "example.com/name".
func SignerName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(p, domain, validation.DNS1123SubdomainMaxLength))
	}
	for label := range strings.SplitSeq(domain, ".") {
		if msgs := validation.IsDNS1123Label(label); len(msgs) > 0 {
			errs = append(errs, signerLabel(domain, label, msgs, p)...)
			break
		}
	}
	if len(strings.Split(domain, ".")) < 2 {
		errs = append(errs, field.Invalid(p, domain, "should be a domain with at least two segments separated by dots"))
	}
	for label := range strings.SplitSeq(path, ".") {
		if msgs := validation.IsDNS1123Subdomain(label); len(msgs) > 0 {
			errs = append(errs, signerLabel(path, label, msgs, p)...)
			break
		}
	}
	if len(name) > maxSignerName {
		errs = append(errs, field.TooLong(p, name, maxSignerName))
	}
	return errs
}

// signerLabel complains about one label of a part of a signer's name.
func signerLabel(part, label string, msgs []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(p, part, fmt.Sprintf("validating label %q: %s", label, msg)))
	}
	return errs
}

// OwnSigner says whether a signer is one of the project's own.
func OwnSigner(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	return host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io")
}

// TrustBundleName says what is wrong with the name of a ClusterTrustBundle of a signer, "" for one of nobody's.
func TrustBundleName(name, signer string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return validation.IsDNS1123Subdomain(name)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return []string{"ClusterTrustBundle for signerName " + signer + " must be named with prefix " + prefix}
	}
	return validation.IsDNS1123Subdomain(rest)
}
