package bootstrap

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// metricsReader lets whoever may look at a namespace see what its pods use.
const metricsReader = "system:aggregated-metrics-reader"

// EnsureMetricsReader makes the role that adds metrics.k8s.io to view, edit and admin, unless there is one of its name: it belongs to
// whoever serves the metrics, and is left as it is found.
func EnsureMetricsReader(ctx context.Context, client kubernetes.Interface) error {
	roles := client.RbacV1().ClusterRoles()
	_, err := roles.Get(ctx, metricsReader, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		r := &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: metricsReader, Labels: map[string]string{}},
			Rules:      policies([]rule{allow("get list watch", "metrics.k8s.io", "pods nodes")}),
		}
		for _, to := range []string{"admin", "edit", "view"} {
			addTo(to, r)
		}
		_, err = roles.Create(ctx, r, metav1.CreateOptions{})
		err = tolerate(err)
	}
	if err != nil {
		return fmt.Errorf("make the role of metrics readers: %w", err)
	}
	return nil
}
