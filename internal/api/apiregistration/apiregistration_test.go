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
		{"no group", "metadata: {name: v2.}\nspec: {" + priorities + "version: v2}", "spec.group: Required value: only v1 may have an empty group and it better be legacy kube"},
		{"a name that the server makes", "metadata: {generateName: v1., name: v1.a.b}\nspec: {" + priorities + "group: a.b, version: v1}", "metadata.generateName: Invalid value: \"v1.\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""},
		{"no name", "spec: {" + priorities + "group: a.b, version: v1}", ""}, // which is told with the metadata
		{"a name that is no part of a path", "metadata: {name: a/b}\nspec: {" + priorities + "group: a.b, version: v1}", "metadata.name: Invalid value: \"a/b\": may not contain '/'"},
		{"trust and doubt", doc("group: a.b, version: v1, service: {namespace: n1, name: s1}, insecureSkipTLSVerify: true, caBundle: AAAA"), "may not be true if caBundle is present"},
		{"trust in itself", doc("group: a.b, version: v1, caBundle: AAAA"), "local APIServices may not have a caBundle"},
	})
	const stored = "metadata: {name: v1.a.b, labels: {a: b}, finalizers: [a.b/c]}\n"
	apitest.CheckChanges(t, apiregistration.Kinds(), "APIService", "status", []apitest.Change{
		{"available", stored, stored + "status: {conditions: [{type: Available, status: 'True'}]}", ""},
		{"perhaps", stored, stored + "status: {conditions: [{type: Available, status: Maybe}]}", "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"True\", \"False\", \"Unknown\""},
	})
	c := apitest.Catalogue(t, apiregistration.Kinds())
	k := apitest.Kind(t, c.Kinds(), "APIService")
	old := apitest.Read(t, c, k, stored)
	obj := apitest.Read(t, c, k, "metadata: {name: v1.a.b, ownerReferences: [{name: x}]}")
	k.PrepareForStatusUpdate(obj, old)
	if obj.GetLabels()["a"] != "b" || len(obj.GetFinalizers()) != 1 || len(obj.GetOwnerReferences()) != 0 {
		t.Errorf("a status changed metadata: %+v", obj)
	}
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
