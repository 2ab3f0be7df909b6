package join

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// nameIsFree refuses the name of a node that is alive: two machines that believe to be the same node would stop each other's pods. It is also where a
// token shows whether it is good.
func nameIsFree(ctx context.Context, client kubernetes.Interface, node string) error {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the token is not good (any more): it has expired, was deleted, or is of another cluster; `celox token list` on the server shows those that are, `celox token create` makes one")
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the token may not join nodes: %w", err)
	case err != nil:
		return fmt.Errorf("ask for node %s: %w", node, err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return fmt.Errorf("the cluster has a node %s already, and it is Ready: give this one another --node-name, or remove that one first (`celox kubectl delete node %s`)", node, node)
		}
	}
	return nil
}
