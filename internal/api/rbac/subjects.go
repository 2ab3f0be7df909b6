package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// defaultReferences fills in the API groups of a binding's subjects and role.
func defaultReferences(subjects []rbacv1.Subject, role *rbacv1.RoleRef) {
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
	if role.APIGroup == "" {
		role.APIGroup = rbacv1.GroupName
	}
}

// validateReferences checks a binding; kinds are those of roles that it may name. before is the role that it named, nil on create: who may bind
// one role may not thereby bind another.
func validateReferences(subjects []rbacv1.Subject, role rbacv1.RoleRef, before *rbacv1.RoleRef, namespaced bool, kinds ...string) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("roleRef")
	if role.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), role.APIGroup, []string{rbacv1.GroupName}))
	}
	known := false
	for _, k := range kinds {
		known = known || role.Kind == k
	}
	if !known {
		errs = append(errs, field.NotSupported(at.Child("kind"), role.Kind, kinds))
	}
	other := before != nil && role != *before
	switch {
	case role.Name != "":
		errs = append(errs, check.Each(path.ValidatePathSegmentName(role.Name, false), at.Child("name"), role.Name)...)
	case other: // upstream's declarations don't look into what may not change
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	for i, s := range subjects {
		errs = append(errs, validateSubject(s, namespaced, field.NewPath("subjects").Index(i))...)
	}
	switch {
	case other:
		errs = append(errs, field.Invalid(at, check.Rendered(role), check.ImmutableText))
	case role.Name == "":
		errs = append(errs, check.Missing(at.Child("name"))...)
	}
	return errs
}

func validateSubject(s rbacv1.Subject, namespaced bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, check.Missing(p.Child("name"))...)
	}
	group := ""
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, check.DNSSubdomain(s.Name, p.Child("name"))...)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		group = rbacv1.GroupName
	default:
		return append(errs, field.NotSupported(p.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	if s.APIGroup != group {
		errs = append(errs, field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{group}))
	}
	if s.Kind == rbacv1.ServiceAccountKind && !namespaced && s.Namespace == "" {
		errs = append(errs, field.Required(p.Child("namespace"), ""))
	}
	return errs
}

// columns splits subjects by kind for the Table.
func columns(subjects []rbacv1.Subject) (users, groups, accounts string) {
	var u, g, a []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			u = append(u, s.Name)
		case rbacv1.GroupKind:
			g = append(g, s.Name)
		case rbacv1.ServiceAccountKind:
			a = append(a, s.Namespace+"/"+s.Name)
		}
	}
	return strings.Join(u, ", "), strings.Join(g, ", "), strings.Join(a, ", ")
}
