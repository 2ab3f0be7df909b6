package request

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Info is what a request's method, path and query mean.
type Info struct {
	// IsResource tells an API request from one for a plain path such as /version.
	IsResource bool
	// Path is the URL's path as it came.
	Path string
	// Verb is the API verb (get, list, watch, create, update, patch, delete, deletecollection), "" for methods that are
	// none, and for plain paths the method in lower case.
	Verb string

	Group, Version string
	Resource       string
	Subresource    string
	Namespace      string
	// Name is the object's name from the path, or the one that a list's field selector demands.
	Name string
	// FieldSelector is that of a list's or watch's query, as it came; "" if there is none or it cannot be read.
	FieldSelector string
	// Nowhere says that the path names a namespace that has no name.
	Nowhere bool
	// NameInPath says that Name was read from the path.
	NameInPath bool
	// Parts are the path's segments from the resource on: resource, name, subresource and what follows.
	Parts []string
	// LegacyWatch is set for paths below /watch/.
	LegacyWatch bool
	// Malformed is set when the path begins like an API path but can't be one.
	Malformed bool
}

// GroupVersionResource returns the resource with its group and version.
func (i *Info) GroupVersionResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: i.Group, Version: i.Version, Resource: i.Resource}
}

// GroupResource returns the resource with its group.
func (i *Info) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: i.Group, Resource: i.Resource}
}

// ReadOnly says whether the verb only looks.
func (i *Info) ReadOnly() bool {
	switch i.Verb {
	case "get", "list", "watch", "head", "options":
		return true
	}
	return false
}

// LongRunning says whether the request may take as long as it likes: watches, logs and streams.
func (i *Info) LongRunning() bool {
	if !i.IsResource {
		return false
	}
	switch i.Verb {
	case "watch", "proxy":
		return true
	}
	switch i.Subresource {
	case "attach", "exec", "proxy", "log", "portforward":
		return true
	}
	return false
}

// Parse reads method, path and query. It never fails: a path that is no API path is a plain path.
func Parse(r *http.Request) Info {
	return parse(r.Method, r.URL.Path, r.URL.RawQuery)
}

func parse(method, p, rawQuery string) Info {
	info := Info{Path: p, Verb: strings.ToLower(method)}
	trimmed := strings.Trim(p, "/")
	if trimmed == "" || strings.HasPrefix(p, "//") {
		return info
	}
	grouped := false
	switch {
	case strings.HasPrefix(trimmed, "api/"):
	case strings.HasPrefix(trimmed, "apis/"):
		grouped = true
	default:
		return info
	}
	parts := strings.Split(trimmed, "/")
	if len(parts) < 3 || grouped && len(parts) < 4 {
		return info
	}
	parts = parts[1:]
	if grouped {
		info.Group, parts = parts[0], parts[1:]
	}
	info.IsResource = true
	info.Version, parts = parts[0], parts[1:]
	switch method {
	case http.MethodPost:
		info.Verb = "create"
	case http.MethodGet, http.MethodHead:
		info.Verb = "get"
	case http.MethodPut:
		info.Verb = "update"
	case http.MethodPatch:
		info.Verb = "patch"
	case http.MethodDelete:
		info.Verb = "delete"
	default:
		info.Verb = ""
	}
	if parts[0] == "watch" || parts[0] == "proxy" {
		if len(parts) < 2 {
			info.Malformed = true
			return info
		}
		info.LegacyWatch = parts[0] == "watch"
		info.Verb, parts = parts[0], parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		info.Namespace, info.Nowhere = parts[1], parts[1] == ""
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	info.Parts = parts
	info.Resource = parts[0]
	if len(parts) > 1 && parts[1] != "" {
		info.Name, info.NameInPath = parts[1], true
	}
	if len(parts) > 2 && info.Verb != "proxy" {
		info.Subresource = parts[2]
	}
	if len(parts) == 1 {
		switch info.Verb {
		case "get":
			info.Verb = "list"
			info.readQuery(rawQuery)
		case "watch":
			info.readQuery(rawQuery)
		case "delete":
			info.Verb = "deletecollection"
		}
	}
	return info
}

// readQuery finds what a collection's query changes: watching, and the one name that it selects.
func (i *Info) readQuery(raw string) {
	if raw == "" || !strings.Contains(raw, "watch") && !strings.Contains(raw, "fieldSelector") {
		return
	}
	q, err := url.ParseQuery(raw)
	if err != nil && len(q) == 0 {
		return
	}
	if v, ok := q["watch"]; ok && Truth(v) {
		i.Verb = "watch"
	}
	if fs := q.Get("fieldSelector"); fs != "" {
		sel, err := fields.ParseSelector(fs)
		if err != nil {
			return
		}
		i.FieldSelector = fs
		if name, ok := sel.RequiresExactMatch("metadata.name"); ok && len(content.IsPathSegmentName(name)) == 0 {
			i.Name = name
		}
	}
}

// Truth reads a boolean query parameter as the API does: absent, "0" and "false" (in any case) are false, all else is true.
func Truth(values []string) bool {
	if len(values) == 0 {
		return false
	}
	switch v := values[0]; {
	case v == "0", strings.EqualFold(v, "false"):
		return false
	default:
		return true
	}
}
