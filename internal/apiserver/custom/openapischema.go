package custom

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// modelName is the name of a kind's schema: the group the other way round, as Java packages are named.
func (v *Version) modelName() string {
	parts := strings.Split(v.gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + v.gvk.Version + "." + v.gvk.Kind
}

// operationName is how ids of operations call the group version: example.com/v1 is ExampleComV1.
func (v *Version) operationName() string {
	var b strings.Builder
	for _, part := range append(strings.FieldsFunc(v.gvk.Group, func(r rune) bool { return r == '.' || r == '-' }), v.gvk.Version) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

const refPrefix = "#/components/schemas/"

// writeSchemas writes the schemas of the kind and of its list, each after a comma.
func (v *Version) writeSchemas(b *bytes.Buffer, v2 bool) error {
	s, err := v.schema()
	if err != nil {
		return err
	}
	schema := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	// A client of v2 would take fields that are not described for wrong ones, so there nothing is described that may have more.
	if s != nil && !(v2 && (s.XPreserveUnknownFields || v.preserves())) {
		s = s.DeepCopy().Unfold() // which changes what it is given
		if v2 {
			s = plainer(s)
		}
		schema = s.ToKubeOpenAPI()
		describeMeta(schema, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"], "ObjectMeta")
		describeEmbedded(schema, v2)
	}
	gvk := map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind}
	schema.AddExtension(gvkExtension, []any{gvk})

	list := &spec.Schema{SchemaProps: spec.SchemaProps{
		Description: v.listKind() + " is a list of " + v.gvk.Kind, Type: []string{"object"}, Required: []string{"items"},
		Properties: map[string]spec.Schema{
			"items": *spec.ArrayProperty(spec.RefSchema(refPrefix + v.modelName())).WithDescription("List of " + v.def.crd.Status.AcceptedNames.Plural +
				". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
		},
	}}
	describeMeta(list, metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"], "ListMeta")
	listKind := map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.listKind()}
	list.AddExtension(gvkExtension, []any{listKind})
	if fields := v.selectableFields(); fields != nil && !v2 {
		schema.AddExtension(selectableExtension, fields)
		list.AddExtension(selectableExtension, fields)
	}
	name := strings.TrimSuffix(v.modelName(), v.gvk.Kind) + v.listKind()
	for _, m := range []struct {
		name   string
		schema *spec.Schema
	}{{v.modelName(), schema}, {name, list}} {
		data, err := json.Marshal(m.schema)
		if err != nil {
			return err
		}
		if v2 {
			data = v2Refs(data)
		}
		b.WriteByte(',')
		b.Write(appendString(nil, m.name))
		b.WriteByte(':')
		b.Write(data)
	}
	return nil
}

// selectableExtension names the fields that a field selector may name.
const selectableExtension = "x-kubernetes-selectable-fields"

func (v *Version) selectableFields() []any {
	var out []any
	for _, f := range v.spec.SelectableFields {
		out = append(out, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
	}
	return out
}

// v2Refs turns references into those of OpenAPI v2, which stand alone.
func v2Refs(data []byte) []byte {
	data = allOfRef.ReplaceAll(data, []byte(`"$$ref":"#/definitions/$1"`))
	return bytes.ReplaceAll(data, []byte(`"$ref":"`+refPrefix), []byte(`"$ref":"#/definitions/`))
}

var allOfRef = regexp.MustCompile(`"allOf":\[\{"\$ref":"#/components/schemas/([^"]*)"\}\]`)

// plainer returns the schema without what OpenAPI v2 and its clients can't cope with.
func plainer(s *structuralschema.Structural) *structuralschema.Structural {
	out := s.DeepCopy()
	(&structuralschema.Visitor{Structural: func(s *structuralschema.Structural) bool {
		if v := s.ValueValidation; v != nil {
			v.AllOf, v.OneOf, v.AnyOf, v.Not = nil, nil, nil, nil
			v.Required = slices.DeleteFunc(v.Required, func(name string) bool { return s.Properties[name].Nullable })
		}
		if s.Nullable || s.XPreserveUnknownFields {
			s.Items, s.Properties = nil, nil
		}
		if s.Nullable || s.XPreserveUnknownFields && s.Type == "object" || s.Type == "array" && s.Items == nil {
			s.Type = ""
		}
		s.Nullable, s.Default = false, structuralschema.JSON{}
		return true
	}}).Visit(out)
	return out
}

func ref(model string) *spec.Schema {
	return &spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{*spec.RefSchema(refPrefix + model)}}}
}

// describeMeta gives a schema apiVersion, kind and metadata.
func describeMeta(s *spec.Schema, about, model string) {
	if s.Properties == nil {
		s.Properties = map[string]spec.Schema{}
	}
	doc := metav1.TypeMeta{}.SwaggerDoc()
	for _, name := range [...]string{"apiVersion", "kind"} {
		s.Properties[name] = *spec.StringProperty().WithDescription(doc[name])
	}
	s.Properties["metadata"] = *ref("io.k8s.apimachinery.pkg.apis.meta.v1." + model).WithDescription(about)
}

// describeEmbedded completes the schemas of objects within the object.
func describeEmbedded(s *spec.Schema, v2 bool) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		describeEmbedded(&p, v2)
		s.Properties[name] = p
	}
	if s.Items != nil {
		describeEmbedded(s.Items.Schema, v2)
	}
	if s.AdditionalProperties != nil {
		describeEmbedded(s.AdditionalProperties.Schema, v2)
	}
	if open, ok := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); v2 && ok && open {
		return // what is described must be all there is
	}
	if is, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !ok || !is {
		return
	}
	describeMeta(s, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"], "ObjectMeta")
	for _, name := range [...]string{"kind", "apiVersion"} {
		p := s.Properties[name]
		p.Description = embeddedDoc[name]
		s.Properties[name] = p
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// embeddedDoc is what the documents say of the type of an embedded object.
var embeddedDoc = map[string]string{
	"apiVersion": "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
	"kind":       "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
}
