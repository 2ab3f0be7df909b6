package policy_test

import (
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/policy"
)

func TestPodDisruptionBudget(t *testing.T) {
	apitest.Check(t, policy.Kinds(), "PodDisruptionBudget", []apitest.Case{
		{"empty", "spec: {}", ""},
		{"a number", "spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}", ""},
		{"a share", "spec: {maxUnavailable: 10%, selector: {}}", ""},
		{"both", "spec: {minAvailable: 1, maxUnavailable: 1}", "minAvailable and maxUnavailable cannot be both set"},
		{"negative", "spec: {minAvailable: -1}", "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"},
		{"more than all", "spec: {maxUnavailable: 101%}", "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"},
		{"no number", "spec: {maxUnavailable: many}", "spec.maxUnavailable: Invalid value: \"many\""},
		{"a broken selector", "spec: {selector: {matchExpressions: [{key: a, operator: Near}]}}", "not a valid selector operator"},
		{"policy", "spec: {unhealthyPodEvictionPolicy: Maybe}", `spec.unhealthyPodEvictionPolicy: Unsupported value: "Maybe": supported values: "AlwaysAllow", "IfHealthyBudget"`},
	})
}

// TestDoors: the status is the controller's and the spec is the user's.
func TestDoors(t *testing.T) {
	c := apitest.Catalogue(t, policy.Kinds())
	k := apitest.Kind(t, c.Kinds(), "PodDisruptionBudget")
	old := apitest.Read(t, c, k, "metadata: {name: a}\nspec: {minAvailable: 1}\nstatus: {currentHealthy: 3}").(*policyv1.PodDisruptionBudget)
	b := apitest.Read(t, c, k, "metadata: {name: a}\nspec: {minAvailable: 2}\nstatus: {currentHealthy: -1}").(*policyv1.PodDisruptionBudget)
	user, controller := b.DeepCopy(), b.DeepCopy()
	k.PrepareForUpdate(user, old)
	if user.Spec.MinAvailable.IntVal != 2 || user.Status.CurrentHealthy != 3 {
		t.Errorf("user wrote %+v", user)
	}
	k.PrepareForStatusUpdate(controller, old)
	if controller.Spec.MinAvailable.IntVal != 1 || controller.Status.CurrentHealthy != -1 {
		t.Errorf("controller wrote %+v", controller)
	}
	if got := apitest.Text(k.ValidateStatusUpdate(controller, old)); got != "status.currentHealthy: Invalid value: -1: must be greater than or equal to 0" {
		t.Error(got)
	}
	if got := apitest.Row(k, old, time.Now()); got != "a|1|N/A|0|<unknown>" {
		t.Error(got)
	}
}

// TestMarker: a label that once stood for the empty selector is taken out of selectors that say something else besides.
func TestMarker(t *testing.T) {
	const exists, other = "{key: pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match, operator: Exists}", "{key: a, operator: Exists}"
	c := apitest.Catalogue(t, policy.Kinds())
	k := apitest.Kind(t, c.Kinds(), "PodDisruptionBudget")
	for _, tt := range []struct {
		selector string
		want     int
	}{
		{"{}", 0},
		{"{matchExpressions: [" + exists + "]}", 1},
		{"{matchExpressions: [" + exists + ", " + other + "]}", 1},
		{"{matchLabels: {a: b}, matchExpressions: [" + exists + "]}", 0},
		{"{matchExpressions: [{key: pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match, operator: DoesNotExist}]}", 0},
	} {
		document := "metadata: {name: a}\nspec: {selector: " + tt.selector + "}"
		made, _ := apitest.Create(t, c, k, document)
		if got := made.(*policyv1.PodDisruptionBudget).Spec.Selector.MatchExpressions; len(got) != tt.want {
			t.Errorf("%s: made with %v", tt.selector, got)
		}
		changed := apitest.Read(t, c, k, document).(*policyv1.PodDisruptionBudget)
		k.PrepareForUpdate(changed, apitest.Read(t, c, k, "metadata: {name: a}\nspec: {selector: {matchLabels: {c: d}}}"))
		if got := changed.Spec.Selector.MatchExpressions; len(got) != tt.want {
			t.Errorf("%s: changed to %v", tt.selector, got)
		}
		kept := apitest.Read(t, c, k, document).(*policyv1.PodDisruptionBudget)
		was := len(kept.Spec.Selector.MatchExpressions)
		k.PrepareForUpdate(kept, apitest.Read(t, c, k, document))
		if got := kept.Spec.Selector.MatchExpressions; len(got) != was {
			t.Errorf("%s: what was stored became %v", tt.selector, got)
		}
	}
}
