package apiserver

import (
	"slices"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateMeta checks an object's metadata.
func validateMeta(m metav1.Object, namespaced bool, nameFn apivalidation.ValidateNameFunc, finalizersToo bool) field.ErrorList {
	p := field.NewPath("metadata")
	errs := validateNames(m, nameFn)
	switch ns := m.GetNamespace(); {
	case namespaced && ns == "":
		errs = append(errs, field.Required(p.Child("namespace"), ""))
	case namespaced:
		for _, msg := range check.NameIsDNSLabel(ns, false) {
			errs = append(errs, field.Invalid(p.Child("namespace"), ns, msg))
		}
	case ns != "":
		errs = append(errs, field.Forbidden(p.Child("namespace"), "not allowed on this type"))
	}
	if g := m.GetGeneration(); g < 0 {
		errs = append(errs, field.Invalid(p.Child("generation"), g, apivalidation.IsNegativeErrorMsg))
	}
	errs = append(errs, validateShared(m)...)
	errs = append(errs, validateFinalizers(m.GetFinalizers(), p.Child("finalizers"))...)
	errs = append(errs, metavalidation.ValidateManagedFields(m.GetManagedFields(), p.Child("managedFields"))...)
	if finalizersToo {
		errs = append(errs, validateQualified(m.GetFinalizers(), p.Child("finalizers"))...)
	}
	return errs
}

// validateNames checks the name, and what it was to begin with.
func validateNames(m metav1.Object, nameFn apivalidation.ValidateNameFunc) field.ErrorList {
	var errs field.ErrorList
	if g := m.GetGenerateName(); g != "" {
		for _, msg := range nameFn(g, true) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "generateName"), g, msg))
		}
	}
	n := m.GetName()
	if n == "" {
		return append(errs, field.Required(field.NewPath("metadata", "name"), "name or generateName is required"))
	}
	for _, msg := range nameFn(n, false) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), n, msg))
	}
	return errs
}

// validateShared checks what is checked in the same way on create and update.
func validateShared(m metav1.Object) field.ErrorList {
	p := field.NewPath("metadata")
	var errs field.ErrorList
	if l := m.GetLabels(); len(l) > 0 {
		errs = append(errs, check.Labels(l, p.Child("labels"))...)
	}
	if a := m.GetAnnotations(); len(a) > 0 {
		errs = append(errs, apivalidation.ValidateAnnotations(a, p.Child("annotations"))...)
	}
	return append(errs, apivalidation.ValidateOwnerReferences(m.GetOwnerReferences(), p.Child("ownerReferences"))...)
}

func validateFinalizers(finalizers []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range finalizers {
		for _, msg := range check.IsQualifiedName(f) {
			errs = append(errs, field.Invalid(p, f, msg))
		}
	}
	if slices.Contains(finalizers, metav1.FinalizerOrphanDependents) && slices.Contains(finalizers, metav1.FinalizerDeleteDependents) {
		errs = append(errs, field.Invalid(p, finalizers, "finalizer "+metav1.FinalizerOrphanDependents+" and "+metav1.FinalizerDeleteDependents+" cannot be both set"))
	}
	return errs
}

// validateQualified demands a domain of finalizers that are not the system's own.
func validateQualified(finalizers []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range finalizers {
		errs = append(errs, check.FinalizerDomain(f, p.Index(i))...)
	}
	return errs
}

// validateMetaUpdate checks how an object's metadata changed.
func validateMetaUpdate(m, old metav1.Object) field.ErrorList {
	p := field.NewPath("metadata")
	var errs field.ErrorList
	if old.GetDeletionTimestamp() != nil {
		errs = append(errs, apivalidation.ValidateNoNewFinalizers(m.GetFinalizers(), old.GetFinalizers(), p.Child("finalizers"))...)
	}
	if rv := m.GetResourceVersion(); rv == "" {
		errs = append(errs, field.Invalid(p.Child("resourceVersion"), rv, "must be specified for an update"))
	}
	if g := m.GetGeneration(); g < 0 {
		errs = append(errs, field.Invalid(p.Child("generation"), g, apivalidation.IsNegativeErrorMsg))
	} else if g < old.GetGeneration() {
		errs = append(errs, field.Invalid(p.Child("generation"), g, "must not be decremented"))
	}
	if m.GetName() != old.GetName() {
		errs = append(errs, field.Invalid(p.Child("name"), m.GetName(), apivalidation.FieldImmutableErrorMsg))
	}
	if m.GetNamespace() != old.GetNamespace() {
		errs = append(errs, field.Invalid(p.Child("namespace"), m.GetNamespace(), apivalidation.FieldImmutableErrorMsg))
	}
	if m.GetUID() != old.GetUID() {
		errs = append(errs, field.Invalid(p.Child("uid"), m.GetUID(), apivalidation.FieldImmutableErrorMsg))
	}
	if a, b := m.GetDeletionTimestamp(), old.GetDeletionTimestamp(); !a.Equal(b) {
		errs = append(errs, field.Invalid(p.Child("deletionTimestamp"), a, apivalidation.FieldImmutableErrorMsg))
	}
	if a, b := m.GetDeletionGracePeriodSeconds(), old.GetDeletionGracePeriodSeconds(); (a == nil) != (b == nil) || a != nil && *a != *b {
		errs = append(errs, field.Invalid(p.Child("deletionGracePeriodSeconds"), a, apivalidation.FieldImmutableErrorMsg))
	}
	errs = append(errs, validateShared(m)...)
	return append(errs, metavalidation.ValidateManagedFields(m.GetManagedFields(), p.Child("managedFields"))...)
}

// declared says whether upstream's declarations have a say in the kinds of a built-in group. What else there is to complain of is told
// once then, however many checks say so.
func declared(group string) bool {
	return group != "apiextensions.k8s.io" && group != "apiregistration.k8s.io"
}

// distinct leaves out complaints that were made before.
func distinct(errs field.ErrorList) field.ErrorList {
	if len(errs) < 2 {
		return errs
	}
	seen := make(map[string]bool, len(errs))
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		text := e.Error()
		again := seen[text]
		seen[text] = true
		return again
	})
}

// checksAll says whether upstream checks all of an updated object of the kind again, its metadata with the kind's own rule for names
// included.
func checksAll(gr schema.GroupResource) bool {
	switch gr.Group {
	case "":
		switch gr.Resource {
		case "configmaps", "endpoints", "limitranges", "namespaces", "nodes", "persistentvolumes", "persistentvolumeclaims", "pods", "secrets",
			"serviceaccounts":
			return true
		}
	case "apps":
		return gr.Resource == "controllerrevisions"
	case "networking.k8s.io":
		return gr.Resource != "servicecidrs" && gr.Resource != "networkpolicies"
	case "storage.k8s.io":
		return gr.Resource != "csidrivers"
	case "certificates.k8s.io":
		return gr.Resource == "clustertrustbundles"
	case "resource.k8s.io":
		return gr.Resource == "resourceclaims" || gr.Resource == "resourceclaimtemplates"
	case "admissionregistration.k8s.io", "apiregistration.k8s.io", "discovery.k8s.io", "flowcontrol.apiserver.k8s.io", "node.k8s.io",
		"storagemigration.k8s.io":
		return true
	}
	return false
}
