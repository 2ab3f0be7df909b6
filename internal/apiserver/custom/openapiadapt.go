package custom

import (
	"slices"
	"strings"
)

// adapter makes descriptions of a built-in resource's operations ones of a custom resource's: other media types, and what only built-in
// kinds can do left out.
type adapter struct {
	v2 bool
	// list are the parameters of a list.
	list []any
}

// patchTypes are the forms of patches that custom resources take.
var patchTypes = []any{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}

// adapt changes a path in place.
func (a adapter) adapt(path map[string]any) {
	for _, p := range parametersOf(path) {
		if m, ok := p.(map[string]any); ok && m["name"] == "name" && m["in"] == "path" {
			m["description"] = "name of the Deployment"
		}
	}
	for _, v := range path {
		if op, ok := v.(map[string]any); ok {
			a.operation(op)
		}
	}
}

func (a adapter) operation(op map[string]any) {
	action, _ := op["x-kubernetes-action"].(string)
	switch action {
	case "list":
		op["description"] = "list objects of kind Deployment"
	case "get":
		for _, p := range a.list {
			if m, ok := p.(map[string]any); ok && isParameter(m, "resourceVersion") {
				op["parameters"] = append(parametersOf(op), p)
			}
		}
	case "deletecollection":
		delete(op, "requestBody")
		op["parameters"] = a.list
	case "patch":
		if r, ok := op["responses"].(map[string]any); ok {
			delete(r, "201")
		}
	}
	op[gvkExtension] = map[string]any{"group": markGroup, "version": markVersion, "kind": markKind}
	if a.v2 {
		op["consumes"], op["produces"] = []any{"application/json", "application/yaml"}, []any{"application/json", "application/yaml"}
		if action == "patch" {
			op["consumes"] = patchTypes
		}
		return
	}
	walkJSON(op, func(m map[string]any) {
		content, ok := m["content"].(map[string]any)
		if !ok {
			return
		}
		if any, ok := content["*/*"]; ok {
			content["application/json"], content["application/yaml"] = any, any
		}
		for media := range content {
			if media != "application/json" && media != "application/yaml" && !slices.Contains(patchTypes, interface{}(media)) {
				delete(content, media)
			}
		}
	})
}

func parametersOf(of any) []any {
	m, _ := of.(map[string]any)
	list, _ := m["parameters"].([]any)
	return list
}

// isParameter says whether a parameter has the name; in v2 it may refer to one, whose name and hash are in the reference.
func isParameter(p map[string]any, name string) bool {
	if r, ok := p["$ref"].(string); ok {
		rest, ok := strings.CutPrefix(r, "#/parameters/"+name+"-")
		return ok && len(rest) == hashLength
	}
	return p["name"] == name
}

// hashLength is how long the hash at the end of a shared parameter's name is.
const hashLength = 8
