package core

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func namespace() *api.Kind {
	return &api.Kind{
		Kind: "Namespace", Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}, Prefix: "namespaces",
		Versions: []api.Version{api.NewVersion[corev1.Namespace, corev1.NamespaceList]("v1")}, Hub: "v1",
		Verbs:        []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Subresources: []api.Subresource{{Name: "finalize", Verbs: []string{"update"}}, api.Status()},
		PrepareForCreate: api.On(func(n *corev1.Namespace) {
			n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
			if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
				n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
		}),
		PrepareForUpdate: api.OnUpdate(func(n, old *corev1.Namespace) { n.Spec.Finalizers, n.Status = old.Spec.Finalizers, old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(n, old *corev1.Namespace) {
			n.Spec = old.Spec
		}),
		Default:                  api.On(defaultNamespace),
		ValidateName:             apivalidation.ValidateNamespaceName,
		Validate:                 api.Check(func(n *corev1.Namespace) field.ErrorList { return validateNamespaceFinalizers(n) }),
		ValidateStatusUpdate:     api.CheckUpdate(validateNamespaceStatus),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"status.phase", "name"},
		Fields: func(obj api.Object) fields.Set {
			n := obj.(*corev1.Namespace)
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		},
		Columns: api.Columns(table.Name(), table.Column("Status", table.String, "The status of the namespace"), table.AgeColumn()),
		Row: api.Row(func(n *corev1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), table.Age(n, now)}
		}),
	}
}

// defaultNamespace labels a namespace with its name, so that selectors can choose it; the label cannot be removed.
func defaultNamespace(n *corev1.Namespace) {
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
	if n.Name == "" || n.Labels[corev1.LabelMetadataName] == n.Name {
		return // generated names are labelled once they are known
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func validateNamespaceFinalizers(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		p := field.NewPath("spec", "finalizers").Index(i)
		errs = append(errs, check.Each(validation.IsQualifiedName(string(f)), p, string(f))...)
	}
	return errs
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	if n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceActive {
		return field.ErrorList{field.Invalid(field.NewPath("status", "phase"), n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	}
	if n.DeletionTimestamp != nil && n.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(field.NewPath("status", "phase"), n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
