package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// TestBudgets: what keeps a pod is said once, and again at the end as long as it does.
func TestBudgets(t *testing.T) {
	c := fake.NewClientset()
	var answer error
	c.PrependReactor("create", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
	var out bytes.Buffer
	b := &budgets{Interface: c, node: "n1", said: map[string]bool{}, out: &out}
	evict := func(pod string) {
		t.Helper()
		if err := b.PolicyV1().Evictions("shop").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: pod}}); !errors.Is(err, answer) {
			t.Errorf("%v, want %v", err, answer)
		}
	}
	full := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	full.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget web needs 2 healthy pods and has 2 currently"}}
	answer = full
	evict("a")
	evict("a")
	evict("b")
	if n := strings.Count(out.String(), "pod shop/a stays on node n1 for now: The disruption budget web needs 2 healthy pods"); n != 1 {
		t.Errorf("said %d times: %s", n, out.String())
	}
	if held := b.held(); !strings.Contains(held, "pod shop/a: The disruption budget web") || !strings.Contains(held, "pod shop/b: ") {
		t.Errorf("held: %s", held)
	}
	answer = nil
	evict("a")
	answer = apierrors.NewTooManyRequests("slow down", 1) // not a budget's
	evict("b")
	if held := b.held(); held != "" {
		t.Errorf("held: %s", held)
	}
}
