package bootstrap

import (
	"context"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// EnsureIngressClass makes the class of the built-in ingress. It is not the default one, so that the API server leaves Ingresses without a class as they are, as
// upstream's does in a new cluster; the ingress serves them all the same. What somebody makes of it later stays.
func EnsureIngressClass(ctx context.Context, client kubernetes.Interface, name, controller string) error {
	api := client.NetworkingV1().IngressClasses()
	l, err := api.List(ctx, cached())
	if err != nil {
		return fmt.Errorf("make the ingress class: %w", err)
	}
	if slices.ContainsFunc(l.Items, func(c networkingv1.IngressClass) bool { return c.Name == name }) {
		return nil
	}
	_, err = api.Create(ctx, &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}, metav1.CreateOptions{})
	if err := tolerate(err); err != nil {
		return fmt.Errorf("make the ingress class: %w", err)
	}
	return nil
}

// RemoveIngressClass removes the class that EnsureIngressClass made.
func RemoveIngressClass(ctx context.Context, client kubernetes.Interface, name, controller string) error {
	api := client.NetworkingV1().IngressClasses()
	got, err := api.Get(ctx, name, metav1.GetOptions{})
	if err == nil && got.Spec.Controller == controller {
		err = api.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(got.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove the ingress class: %w", err)
	}
	return nil
}
