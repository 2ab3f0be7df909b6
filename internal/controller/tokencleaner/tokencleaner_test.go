package tokencleaner

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyTokensThatAreOverGo(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, clocktesting.NewFakePassiveClock(noon), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, ns := range []string{metav1.NamespaceSystem} {
		if _, err := e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		namespace, name, end string
		kind                 corev1.SecretType
	}{
		{metav1.NamespaceSystem, "over", noon.Add(-time.Second).Format(time.RFC3339), corev1.SecretTypeBootstrapToken},
		{metav1.NamespaceSystem, "now", noon.Format(time.RFC3339), corev1.SecretTypeBootstrapToken},
		{metav1.NamespaceSystem, "later", noon.Add(time.Hour).Format(time.RFC3339), corev1.SecretTypeBootstrapToken},
		{metav1.NamespaceSystem, "for-ever", "", corev1.SecretTypeBootstrapToken},
		{metav1.NamespaceSystem, "nonsense", "tomorrow", corev1.SecretTypeBootstrapToken},
		{metav1.NamespaceSystem, "no-token", noon.Add(-time.Hour).Format(time.RFC3339), corev1.SecretTypeOpaque},
		{metav1.NamespaceDefault, "elsewhere", noon.Add(-time.Hour).Format(time.RFC3339), corev1.SecretTypeBootstrapToken},
	} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name}, Type: c.kind, Data: map[string][]byte{expiration: []byte(c.end)}}
		if _, err := e.Client.CoreV1().Secrets(c.namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Run(t, ctl)
	left := func(namespace string) map[string]bool {
		l, err := e.Client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, s := range l.Items {
			out[s.Name] = true
		}
		return out
	}
	controllertest.Eventually(t, func() error {
		if l := left(metav1.NamespaceSystem); l["over"] || l["now"] {
			return errors.New("tokens that are over are still there")
		}
		return nil
	})
	// Each of the others is looked at on its own: none may go by that.
	for key, want := range map[string]string{"later": metav1.NamespaceSystem, "for-ever": metav1.NamespaceSystem, "nonsense": metav1.NamespaceSystem, "no-token": metav1.NamespaceSystem, "elsewhere": metav1.NamespaceDefault} {
		if err := ctl.Reconcile(ctx, want+"/"+key); err != nil {
			t.Error(err)
		}
		if !left(want)[key] {
			t.Errorf("%s was removed", key)
		}
	}
}
