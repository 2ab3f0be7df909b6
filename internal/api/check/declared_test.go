package check_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

func TestDeclared(t *testing.T) {
	p := field.NewPath("a")
	for _, x := range []struct {
		name string
		got  field.ErrorList
		want string
	}{
		{"missing", check.Missing(p), "a: Required value"},
		{"the same", check.Unchanged("x", "x", p), ""},
		{"nothing and an empty list", check.Unchanged([]string{}, []string(nil), p), ""},
		{"another", check.Unchanged("x", "y", p), "a: Invalid value: null: field is immutable"},
		{"a label", check.ShortName("x", p), ""},
		{"a long label", check.ShortName(strings.Repeat("x", 64), p), "must be no more than 63 bytes"},
		{"a driver", check.Driver("A.b", 63, p), ""},
		{"no driver", check.Driver("", 63, p), "a: Required value"},
		{"a long driver", check.Driver(strings.Repeat("x", 64), 63, p), "a: Too long: may not be more than 63 characters"},
		{"a bad driver", check.Driver("a_b", 63, p), "an RFC 1123 subdomain must consist of"},
	} {
		text := ""
		for _, e := range x.got {
			text += e.Error()
			if !e.IsBeta() {
				t.Errorf("%s: %v is not declared", x.name, e)
			}
		}
		if x.want == "" && text != "" || !strings.Contains(text, x.want) {
			t.Errorf("%s: got %q, want %q", x.name, text, x.want)
		}
	}
}
