package flowcontrol_test

import (
	"testing"
	"time"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/flowcontrol"
)

func TestFlowSchema(t *testing.T) {
	const level = "metadata: {name: a}\nspec:\n  priorityLevelConfiguration: {name: l}\n"
	rule := func(s string) string { return level + "  rules: [{" + s + "}]" }
	const user, pods = "subjects: [{kind: User, user: {name: u}}], ", "resourceRules: [{verbs: [get], apiGroups: [''], resources: [pods], namespaces: ['*']}]"
	apitest.Check(t, flowcontrol.Kinds(), "FlowSchema", []apitest.Case{
		{"no rules", level, ""},
		{"resources", rule(user + pods), ""},
		{"urls", rule(user + "nonResourceRules: [{verbs: ['*'], nonResourceURLs: [/a/*, /b]}]"), ""},
		{"no level", "metadata: {name: a}\nspec: {}", "spec.priorityLevelConfiguration.name: Required value"},
		{"precedence", level + "  matchingPrecedence: 10001", "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"},
		{"the first", level + "  matchingPrecedence: 1", "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"},
		{"method", level + "  distinguisherMethod: {type: ByMood}", `spec.distinguisherMethod.type: Unsupported value: {"Type":"ByMood"}`},
		{"nobody", rule(pods), "spec.rules[0].subjects: Required value: subjects must contain at least one value"},
		{"nothing", rule("subjects: [{kind: User, user: {name: u}}]"), "at least one of resourceRules and nonResourceRules has to be non-empty"},
		{"another subject", rule("subjects: [{kind: User, group: {name: g}}], " + pods), "user is required when subject kind is 'User'\ngroup is forbidden when subject kind is not 'Group'"},
		{"verbs", rule(user + "nonResourceRules: [{verbs: [look], nonResourceURLs: [/a]}]"), "spec.rules[0].nonResourceRules[0].verbs: Unsupported value"},
		{"all and more", rule(user + "nonResourceRules: [{verbs: ['*', get], nonResourceURLs: [/a]}]"), "if '*' is present, must not specify other verbs"},
		{"wildcards inside", rule(user + "nonResourceRules: [{verbs: [get], nonResourceURLs: [/a/*/b, b]}]"), "wildcard can only do suffix matching\nmust start with slash"},
		{"namespaces", rule(user + "resourceRules: [{verbs: [get], apiGroups: [''], resources: [pods], namespaces: [a, B]}]"),
			"namespaces[1]: Invalid value: \"B\": each member of this list must be '*' or a DNS-1123 label; a lowercase RFC 1123 label"},
		{"no namespaces", rule(user + "resourceRules: [{verbs: [get], apiGroups: [''], resources: [pods]}]"), "resource rules that are not cluster scoped must supply at least one namespace"},
	})
}

func TestStatus(t *testing.T) {
	for kind, spec := range map[string]string{
		"FlowSchema":                 "metadata: {name: a}\nspec: {priorityLevelConfiguration: {name: l}}\n",
		"PriorityLevelConfiguration": "metadata: {name: a}\nspec: {type: Limited, limited: {limitResponse: {type: Reject}}}\n",
	} {
		apitest.CheckChanges(t, flowcontrol.Kinds(), kind, "status", []apitest.Change{
			{"a condition", spec, spec + "status: {conditions: [{type: Dangling, status: 'False'}]}", ""},
			{"twice, and without a name", spec, spec + "status: {conditions: [{type: a}, {type: a}, {}]}",
				"status.conditions[1].type: Duplicate value: \"a\"\nstatus.conditions[2].type: Required value"},
		})
	}
}

func TestPriorityLevelConfiguration(t *testing.T) {
	queues := func(s string) string {
		return "metadata: {name: a}\nspec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {" + s + "}}}}"
	}
	apitest.Check(t, flowcontrol.Kinds(), "PriorityLevelConfiguration", []apitest.Case{
		{"queues", queues(""), ""},
		{"rejects", "metadata: {name: a}\nspec: {type: Limited, limited: {limitResponse: {type: Reject}}}", ""},
		{"rejects and queues", "metadata: {name: a}\nspec: {type: Limited, limited: {limitResponse: {type: Reject, queuing: {}}}}", "spec.limited.limitResponse.queuing: Forbidden"},
		{"exempt", "metadata: {name: exempt}\nspec: {type: Exempt}", ""},
		{"exempts more", "metadata: {name: a}\nspec: {type: Exempt}", "must be 'Exempt' if and only if `name` is 'exempt'"},
		{"limits nothing", "metadata: {name: a}\nspec: {type: Limited}", "spec.limited: Required value"},
		{"unknown", "metadata: {name: a}\nspec: {type: Some}", `spec.type: Unsupported value: "Some": supported values: "Exempt", "Limited"`},
		{"a large hand", queues("queues: 4, handSize: 5"), "should not be greater than queues (4)"},
		{"too many queues", queues("queues: 10000001, handSize: 1"), "must not be greater than 10000000"},
		{"too many hands", queues("queues: 1000, handSize: 8"), "required entropy bits of deckSize 1000 and handSize 8 should not be greater than 60"},
		{"catch-all", "metadata: {name: catch-all}\nspec: {type: Limited, limited: {nominalConcurrencyShares: 5, lendablePercent: 0, limitResponse: {type: Reject}}}", ""},
		{"another catch-all", "metadata: {name: catch-all}\nspec: {type: Limited, limited: {nominalConcurrencyShares: 6, lendablePercent: 0, limitResponse: {type: Reject}}}", "spec of 'catch-all' must equal the fixed value"},
	})
	c := apitest.Catalogue(t, flowcontrol.Kinds())
	k := apitest.Kind(t, c.Kinds(), "PriorityLevelConfiguration")
	for _, x := range [][2]string{
		{queues(""), "a|Limited|30|64|8|50|<unknown>"},
		{"metadata: {name: exempt}\nspec: {type: Exempt}", "exempt|Exempt|<none>|<none>|<none>|<none>|<unknown>"},
	} {
		if got := apitest.Row(k, apitest.Read(t, c, k, x[0]), time.Now()); got != x[1] {
			t.Errorf("%s is shown as %s, want %s", x[0], got, x[1])
		}
	}
}

// TestStatusKeepsMetadata: through the status door metadata do not change, but who wrote what does.
func TestStatusKeepsMetadata(t *testing.T) {
	c := apitest.Catalogue(t, flowcontrol.Kinds())
	for _, kind := range []string{"FlowSchema", "PriorityLevelConfiguration"} {
		k := apitest.Kind(t, c.Kinds(), kind)
		old := apitest.Read(t, c, k, "metadata: {name: a, labels: {a: b}}")
		obj := apitest.Read(t, c, k, "metadata: {name: a, labels: {a: c}, annotations: {d: e}, managedFields: [{manager: m}]}")
		k.PrepareForStatusUpdate(obj, old)
		if obj.GetLabels()["a"] != "b" || len(obj.GetAnnotations()) > 0 || len(obj.GetManagedFields()) != 1 {
			t.Errorf("%s: %v %v %v", kind, obj.GetLabels(), obj.GetAnnotations(), obj.GetManagedFields())
		}
	}
}
