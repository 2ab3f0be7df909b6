package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
)

func role() *api.Kind {
	return &api.Kind{
		Group:                    "rbac.authorization.k8s.io",
		Kind:                     "Role",
		Resource:                 "roles",
		Singular:                 "role",
		Namespaced:               true,
		Prefix:                   "roles",
		Versions:                 []api.Version{api.NewVersion[rbacv1.Role, rbacv1.RoleList]("v1")},
		Hub:                      "v1",
		ValidateName:             path.ValidatePathSegmentName,
		Validate:                 api.Check(validateRole),
		ValidateUpdate:           api.CheckUpdate(func(r, _ *rbacv1.Role) field.ErrorList { return validateRole(r) }),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

func validateRole(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }
