package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// guarded is a pod that would rather be on stage-1, and must not be disturbed.
const guarded = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: guarded, namespace: default}
spec:
  selector: {matchLabels: {app: guarded}}
  template:
    metadata: {labels: {app: guarded}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [stage-1]}]}}
      containers: [{name: c, image: "busybox:1", command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait; done']}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: careful, namespace: default}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: guarded}}}
`

// drains empties a node, which a budget forbids until it doesn't.
func (s *fleet) drains(t *testing.T) {
	if _, err := s.machines[0].Kubectl(strings.NewReader(guarded), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	where := func(ctx context.Context) (string, error) {
		l, err := s.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=guarded"})
		if err != nil {
			return "", err
		}
		for _, p := range l.Items {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				return p.Spec.NodeName, nil
			}
		}
		return "", fmt.Errorf("%d pods, none that runs", len(l.Items))
	}
	var node string
	machine.Wait(t, "the pod, and what its budget says of it", func(ctx context.Context) (err error) {
		if node, err = where(ctx); err != nil {
			return err
		}
		b, err := s.client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "careful", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 1) {
			err = fmt.Errorf("the budget knows of %d pods", b.Status.CurrentHealthy)
		}
		return err
	})
	out, err := s.machines[0].Celox("node", "drain", node, "--timeout", "8s")
	if err == nil {
		t.Fatalf("the node is drained against the budget: %s", out)
	}
	if strings.Contains(err.Error(), "will retry after 0s") {
		t.Errorf("the drain asks without a pause: %v", err)
	}
	for _, want := range []string{"exit status 1", "budget careful", "It goes when the budget allows it", "stays closed for new pods"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q: %v", want, err)
		}
	}
	if now, err := where(t.Context()); err != nil || now != node {
		t.Errorf("the pod was on %s and is on %q: %v", node, now, err)
	}
	done := make(chan error, 1)
	go func() {
		out, err := s.machines[0].Celox("node", "drain", node)
		if err == nil && !strings.Contains(out, "is drained") {
			err = fmt.Errorf("it says %q", out)
		}
		done <- err
	}()
	if _, err := s.machines[0].Kubectl(nil, "patch", "poddisruptionbudget", "careful", "-p", `{"spec": {"maxUnavailable": 1}}`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the pod elsewhere", func(ctx context.Context) error {
		now, err := where(ctx)
		if err == nil && now == node {
			err = fmt.Errorf("it is on %s", now)
		}
		return err
	})
	for _, args := range [][]string{{"uncordon", node}, {"delete", "poddisruptionbudget/careful", "deployment/guarded", "--timeout", patience.String()}} {
		if _, err := s.machines[0].Kubectl(nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	s.reachable(t, 6, 3)
}
