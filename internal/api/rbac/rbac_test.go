package rbac_test

import (
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/rbac"
)

func TestRules(t *testing.T) {
	rule := func(s string) string { return "metadata: {name: 'system:a'}\nrules: [{" + s + "}]" }
	const urls = "verbs: [get], nonResourceURLs: [/healthz]"
	for _, kind := range []string{"Role", "ClusterRole"} {
		apitest.Check(t, rbac.Kinds(), kind, []apitest.Case{
			{"none", "metadata: {name: a}", ""},
			{"one", rule("verbs: [get], apiGroups: [''], resources: [pods]"), ""},
			{"no verbs", rule("apiGroups: [''], resources: [pods]"), "rules[0].verbs: Required value"},
			{"nothing else", rule("verbs: [get]"), "rules[0].apiGroups: Required value\nrules[0].resources: Required value"},
		})
	}
	apitest.Check(t, rbac.Kinds(), "ClusterRole", []apitest.Case{
		{"urls", rule(urls), ""},
		{"urls and resources", rule(urls + ", apiGroups: [''], resources: [pods]"), "rules cannot apply to both regular resources and non-resource URLs"},
		{"a broken aggregation", "metadata: {name: a}\naggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: a, operator: Near}]}]}", "not a valid selector operator\ninvalid label selector."},
		{"an aggregation of nothing", "metadata: {name: a}\naggregationRule: {}", "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required"},
	})
	apitest.Check(t, rbac.Kinds(), "Role", []apitest.Case{
		{"urls of a namespace", rule(urls), "namespaced rules cannot apply to non-resource URLs"},
	})
}

func TestBindings(t *testing.T) {
	const ref = "roleRef: {kind: ClusterRole, name: r}\n"
	for _, kind := range []string{"RoleBinding", "ClusterRoleBinding"} {
		apitest.Check(t, rbac.Kinds(), kind, []apitest.Case{
			{"nobody", ref, ""},
			{"somebody", ref + "subjects: [{kind: User, name: u}, {kind: Group, name: 'system:g'}, {kind: ServiceAccount, name: s, namespace: x}]", ""},
			{"no role", "roleRef: {kind: ClusterRole}", "roleRef.name: Required value"},
			{"another kind", "roleRef: {kind: Pod, name: r}", "roleRef.kind: Unsupported value: \"Pod\""},
			{"another group", "roleRef: {apiGroup: a, kind: ClusterRole, name: r}", "roleRef.apiGroup: Unsupported value: \"a\": supported values: \"rbac.authorization.k8s.io\""},
			{"an account of a group", ref + "subjects: [{apiGroup: a, kind: ServiceAccount, name: s, namespace: x}]", `subjects[0].apiGroup: Unsupported value: "a"`},
			{"no account", ref + "subjects: [{kind: ServiceAccount, name: A_B, namespace: x}]", "subjects[0].name: Invalid value"},
			{"a pod", ref + "subjects: [{kind: Pod, name: a}]", `subjects[0].kind: Unsupported value: "Pod": supported values: "ServiceAccount", "User", "Group"`},
		})
	}
	apitest.Check(t, rbac.Kinds(), "RoleBinding", []apitest.Case{
		{"a role of the namespace", "roleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, name: s}]", ""},
	})
	apitest.Check(t, rbac.Kinds(), "ClusterRoleBinding", []apitest.Case{
		{"nothing right", "roleRef: {kind: ClusterRole, name: r}\nsubjects: [{apiGroup: a, kind: ServiceAccount}]",
			"subjects[0].name: Required value\nsubjects[0].apiGroup: Unsupported value\nsubjects[0].namespace: Required value"},
		{"a role of no namespace", "roleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, name: s}]", "roleRef.kind: Unsupported value\nsubjects[0].namespace: Required value"},
	})
}

// TestRoleStays: who may bind one role may not thereby bind another.
func TestRoleStays(t *testing.T) {
	c := apitest.Catalogue(t, rbac.Kinds())
	k := apitest.Kind(t, c.Kinds(), "RoleBinding")
	old := apitest.Read(t, c, k, "metadata: {name: a}\nroleRef: {kind: Role, name: r}").(*rbacv1.RoleBinding)
	b := old.DeepCopy()
	b.Subjects = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "u"}}
	if got := apitest.Text(k.ValidateUpdate(b, old)); got != "" {
		t.Error(got)
	}
	b.RoleRef.Name = "admin"
	if got := apitest.Text(k.ValidateUpdate(b, old)); got != `roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"admin"}: field is immutable` {
		t.Error(got)
	}
}

// TestRoleIsNamed: a role without a name is complained of last, but for one that replaces another.
func TestRoleIsNamed(t *testing.T) {
	const subject = "\nsubjects: [{kind: User, name: u, apiGroup: x}]"
	const name, group = "roleRef.name: Required value", `subjects[0].apiGroup: Unsupported value: "x"`
	apitest.Check(t, rbac.Kinds(), "RoleBinding", []apitest.Case{{"new", "roleRef: {kind: Role}" + subject, group + "\n" + name}})
	apitest.CheckChanges(t, rbac.Kinds(), "RoleBinding", "", []apitest.Change{
		{"another", "roleRef: {kind: Role, name: r}", "roleRef: {kind: Role}" + subject, name + "\n" + group + "\nroleRef: Invalid value"},
		{"the same", "roleRef: {kind: Role}", "roleRef: {kind: Role}" + subject, group + "\n" + name},
	})
}

func TestRow(t *testing.T) {
	c := apitest.Catalogue(t, rbac.Kinds())
	k := apitest.Kind(t, c.Kinds(), "RoleBinding")
	obj := apitest.Read(t, c, k, "metadata: {name: a}\nroleRef: {kind: Role, name: r}\nsubjects: [{kind: User, name: u}, {kind: User, name: v}, {kind: ServiceAccount, name: s, namespace: x}]")
	if got := apitest.Row(k, obj, time.Now()); got != "a|Role/r|<unknown>|u, v||x/s" {
		t.Error(got)
	}
}
