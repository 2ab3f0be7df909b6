package check

import (
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The functions of this file say what those of the same names in apimachinery say. Nearly every name is good, and telling that by looking at each of its bytes
// once costs a small part of the library's regular expressions; the library is asked about the others, and finds the words.

// NameIsDNSSubdomain wants the name, or if prefix what the name will begin with, to be an RFC 1123 subdomain.
func NameIsDNSSubdomain(name string, prefix bool) []string {
	if plainSubdomain(unfinished(name, prefix)) {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, prefix)
}

// DeclaredName wants the name to be an RFC 1123 subdomain, as upstream's declarations do: they say nothing of what names begin with.
func DeclaredName(name string, prefix bool) []string {
	if prefix {
		return nil
	}
	return NameIsDNSSubdomain(name, false)
}

// NameIsDNSLabel wants the name, or if prefix what the name will begin with, to be an RFC 1123 label.
func NameIsDNSLabel(name string, prefix bool) []string {
	if plainLabel(unfinished(name, prefix)) {
		return nil
	}
	return apivalidation.NameIsDNSLabel(name, prefix)
}

// unfinished is a name without the dash that its beginning may end with.
func unfinished(name string, prefix bool) string {
	if prefix {
		name = strings.TrimSuffix(name, "-")
	}
	return name
}

// IsDNS1123Label returns what is wrong with an RFC 1123 label.
func IsDNS1123Label(v string) []string {
	if plainLabel(v) {
		return nil
	}
	return validation.IsDNS1123Label(v)
}

// IsDNS1123Subdomain returns what is wrong with an RFC 1123 subdomain.
func IsDNS1123Subdomain(v string) []string {
	if plainSubdomain(v) {
		return nil
	}
	return validation.IsDNS1123Subdomain(v)
}

// IsQualifiedName returns what is wrong with something that has the form of label keys: an optional DNS prefix and a name.
func IsQualifiedName(v string) []string {
	name := v
	if prefix, rest, ok := strings.Cut(v, "/"); ok {
		if !plainSubdomain(prefix) {
			return validation.IsQualifiedName(v)
		}
		name = rest
	}
	if PlainWord(name) {
		return nil
	}
	return validation.IsQualifiedName(v)
}

// IsValidLabelValue returns what is wrong with a label's value.
func IsValidLabelValue(v string) []string {
	if v == "" || PlainWord(v) {
		return nil
	}
	return validation.IsValidLabelValue(v)
}

// PlainWord says that v is good as a label's value and as a key without prefix: letters or digits at both ends, and only those and "-", "_" and "." between.
func PlainWord(v string) bool {
	if v == "" || len(v) > validation.LabelValueMaxLength || !alphanumeric(v[0]) || !alphanumeric(v[len(v)-1]) {
		return false
	}
	for i := 1; i < len(v)-1; i++ {
		if c := v[i]; !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func plainLabel(v string) bool {
	return len(v) <= validation.DNS1123LabelMaxLength && strings.IndexByte(v, '.') < 0 && plainSubdomain(v)
}

// plainSubdomain says that v is labels with dots between, of small letters, digits and, not at their ends, dashes.
func plainSubdomain(v string) bool {
	if len(v) > validation.DNS1123SubdomainMaxLength {
		return false
	}
	inside := false // the byte before may be a label's last
	for i := range len(v) {
		switch c := v[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			inside = true
			continue
		case c == '.' && inside:
		case c == '-' && i > 0 && v[i-1] != '.':
		default:
			return false
		}
		inside = false
	}
	return inside
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
