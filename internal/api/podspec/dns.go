package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Limits of the resolver in a pod.
const (
	maxNameservers     = 3
	maxSearches        = 32
	maxSearchListRunes = 2048
)

func validateDNSPolicy(v corev1.DNSPolicy, p *field.Path) field.ErrorList {
	switch v {
	case corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone:
		return nil
	case "":
		return field.ErrorList{field.Required(p, "")}
	}
	return field.ErrorList{field.NotSupported(p, v, []corev1.DNSPolicy{
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone,
	})}
}

func (v *specValidation) validateDNSConfig(p *field.Path) field.ErrorList {
	c, none := v.spec.DNSConfig, v.spec.DNSPolicy == corev1.DNSNone
	var errs field.ErrorList
	if none {
		if c == nil {
			return field.ErrorList{field.Required(p, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(c.Nameservers) == 0 {
			errs = append(errs, field.Required(p.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
		}
	}
	if c == nil {
		return errs
	}
	at := p.Child("nameservers")
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at, c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers)))
	}
	for i, ip := range c.Nameservers {
		errs = append(errs, check.IP(ip, at.Index(i), v.opts.OldIPs...)...)
	}
	errs = append(errs, validateSearches(c.Searches, p.Child("searches"))...)
	for i := range c.Options {
		if c.Options[i].Name == "" {
			errs = append(errs, field.Required(p.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateSearches(list []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxSearches {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if len(strings.Join(list, " ")) > maxSearchListRunes {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchListRunes)))
	}
	for i, s := range list {
		if s == "." {
			continue
		}
		s = strings.TrimSuffix(s, ".")
		errs = append(errs, check.Each(validation.IsDNS1123SubdomainWithUnderscore(s), p.Index(i), s)...)
	}
	return errs
}

// validateHostAliases checks the lines that the pod wants in its hosts file.
func (v *specValidation) validateHostAliases(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range v.spec.HostAliases {
		a, at := &v.spec.HostAliases[i], p.Index(i)
		errs = append(errs, check.IP(a.IP, at.Child("ip"), v.opts.OldIPs...)...)
		for j, name := range a.Hostnames {
			errs = append(errs, check.DNSSubdomain(name, at.Child("hostnames").Index(j))...)
		}
	}
	return errs
}
