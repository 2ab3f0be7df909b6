package custom

import (
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Names keeps account of the names that the definitions of one group have been given. Not safe for concurrent use.
type Names struct {
	resources map[string]map[string]bool // plural, singular and short names → the definitions that have them
	kinds     map[string]map[string]bool // kinds and list kinds likewise
	byOwner   map[string]apiextensionsv1.CustomResourceDefinitionNames
}

// NewNames returns an empty account.
func NewNames() *Names {
	return &Names{resources: map[string]map[string]bool{}, kinds: map[string]map[string]bool{}, byOwner: map[string]apiextensionsv1.CustomResourceDefinitionNames{}}
}

// Set notes that the definition owner has names; empty ones free what it had. It reports whether anything changed.
func (n *Names) Set(owner string, names apiextensionsv1.CustomResourceDefinitionNames) (changed bool) {
	old, had := n.byOwner[owner]
	if had && sameNames(&old, &names) {
		return false
	}
	n.each(&old, func(m map[string]map[string]bool, name string) {
		delete(m[name], owner)
		if len(m[name]) == 0 {
			delete(m, name)
		}
	})
	n.each(&names, func(m map[string]map[string]bool, name string) {
		if m[name] == nil {
			m[name] = map[string]bool{}
		}
		m[name][owner] = true
	})
	// A definition may have been given some names and no plural.
	none := sameNames(&names, &apiextensionsv1.CustomResourceDefinitionNames{})
	if none {
		delete(n.byOwner, owner)
	} else {
		n.byOwner[owner] = names
	}
	return had || !none
}

func (n *Names) each(names *apiextensionsv1.CustomResourceDefinitionNames, f func(map[string]map[string]bool, string)) {
	for _, name := range append([]string{names.Plural, names.Singular}, names.ShortNames...) {
		if name != "" {
			f(n.resources, name)
		}
	}
	for _, name := range [...]string{names.Kind, names.ListKind} {
		if name != "" {
			f(n.kinds, name)
		}
	}
}

// Judge decides which of the names that crd asks for it is given, and what its conditions NamesAccepted and Established say of it.
func (n *Names) Judge(crd *CRD) (accepted apiextensionsv1.CustomResourceDefinitionNames, names, established apiextensionsv1.CustomResourceDefinitionCondition) {
	want, have := &crd.Spec.Names, &crd.Status.AcceptedNames
	accepted = *have.DeepCopy()
	names = apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	refuse := func(reason string, err error) {
		names.Status, names.Reason, names.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	one := func(to *string, want, have string, used map[string]map[string]bool, reason string) {
		if err := free(want, have, used); err != nil {
			refuse(reason, err)
			return
		}
		*to = want
	}
	one(&accepted.Plural, want.Plural, have.Plural, n.resources, "PluralConflict")
	one(&accepted.Singular, want.Singular, have.Singular, n.resources, "SingularConflict")
	if !slices.Equal(want.ShortNames, have.ShortNames) {
		var errs []error
		for _, s := range want.ShortNames {
			if slices.Contains(have.ShortNames, s) {
				continue
			}
			if err := free(s, "", n.resources); err != nil {
				errs = append(errs, err)
			}
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			refuse("ShortNamesConflict", err)
		} else {
			accepted.ShortNames = want.ShortNames
		}
	}
	one(&accepted.Kind, want.Kind, have.Kind, n.kinds, "KindConflict")
	one(&accepted.ListKind, want.ListKind, have.ListKind, n.kinds, "ListKindConflict")
	accepted.Categories = want.Categories

	established = apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
	}
	if old := condition(crd, apiextensionsv1.Established); old != nil {
		established = *old
	}
	if established.Status != apiextensionsv1.ConditionTrue && names.Status == apiextensionsv1.ConditionTrue {
		established = apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		}
	}
	return accepted, names, established
}

func free(want, have string, used map[string]map[string]bool) error {
	if want != have && len(used[want]) > 0 {
		return fmt.Errorf("%q is already in use", want)
	}
	return nil
}

func sameNames(a, b *apiextensionsv1.CustomResourceDefinitionNames) bool {
	return a.Plural == b.Plural && a.Singular == b.Singular && a.Kind == b.Kind && a.ListKind == b.ListKind &&
		slices.Equal(a.ShortNames, b.ShortNames) && slices.Equal(a.Categories, b.Categories)
}

func condition(crd *CRD, t apiextensionsv1.CustomResourceDefinitionConditionType) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range crd.Status.Conditions {
		if crd.Status.Conditions[i].Type == t {
			return &crd.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(crd *CRD, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := condition(crd, t)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}

// Serving says whether the objects of a definition are served.
func Serving(crd *CRD) bool {
	return isTrue(crd, apiextensionsv1.NamesAccepted) || isTrue(crd, apiextensionsv1.Established)
}
