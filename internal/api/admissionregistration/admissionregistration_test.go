package admissionregistration_test

import (
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api/admissionregistration"
	"github.com/celox/celox/internal/api/apitest"
)

func TestWebhooks(t *testing.T) {
	const base = "name: a.b.c, sideEffects: None, admissionReviewVersions: [v1]"
	hook := func(s string) string { return "metadata: {name: a}\nwebhooks: [{" + s + "}]" }
	const url, rule = ", clientConfig: {url: 'https://a/b'}", "operations: ['*'], apiGroups: [''], apiVersions: [v1], "
	for _, kind := range []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"} {
		apitest.Check(t, admissionregistration.Kinds(), kind, []apitest.Case{
			{"none", "metadata: {name: a}", ""},
			{"a url", hook(base + url), ""},
			{"a service", hook(base + ", clientConfig: {service: {namespace: n1, name: s1, path: /a/b}}"), ""},
			{"a short name", hook("name: a, sideEffects: None, admissionReviewVersions: [v1]" + url), "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots"},
			{"nobody", hook(base + ", clientConfig: {}"), "webhooks[0].clientConfig: Required value: exactly one of url or service is required"},
			{"not safe", hook(base + ", clientConfig: {url: 'http://u@a/b?c#d'}"), "'https' is the only allowed URL scheme\nuser information is not permitted\nfragments are not permitted\nquery parameters are not permitted"},
			{"a path that is none", hook(base + ", clientConfig: {service: {namespace: n1, name: s1, path: a//b}}"), "must start with a '/'\nsegment[0] may not be empty\nsegment[1] may not be empty"},
			{"no port", hook(base + ", clientConfig: {service: {namespace: n1, name: s1, port: 65536}}"), "port is not valid: must be between 1 and 65535, inclusive"},
			{"side effects", hook("name: a.b.c, sideEffects: Some, admissionReviewVersions: [v1]" + url), `sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`},
			{"no versions", hook("name: a.b.c, sideEffects: None" + url), "admissionReviewVersions: Required value: must specify one of v1, v1beta1"},
			{"versions of the future", hook("name: a.b.c, sideEffects: None, admissionReviewVersions: [v9]" + url), "must include at least one of v1, v1beta1"},
			{"a version twice", hook("name: a.b.c, sideEffects: None, admissionReviewVersions: [v1, v1]" + url), "admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version"},
			{"a bad version alone", hook("name: a.b.c, sideEffects: None, admissionReviewVersions: [V_1]" + url), "admissionReviewVersions[0]: Invalid value\nmust include at least one of v1, v1beta1"},
			{"no name of a service", hook(base + ", clientConfig: {service: {namespace: n1}}"), "clientConfig.service.namespace: Required value"},
			{"slow", hook(base + url + ", timeoutSeconds: 31"), "the timeout value must be between 1 and 30 seconds"},
			{"policies", hook(base + url + ", failurePolicy: Panic, matchPolicy: Guess"), "failurePolicy: Unsupported value\nmatchPolicy: Unsupported value"},
			{"rules", hook(base + url + ", rules: [{" + rule + "resources: [pods, pods/status]}]"), ""},
			{"empty rules", hook(base + url + ", rules: [{}]"), "operations: Required value\napiGroups: Required value\napiVersions: Required value\nresources: Required value"},
			{"all and more", hook(base + url + ", rules: [{" + rule + "resources: ['*', pods]}]"), "if '*' is present, must not specify other resources without subresources"},
			{"subresources of all", hook(base + url + ", rules: [{" + rule + "resources: ['*/scale', pods/scale]}]"), "if '*/scale' is present, must not specify pods/scale"},
			{"all in front of others", hook(base + url + ", rules: [{" + rule + "resources: [pods, '*']}]"), ""},
			{"all of all and more", hook(base + url + ", rules: [{" + rule + "resources: ['*/*', 'pods/*', '*/scale', pods/scale]}]"),
				"resources[1]: Invalid value: \"pods/*\": if '*/*' is present, must not specify pods/*\nresources[2]: Invalid value: \"*/scale\": if '*/*' is present, must not specify */scale\n" +
					"resources[3]: Invalid value: \"pods/scale\": if 'pods/*' is present\nresources[3]: Invalid value: \"pods/scale\": if '*/scale' is present\nif '*/*' is present, must not specify other resources"},
			{"too many conditions", hook(base + url + ", matchConditions: [" + strings.Repeat("{name: a, expression: 'true'},", 65) + "]"),
				"matchConditions: Too many: 65: must have at most 64 items" + strings.Repeat("\nname: Duplicate value: \"a\"", 64)},
			{"conditions", hook(base + url + ", matchConditions: [{name: x1, expression: 'true'}, {name: x1, expression: ' '}]"), "expression: Required value\nname: Duplicate value: \"x1\""},
			{"twice", "metadata: {name: a}\nwebhooks: [{" + base + url + "}, {" + base + url + "}]", "webhooks[1].name: Duplicate value: \"a.b.c\""},
		})
	}
	old := "name: a.b.c, sideEffects: Some, admissionReviewVersions: [v9]" + url
	twice := "metadata: {name: a}\nwebhooks: [{" + old + "}, {" + old + "}]"
	for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		apitest.CheckChanges(t, admissionregistration.Kinds(), kind, "", []apitest.Change{
			{"what is stored may stay", twice, twice, ""},
			{"no new side effects", hook(base + url), hook("name: a.b.c, sideEffects: Some, admissionReviewVersions: [v1]" + url), `sideEffects: Unsupported value: "Some"`},
			{"no new names", hook(old), twice, "webhooks[1].name: Duplicate value"},
		})
	}
	apitest.Check(t, admissionregistration.Kinds(), "MutatingWebhookConfiguration", []apitest.Case{
		{"again, from nowhere", hook(base + ", reinvocationPolicy: Always"), "webhooks[0].reinvocationPolicy: Unsupported value: \"Always\"\nwebhooks[0].clientConfig: Required value"},
	})
	c := apitest.Catalogue(t, admissionregistration.Kinds())
	k := apitest.Kind(t, c.Kinds(), "MutatingWebhookConfiguration")
	w := apitest.Read(t, c, k, hook(base+", rules: [{"+rule+"resources: [pods]}], clientConfig: {service: {namespace: n1, name: s1}}")).(*admissionregistrationv1.MutatingWebhookConfiguration)
	h := w.Webhooks[0]
	if *h.FailurePolicy != "Fail" || *h.MatchPolicy != "Equivalent" || *h.TimeoutSeconds != 10 || *h.ReinvocationPolicy != "Never" ||
		*h.Rules[0].Scope != "*" || *h.ClientConfig.Service.Port != 443 || h.NamespaceSelector == nil || h.ObjectSelector == nil {
		t.Errorf("defaults %+v", h)
	}
	if got := apitest.Row(k, w, time.Now()); got != "a|1|<unknown>" {
		t.Error(got)
	}
}

func TestPolicies(t *testing.T) {
	const match = "matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}"
	policy := func(s string) string { return "metadata: {name: a}\nspec: {" + s + "}" }
	apitest.Check(t, admissionregistration.Kinds(), "ValidatingAdmissionPolicy", []apitest.Case{
		{"minimal", policy(match + ", validations: [{expression: 'true'}]"), ""},
		{"no constraints", policy("validations: [{expression: 'true'}]"), "spec.matchConstraints: Required value"},
		{"no rules", policy("matchConstraints: {}, validations: [{expression: 'true'}]"), "spec.matchConstraints.resourceRules: Required value"},
		{"nothing", policy(match), "spec.validations: Required value: validations or auditAnnotations must contain at least one item\nspec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"},
		{"no expression", policy(match + ", validations: [{expression: ' '}]"), "spec.validations[0].expression: Required value"},
		{"variables", policy(match + ", validations: [{expression: 'true'}], variables: [{name: a-b, expression: '1'}]"), "must be a valid CEL identifier"},
		{"a variable with a word of the language", policy(match + ", validations: [{expression: 'true'}], variables: [{name: in, expression: '1'}]"), "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier"},
		{"a message of nothing", policy(match + ", validations: [{expression: 'true', message: \"\\n\"}]"), "spec.validations[0].message: Invalid value: \"\\n\": must be non-empty if specified"},
		{"lines without a message", policy(match + ", validations: [{expression: \"true &&\\ntrue\"}]"), ""},
		{"a long kind of parameters", policy(match + ", validations: [{expression: 'true'}], paramKind: {apiVersion: v1, kind: -" + strings.Repeat("K", 63) + "}"),
			"spec.paramKind.kind: Invalid value: \"-" + strings.Repeat("K", 63) + "\": may have mixed case, but should otherwise match: must be no more than 63 characters,a DNS-1035 label"},
		{"parameters", policy(match + ", validations: [{expression: 'true'}], paramKind: {apiVersion: a/b/c}"), "spec.paramKind.apiVersion: Invalid value\nspec.paramKind.kind: Required value"},
	})
	apitest.Check(t, admissionregistration.Kinds(), "ValidatingAdmissionPolicy", []apitest.Case{
		{"variables of a policy without any", policy(match + ", validations: [{expression: 'variables.a > 0'}]"), "undeclared reference to 'variables'"},
	})
	deletions := strings.Replace(match, "CREATE", "DELETE", 1)
	const mutations = ", reinvocationPolicy: Never, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"remove\", path: \"/a\"}]'}}]"
	const unsupported = `resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`
	apitest.Check(t, admissionregistration.Kinds(), "MutatingAdmissionPolicy", []apitest.Case{
		{"a deletion changes nothing", policy(deletions + mutations), unsupported},
		{"variables of a policy without any", policy(match + strings.Replace(mutations, "\"/a\"", "variables.a", 1)), "undefined field 'a'"},
	})
	apitest.Check(t, admissionregistration.Kinds(), "MutatingAdmissionPolicyBinding", []apitest.Case{
		{"a deletion changes nothing", policy("policyName: p, " + strings.Replace(deletions, "matchConstraints", "matchResources", 1)), unsupported},
	})
	apitest.Check(t, admissionregistration.Kinds(), "ValidatingAdmissionPolicyBinding", []apitest.Case{
		{"minimal", policy("policyName: p, validationActions: [Deny]"), ""},
		{"nothing", policy(""), "spec.policyName: Required value\nspec.validationActions: Required value"},
		{"two minds", policy("policyName: p, validationActions: [Deny, Warn]"), "must not contain both Deny and Warn"},
		{"parameters", policy("policyName: p, validationActions: [Deny], paramRef: {name: a, selector: {}}"),
			"spec.paramRef.name: Forbidden: name and selector are mutually exclusive\nspec.paramRef.selector: Forbidden\nspec.paramRef.parameterNotFoundAction: Required value"},
		{"broken parameters", policy("policyName: p, validationActions: [Deny], paramRef: {name: a/b, selector: {matchLabels: {-: a}}, parameterNotFoundAction: ''}"),
			"spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'\nspec.paramRef.name: Forbidden\nspec.paramRef.selector.matchLabels: Invalid value: \"-\"\nspec.paramRef.selector: Forbidden\nspec.paramRef.parameterNotFoundAction: Required value"},
	})
}
