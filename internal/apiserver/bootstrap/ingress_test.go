package bootstrap

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestIngressClass(t *testing.T) {
	c := newClient()
	ctx := t.Context()
	api := c.NetworkingV1().IngressClasses()
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"first start", func() error { return EnsureIngressClass(ctx, c, "celox", "celox.io/ingress") }, "create ingressclasses"},
		{"second start", func() error { return EnsureIngressClass(ctx, c, "celox", "celox.io/ingress") }, ""},
		{"without", func() error { return RemoveIngressClass(ctx, c, "celox", "celox.io/ingress") }, "delete ingressclasses"},
		{"still without", func() error { return RemoveIngressClass(ctx, c, "celox", "celox.io/ingress") }, ""},
		{"somebody else's", func() error {
			_, err := api.Create(ctx, &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "celox"}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/other"}}, metav1.CreateOptions{})
			return err
		}, "create ingressclasses"},
		{"stays", func() error { return RemoveIngressClass(ctx, c, "celox", "celox.io/ingress") }, ""},
		{"stays as it is", func() error { return EnsureIngressClass(ctx, c, "celox", "celox.io/ingress") }, ""},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(writes(c), ", "); got != step.want {
			t.Errorf("%s: wrote %q, want %q", step.what, got, step.want)
		}
	}
}
