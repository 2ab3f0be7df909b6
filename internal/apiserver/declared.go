package apiserver

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// qualifies says whether finalizers of a built-in kind must be qualified names, or ones of Kubernetes' own: upstream asks that of the
// kinds that are checked with the core group's rules for metadata, and of others not.
func qualifies(gr schema.GroupResource) bool {
	switch gr.Group {
	case "":
		return gr.Resource != "events"
	case "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "coordination.k8s.io", "node.k8s.io", "policy":
		return false
	}
	return true
}

// qualifies says whether finalizers need a domain at a door of the exchange's resource. Events need one by their newer name only, and the
// status of cron jobs is not checked at all.
func (x *exchange) qualifies(sub string) bool {
	gr := x.res.kind.GroupResource()
	switch {
	case x.res.custom != nil, gr.Resource == "cronjobs" && sub == "status":
		return false
	case x.res.gvr.Group == "events.k8s.io":
		return true
	}
	return qualifies(gr)
}

// declareName marks complaints about how the name is written.
func declareName(errs field.ErrorList) {
	for i, e := range errs {
		if e.Field == "metadata.name" && e.Type == field.ErrorTypeInvalid {
			check.Declared(errs[i : i+1])
		}
	}
}

// declaredLast moves complaints that check.Declared marked behind the others; both stay in their order.
func declaredLast(errs field.ErrorList) field.ErrorList {
	slices.SortStableFunc(errs, func(a, b *field.Error) int {
		switch {
		case a.IsBeta() == b.IsBeta():
			return 0
		case b.IsBeta():
			return -1
		}
		return 1
	})
	return errs
}
