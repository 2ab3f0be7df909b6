package apiregistration_test

import (
	"testing"
	"time"

	"github.com/celox/celox/internal/api/apiregistration"
	"github.com/celox/celox/internal/api/apitest"
)

func TestAPIService(t *testing.T) {
	const priorities = "groupPriorityMinimum: 10, versionPriority: 10, "
	doc := func(s string) string { return "metadata: {name: v1.a.b}\nspec: {" + priorities + s + "}" }
	apitest.Check(t, apiregistration.Kinds(), "APIService", []apitest.Case{
		{"local", doc("group: a.b, version: v1"), ""},
		{"the core group", "metadata: {name: v1.}\nspec: {" + priorities + "version: v1}", ""},
		{"another name", doc("group: a, version: v1"), "metadata.name: Invalid value: \"v1.a.b\": must be `spec.version+\".\"+spec.group`: \"v1.a\""},
		{"priorities", "metadata: {name: v1.a.b}\nspec: {group: a.b, version: v1, groupPriorityMinimum: 20001}",
			"spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000\nspec.versionPriority: Invalid value: 0: must be positive and less than 1000"},
		{"elsewhere", doc("group: a.b, version: v1, service: {namespace: n1, name: s1}, insecureSkipTLSVerify: true"), ""},
		{"nowhere", doc("group: a.b, version: v1, service: {}"), "spec.service.namespace: Required value\nspec.service.name: Required value"},
		{"trust and doubt", doc("group: a.b, version: v1, service: {namespace: n1, name: s1}, insecureSkipTLSVerify: true, caBundle: AAAA"), "may not be true if caBundle is present"},
		{"trust in itself", doc("group: a.b, version: v1, caBundle: AAAA"), "local APIServices may not have a caBundle"},
	})
	c := apitest.Catalogue(t, apiregistration.Kinds())
	k := apitest.Kind(t, c.Kinds(), "APIService")
	for _, x := range [][2]string{
		{doc("group: a.b, version: v1"), "v1.a.b|Local|True|<unknown>"},
		{doc("group: a.b, version: v1, service: {namespace: n1, name: s1}"), "v1.a.b|n1/s1|Unknown|<unknown>"},
	} {
		obj, _ := apitest.Create(t, c, k, x[0])
		if got := apitest.Row(k, obj, time.Now()); got != x[1] {
			t.Errorf("%s is shown as %s, want %s", x[0], got, x[1])
		}
	}
}
