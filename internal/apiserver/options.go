package apiserver

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

func metaKind(kind string) schema.GroupKind {
	return schema.GroupKind{Group: metav1.GroupName, Kind: kind}
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(metaKind(kind), "", errs)
}

// writeOptions are the query parameters of writes.
type writeOptions struct {
	dryRun       bool
	dryRuns      []string
	fieldManager string
	validation   string
	force        *bool
}

// forCreate and forUpdate are what admission is told of the options: a patch is the one or the other.
func (o *writeOptions) forCreate() *metav1.CreateOptions {
	return &metav1.CreateOptions{DryRun: o.dryRuns, FieldManager: o.fieldManager, FieldValidation: o.validation}
}

func (o *writeOptions) forUpdate() *metav1.UpdateOptions {
	return &metav1.UpdateOptions{DryRun: o.dryRuns, FieldManager: o.fieldManager, FieldValidation: o.validation}
}

func readWriteOptions(q url.Values) writeOptions {
	o := writeOptions{dryRuns: q["dryRun"], fieldManager: q.Get("fieldManager"), validation: q.Get("fieldValidation")}
	o.dryRun = len(o.dryRuns) > 0
	if v, ok := q["force"]; ok {
		b := request.Truth(v)
		o.force = &b
	}
	return o
}

func (x *exchange) createOptions() (writeOptions, error) {
	if x.r.URL.RawQuery == "" {
		return writeOptions{}, nil
	}
	o := readWriteOptions(x.params())
	return o, invalidOptions("CreateOptions", metavalidation.ValidateCreateOptions(&metav1.CreateOptions{
		DryRun: o.dryRuns, FieldManager: o.fieldManager, FieldValidation: o.validation,
	}))
}

func (x *exchange) updateOptions() (writeOptions, error) {
	if x.r.URL.RawQuery == "" {
		return writeOptions{}, nil
	}
	o := readWriteOptions(x.params())
	return o, invalidOptions("UpdateOptions", metavalidation.ValidateUpdateOptions(&metav1.UpdateOptions{
		DryRun: o.dryRuns, FieldManager: o.fieldManager, FieldValidation: o.validation,
	}))
}

func (x *exchange) patchOptions(t types.PatchType) (writeOptions, error) {
	o := readWriteOptions(x.params())
	return o, invalidOptions("PatchOptions", metavalidation.ValidatePatchOptions(&metav1.PatchOptions{
		DryRun: o.dryRuns, FieldManager: o.fieldManager, FieldValidation: o.validation, Force: o.force,
	}, t))
}

// manager is the name that a write is recorded under: what the client says, or how its user agent calls itself.
func (x *exchange) manager(o writeOptions) string {
	if o.fieldManager != "" {
		return o.fieldManager
	}
	name, _, _ := strings.Cut(x.r.UserAgent(), "/")
	if len(name) > metavalidation.FieldManagerMaxLength {
		name = name[:metavalidation.FieldManagerMaxLength]
	}
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return -1
	}, name)
}

// listOptions are the query parameters of lists and watches.
type listOptions struct {
	internalversion.ListOptions
	labels labels.Selector // nil: everything
	fields fields.Selector // nil: everything
}

func parseInt64(q url.Values, name string) (int64, error) {
	if !q.Has(name) {
		return 0, nil
	}
	v := q.Get(name)
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(err.Error())
	}
	return n, nil
}

func (x *exchange) listOptions() (listOptions, error) {
	var o listOptions
	watching := x.info.Verb == "watch"
	if x.r.URL.RawQuery == "" && !watching && !x.info.NameInPath {
		return o, nil
	}
	q := x.params()
	o.Watch = watching && request.Truth(q["watch"]) // paths with "watch" in them are looked at as lists
	o.ResourceVersion = q.Get("resourceVersion")
	o.ResourceVersionMatch = metav1.ResourceVersionMatch(q.Get("resourceVersionMatch"))
	o.Continue = q.Get("continue")
	o.AllowWatchBookmarks = request.Truth(q["allowWatchBookmarks"])
	if v, ok := q["sendInitialEvents"]; ok {
		b := request.Truth(v)
		o.SendInitialEvents = &b
	}
	var err error
	if o.Limit, err = parseInt64(q, "limit"); err != nil {
		return o, err
	}
	if q.Has("timeoutSeconds") {
		n, err := parseInt64(q, "timeoutSeconds")
		if err != nil {
			return o, err
		}
		o.TimeoutSeconds = &n
	}
	if s := q.Get("labelSelector"); s != "" {
		sel, err := labels.Parse(s)
		if err != nil {
			return o, apierrors.NewBadRequest(err.Error())
		}
		if !sel.Empty() {
			o.labels = sel
		}
	}
	if s := q.Get("fieldSelector"); s != "" {
		if o.fields, err = x.fieldSelector(s); err != nil {
			return o, err
		}
	}
	// An empty watch with a resource version and no wish for a bookmark of the beginning starts there; that is upstream's own
	// default for a watch that sends initial events in the old way.
	if err := invalidOptions("ListOptions", listvalidation.ValidateListOptions(&o.ListOptions, true)); err != nil {
		return o, err
	}
	if o.Watch && o.Continue != "" {
		return o, invalidOptions("ListOptions", field.ErrorList{field.Forbidden(field.NewPath("resourceVersionMatch"), "resourceVersionMatch is forbidden when continue is provided")})
	}
	return o, nil
}

// fieldSelector parses a selector and refuses fields that the kind does not offer.
func (x *exchange) fieldSelector(s string) (fields.Selector, error) {
	sel, err := fields.ParseSelector(s)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kept := make([]fields.Selector, 0, 1)
	for _, r := range sel.Requirements() {
		if !x.res.isField(r.Field) {
			if f := x.res.kind.FieldRefusal; f != nil {
				return nil, apierrors.NewBadRequest(f(x.res.gvk, r.Field))
			}
			if len(x.res.kind.FieldNames) > 0 || x.res.custom != nil {
				return nil, apierrors.NewBadRequest("field label not supported: " + r.Field)
			}
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", r.Field))
		}
		name := x.res.fieldOf(r.Field)
		if r.Operator == "!=" {
			kept = append(kept, fields.OneTermNotEqualSelector(name, r.Value))
		} else {
			kept = append(kept, fields.OneTermEqualSelector(name, r.Value))
		}
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return fields.AndSelectors(kept...), nil
}

// selection is what the store is asked for: the part that it can find by key or index, and a filter for the rest.
type selection struct {
	namespace, name string
	index, value    string
	filter          func(store.Object) bool
	// labels and fields are what filter looks at; nil: not at that.
	labels labels.Selector
	fields fields.Selector
}

// filterName tells the filter of one version of a kind from its others; it is empty without a filter.
func (s *selection) filterName(version string) (name string) {
	if s.labels != nil {
		name = "labels " + s.labels.String()
	}
	if s.fields != nil {
		name += " fields " + version + " " + s.fields.String()
	}
	return name
}

func (x *exchange) selection(o *listOptions) selection {
	s := selection{namespace: x.info.Namespace}
	if x.res.kind.Resource == "namespaces" && x.res.kind.Group == "" {
		s.namespace = ""
	}
	if x.info.NameInPath {
		s.name = x.info.Name
	}
	rest := o.fields
	if rest != nil {
		var left []fields.Selector
		for _, r := range rest.Requirements() {
			equal := r.Operator == "=" || r.Operator == "=="
			switch {
			case equal && r.Field == "metadata.name" && s.name == "" && r.Value != "":
				s.name = r.Value
				continue
			case equal && r.Field == "metadata.namespace" && s.namespace == "" && x.res.kind.Namespaced && r.Value != "":
				s.namespace = r.Value
				continue
			case equal && s.index == "" && r.Value != "" && x.res.kind.Indexes[r.Field] != nil:
				s.index, s.value = r.Field, r.Value
				continue
			case equal:
				left = append(left, fields.OneTermEqualSelector(r.Field, r.Value))
			default:
				left = append(left, fields.OneTermNotEqualSelector(r.Field, r.Value))
			}
		}
		rest = nil
		if len(left) > 0 {
			rest = fields.AndSelectors(left...)
		}
	}
	ls, set := o.labels, x.res.fieldSet
	s.labels, s.fields = ls, rest
	switch {
	case ls != nil && rest != nil:
		s.filter = func(obj store.Object) bool { return ls.Matches(labels.Set(obj.GetLabels())) && rest.Matches(set(obj)) }
	case ls != nil:
		s.filter = func(obj store.Object) bool { return ls.Matches(labels.Set(obj.GetLabels())) }
	case rest != nil:
		s.filter = func(obj store.Object) bool { return rest.Matches(set(obj)) }
	}
	return s
}

// fieldSet is what field selectors see of an object.
func (r *resource) fieldSet(obj store.Object) fields.Set {
	var f fields.Set
	if r.kind.Fields != nil {
		f = r.kind.Fields(obj)
	}
	if f == nil {
		f = fields.Set{}
	}
	f["metadata.name"] = obj.GetName()
	if r.kind.Namespaced {
		f["metadata.namespace"] = obj.GetNamespace()
	}
	return f
}

// parseRevision reads a resource version; empty and "0" are both 0.
func parseRevision(rv string) (int64, error) {
	if rv == "" || rv == "0" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 63)
	if err != nil {
		if _, wide := strconv.ParseUint(rv, 10, 64); wide == nil {
			return 1<<63 - 1, nil
		} else {
			err = wide
		}
		return 0, field.Invalid(field.NewPath("resourceVersion"), rv, err.Error())
	}
	return int64(n), nil
}
