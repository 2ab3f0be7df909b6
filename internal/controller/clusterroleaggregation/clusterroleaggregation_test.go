package clusterroleaggregation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func part(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to-" + label: "true"}}}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{v}, APIGroups: []string{""}, Resources: []string{"pods"}})
	}
	return r
}

func whole(name string, labels ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, AggregationRule: &rbacv1.AggregationRule{}}
	for _, l := range labels {
		r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"to-" + l: "true"}})
	}
	return r
}

func verbs(r *rbacv1.ClusterRole) (out []string) {
	for _, rule := range r.Rules {
		out = append(out, rule.Verbs...)
	}
	return out
}

func TestAggregate(t *testing.T) {
	self := whole("w", "x", "y")
	self.Labels["to-x"] = "true" // it selects itself, which means nothing
	self.Rules = part("", "", "old").Rules
	got, err := aggregate(self, []*rbacv1.ClusterRole{self, part("c", "y", "watch", "get"), part("b", "x", "list", "get"), part("a", "x", "get"), part("z", "other", "delete")})
	if err != nil {
		t.Fatal(err)
	}
	if have := verbs(&rbacv1.ClusterRole{Rules: got}); !slices.Equal(have, []string{"get", "list", "watch"}) {
		t.Errorf("rules %v", have)
	}
}

func TestRolesOfRoles(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	c, err := New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	ctx, roles := context.Background(), e.Client.RbacV1().ClusterRoles()
	inner := whole("inner", "inner")
	inner.Labels["to-outer"] = "true"
	for _, r := range []*rbacv1.ClusterRole{whole("outer", "outer"), inner, part("a", "inner", "get"), part("b", "outer", "list")} {
		if _, err := roles.Create(ctx, r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(name string, want ...string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			r, err := roles.Get(ctx, name, metav1.GetOptions{})
			if err != nil || !slices.Equal(verbs(r), want) {
				return fmt.Errorf("%s has %v, want %v (%v)", name, verbs(r), want, err)
			}
			return nil
		})
	}
	expect("outer", "list", "get")
	expect("inner", "get")
	if err := roles.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("inner")
	expect("outer", "list")
}

// The rules of a role that is made of others have an owner: who applies the role without them does not take them, and who adds some loses these.
func TestRulesHaveAnOwner(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	c, err := New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	ctx, roles := context.Background(), e.Client.RbacV1().ClusterRoles()
	apply := func(rules ...*applyrbacv1.PolicyRuleApplyConfiguration) {
		t.Helper()
		role := applyrbacv1.ClusterRole("w").WithLabels(map[string]string{"mine": "too"}).WithAggregationRule(
			applyrbacv1.AggregationRule().WithClusterRoleSelectors(applymetav1.LabelSelector().WithMatchLabels(map[string]string{"to-x": "true"}))).WithRules(rules...)
		if _, err := roles.Apply(ctx, role, metav1.ApplyOptions{FieldManager: "person", Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	rules := func() {
		t.Helper()
		controllertest.Eventually(t, func() error {
			r, err := roles.Get(ctx, "w", metav1.GetOptions{})
			if err != nil || !slices.Equal(verbs(r), []string{"get"}) {
				return fmt.Errorf("%v (%v)", r, err)
			}
			owned := slices.ContainsFunc(r.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
				return m.Manager == fieldManager && m.Operation == metav1.ManagedFieldsOperationApply && strings.Contains(string(m.FieldsV1.Raw), "f:rules")
			})
			if !owned || r.Labels["mine"] != "too" {
				return fmt.Errorf("managed fields %v", r.ManagedFields)
			}
			return nil
		})
	}
	if _, err := roles.Create(ctx, part("a", "x", "get"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apply()
	rules()
	apply()
	rules()
	apply(applyrbacv1.PolicyRule().WithVerbs("delete").WithAPIGroups("").WithResources("pods"))
	rules()
}
