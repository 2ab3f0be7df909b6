package check

import (
	"slices"
	"testing"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"
)

// TestPlainNames compares with the library, with names that are nearly right.
func TestPlainNames(t *testing.T) {
	part := rapid.StringMatching(`[a-z0-9A-Z._-]{0,6}`)
	name := rapid.Custom(func(t *rapid.T) string {
		return rapid.OneOf(
			part,
			rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?){0,3}-?`),
			rapid.StringMatching(`[a-z0-9.]{0,8}/[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,8}[a-zA-Z0-9])?`),
			rapid.StringMatching(`([a-z.]{60,66}){1,5}`),
			rapid.StringMatching(`[a-z]{60,66}`),
			rapid.StringMatching(`[a-zA-Z/ é]{0,8}`),
		).Draw(t, "name")
	})
	rapid.Check(t, func(t *rapid.T) {
		n, prefix := name.Draw(t, "name"), rapid.Bool().Draw(t, "prefix")
		for what, both := range map[string][2][]string{
			"NameIsDNSSubdomain": {NameIsDNSSubdomain(n, prefix), apivalidation.NameIsDNSSubdomain(n, prefix)},
			"NameIsDNSLabel":     {NameIsDNSLabel(n, prefix), apivalidation.NameIsDNSLabel(n, prefix)},
			"IsDNS1123Label":     {IsDNS1123Label(n), validation.IsDNS1123Label(n)},
			"IsDNS1123Subdomain": {IsDNS1123Subdomain(n), validation.IsDNS1123Subdomain(n)},
			"IsQualifiedName":    {IsQualifiedName(n), validation.IsQualifiedName(n)},
			"IsValidLabelValue":  {IsValidLabelValue(n), validation.IsValidLabelValue(n)},
		} {
			if !slices.Equal(both[0], both[1]) {
				t.Errorf("%s of %q (prefix %t): %q, want %q", what, n, prefix, both[0], both[1])
			}
		}
	})
}

func TestPlainNamesDoNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(10, func() {
		NameIsDNSSubdomain("web-7c9f.example", false)
		NameIsDNSLabel("web-", true)
		IsQualifiedName("node.kubernetes.io/not-ready")
		IsValidLabelValue("v1.2_3")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
