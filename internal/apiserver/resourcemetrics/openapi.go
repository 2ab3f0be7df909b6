package resourcemetrics

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/openapi"
)

// documents describes the group versions to clients. It is an openapi.Named: a document is made when somebody wants to read it.
type documents struct {
	replaced func() bool
}

func documentName(gv schema.GroupVersion) string { return "apis/" + gv.String() }

// Revision implements openapi.Source. A server that takes the place of this one, or leaves it, is another source that changes.
func (d documents) Revision() uint64 {
	if d.replaced() {
		return 2
	}
	return 1
}

// Documents implements openapi.Source.
func (d documents) Documents() map[string]uint64 {
	out := map[string]uint64{}
	for _, gv := range GroupVersions() {
		if !d.replaced() {
			out[documentName(gv)] = 1
		}
	}
	return out
}

// Hash implements openapi.Named: the documents change with this program only.
func (documents) Hash(name string) string { return "metrics of resources, 2, " + name }

const (
	schemaRef = "#/components/schemas/"
	meta      = "io.k8s.apimachinery.pkg.apis.meta.v1."
	quantity  = "io.k8s.apimachinery.pkg.api.resource.Quantity"
)

// describedVersion is a group version whose document is made.
type describedVersion struct{ schema.GroupVersion }

// model is the name of the schema of a type.
func (d describedVersion) model(name string) string {
	return "io.k8s.metrics.pkg.apis.metrics." + d.Version + "." + name
}

// Document implements openapi.Source.
func (documents) Document(name string) ([]byte, error) {
	for _, gv := range GroupVersions() {
		if name == documentName(gv) {
			return describedVersion{gv}.document()
		}
	}
	return nil, nil
}

// document takes parameters and common schemas from the document of another group.
func (d describedVersion) document() ([]byte, error) {
	const deployments = "/apis/apps/v1/namespaces/{namespace}/deployments"
	raw, err := openapi.Raw("apis/apps/v1")
	if err != nil {
		return nil, err
	}
	var from struct {
		Info  json.RawMessage `json:"info"`
		Paths map[string]struct {
			Get struct {
				Parameters []json.RawMessage `json:"parameters"`
			} `json:"get"`
			Parameters []json.RawMessage `json:"parameters"`
		} `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(raw, &from); err != nil {
		return nil, fmt.Errorf("reading the document to take parameters from: %w", err)
	}
	list := append(from.Paths[deployments].Get.Parameters, from.Paths[deployments].Parameters...)
	paths := map[string]any{}
	for _, r := range resources() {
		path := "/apis/" + d.String() + "/" + r.Name
		if r.Namespaced {
			paths[path] = d.operations(r.Kind, "list", "", r.Kind+"ForAllNamespaces", parameters(list, "", "namespace"))
			path = "/apis/" + d.String() + "/namespaces/{namespace}/" + r.Name
		}
		keep, scope := "", ""
		if r.Namespaced {
			keep, scope = "namespace", "Namespaced"
		}
		paths[path] = d.operations(r.Kind, "list", scope, r.Kind, parameters(list, keep, "namespace"))
		paths[path+"/{name}"] = d.operations(r.Kind, "get", scope, r.Kind, append(parameters(list, keep, "namespace", "pretty"), map[string]any{
			"name": "name", "in": "path", "description": "name of the " + r.Kind, "required": true, "schema": map[string]any{"type": "string", "uniqueItems": true},
		}))
	}
	all := d.schemas()
	var want []string
	for _, s := range all {
		want = append(want, refs(s)...)
	}
	for len(want) > 0 { // what is referred to, and what that refers to
		name := want[0]
		want = want[1:]
		if all[name] != nil {
			continue
		}
		var s any
		if err := json.Unmarshal(from.Components.Schemas[name], &s); err != nil {
			return nil, fmt.Errorf("the schema %s: %w", name, err)
		}
		all[name] = s
		want = append(want, refs(s)...)
	}
	return json.Marshal(map[string]any{
		"openapi": "3.0.0", "info": from.Info, "paths": paths,
		"components": map[string]any{"schemas": all, "securitySchemes": map[string]any{"BearerToken": map[string]any{
			"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
		}}},
	})
}

// parameters are those of list but the dropped ones, of which keep is kept, and those of watches. If drop names more than one
// parameter, only those that it names are looked at.
func parameters(list []json.RawMessage, keep string, only ...string) []any {
	var out []any
	for _, raw := range list {
		var p map[string]any
		if json.Unmarshal(raw, &p) != nil {
			continue // it was read as JSON before
		}
		name, _ := p["name"].(string)
		switch {
		case name == "namespace" && keep != name:
		case len(only) > 1 && !slices.Contains(only, name):
		case name == "watch" || name == "allowWatchBookmarks" || name == "sendInitialEvents":
		default:
			out = append(out, p)
		}
	}
	return out
}

// operations describes what can be done at a path.
func (d describedVersion) operations(kind, verb, scope, object string, params []any) map[string]any {
	model, words, id := kind, "read the specified "+kind, "read"
	if verb == "list" {
		model, words, id = kind+"List", "list objects of kind "+kind, "list"
	}
	content := map[string]any{}
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml"} {
		content[media] = map[string]any{"schema": reference(d.model(model))}
	}
	return map[string]any{
		"get": map[string]any{
			"tags": []string{"metrics_" + d.Version}, "description": words, "operationId": id + "Metrics" + strings.ToUpper(d.Version[:1]) + d.Version[1:] + scope + object,
			"responses":           map[string]any{"200": map[string]any{"description": "OK", "content": content}, "401": map[string]any{"description": "Unauthorized"}},
			"x-kubernetes-action": verb, "x-kubernetes-group-version-kind": d.gvk(kind),
		},
		"parameters": params,
	}
}

func (d describedVersion) gvk(kind string) map[string]any {
	return map[string]any{"group": d.Group, "kind": kind, "version": d.Version}
}

func reference(name string) map[string]any { return map[string]any{"$ref": schemaRef + name} }

// described is a property that refers to a schema and says what it is.
func described(name, text string, def any) map[string]any {
	p := map[string]any{"allOf": []any{reference(name)}, "description": text}
	if def != nil {
		p["default"] = def
	}
	return p
}

// schemas are those of the group's own types.
func (d describedVersion) schemas() map[string]any {
	text := func(description string) map[string]any {
		return map[string]any{"type": "string", "description": description}
	}
	kinds := func(kind string) []any { return []any{d.gvk(kind)} }
	object := func(description, kind string, required []string, properties map[string]any) map[string]any {
		s := map[string]any{"type": "object", "description": description, "required": required, "properties": properties}
		if kind != "" {
			properties["apiVersion"] = text("The version of the schema that the object is written in.")
			properties["kind"] = text("What the object is.")
			s["x-kubernetes-group-version-kind"] = kinds(kind)
		}
		return s
	}
	used := func() map[string]any {
		return map[string]any{"type": "object", "description": "What is used of each resource; of memory it is the working set.", "additionalProperties": reference(quantity)}
	}
	measured := func() map[string]any {
		return map[string]any{
			"metadata":  described(meta+"ObjectMeta", "Standard object's metadata.", map[string]any{}),
			"timestamp": described(meta+"Time", "The end of the time that was measured.", nil),
			"window":    described(meta+"Duration", "How long was measured, up to the timestamp.", nil),
		}
	}
	listOf := func(kind, what string) map[string]any {
		return object("A list of what "+what+" use.", kind+"List", []string{"items"}, map[string]any{
			"metadata": described(meta+"ListMeta", "Standard list metadata.", map[string]any{}),
			"items": map[string]any{"type": "array", "description": "What each of them uses.", "items": map[string]any{
				"allOf": []any{reference(d.model(kind))}, "default": map[string]any{}}},
		})
	}
	node, pod := measured(), measured()
	node["usage"] = used()
	pod["containers"] = map[string]any{"type": "array", "description": "What each container used in that time.", "x-kubernetes-list-type": "atomic",
		"items": map[string]any{"allOf": []any{reference(d.model("ContainerMetrics"))}, "default": map[string]any{}}}
	return map[string]any{
		d.model("ContainerMetrics"): object("What a container uses.", "", []string{"name", "usage"}, map[string]any{
			"name": map[string]any{"type": "string", "default": "", "description": "The name of the container in the pod."}, "usage": used(),
		}),
		d.model("NodeMetrics"):     object("What a node uses.", "NodeMetrics", []string{"timestamp", "window", "usage"}, node),
		d.model("NodeMetricsList"): listOf("NodeMetrics", "nodes"),
		d.model("PodMetrics"):      object("What a pod uses.", "PodMetrics", []string{"timestamp", "window", "containers"}, pod),
		d.model("PodMetricsList"):  listOf("PodMetrics", "pods"),
		meta + "Duration":          map[string]any{"type": "string", "description": "A time span, as Go writes it: 15s, 1m30s."},
	}
}

// refs lists the schemas that a part of a document refers to.
func refs(v any) (out []string) {
	switch v := v.(type) {
	case map[string]any:
		if r, ok := v["$ref"].(string); ok {
			out = append(out, strings.TrimPrefix(r, schemaRef))
		}
		for _, e := range v {
			out = append(out, refs(e)...)
		}
	case []any:
		for _, e := range v {
			out = append(out, refs(e)...)
		}
	}
	return out
}
