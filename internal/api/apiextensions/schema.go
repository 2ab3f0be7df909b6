package apiextensions

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// types are those that OpenAPI v3 knows.
func types() []string {
	return []string{"array", "boolean", "integer", "number", "object", "string"}
}

// rootFields are the Go names of what may stand at the root of a schema with a status subresource: with all else, the schema of the
// status could not be looked at by itself.
var rootFields = [...]string{
	"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength", "MinLength", "Pattern",
	"MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties", "ExternalDocs", "Example", "XPreserveUnknownFields",
	"XValidations",
}

// schemaChecks checks the schemas of one definition.
type schemaChecks struct {
	*tolerance
	// structural demands structural schemas (KEP-1111).
	structural bool
	// expensive lets rules be as expensive as they like: those of versions that did not change.
	expensive bool
}

func (c *schemaChecks) forVersion(name string) *schemaChecks {
	if !c.unchanged[name] {
		return c
	}
	v := *c
	v.expensive = true
	return &v
}

// schema checks a whole schema.
func (c *schemaChecks) schema(v *internal.CustomResourceValidation, status bool, above *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	var errs field.ErrorList
	root := v.OpenAPIV3Schema
	if root != nil {
		p := above.Child("openAPIV3Schema")
		if status {
			errs = append(errs, rootErrors(root, above)...)
		}
		if root.Nullable {
			errs = append(errs, field.Forbidden(above.Child("openAPIV3Schema.nullable"), "nullable cannot be true at the root"))
		}
		var rules *scope
		var unstructured field.ErrorList
		if c.structural {
			var more field.ErrorList
			more, unstructured, rules = c.structuralErrors(root, p)
			errs = append(errs, more...)
		}
		w := &walk{checks: c, isRoot: true, rules: rules, defaults: true}
		w.node(root, p)
		errs = append(append(errs, w.found.schema...), w.found.rules...)
		if len(errs) == 0 {
			// These say again what the walk has said better, if it has said anything.
			errs = append(errs, unstructured...)
		}
		if rules != nil {
			errs = append(errs, rules.total.errors(p)...)
		}
	}
	if len(errs) == 0 {
		if _, _, err := validation.NewSchemaValidator(root); err != nil {
			errs = append(errs, field.Invalid(above, "", fmt.Sprintf("error building validator: %v", err)))
		}
	}
	return errs
}

// structuralErrors checks that the schema is structural and its defaults valid. The second list is about a schema from which none can
// be made at all. If all is well it returns where rules are looked at.
func (c *schemaChecks) structuralErrors(root *internal.JSONSchemaProps, p *field.Path) (errs, impossible field.ErrorList, rules *scope) {
	s, err := structuralschema.NewStructural(root)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(p, "", err.Error())}, nil
	}
	if errs := structuralschema.ValidateStructural(p, s); len(errs) > 0 {
		return errs, nil, nil
	}
	errs, err = defaulting.ValidateDefaults(background(), p, s, true, !c.unprunedDefaults)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(p, "", err.Error())}, nil, nil
	case len(errs) > 0:
		return errs, nil, nil
	}
	return nil, nil, rootScope(root)
}

// rootErrors finds what may not stand at the root of a schema with a status subresource; only the first is told.
func rootErrors(root *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	v := reflect.ValueOf(root).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch {
		case v.Field(i).IsZero():
		case name == "Type":
			if root.Type != "object" {
				return field.ErrorList{field.Invalid(p.Child("openAPIV3Schema.type"), root.Type, `only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)}
			}
		case !slices.Contains(rootFields[:], name):
			return field.ErrorList{field.Invalid(p.Child("openAPIV3Schema"), *root, fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", rootFields))}
		}
	}
	return nil
}

// findings keeps complaints about rules behind those about schemas.
type findings struct{ schema, rules field.ErrorList }

func (f *findings) add(e ...*field.Error) { f.schema = append(f.schema, e...) }

// walk is one step of the way through a schema.
type walk struct {
	checks *schemaChecks
	isRoot bool
	// defaults says that defaults may be set; where not, why.
	defaults   bool
	noDefaults string
	// meta is set inside of metadata, kind and apiVersion.
	meta bool
	// uncorrelatable is the first place above whose values can't be found again in an older state of the object.
	uncorrelatable *field.Path
	// rules is where rules are looked at; nil where they are not.
	rules *scope
	found findings
}

// into takes the walk a step down and comes back with what was found.
func (w *walk) into(j *internal.JSONSchemaProps, p *field.Path, rules *scope, change func(*walk)) {
	if j == nil {
		return
	}
	next := &walk{checks: w.checks, defaults: w.defaults, noDefaults: w.noDefaults, meta: w.meta, uncorrelatable: w.uncorrelatable, rules: rules}
	if change != nil {
		change(next)
	}
	next.node(j, p)
	w.found.schema = append(w.found.schema, next.found.schema...)
	w.found.rules = append(w.found.rules, next.found.rules...)
}

func (w *walk) node(j *internal.JSONSchemaProps, p *field.Path) {
	w.keywords(j, p)
	if j.UniqueItems {
		w.found.add(field.Forbidden(p.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"))
	}
	w.children(j, p)
	if j.XPreserveUnknownFields != nil && !*j.XPreserveUnknownFields {
		w.found.add(field.Invalid(p.Child("x-kubernetes-preserve-unknown-fields"), *j.XPreserveUnknownFields, "must be true or undefined"))
	}
	w.found.add(mapTypeErrors(j, p)...)
	w.found.add(w.listTypeErrors(j, p)...)
	if !w.checks.looseMapKeys {
		w.found.add(looseItems(j, p)...)
	}
	w.ruleErrors(j, p)
}

// keywords refuses what OpenAPI knows and custom resources do not.
func (w *walk) keywords(j *internal.JSONSchemaProps, p *field.Path) {
	if !w.checks.strangeTypes && j.Type != "" && !slices.Contains(types(), j.Type) {
		w.found.add(field.NotSupported(p.Child("type"), j.Type, types()))
	}
	if j.Default != nil && !w.defaults {
		w.found.add(field.Forbidden(p.Child("default"), strings.TrimRight("must not be set "+w.noDefaults, " ")))
	}
	for _, k := range []struct {
		name string
		used bool
	}{
		{"id", j.ID != ""}, {"additionalItems", j.AdditionalItems != nil}, {"patternProperties", len(j.PatternProperties) > 0},
		{"definitions", len(j.Definitions) > 0}, {"dependencies", j.Dependencies != nil}, {"$ref", j.Ref != nil},
	} {
		if k.used {
			w.found.add(field.Forbidden(p.Child(k.name), k.name+" is not supported"))
		}
	}
	if j.Type == "null" {
		w.found.add(field.Forbidden(p.Child("type"), "type cannot be set to null, use nullable as an alternative"))
	}
	if j.Items != nil && len(j.Items.JSONSchemas) > 0 {
		w.found.add(field.Forbidden(p.Child("items"), "items must be a schema object and not an array"))
	}
	if w.meta && j.XEmbeddedResource {
		w.found.add(field.Forbidden(p.Child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta"))
	}
}

// children goes to all schemas below.
func (w *walk) children(j *internal.JSONSchemaProps, p *field.Path) {
	if a := j.AdditionalProperties; a != nil {
		if len(j.Properties) > 0 && (!a.Allows || a.Schema != nil) {
			w.found.add(field.Forbidden(p.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
		}
		w.into(a.Schema, p.Child("additionalProperties"), w.rules.values(a.Schema), func(next *walk) {
			if w.meta {
				next.defaults, next.noDefaults = false, "inside additionalProperties applying to object metadata"
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(j.Properties)) {
		property := j.Properties[name]
		w.into(&property, p.Child("properties").Key(name), w.rules.property(&property, name), func(next *walk) {
			if !cel.MapIsCorrelatable(j.XMapType) {
				next.forget(p)
			}
			if !w.isRoot && !j.XEmbeddedResource || name != "metadata" && name != "kind" && name != "apiVersion" {
				return
			}
			next.meta = true
			if w.isRoot {
				next.defaults, next.noDefaults = false, "in top-level "+name
			}
		})
	}
	w.into(j.Not, p.Child("not"), nil, nil)
	for _, list := range []struct {
		name    string
		schemas []internal.JSONSchemaProps
	}{{"allOf", j.AllOf}, {"oneOf", j.OneOf}, {"anyOf", j.AnyOf}} {
		for i := range list.schemas {
			w.into(&list.schemas[i], p.Child(list.name).Index(i), nil, nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Definitions)) {
		d := j.Definitions[name]
		w.into(&d, p.Child("definitions").Key(name), nil, nil)
	}
	if j.Items != nil {
		change := func(next *walk) {
			// Items are found again by their keys only.
			if j.XListType == nil || *j.XListType != "map" {
				next.forget(p)
			}
		}
		w.into(j.Items.Schema, p.Child("items"), w.rules.items(j.Items.Schema), change)
		for i := range j.Items.JSONSchemas {
			w.into(&j.Items.JSONSchemas[i], p.Child("items").Index(i), w.rules.items(&j.Items.JSONSchemas[i]), change)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Dependencies)) {
		w.into(j.Dependencies[name].Schema, p.Child("dependencies").Key(name), nil, nil)
	}
}

// forget notes that values from here on can't be found again in an older state.
func (w *walk) forget(p *field.Path) {
	if w.uncorrelatable == nil {
		w.uncorrelatable = p
	}
}

func mapTypeErrors(j *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	if j.XMapType == nil {
		return nil
	}
	var errs field.ErrorList
	const want = "must be object if x-kubernetes-map-type is specified"
	switch j.Type {
	case "object":
	case "":
		errs = append(errs, field.Required(p.Child("type"), want))
	default:
		errs = append(errs, field.Invalid(p.Child("type"), j.Type, want))
	}
	if *j.XMapType != "atomic" && *j.XMapType != "granular" {
		errs = append(errs, field.NotSupported(p.Child("x-kubernetes-map-type"), *j.XMapType, []string{"atomic", "granular"}))
	}
	return errs
}

func (w *walk) listTypeErrors(j *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("x-kubernetes-list-type")
	if j.XListType != nil {
		const want = "must be array if x-kubernetes-list-type is specified"
		switch {
		case j.Type == "":
			errs = append(errs, field.Required(p.Child("type"), want))
		case j.Type != "array":
			errs = append(errs, field.Invalid(p.Child("type"), j.Type, want))
		case !w.checks.looseSets:
			errs = append(errs, looseSet(j, p)...)
		}
		if t := *j.XListType; t != "atomic" && t != "set" && t != "map" {
			errs = append(errs, field.NotSupported(at, t, []string{"atomic", "set", "map"}))
		}
	}
	if len(j.XListMapKeys) > 0 {
		const want = "must be map if x-kubernetes-list-map-keys is non-empty"
		if j.XListType == nil {
			errs = append(errs, field.Required(at, want))
		} else if *j.XListType != "map" {
			errs = append(errs, field.Invalid(at, *j.XListType, want))
		}
	}
	if j.XListType != nil && *j.XListType == "map" {
		errs = append(errs, mapKeyErrors(j, p)...)
	}
	return errs
}

// looseSet finds a set whose items are not compared as a whole.
func looseSet(j *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	if j.XListType == nil || *j.XListType != "set" || j.Items == nil || j.Items.Schema == nil {
		return nil
	}
	const want = "must be atomic as item of a list with x-kubernetes-list-type=set"
	switch is := j.Items.Schema; {
	case is.Type == "array" && is.XListType != nil && *is.XListType != "atomic":
		return field.ErrorList{field.Invalid(p.Child("items").Child("x-kubernetes-list-type"), is.XListType, want)}
	case is.Type == "object" && (is.XMapType == nil || *is.XMapType != "atomic"):
		return field.ErrorList{field.Invalid(p.Child("items").Child("x-kubernetes-map-type"), is.XListType, want)}
	}
	return nil
}

func mapKeyErrors(j *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("x-kubernetes-list-map-keys")
	if len(j.XListMapKeys) == 0 {
		errs = append(errs, field.Required(at, "must not be empty if x-kubernetes-list-type is map"))
	}
	switch {
	case j.Items == nil:
		return append(errs, field.Required(p.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
	case j.Items.Schema == nil:
		return append(errs, field.Invalid(p.Child("items"), j.Items, "must only have a single schema if x-kubernetes-list-type is map"))
	case j.Items.Schema.Type != "object":
		return append(errs, field.Invalid(p.Child("items").Child("type"), j.Items.Schema.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	seen := map[string]bool{}
	for _, k := range j.XListMapKeys {
		if s, ok := j.Items.Schema.Properties[k]; !ok {
			errs = append(errs, field.Invalid(at, j.XListMapKeys, "entries must all be names of item properties"))
		} else if s.Type == "array" || s.Type == "object" {
			errs = append(errs, field.Invalid(p.Child("items").Child("properties").Key(k).Child("type"), j.Items.Schema.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map"))
		}
		if seen[k] {
			errs = append(errs, field.Invalid(at, j.XListMapKeys, "must not contain duplicate entries"))
		}
		seen[k] = true
	}
	return errs
}

// looseItems finds items of sets and maps that may be null or lack their keys.
func looseItems(j *internal.JSONSchemaProps, p *field.Path) field.ErrorList {
	if j.Items == nil || j.Items.Schema == nil || j.XListType == nil || *j.XListType != "set" && *j.XListType != "map" {
		return nil
	}
	var errs field.ErrorList
	is := j.Items.Schema
	if is.Nullable {
		errs = append(errs, field.Forbidden(p.Child("items").Child("nullable"), "cannot be nullable when x-kubernetes-list-type is "+*j.XListType))
	}
	if *j.XListType != "map" {
		return errs
	}
	for _, k := range j.XListMapKeys {
		key, ok := is.Properties[k]
		if !ok {
			continue
		}
		at := p.Child("items").Child("properties").Key(k)
		if !slices.Contains(is.Required, k) && key.Default == nil {
			errs = append(errs, field.Required(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if key.Nullable {
			errs = append(errs, field.Forbidden(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		}
	}
	return errs
}

// allSchemas lists the root schemas of a definition.
func allSchemas(s *internal.CustomResourceDefinitionSpec) []*internal.JSONSchemaProps {
	var out []*internal.JSONSchemaProps
	if s.Validation != nil && s.Validation.OpenAPIV3Schema != nil {
		out = append(out, s.Validation.OpenAPIV3Schema)
	}
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			out = append(out, v.Schema.OpenAPIV3Schema)
		}
	}
	return out
}

// anySchema says whether a part of a schema of the definition is as f asks.
func anySchema(s *internal.CustomResourceDefinitionSpec, f func(*internal.JSONSchemaProps) bool) bool {
	return slices.ContainsFunc(allSchemas(s), func(j *internal.JSONSchemaProps) bool { return anyPart(j, f) })
}

func anyPart(j *internal.JSONSchemaProps, f func(*internal.JSONSchemaProps) bool) bool {
	if j == nil {
		return false
	}
	if f(j) {
		return true
	}
	list := func(l []internal.JSONSchemaProps) bool {
		for i := range l {
			if anyPart(&l[i], f) {
				return true
			}
		}
		return false
	}
	byName := func(m map[string]internal.JSONSchemaProps) bool {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if s := m[name]; anyPart(&s, f) {
				return true
			}
		}
		return false
	}
	if j.Items != nil && (anyPart(j.Items.Schema, f) || list(j.Items.JSONSchemas)) {
		return true
	}
	if list(j.AllOf) || list(j.AnyOf) || list(j.OneOf) || anyPart(j.Not, f) || byName(j.Properties) {
		return true
	}
	if j.AdditionalProperties != nil && anyPart(j.AdditionalProperties.Schema, f) {
		return true
	}
	if byName(j.PatternProperties) || j.AdditionalItems != nil && anyPart(j.AdditionalItems.Schema, f) || byName(j.Definitions) {
		return true
	}
	for _, d := range j.Dependencies {
		if anyPart(d.Schema, f) {
			return true
		}
	}
	return false
}

// hasExtensions says whether a schema uses extensions that only structural schemas have.
func hasExtensions(j *internal.JSONSchemaProps) bool {
	return j.XEmbeddedResource || j.XPreserveUnknownFields != nil || j.XIntOrString || len(j.XListMapKeys) > 0 || j.XListType != nil || len(j.XValidations) > 0
}

// unprunedDefaults says whether defaults hold what the schema does not know.
func unprunedDefaults(j *internal.JSONSchemaProps, s *structuralschema.Structural) bool {
	if !anyPart(j, func(j *internal.JSONSchemaProps) bool { return j.Default != nil }) {
		return false
	}
	pruned := s.DeepCopy()
	return defaulting.PruneDefaults(pruned) == nil && !reflect.DeepEqual(s, pruned)
}
