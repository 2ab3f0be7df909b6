package apiserver

import (
	"slices"
	"strings"
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

// TestOrderOfClaimStatus: of a claim's status, what is declared is told last and in the order of the fields, of a list before its items.
func TestOrderOfClaimStatus(t *testing.T) {
	h := newServer(t).Handler()
	const claims = "/apis/resource.k8s.io/v1/namespaces/n/resourceclaims"
	want(t, h, 201, "POST", claims, `{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}`)
	got := want(t, h, 422, "PATCH", claims+"/c/status", `{"status":{
		"allocation":{"devices":{"results":[{"request":"r","driver":"d.e","pool":"p","device":"x","shareID":"x","tolerations":[{"key":"A b"},{"operator":"x"}],
			"bindingConditions":["a","b","c","d","e"],"bindingFailureConditions":["f","f"]}]}},
		"devices":[{"driver":"d.e","pool":"p","device":"x","networkData":{"ips":["1.2.3.4/8","1.2.3.4/8"]}},{"driver":"d.e","pool":"p","device":"x"}]}}`,
		"Content-Type", "application/merge-patch+json")
	var fields []string
	causes, _ := at(got, "details", "causes").([]any)
	for _, c := range causes {
		f, _ := at(c.(map[string]any), "field").(string)
		fields = append(fields, strings.TrimPrefix(f, "status."))
	}
	const result = "allocation.devices.results[0]."
	wanted := []string{
		"devices[0]", "devices[1]", // not allocated
		result + "bindingFailureConditions[1]",
		result + "tolerations[0].key", result + "tolerations[1].operator", result + "bindingConditions", result + "shareID",
		"devices[1]", "devices[0].networkData.ips[1]",
	}
	if !slices.Equal(fields, wanted) {
		t.Errorf("got %q\nwant %q", fields, wanted)
	}
}
