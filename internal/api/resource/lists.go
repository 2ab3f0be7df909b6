package resource

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Lists of this group are judged in one way: one that is too long is not looked at, whatever is wrong inside it; else each item is
// checked, and then, where items have a key, that none is there twice.

// validateEach checks the items of a list, whose length upstream declares.
func validateEach[T any](list []T, most int, p *field.Path, validate func(item *T, p *field.Path) field.ErrorList) field.ErrorList {
	if len(list) > most {
		return check.Declared(validateSome(list, most, p, validate))
	}
	return validateSome(list, most, p, validate)
}

// validateSome is validateEach where upstream does not declare the length.
func validateSome[T any](list []T, most int, p *field.Path, validate func(item *T, p *field.Path) field.ErrorList) field.ErrorList {
	if n := len(list); n > most {
		return field.ErrorList{field.TooMany(p, n, most)}
	}
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, validate(&list[i], p.Index(i))...)
	}
	return errs
}

// validateUnique is validateEach for items with a key. Upstream declares that, and shows the item.
func validateUnique[T any, K comparable](list []T, most int, p *field.Path, key func(*T) K, validate func(item *T, p *field.Path) field.ErrorList) field.ErrorList {
	errs := validateEach(list, most, p, validate)
	if len(list) > most {
		return errs
	}
	// Of what is declared, what is said of the whole list comes first.
	declared := slices.IndexFunc(errs, (*field.Error).IsBeta)
	if declared < 0 {
		declared = len(errs)
	}
	return slices.Insert(errs, declared, repeated(list, p, key)...)
}

// repeated complains of items whose keys were there before.
func repeated[T any, K comparable](list []T, p *field.Path, key func(*T) K) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[K]bool, len(list))
	for i := range list {
		k := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(p.Index(i), list[i]))
		}
		seen[k] = true
	}
	return check.Declared(errs)
}

// validateNamed is validateUnique where upstream declares nothing, and shows the key.
func validateNamed[T any, K comparable](list []T, most int, p *field.Path, key func(*T) K, validate func(item *T, p *field.Path) field.ErrorList) field.ErrorList {
	errs := validateSome(list, most, p, validate)
	if len(list) > most {
		return errs
	}
	seen := make(map[K]bool, len(list))
	for i := range list {
		k := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(p.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

// itself is the key of items that are their own.
func itself[T any](item *T) T { return *item }
