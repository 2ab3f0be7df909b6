package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/celox/celox/internal/apiserver/openapi"
)

// OpenAPI describes custom resources to clients: one v3 document a group version. It is an openapi.Source. A document is made when
// somebody wants to read it; its name changes its hash with every change of a definition, without it being made.
type OpenAPI struct {
	registry *Registry
	template func() (*template, error)
}

// NewOpenAPI returns the documents of what r serves.
func NewOpenAPI(r *Registry) *OpenAPI {
	return &OpenAPI{registry: r, template: sync.OnceValues(newTemplate)}
}

// Revision implements openapi.Source.
func (o *OpenAPI) Revision() uint64 { return o.registry.Revision() }

// Documents implements openapi.Source.
func (o *OpenAPI) Documents() map[string]uint64 {
	out := map[string]uint64{}
	for _, group := range o.registry.Groups() {
		all, revision := o.registry.Definitions(group)
		for _, s := range all {
			for _, v := range s.Versions() {
				out["apis/"+group+"/"+v.spec.Name] = revision
			}
		}
	}
	return out
}

// Hash names the contents of a document: it is another one when a definition of the group has changed, and the same after a restart.
func (o *OpenAPI) Hash(name string) string {
	group, version, ok := splitDocument(name)
	if !ok {
		return ""
	}
	var b strings.Builder
	all, _ := o.registry.Definitions(group)
	for _, s := range all {
		if _, ok := s.Definition.Served(version); !ok {
			continue
		}
		crd := s.Newest()
		b.WriteString(string(crd.UID))
		b.WriteByte(':')
		b.WriteString(strconv.FormatInt(crd.Generation, 10))
		b.WriteByte(':')
		b.WriteString(strconv.FormatBool(isTrue(crd, apiextensionsv1.Established)))
		b.WriteByte(';')
	}
	return b.String()
}

func splitDocument(name string) (group, version string, ok bool) {
	rest, ok := strings.CutPrefix(name, "apis/")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// Document implements openapi.Source.
func (o *OpenAPI) Document(name string) ([]byte, error) {
	group, version, ok := splitDocument(name)
	if !ok {
		return nil, nil
	}
	t, err := o.template()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`{"openapi":"3.0.0","info":{"title":"Kubernetes CRD Swagger","version":"v0.1.0"},"paths":{`)
	var served []*Version
	all, _ := o.registry.Definitions(group)
	for _, s := range all {
		if v, ok := s.Definition.Served(version); ok && isTrue(s.Newest(), apiextensionsv1.Established) {
			served = append(served, v)
		}
	}
	if len(served) == 0 {
		return nil, nil
	}
	for i, v := range served {
		if i > 0 {
			b.WriteByte(',')
		}
		t.writePaths(&b, v)
	}
	b.WriteString(`},"components":{"schemas":{`)
	b.Write(t.schemas)
	for _, v := range served {
		if err := v.writeSchemas(&b, false); err != nil {
			return nil, fmt.Errorf("describing %s: %w", v.gvk, err)
		}
	}
	b.WriteString(`},"securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}}}`)
	return b.Bytes(), nil
}

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
	if s != nil && v2 {
		s = plainer(s)
	}
	if s != nil && (!v2 || !s.XPreserveUnknownFields) {
		schema = s.ToKubeOpenAPI()
		describeMeta(schema, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"], "ObjectMeta")
		describeEmbedded(schema)
	}
	gvk := map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind}
	schema.AddExtension(gvkExtension, []any{gvk})

	list := &spec.Schema{SchemaProps: spec.SchemaProps{
		Description: v.listKind() + " is a list of " + v.gvk.Kind, Type: []string{"object"}, Required: []string{"items"},
		Properties: map[string]spec.Schema{
			"items": *spec.ArrayProperty(ref(v.modelName())).WithDescription("List of " + v.def.crd.Status.AcceptedNames.Plural +
				". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
		},
	}}
	describeMeta(list, metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"], "ListMeta")
	listKind := map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.listKind()}
	list.AddExtension(gvkExtension, []any{listKind})
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

// v2Refs turns references into those of OpenAPI v2, which stand alone.
func v2Refs(data []byte) []byte {
	data = allOfRef.ReplaceAll(data, []byte(`"$$ref":"#/definitions/$1"`))
	return data
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
		s.Nullable = false
		return true
	}}).Visit(out)
	return out
}

// Definitions implements openapi.Definer.
func (o *OpenAPI) Definitions() ([]byte, error) {
	var b bytes.Buffer
	for _, group := range o.registry.Groups() {
		all, _ := o.registry.Definitions(group)
		for _, s := range all {
			if !isTrue(s.Newest(), apiextensionsv1.Established) {
				continue
			}
			for _, v := range s.Versions() {
				v.v2Once.Do(func() {
					var one bytes.Buffer
					v.v2Err = v.writeSchemas(&one, true)
					v.v2 = one.Bytes()
				})
				if v.v2Err != nil {
					return nil, fmt.Errorf("describing %s: %w", v.gvk, v.v2Err)
				}
				b.Write(v.v2)
			}
		}
	}
	return bytes.TrimPrefix(b.Bytes(), []byte(",")), nil
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
func describeEmbedded(s *spec.Schema) {
	if s == nil {
		return
	}
	if is, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); ok && is {
		describeMeta(s, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"], "ObjectMeta")
	}
	for name, p := range s.Properties {
		if len(p.AllOf) == 1 && p.AllOf[0].Ref.String() != "" {
			continue
		}
		describeEmbedded(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		describeEmbedded(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		describeEmbedded(s.AdditionalProperties.Schema)
	}
}

// template is how a built-in kind with a status and a scale is described, with places where another kind's names go.
type template struct {
	// paths are the JSON of the operations of each path, by what follows the resource; "all" is the list in all namespaces.
	namespaced, cluster map[string][]byte
	// schemas are the JSON of the schemas that all documents have, without braces.
	schemas []byte
}

// The kind that the template is made from, and the marks that take the place of its names.
const (
	modelDocument = "apis/apps/v1"
	modelPath     = "/apis/apps/v1/"
	modelPlural   = "deployments"
)

const (
	markModel     = "\x01M"
	markOperation = "\x01O"
	markTag       = "\x01T"
	markKind      = "\x01K"
	markGroup     = "\x01G"
	markVersion   = "\x01V"
)

func newTemplate() (*template, error) {
	var doc struct {
		Paths      map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	data, err := openapi.Raw(modelDocument)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading the document %s: %w", modelDocument, err)
	}
	t := &template{namespaced: map[string][]byte{}, cluster: map[string][]byte{}}
	wanted := map[string]bool{objectMetaModel: true, "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta": true}
	add := func(to map[string][]byte, key string, path map[string]any) {
		collectRefs(path, wanted)
		j, err2 := json.Marshal(path)
		if err2 != nil {
			err = err2
			return
		}
		to[key] = mark(j)
	}
	all := doc.Paths[modelPath+modelPlural]
	if all == nil {
		return nil, fmt.Errorf("the document %s does not describe %s", modelDocument, modelPlural)
	}
	adapt(all)
	add(t.namespaced, "all", all)
	for _, rest := range [...]string{"", "/{name}", "/{name}/status", "/{name}/scale"} {
		path := doc.Paths[modelPath+"namespaces/{namespace}/"+modelPlural+rest]
		if path == nil {
			return nil, fmt.Errorf("the document %s does not describe %s%s", modelDocument, modelPlural, rest)
		}
		adapt(path)
		add(t.namespaced, rest, path)
		withoutNamespace(path)
		add(t.cluster, rest, path)
	}
	if err != nil {
		return nil, err
	}
	t.schemas, err = commonSchemas(doc.Components.Schemas, wanted)
	return t, err
}

// adapt takes out of the operations of a path what custom resources can't do.
func adapt(path map[string]any) {
	walkJSON(path, func(m map[string]any) {
		content, ok := m["content"].(map[string]any)
		if !ok {
			return
		}
		for media := range content {
			if strings.Contains(media, "protobuf") || strings.Contains(media, "cbor") || strings.HasPrefix(media, "application/strategic") {
				delete(content, media)
			}
		}
	})
	walkJSON(path, func(m map[string]any) {
		if gvk, ok := m[gvkExtension].(map[string]any); ok && gvk["group"] == "apps" {
			gvk["group"], gvk["version"], gvk["kind"] = markGroup, markVersion, markKind
		}
	})
}

// withoutNamespace makes operations in a namespace ones in none.
func withoutNamespace(path map[string]any) {
	walkJSON(path, func(m map[string]any) {
		if id, ok := m["operationId"].(string); ok {
			m["operationId"] = strings.Replace(strings.Replace(id, "CollectionNamespaced", "Collection", 1), "Namespaced", "", 1)
		}
		if list, ok := m["parameters"].([]any); ok {
			m["parameters"] = slices.DeleteFunc(list, func(p any) bool {
				param, ok := p.(map[string]any)
				return ok && param["name"] == "namespace" && param["in"] == "path"
			})
		}
	})
}

func walkJSON(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, e := range v {
			walkJSON(e, f)
		}
	case []any:
		for _, e := range v {
			walkJSON(e, f)
		}
	}
}

// collectRefs notes which schemas a document refers to, but those of the template's own kind.
func collectRefs(v any, wanted map[string]bool) {
	walkJSON(v, func(m map[string]any) {
		if r, ok := m["$ref"].(string); ok {
			if name := strings.TrimPrefix(r, refPrefix); !strings.HasPrefix(name, "io.k8s.api.apps.") {
				wanted[name] = true
			}
		}
	})
}

// commonSchemas writes the wanted schemas and all that they refer to.
func commonSchemas(all map[string]json.RawMessage, wanted map[string]bool) ([]byte, error) {
	for more := true; more; {
		more = false
		for name := range wanted {
			var v any
			if err := json.Unmarshal(all[name], &v); err != nil {
				return nil, fmt.Errorf("the schema %s: %w", name, err)
			}
			before := len(wanted)
			collectRefs(v, wanted)
			more = more || len(wanted) > before
		}
	}
	var b bytes.Buffer
	for _, name := range sortedKeys(wanted) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", name)
		b.Write(all[name])
	}
	return b.Bytes(), nil
}

// mark puts marks where the template's kind is named.
func mark(j []byte) []byte {
	quoted := func(m string) string { return strings.Trim(string(appendString(nil, m)), `"`) }
	return []byte(strings.NewReplacer(
		quoted(markGroup), markGroup, quoted(markVersion), markVersion, quoted(markKind), markKind,
		"io.k8s.api.apps.v1.Deployment", markModel, "AppsV1", markOperation, "apps_v1", markTag,
		"Deployment", markKind,
	).Replace(string(j)))
}

// writePaths writes the paths of a version's resource.
func (t *template) writePaths(b *bytes.Buffer, v *Version) {
	fill := strings.NewReplacer(
		markModel+"List", strings.TrimSuffix(v.modelName(), v.gvk.Kind)+v.listKind(), markModel, v.modelName(), markOperation, v.operationName(),
		markTag, tagName(v), markKind, v.gvk.Kind, markGroup, v.gvk.Group, markVersion, v.gvk.Version,
	)
	base := "/apis/" + v.gvk.GroupVersion().String() + "/"
	plural := v.def.crd.Status.AcceptedNames.Plural
	from, prefix := t.cluster, base+plural
	first := true
	write := func(path, key string) {
		if !first {
			b.WriteByte(',')
		}
		first = false
		b.Write(appendString(nil, path))
		b.WriteByte(':')
		_, _ = fill.WriteString(b, string(from[key])) // a buffer takes everything
	}
	if v.def.Namespaced() {
		from, prefix = t.namespaced, base+"namespaces/{namespace}/"+plural
		write(base+plural, "all")
	}
	write(prefix, "")
	write(prefix+"/{name}", "/{name}")
	if v.Scale() != nil {
		write(prefix+"/{name}/scale", "/{name}/scale")
	}
	if v.hasStatus() {
		write(prefix+"/{name}/status", "/{name}/status")
	}
}

// tagName is how operations of a group version are tagged: exampleCom_v1.
func tagName(v *Version) string {
	name := strings.TrimSuffix(v.operationName(), strings.ToUpper(v.gvk.Version[:1])+v.gvk.Version[1:])
	return strings.ToLower(name[:1]) + name[1:] + "_" + v.gvk.Version
}

func sortedKeys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
