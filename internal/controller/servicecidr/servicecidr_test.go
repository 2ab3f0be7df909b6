package servicecidr_test

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/servicecidr"
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

func TestServiceCIDR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a range goes ten seconds after nobody uses it
		e := controllertest.Start(t)
		ctx := t.Context()
		addresses, cidrs := e.Client.NetworkingV1().IPAddresses(), e.Client.NetworkingV1().ServiceCIDRs()
		c, err := servicecidr.New(e.Client, e.Informers, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Run(t, c)
		create := func(name string) {
			t.Helper()
			if _, err := cidrs.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.200.0.0/24"}}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		ready := func(name string, status metav1.ConditionStatus) func() bool {
			return func() bool {
				c, err := cidrs.Get(ctx, name, metav1.GetOptions{})
				return err == nil && len(c.Status.Conditions) == 1 && c.Status.Conditions[0].Status == status && len(c.Finalizers) == 1
			}
		}
		gone := func(name string) func() bool {
			return func() bool {
				_, err := cidrs.Get(ctx, name, metav1.GetOptions{})
				return apierrors.IsNotFound(err)
			}
		}
		remove := func(name string) {
			t.Helper()
			if err := cidrs.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		create("one")
		create("two")
		eventually(t, "both are ready", func() bool { return ready("one", metav1.ConditionTrue)() && ready("two", metav1.ConditionTrue)() })
		if _, err := addresses.Create(ctx, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.200.0.9"},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "n", Name: "s"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		remove("one")
		eventually(t, "one goes, because two has the address as well", gone("one"))
		remove("two")
		eventually(t, "two waits for the address", ready("two", metav1.ConditionFalse))
		if err := addresses.Delete(ctx, "10.200.0.9", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "two goes with the address", gone("two"))
	})
}
