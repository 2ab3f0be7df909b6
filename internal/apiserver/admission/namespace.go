package admission

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespaces finds namespaces.
type Namespaces interface {
	Namespace(ctx context.Context, name string) (*corev1.Namespace, error)
}

// NamespaceLifecycle keeps objects out of namespaces that do not exist or are ending, and keeps the system's namespaces.
type NamespaceLifecycle struct{ objects Namespaces }

// NewNamespaceLifecycle returns the plugin.
func NewNamespaceLifecycle(objects Namespaces) *NamespaceLifecycle {
	return &NamespaceLifecycle{objects: objects}
}

// Admit looks at the namespace of a write.
func (p *NamespaceLifecycle) Admit(ctx context.Context, a *Attributes) error {
	if a.Resource.Resource == "namespaces" && a.Resource.Group == "" {
		if a.Operation == Delete && a.Subresource == "" {
			switch a.Name {
			case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
				return forbidText(a, "this namespace may not be deleted")
			}
		}
		return nil
	}
	if a.Namespace == "" || a.Resource.Group == authorizationv1.GroupName {
		return nil
	}
	if a.Operation != Create && a.Operation != Update {
		return nil
	}
	ns, err := p.objects.Namespace(ctx, a.Namespace)
	if err != nil {
		return err
	}
	if a.Operation == Update || ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	refusal := forbid(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return refusal
}
