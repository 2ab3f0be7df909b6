package apiextensions

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func knownReview(version string) bool { return version == "v1" || version == "v1beta1" }

// conversion checks how objects are converted between versions.
func (t *tolerance) conversion(c *internal.CustomResourceConversion, p *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := oneOf(string(c.Strategy), p.Child("strategy"), string(internal.NoneConverter), string(internal.WebhookConverter))
	config := p.Child("webhookClientConfig")
	if c.Strategy != internal.WebhookConverter {
		if c.WebhookClientConfig != nil {
			errs = append(errs, field.Forbidden(config, "should not be set when strategy is not set to Webhook"))
		}
		if len(c.ConversionReviewVersions) > 0 {
			errs = append(errs, field.Forbidden(p.Child("conversionReviewVersions"), "should not be set when strategy is not set to Webhook"))
		}
		return errs
	}
	if cc := c.WebhookClientConfig; cc == nil {
		errs = append(errs, field.Required(config, "required when strategy is set to Webhook"))
	} else {
		switch {
		case (cc.URL == nil) == (cc.Service == nil):
			errs = append(errs, field.Required(config, "exactly one of url or service is required"))
		case cc.URL != nil:
			errs = append(errs, validateURL(*cc.URL, config.Child("url"))...)
		default:
			errs = append(errs, validateService(cc.Service, config.Child("service"))...)
		}
		if len(cc.CABundle) > 0 && !t.badBundle {
			if err := bundleError(cc.CABundle); err != nil {
				errs = append(errs, field.Invalid(config.Child("caBundle"), cc.CABundle, err.Error()))
			}
		}
	}
	return append(errs, t.reviewVersions(c.ConversionReviewVersions, p.Child("conversionReviewVersions"))...)
}

func (t *tolerance) reviewVersions(versions []string, p *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(p.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		for _, text := range validation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(p.Index(i), v, text))
		}
	}
	if !t.strangeReviewVersions && !slices.ContainsFunc(versions, knownReview) {
		errs = append(errs, field.Invalid(p, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func validateURL(text string, p *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(p, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	for _, part := range []struct {
		bad       bool
		value     string
		complaint string
	}{
		{u.Scheme != "https", u.Scheme, "'https' is the only allowed URL scheme" + form},
		{u.Host == "", u.Host, "host must be specified" + form},
		{u.User != nil, u.User.String(), "user information is not permitted in the URL"},
		{u.Fragment != "", u.Fragment, "fragments are not permitted in the URL"},
		{u.RawQuery != "", u.RawQuery, "query parameters are not permitted in the URL"},
	} {
		if part.bad {
			errs = append(errs, field.Invalid(p, part.value, part.complaint))
		}
	}
	return errs
}

func validateService(s *internal.ServiceReference, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	// The paths of the two are exchanged in upstream's answers, and clients see that.
	if s.Namespace == "" {
		errs = append(errs, field.Required(p.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(p.Child("namespace"), ""))
	}
	if texts := validation.IsValidPortNum(int(s.Port)); len(texts) > 0 {
		errs = append(errs, field.Invalid(p.Child("port"), s.Port, "port is not valid: "+strings.Join(texts, ", ")))
	}
	if s.Path == nil || *s.Path == "" || *s.Path == "/" {
		return errs
	}
	path, at := *s.Path, p.Child("path")
	if path == "//" {
		return append(errs, field.Invalid(at, path, "segment[0] may not be empty"))
	}
	if path[0] != '/' {
		errs = append(errs, field.Invalid(at, path, "must start with a '/'"))
	}
	for i, segment := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, text := range validation.IsDNS1123Subdomain(segment) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d]: %v", i, text)))
		}
	}
	return errs
}

// bundleError says why a bundle (PEM) holds no certificates.
func bundleError(bundle []byte) error {
	found := false
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("unable to load root certificates: failed to parse certificate: %w", err)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("unable to load root certificates: %w", errors.New("unable to parse bytes as PEM block"))
	}
	return nil
}
