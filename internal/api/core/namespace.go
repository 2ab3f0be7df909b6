package core

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
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
		Subresources: []api.Subresource{{Name: "finalize", Verbs: []string{"update"}, NoTable: true}, api.Status()},
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
		Canonicalize:             api.On(labelNamespace), // a generated name is known only now
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"status.phase"},
		Fields: func(obj api.Object) fields.Set {
			return fields.Set{"status.phase": string(obj.(*corev1.Namespace).Status.Phase)}
		},
		Columns: api.Columns(table.Name(), table.Column("Status", table.String, "The status of the namespace"), table.AgeColumn()),
		Row: api.Row(func(n *corev1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), table.Age(n, now)}
		}),
	}
}

func defaultNamespace(n *corev1.Namespace) {
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
	labelNamespace(n)
}

// labelNamespace labels a namespace with its name, so that selectors can choose it; the label cannot be removed.
func labelNamespace(n *corev1.Namespace) {
	if n.Name == "" || n.Labels[corev1.LabelMetadataName] == n.Name {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func validateNamespaceFinalizers(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec", "finalizers")
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, check.QualifiedName(string(f), p)...)
		switch f {
		case corev1.FinalizerKubernetes, metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		default:
			if !strings.Contains(string(f), "/") {
				errs = append(errs, field.Invalid(p, string(f), "name is neither a standard finalizer name nor is it fully qualified"))
			}
		}
	}
	return errs
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	p := field.NewPath("status", "Phase")
	if n.DeletionTimestamp == nil && n.Status.Phase != corev1.NamespaceActive {
		return field.ErrorList{field.Invalid(p, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	}
	if n.DeletionTimestamp != nil && n.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(p, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
