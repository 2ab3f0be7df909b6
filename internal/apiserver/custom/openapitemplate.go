package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// template is how a built-in kind with a status and a scale is described, with places where another kind's names go.
type template struct {
	// paths are the JSON of the operations of each path, by what follows the resource; "all" is the list in all namespaces.
	namespaced, cluster map[string][]byte
	// schemas are the JSON of the schemas that all documents have, without braces; scaled has those of a scale as well.
	schemas, scaled []byte
}

// The kind that the template is made from, and the marks that take the place of its names.
const (
	modelDocument = "apis/apps/v1"
	modelPath     = "/apis/apps/v1/"
	modelPlural   = "deployments"
	scalePath     = "/{name}/scale"
)

const (
	markArticle   = "\x01A"
	markModel     = "\x01M"
	markOperation = "\x01O"
	markTag       = "\x01T"
	markKind      = "\x01K"
	markGroup     = "\x01G"
	markVersion   = "\x01V"
)

// newTemplate makes a template of a document that describes the model.
func newTemplate(data []byte, v2 bool) (*template, error) {
	var doc struct {
		Paths      map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading the document %s: %w", modelDocument, err)
	}
	var err error
	t := &template{namespaced: map[string][]byte{}, cluster: map[string][]byte{}}
	wanted := map[string]bool{objectMetaModel: true, "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta": true}
	scales := map[string]bool{}
	add := func(to map[string][]byte, key string, path map[string]any) {
		if key == scalePath {
			collectRefs(path, scales)
		} else {
			collectRefs(path, wanted)
		}
		j, err2 := json.Marshal(path)
		if err2 != nil {
			err = err2
			return
		}
		to[key] = mark(j)
	}
	read := func(path string) (map[string]any, error) {
		var out map[string]any
		if err := json.Unmarshal(doc.Paths[path], &out); err != nil {
			return nil, fmt.Errorf("the description of %s: %w", path, err)
		}
		return out, nil
	}
	const inNamespace = modelPath + "namespaces/{namespace}/" + modelPlural
	collection, err := read(inNamespace)
	if err != nil {
		return nil, err
	}
	a := adapter{v2: v2, list: parametersOf(collection["get"])}
	for _, p := range [...]struct{ path, key string }{
		{modelPath + modelPlural, "all"}, {inNamespace, ""}, {inNamespace + "/{name}", "/{name}"},
		{inNamespace + "/{name}/status", "/{name}/status"}, {inNamespace + scalePath, scalePath},
	} {
		path, err := read(p.path)
		if err != nil {
			return nil, err
		}
		a.adapt(path)
		add(t.namespaced, p.key, path)
		if p.key != "all" {
			withoutNamespace(path)
			add(t.cluster, p.key, path)
		}
	}
	if err != nil {
		return nil, err
	}
	if v2 {
		return t, nil
	}
	if t.schemas, err = commonSchemas(doc.Components.Schemas, wanted); err != nil {
		return nil, err
	}
	maps.Copy(scales, wanted)
	t.scaled, err = commonSchemas(doc.Components.Schemas, scales)
	return t, err
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
				return ok && isParameter(param, "namespace")
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
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", name)
		// Options of the model's group version are none of ours.
		b.Write(bytes.ReplaceAll(all[name], []byte(`,{"group":"apps","kind":"DeleteOptions","version":"v1"}`), nil))
	}
	return b.Bytes(), nil
}

// mark puts marks where the template's kind is named.
func mark(j []byte) []byte {
	quoted := func(m string) string { return strings.Trim(string(appendString(nil, m)), `"`) }
	return []byte(strings.NewReplacer(
		quoted(markGroup), markGroup, quoted(markVersion), markVersion, quoted(markKind), markKind,
		"create a Deployment", "create "+markArticle+markKind, "delete a Deployment", "delete "+markArticle+markKind,
		"io.k8s.api.apps.v1.Deployment", markModel, "AppsV1", markOperation, "apps_v1", markTag,
		"Deployment", markKind,
	).Replace(string(j)))
}

// writePaths writes the paths of a version's resource.
func (t *template) writePaths(b *bytes.Buffer, v *Version) {
	fill := strings.NewReplacer(
		markArticle, article(v.gvk.Kind),
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
		write(prefix+scalePath, scalePath)
	}
	if v.hasStatus() {
		write(prefix+"/{name}/status", "/{name}/status")
	}
}

// article is the word before a noun, with the space after it; nouns that look like plurals have none.
func article(noun string) string {
	switch {
	case strings.HasSuffix(noun, "s") && !strings.HasSuffix(noun, "ss"):
		return ""
	case strings.ContainsRune("aeiouAEIOU", rune(noun[0])):
		return "an "
	}
	return "a "
}

// tagName is how operations of a group version are tagged: exampleCom_v1.
func tagName(v *Version) string {
	name := strings.TrimSuffix(v.operationName(), strings.ToUpper(v.gvk.Version[:1])+v.gvk.Version[1:])
	return strings.ToLower(name[:1]) + name[1:] + "_" + v.gvk.Version
}
