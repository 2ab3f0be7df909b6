package apiserver

import (
	"strings"
	"testing"

	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
)

// What is plain is valid for the library; of names without a prefix and of values, all that is valid is plain.
func TestPlainLabels(t *testing.T) {
	valid := func(name, value string) bool {
		return len(metavalidation.ValidateLabels(map[string]string{name: value}, field.NewPath("labels"))) == 0
	}
	for _, s := range []string{"", "a", "A-b_c.9", "-a", "a-", ".", "a b", "ä", "example.com/a", strings.Repeat("x", 63), strings.Repeat("x", 64)} {
		if got, want := plainLabels(map[string]string{s: "v"}), valid(s, "v") && !strings.Contains(s, "/"); got != want {
			t.Errorf("name %q: plain is %v, not %v", s, got, want)
		}
		if got, want := plainLabels(map[string]string{"n": s}), valid("n", s); got != want {
			t.Errorf("value %q: plain is %v, not %v", s, got, want)
		}
	}
	text := rapid.StringMatching(`[-a-zA-Z0-9_./ é]{0,70}`)
	rapid.Check(t, func(t *rapid.T) {
		name, value := text.Draw(t, "name"), text.Draw(t, "value")
		if plainLabels(map[string]string{name: value}) != (valid(name, value) && !strings.Contains(name, "/")) {
			t.Fatalf("%q=%q: plain is %v, the library says %v", name, value, plainLabels(map[string]string{name: value}), valid(name, value))
		}
	})
}
