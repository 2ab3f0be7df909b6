package authorization_test

import (
	"testing"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/authorization"
)

func TestQuestions(t *testing.T) {
	const pods, path = "resourceAttributes: {verb: get, resource: pods}", "nonResourceAttributes: {verb: get, path: /x}"
	apitest.Check(t, authorization.Kinds(), "SelfSubjectAccessReview", []apitest.Case{
		{"pods", "spec: {" + pods + "}", ""},
		{"a path", "spec: {" + path + "}", ""},
		{"nothing", "spec: {}", "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"both", "spec: {" + pods + ", " + path + "}", "spec.nonResourceAttributes: Invalid value: {\"Path\":\"/x\",\"Verb\":\"get\"}: cannot be specified in combination with resourceAttributes"},
		{"named", "metadata: {name: a}\nspec: {" + pods + "}", "metadata: Invalid value"},
		{"two selectors", "spec: {resourceAttributes: {verb: list, resource: pods, labelSelector: {rawSelector: a, requirements: [{key: a, operator: Exists}]}}}",
			"spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as requirements"},
		{"no selector", "spec: {resourceAttributes: {verb: list, resource: pods, fieldSelector: {}}}", "spec.resourceAttributes.fieldSelector.requirements: Required value"},
		{"a broken selector", "spec: {resourceAttributes: {verb: list, resource: pods, fieldSelector: {requirements: [{key: a, operator: In}]}}}", "must be specified when `operator` is 'In' or 'NotIn'"},
	})
	apitest.Check(t, authorization.Kinds(), "SubjectAccessReview", []apitest.Case{
		{"somebody", "spec: {user: u, " + pods + "}", ""},
		{"a group", "spec: {groups: [g], " + pods + "}", ""},
		{"nobody", "spec: {" + pods + "}", "spec.user: Invalid value: \"\": at least one of user or group must be specified"},
	})
	apitest.Check(t, authorization.Kinds(), "LocalSubjectAccessReview", []apitest.Case{
		{"here", "metadata: {namespace: x}\nspec: {user: u, resourceAttributes: {verb: get, resource: pods, namespace: x}}", ""},
		{"there", "metadata: {namespace: x}\nspec: {user: u, resourceAttributes: {verb: get, resource: pods, namespace: other}}", "spec.resourceAttributes.namespace: Invalid value"},
		{"a path", "metadata: {namespace: x}\nspec: {user: u, " + path + "}", "spec.nonResourceAttributes: Invalid value"},
	})
}
