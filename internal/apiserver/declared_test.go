package apiserver

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/check"
)

// TestDeclaredLast: what upstream declares is told after what it checks by hand, both in their order.
func TestDeclaredLast(t *testing.T) {
	p := func(name string) *field.Path { return field.NewPath(name) }
	errs := check.Missing(p("a"))
	errs = append(errs, field.Required(p("b"), ""))
	errs = append(errs, check.Missing(p("c"))...)
	errs = append(errs, field.Forbidden(p("d"), ""))
	const want = "b: Required value\nd: Forbidden\na: Required value\nc: Required value"
	if got := apitest.Text(declaredLast(errs)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := declaredLast(nil); len(got) != 0 {
		t.Error(got)
	}
}

func TestQualifies(t *testing.T) {
	for resource, want := range map[string]bool{"configmaps": true, "events": false, "leases.coordination.k8s.io": false, "roles.rbac.authorization.k8s.io": true} {
		if got := qualifies(schema.ParseGroupResource(resource)); got != want {
			t.Errorf("%s: %v", resource, got)
		}
	}
}
