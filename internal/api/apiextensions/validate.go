package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Definitions are checked in upstream's unversioned form, because complaints show it: what all versions have in common has moved
// to spec.validation, spec.subresources and so on, and values are printed with Go's field names.
func unversioned(d *apiextensionsv1.CustomResourceDefinition) (*internal.CustomResourceDefinition, error) {
	out := &internal.CustomResourceDefinition{}
	err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d, out, nil)
	return out, err
}

// tolerance says what is let be because the definition had it before.
type tolerance struct {
	strangeReviewVersions, badBundle          bool
	noSchema, strangeTypes, looseSchema       bool
	unprunedDefaults, looseSets, looseMapKeys bool
	immutableNames                            bool
	// unchanged versions keep rules that have become too expensive; manySelectable keep too many selectable fields ("" is the
	// definition's own).
	unchanged, manySelectable map[string]bool
	// rules and messages are the CEL expressions that there were.
	rules, messages map[string]bool
}

// validateNew checks a new definition.
func validateNew(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	crd, err := unversioned(d)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	var errs field.ErrorList
	if d.GenerateName != "" && d.GenerateName != crd.Spec.Names.Plural+"."+crd.Spec.Group {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "generateName"), d.GenerateName, `must be spec.names.plural+"."+spec.group`))
	}
	if d.Name != "" && d.Name != crd.Spec.Names.Plural+"."+crd.Spec.Group {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), d.Name, `must be spec.names.plural+"."+spec.group`))
	}
	t := &tolerance{badBundle: true} // until it is established
	errs = append(errs, t.spec(&crd.Spec)...)
	errs = append(errs, validateNames(&crd.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))...)
	errs = append(errs, validateStored(crd)...)
	errs = append(errs, validateApproval(d, nil)...)
	return append(errs, validatePreserve(crd, nil)...)
}

// validateChange checks a changed definition.
func validateChange(d, before *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	crd, err := unversioned(d)
	var old *internal.CustomResourceDefinition
	if err == nil {
		old, err = unversioned(before)
	}
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	t := tolerated(crd, old)
	p := field.NewPath("spec")
	errs := t.spec(&crd.Spec)
	if t.immutableNames {
		errs = append(errs, check.Immutable(crd.Spec.Scope, old.Spec.Scope, p.Child("scope"))...)
		errs = append(errs, check.Immutable(crd.Spec.Names.Kind, old.Spec.Names.Kind, p.Child("names", "kind"))...)
	}
	errs = append(errs, check.Immutable(crd.Spec.Group, old.Spec.Group, p.Child("group"))...)
	errs = append(errs, check.Immutable(crd.Spec.Names.Plural, old.Spec.Names.Plural, p.Child("names", "plural"))...)
	errs = append(errs, validateNames(&crd.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))...)
	errs = append(errs, validateStored(crd)...)
	errs = append(errs, validateApproval(d, before)...)
	return append(errs, validatePreserve(crd, old)...)
}

// spec checks what is defined.
func (t *tolerance) spec(s *internal.CustomResourceDefinitionSpec) field.ErrorList {
	p := field.NewPath("spec")
	var errs field.ErrorList
	switch group := p.Child("group"); {
	case s.Group == "":
		errs = append(errs, field.Required(group, ""))
	case len(validation.IsDNS1123Subdomain(s.Group)) > 0:
		errs = append(errs, field.Invalid(group, s.Group, strings.Join(validation.IsDNS1123Subdomain(s.Group), ",")))
	case !strings.Contains(s.Group, "."):
		errs = append(errs, field.Invalid(group, s.Group, "should be a domain with at least one dot"))
	}
	errs = append(errs, oneOf(string(s.Scope), p.Child("scope"), string(internal.ClusterScoped), string(internal.NamespaceScoped))...)
	errs = append(errs, t.schemas(s, p)...)

	prunes := s.PreserveUnknownFields == nil || !*s.PreserveUnknownFields
	c := &schemaChecks{tolerance: t, structural: !t.looseSchema || prunes}
	if anySchema(s, func(j *internal.JSONSchemaProps) bool { return j.Default != nil }) {
		c.structural = true
		if s.PreserveUnknownFields == nil || *s.PreserveUnknownFields {
			errs = append(errs, field.Invalid(p.Child("preserveUnknownFields"), true, "must be false in order to use defaults in the schema"))
		}
	}
	c.structural = c.structural || anySchema(s, hasExtensions)

	stored, unique := 0, true
	names := map[string]bool{}
	for i := range s.Versions {
		v, at := &s.Versions[i], p.Child("versions").Index(i)
		if v.Storage {
			stored++
		}
		unique = unique && !names[v.Name]
		names[v.Name] = true
		if texts := validation.IsDNS1035Label(v.Name); len(texts) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(texts, ",")))
		}
		errs = append(errs, c.version(v, s, at)...)
	}
	if !unique {
		errs = append(errs, field.Invalid(p.Child("versions"), s.Versions, "must contain unique version names"))
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(p.Child("versions"), s.Versions, "must have exactly one version marked as storage version"))
	}
	if s.Version != "" {
		if texts := validation.IsDNS1035Label(s.Version); len(texts) > 0 {
			errs = append(errs, field.Invalid(p.Child("version"), s.Version, strings.Join(texts, ",")))
		}
	}
	for _, n := range []struct{ name, value string }{
		{"plural", s.Names.Plural}, {"singular", s.Names.Singular}, {"kind", s.Names.Kind}, {"listKind", s.Names.ListKind},
	} {
		if n.value == "" {
			errs = append(errs, field.Required(p.Child("names", n.name), ""))
		}
	}
	errs = append(errs, validateNames(&s.Names, p.Child("names"))...)
	errs = append(errs, c.forVersion(s.Version).schema(s.Validation, anyStatus(s), p.Child("validation"))...)
	errs = append(errs, validateSubresources(s.Subresources, p.Child("subresources"))...)
	for i := range s.AdditionalPrinterColumns {
		errs = append(errs, validateColumn(&s.AdditionalPrinterColumns[i], p.Child("additionalPrinterColumns").Index(i))...)
	}
	if len(s.SelectableFields) > 0 {
		if s.Validation == nil {
			errs = append(errs, field.Invalid(p.Child("selectableFields"), "", "may only be set when validations.schema is included"))
		} else {
			errs = append(errs, t.selectable(s.SelectableFields, s.Validation.OpenAPIV3Schema, p, "")...)
		}
	}
	if s.Conversion != nil && s.Conversion.Strategy != internal.NoneConverter && (s.PreserveUnknownFields == nil || *s.PreserveUnknownFields) {
		errs = append(errs, field.Invalid(p.Child("conversion", "strategy"), s.Conversion.Strategy, "must be None if spec.preserveUnknownFields is true"))
	}
	return append(errs, t.conversion(s.Conversion, p.Child("conversion"))...)
}

// schemas checks that there are schemas where they have to be.
func (t *tolerance) schemas(s *internal.CustomResourceDefinitionSpec, p *field.Path) field.ErrorList {
	if s.Validation != nil && s.Validation.OpenAPIV3Schema != nil {
		return nil
	}
	prunes := s.PreserveUnknownFields == nil || !*s.PreserveUnknownFields
	var errs field.ErrorList
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			continue
		}
		at := p.Child("versions").Index(i).Child("schema", "openAPIV3Schema")
		switch {
		case !t.noSchema:
			errs = append(errs, field.Required(at, ""))
		case prunes && v.Served:
			errs = append(errs, field.Required(at, "because otherwise all fields are pruned"))
		}
	}
	return errs
}

// version checks what is particular to a version.
func (c *schemaChecks) version(v *internal.CustomResourceDefinitionVersion, s *internal.CustomResourceDefinitionSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, text := range deprecationErrors(v.Deprecated, v.DeprecationWarning) {
		errs = append(errs, field.Invalid(p.Child("deprecationWarning"), v.DeprecationWarning, text))
	}
	subresources := v.Subresources
	if !slices.ContainsFunc(s.Versions, func(v internal.CustomResourceDefinitionVersion) bool { return v.Subresources != nil }) {
		subresources = s.Subresources
	}
	errs = append(errs, c.forVersion(v.Name).schema(v.Schema, hasStatus(subresources), p.Child("schema"))...)
	errs = append(errs, validateSubresources(v.Subresources, p.Child("subresources"))...)
	for i := range v.AdditionalPrinterColumns {
		errs = append(errs, validateColumn(&v.AdditionalPrinterColumns[i], p.Child("additionalPrinterColumns").Index(i))...)
	}
	if len(v.SelectableFields) > 0 {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			errs = append(errs, field.Invalid(p.Child("selectableFields"), "", "may only be set when `version.schema.openAPIV3Schema` is not included"))
		} else {
			errs = append(errs, c.selectable(v.SelectableFields, v.Schema.OpenAPIV3Schema, p, v.Name)...)
		}
	}
	return errs
}

const maxDeprecationWarning = 256 // characters

func deprecationErrors(deprecated bool, warning *string) []string {
	switch {
	case warning == nil:
		return nil
	case !deprecated:
		return []string{"can only be set for deprecated versions"}
	}
	var texts []string
	if len(*warning) > maxDeprecationWarning {
		texts = append(texts, "must be <= 256 characters long")
	}
	if *warning == "" {
		texts = append(texts, "must not be an empty string")
	}
	for i, r := range *warning {
		if !unicode.IsPrint(r) {
			texts = append(texts, fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i))
			break
		}
		if unicode.IsControl(r) {
			texts = append(texts, fmt.Sprintf("must only contain printable UTF-8 characters; control character found at index %d", i))
			break
		}
	}
	if !utf8.ValidString(*warning) {
		texts = append(texts, "must only contain printable UTF-8 characters")
	}
	return texts
}

func hasStatus(s *internal.CustomResourceSubresources) bool { return s != nil && s.Status != nil }

func anyStatus(s *internal.CustomResourceDefinitionSpec) bool {
	return hasStatus(s.Subresources) ||
		slices.ContainsFunc(s.Versions, func(v internal.CustomResourceDefinitionVersion) bool { return hasStatus(v.Subresources) })
}

// oneOf wants one of a few words.
func oneOf(v string, p *field.Path, allowed ...string) field.ErrorList {
	switch {
	case v == "":
		return field.ErrorList{field.Required(p, "")}
	case !slices.Contains(allowed, v):
		return field.ErrorList{field.NotSupported(p, v, allowed)}
	}
	return nil
}

// validateNames checks names that are there; which of them must be is another question.
func validateNames(n *internal.CustomResourceDefinitionNames, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	label := func(v, form string, at *field.Path, before string) {
		if texts := validation.IsDNS1035Label(form); len(texts) > 0 {
			errs = append(errs, field.Invalid(at, v, before+strings.Join(texts, ",")))
		}
	}
	const mixed = "may have mixed case, but should otherwise match: "
	for _, f := range []struct{ name, value, form, before string }{
		{"plural", n.Plural, n.Plural, ""}, {"singular", n.Singular, n.Singular, ""},
		{"kind", n.Kind, strings.ToLower(n.Kind), mixed}, {"listKind", n.ListKind, strings.ToLower(n.ListKind), mixed},
	} {
		if f.value != "" {
			label(f.value, f.form, p.Child(f.name), f.before)
		}
	}
	for i, s := range n.ShortNames {
		label(s, s, p.Child("shortNames").Index(i), "")
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(p.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, c := range n.Categories {
		label(c, c, p.Child("categories").Index(i), "")
	}
	return errs
}

// validateStored checks that every version in which something may be stored is still defined.
func validateStored(crd *internal.CustomResourceDefinition) field.ErrorList {
	p, stored := field.NewPath("status", "storedVersions"), crd.Status.StoredVersions
	if len(stored) == 0 {
		return field.ErrorList{field.Invalid(p, stored, "must have at least one stored version")}
	}
	var errs field.ErrorList
	defined := map[string]bool{}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		again := defined[v.Name] // a name may have been used twice: only the first counts
		defined[v.Name] = true
		if v.Storage && (again || !slices.Contains(stored, v.Name)) {
			errs = append(errs, field.Invalid(p, stored, "must have the storage version "+v.Name))
		}
	}
	for i, v := range stored {
		if !defined[v] && slices.Index(stored[i+1:], v) < 0 {
			errs = append(errs, field.Invalid(p.Index(i), v, fmt.Sprintf("missing from spec.versions; %[1]s was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in %[1]s and removes %[1]s from status.storedVersions", v)))
		}
	}
	return errs
}

// validateApproval checks that a definition in one of the community's groups says who approved it (KEP-1111).
func validateApproval(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return nil
	}
	state, why := apihelpers.GetAPIApprovalState(d.Annotations)
	if old != nil {
		if before, _ := apihelpers.GetAPIApprovalState(old.Annotations); before == state {
			return nil
		}
	}
	const name = apiextensionsv1.KubeAPIApprovedAnnotation
	p := field.NewPath("metadata", "annotations").Key(name)
	switch state {
	case apihelpers.APIApproved, apihelpers.APIApprovalBypassed:
		return nil
	case apihelpers.APIApprovalMissing:
		return field.ErrorList{field.Required(p, why)}
	}
	return field.ErrorList{field.Invalid(p, d.Annotations[name], why)}
}

func validatePreserve(crd, old *internal.CustomResourceDefinition) field.ErrorList {
	on := func(c *internal.CustomResourceDefinition) bool {
		return c != nil && c.Spec.PreserveUnknownFields != nil && *c.Spec.PreserveUnknownFields
	}
	if !on(crd) || on(old) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "preserveUnknownFields"), crd.Spec.PreserveUnknownFields,
		"cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead")}
}

const columnTypes = "boolean,date,integer,number,string"

func validateColumn(c *internal.CustomResourceColumnDefinition, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(p.Child("name"), ""))
	}
	switch types := strings.Split(columnTypes, ","); {
	case c.Type == "":
		errs = append(errs, field.Required(p.Child("type"), "must be one of "+columnTypes))
	case !slices.Contains(types, c.Type):
		errs = append(errs, field.Invalid(p.Child("type"), c.Type, "must be one of "+columnTypes))
	}
	const formats = "byte,date,date-time,double,float,int32,int64,password"
	if c.Format != "" && !slices.Contains(strings.Split(formats, ","), c.Format) {
		errs = append(errs, field.Invalid(p.Child("format"), c.Format, "must be one of "+formats))
	}
	if c.JSONPath == "" {
		return append(errs, field.Required(p.Child("JSONPath"), ""))
	}
	return append(errs, simplePath(c.JSONPath, p.Child("JSONPath"))...)
}

func simplePath(path string, p *field.Path) field.ErrorList {
	if !strings.HasPrefix(path, ".") {
		return field.ErrorList{field.Invalid(p, path, "must be a simple json path starting with .")}
	}
	return nil
}

func validateSubresources(s *internal.CustomResourceSubresources, p *field.Path) field.ErrorList {
	if s == nil || s.Scale == nil {
		return nil
	}
	var errs field.ErrorList
	path := func(v, name, complaint string, value any, below ...string) {
		at := p.Child("scale." + name)
		if more := simplePath(v, at); len(more) > 0 {
			errs = append(errs, more...)
		} else if !slices.ContainsFunc(below, func(prefix string) bool { return strings.HasPrefix(v, prefix) }) {
			errs = append(errs, field.Invalid(at, value, complaint))
		}
	}
	sc := s.Scale
	if sc.SpecReplicasPath == "" {
		errs = append(errs, field.Required(p.Child("scale.specReplicasPath"), ""))
	} else {
		path(sc.SpecReplicasPath, "specReplicasPath", "should be a json path under .spec", sc.SpecReplicasPath, ".spec.")
	}
	if sc.StatusReplicasPath == "" {
		errs = append(errs, field.Required(p.Child("scale.statusReplicasPath"), ""))
	} else {
		path(sc.StatusReplicasPath, "statusReplicasPath", "should be a json path under .status", sc.StatusReplicasPath, ".status.")
	}
	if l := sc.LabelSelectorPath; l != nil && *l != "" {
		path(*l, "labelSelectorPath", "should be a json path under either .spec or .status", l, ".spec.", ".status.")
	}
	return errs
}

// maxSelectable is how many fields of a version may be selectable.
const maxSelectable = 8

func (t *tolerance) selectable(list []internal.SelectableField, props *internal.JSONSchemaProps, above *field.Path, version string) field.ErrorList {
	var errs field.ErrorList
	p := above.Child("selectableFields")
	schema, err := structuralschema.NewStructural(props)
	if err != nil {
		errs = append(errs, field.Invalid(above.Child("schema.openAPIV3Schema"), "", err.Error()))
	}
	if schema == nil { // there is none, or it means nothing: no path leads anywhere
		schema = &structuralschema.Structural{}
	}
	seen := map[string]bool{}
	for i, f := range list {
		at := p.Index(i).Child("jsonPath")
		if f.JSONPath == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		path, found, err := cel.ValidFieldPath(f.JSONPath, withoutHoles(schema), cel.WithFieldPathAllowArrayNotation(false))
		if err != nil {
			errs = append(errs, field.Invalid(at, f.JSONPath, fmt.Sprintf("is an invalid path: %v", err)))
			continue
		}
		if path.Root().String() == "metadata" {
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		}
		if found == nil || found.Type != "string" && found.Type != "boolean" && found.Type != "integer" {
			errs = append(errs, field.Invalid(at, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		}
		if seen[path.String()] {
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		}
		seen[path.String()] = true
	}
	if len(seen) > maxSelectable && !t.manySelectable[version] {
		errs = append(errs, field.TooMany(p, len(seen), maxSelectable))
	}
	return errs
}

// withoutHoles is a schema with one that allows nothing in the places of additional properties that have none (`additionalProperties: true`): the library
// follows paths into what is not there.
func withoutHoles(s *structuralschema.Structural) *structuralschema.Structural {
	if s == nil {
		return &structuralschema.Structural{}
	}
	out := *s
	if s.Items != nil {
		out.Items = withoutHoles(s.Items)
	}
	if s.AdditionalProperties != nil {
		more := *s.AdditionalProperties
		more.Structural = withoutHoles(more.Structural)
		out.AdditionalProperties = &more
	}
	if s.Properties != nil {
		out.Properties = make(map[string]structuralschema.Structural, len(s.Properties))
		for name, p := range s.Properties {
			out.Properties[name] = *withoutHoles(&p)
		}
	}
	return &out
}

// tolerated finds out what the old definition had that is not accepted from new ones.
func tolerated(crd, old *internal.CustomResourceDefinition) *tolerance {
	s := &old.Spec
	t := &tolerance{
		strangeReviewVersions: s.Conversion != nil && len(s.Conversion.ConversionReviewVersions) > 0 && !slices.ContainsFunc(s.Conversion.ConversionReviewVersions, knownReview),
		immutableNames:        internal.IsCRDConditionTrue(old, internal.Established),
		strangeTypes:          anySchema(s, func(j *internal.JSONSchemaProps) bool { return j.Type != "" && !slices.Contains(types(), j.Type) }),
		looseSets:             anySchema(s, func(j *internal.JSONSchemaProps) bool { return len(looseSet(j, nil)) > 0 }),
		looseMapKeys:          anySchema(s, func(j *internal.JSONSchemaProps) bool { return len(looseItems(j, nil)) > 0 }),
		unchanged:             map[string]bool{}, manySelectable: map[string]bool{}, rules: map[string]bool{}, messages: map[string]bool{},
	}
	t.badBundle = !t.immutableNames || s.Conversion != nil && s.Conversion.WebhookClientConfig != nil && len(s.Conversion.WebhookClientConfig.CABundle) > 0 &&
		bundleError(s.Conversion.WebhookClientConfig.CABundle) != nil
	if s.Validation == nil || s.Validation.OpenAPIV3Schema == nil {
		t.noSchema = slices.ContainsFunc(s.Versions, func(v internal.CustomResourceDefinitionVersion) bool {
			return v.Schema == nil || v.Schema.OpenAPIV3Schema == nil
		})
	}
	for _, j := range allSchemas(s) {
		structural, err := structuralschema.NewStructural(j)
		loose := err != nil || len(structuralschema.ValidateStructural(nil, structural)) > 0
		t.looseSchema = t.looseSchema || loose
		t.unprunedDefaults = t.unprunedDefaults || !loose && unprunedDefaults(j, structural)
	}
	anySchema(s, func(j *internal.JSONSchemaProps) bool {
		for i := range j.XValidations {
			t.rules[j.XValidations[i].Rule] = true
			if m := j.XValidations[i].MessageExpression; m != "" {
				t.messages[m] = true
			}
		}
		return false
	})
	if len(s.SelectableFields) > maxSelectable && equality.Semantic.DeepEqual(crd.Spec.SelectableFields, s.SelectableFields) {
		t.manySelectable[""] = true
	}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		for j := range s.Versions {
			o := &s.Versions[j]
			if o.Name != v.Name {
				continue
			}
			if len(o.SelectableFields) > maxSelectable && equality.Semantic.DeepEqual(v.SelectableFields, o.SelectableFields) {
				t.manySelectable[v.Name] = true
			}
			a, err := internal.GetSchemaForVersion(crd, v.Name)
			if err != nil {
				continue
			}
			if b, err := internal.GetSchemaForVersion(old, v.Name); err == nil && equality.Semantic.DeepEqual(a, b) {
				t.unchanged[v.Name] = true
			}
		}
	}
	return t
}

// background is for the libraries that want a context to be interrupted by; validation is short.
func background() context.Context { return context.Background() }
