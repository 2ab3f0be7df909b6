package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNoServiceProxy leaves services to others: they have addresses, and the node makes no rules for them.
func TestNoServiceProxy(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, "--proxy-mode", "none")
	waitReady(t, c)
	s, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil || s.Spec.ClusterIP == "" {
		t.Fatalf("%v, %v", s, err)
	}
	giveBusybox(t, m)
	runPod(t, c, shellPod("p", counting, "")) // the node does its work, which is when rules would be there
	if n, err := tablesOf(m, serviceTables, false); err != nil || n > 0 {
		t.Errorf("there are %d tables for services (%v)", n, err)
	}
	if _, err := m.Run(nil, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:10256/healthz"); err == nil {
		t.Error("a proxy says that it is well")
	}
}
