package rbac

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
)

func clusterRoleBinding() *api.Kind {
	return &api.Kind{
		Group:    "rbac.authorization.k8s.io",
		Kind:     "ClusterRoleBinding",
		Resource: "clusterrolebindings",
		Singular: "clusterrolebinding",

		Prefix:       "clusterrolebindings",
		Versions:     []api.Version{api.NewVersion[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList]("v1")},
		Hub:          "v1",
		Default:      api.On(func(b *rbacv1.ClusterRoleBinding) { defaultReferences(b.Subjects, &b.RoleRef) }),
		ValidateName: path.ValidatePathSegmentName,
		Validate:     api.Check(func(b *rbacv1.ClusterRoleBinding) field.ErrorList { return validateClusterRoleBinding(b, nil) }),
		ValidateUpdate: api.CheckUpdate(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateClusterRoleBinding(b, &old.RoleRef)
		}),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Role", table.String, rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"]),
			table.AgeColumn(),
			table.Wide("Users", table.String, "Users in the clusterRoleBinding"),
			table.Wide("Groups", table.String, "Groups in the clusterRoleBinding"),
			table.Wide("ServiceAccounts", table.String, "ServiceAccounts in the clusterRoleBinding"),
		),
		Row: api.Row(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
			users, groups, accounts := columns(b.Subjects)
			return []any{b.Name, b.RoleRef.Kind + "/" + b.RoleRef.Name, table.Age(b, now), users, groups, accounts}
		}),
	}
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding, before *rbacv1.RoleRef) field.ErrorList {
	return validateReferences(b.Subjects, b.RoleRef, before, false, "ClusterRole")
}
