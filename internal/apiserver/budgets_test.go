package apiserver

import (
	"errors"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhyNone: who may not evict a pod is told by the budget why, in the words that clients know.
func TestWhyNone(t *testing.T) {
	const denied = "Cannot evict pod as it would violate the pod's disruption budget."
	refused := func(reason, message string) []metav1.Condition {
		return []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: reason, Message: message}}
	}
	crowd := map[string]metav1.Time{}
	for i := range maxDisrupted + 1 {
		crowd[string(rune(i))] = metav1.Time{}
	}
	for _, c := range []struct {
		name    string
		status  policyv1.PodDisruptionBudgetStatus
		code    int32
		retry   int32
		message string
		cause   string
	}{
		{"not seen yet", policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}, 429, 10, denied, "The disruption budget b is still being processed by the server."},
		{"too few", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 2, DesiredHealthy: 2, Conditions: refused(policyv1.InsufficientPodsReason, "")},
			429, 0, denied, "The disruption budget b needs 2 healthy pods and has 2 currently"},
		{"enough, but just spent", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 3, DesiredHealthy: 2, Conditions: refused(policyv1.InsufficientPodsReason, "")},
			429, 0, denied, "The disruption budget b does not allow evicting pods currently"},
		{"enough, and somebody says more", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 3, DesiredHealthy: 2, Conditions: refused("Why", "because")},
			429, 0, denied, "The disruption budget b does not allow evicting pods currently (Why): because"},
		{"could not be counted", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, Conditions: refused(policyv1.SyncFailedReason, "no scale")},
			429, 0, denied, "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"},
		{"counts below nothing", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: -1},
			403, 0, `poddisruptionbudget.policy "b" is forbidden: pdb disruptions allowed is negative`, "The disruption budget b does not allow evicting pods currently: pdb disruptions allowed is negative"},
		{"too many evicted", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, DisruptedPods: crowd},
			403, 0, `poddisruptionbudget.policy "b" is forbidden: DisruptedPods map too big - too many evictions not confirmed by PDB controller`,
			"The disruption budget b does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: 1}, Status: c.status}
			_, err := spent(b, "p", metav1.Time{})
			var s *apierrors.StatusError
			if !errors.As(err, &s) {
				t.Fatalf("got %v", err)
			}
			got := s.ErrStatus
			if got.Code != c.code || got.Details.RetryAfterSeconds != c.retry || got.Message != c.message {
				t.Errorf("got %d, retry after %d: %s", got.Code, got.Details.RetryAfterSeconds, got.Message)
			}
			if l := got.Details.Causes; len(l) != 1 || l[0].Type != policyv1.DisruptionBudgetCause || l[0].Message != c.cause {
				t.Errorf("causes %+v", l)
			}
		})
	}
}
