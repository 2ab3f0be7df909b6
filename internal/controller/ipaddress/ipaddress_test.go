package ipaddress_test

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/ipaddress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits until something holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	controllertest.Eventually(t, func() error {
		if f() {
			return nil
		}
		return errors.New("not yet: " + what)
	})
}

func TestAddressesFollowServices(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		e := controllertest.Start(t)
		follow(t, e, e.Client)
	})
	// A conflict says that somebody else wrote. Whatever it was about, the objects come to be what the services say.
	t.Run("conflicts", func(t *testing.T) {
		e := controllertest.Start(t)
		var conflicts controllertest.Conflicts
		follow(t, e, e.Through(t, conflicts.Refuse))
		refused := conflicts.Refused()
		for _, want := range []string{
			"POST /apis/networking.k8s.io/v1/ipaddresses", "DELETE /apis/networking.k8s.io/v1/ipaddresses/10.96.0.77", "DELETE /apis/networking.k8s.io/v1/ipaddresses/10.96.0.9",
		} {
			if !slices.Contains(refused, want) {
				t.Errorf("%s was not tried, but %q", want, refused)
			}
		}
	})
}

func follow(t *testing.T, e *controllertest.Env, client kubernetes.Interface) {
	t.Helper()
	ctx := t.Context()
	addresses, services := e.Client.NetworkingV1().IPAddresses(), e.Client.CoreV1().Services("default")
	// What an earlier life left behind: an address without a service.
	stale := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.77", Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "gone"}},
	}
	foreign := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.78"},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "gateways", Group: "x.y", Name: "g"}},
	}
	for _, ip := range []*networkingv1.IPAddress{stale, foreign} {
		if _, err := addresses.Create(ctx, ip, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ipaddress.New(client, e.Informers, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	gone := func(name string) func() bool {
		return func() bool {
			_, err := addresses.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}
	}
	eventually(t, "the stale address is gone", gone("10.96.0.77"))

	svc, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		ip, err := addresses.Get(ctx, svc.Spec.ClusterIP, metav1.GetOptions{})
		return err == nil && ip.Spec.ParentRef.Name == "a" && ip.Labels[networkingv1.LabelIPAddressFamily] == "IPv4"
	}
	eventually(t, "the service's address", there)
	if err := addresses.Delete(ctx, svc.Spec.ClusterIP, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an address that was deleted comes back", there)

	if err := services.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the address goes with the service", gone("10.96.0.9"))
	if gone("10.96.0.78")() {
		t.Error("somebody else's address is gone")
	}
}
