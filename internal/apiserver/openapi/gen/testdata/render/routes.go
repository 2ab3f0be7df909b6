package main

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/celox/celox/internal/api"
)

// Media types, as the server speaks them.
var (
	produces      = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	producesWatch = append(slices.Clone(produces), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	anything      = []string{"*/*"}
	patches       = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

// route is one operation, in the form that kube-openapi's builders read.
type route struct {
	method, path, id, about string
	tag                     string
	action                  string
	gvk                     schema.GroupVersionKind
	parameters              []common.Parameter
	consumes, produces      []string
	request                 any
	responses               []common.StatusCodeResponse
}

func (r *route) Method() string                                   { return r.method }
func (r *route) Path() string                                     { return r.path }
func (r *route) OperationName() string                            { return r.id }
func (r *route) Parameters() []common.Parameter                   { return r.parameters }
func (r *route) Description() string                              { return r.about }
func (r *route) Consumes() []string                               { return r.consumes }
func (r *route) Produces() []string                               { return r.produces }
func (r *route) RequestPayloadSample() any                        { return r.request }
func (r *route) ResponsePayloadSample() any                       { return nil }
func (r *route) StatusCodeResponses() []common.StatusCodeResponse { return r.responses }
func (r *route) Metadata() map[string]any {
	if r.action == "" {
		return nil
	}
	return map[string]any{
		"x-kubernetes-action":             r.action,
		"x-kubernetes-group-version-kind": gvkExtension(r.gvk),
	}
}

func gvkExtension(g schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": g.Group, "version": g.Version, "kind": g.Kind}
}

type response struct {
	code    int
	message string
	model   any
}

func (r response) Code() int       { return r.code }
func (r response) Message() string { return r.message }
func (r response) Model() any      { return r.model }

func answers(model any, codes ...int) []common.StatusCodeResponse {
	var out []common.StatusCodeResponse
	for _, c := range codes {
		out = append(out, response{c, http.StatusText(c), model})
	}
	return out
}

type parameter struct {
	name, about, typ string
	kind             common.ParameterKind
	required         bool
}

func (p parameter) Name() string               { return p.name }
func (p parameter) Description() string        { return p.about }
func (p parameter) Required() bool             { return p.required }
func (p parameter) Kind() common.ParameterKind { return p.kind }
func (p parameter) DataType() string           { return p.typ }
func (p parameter) AllowMultiple() bool        { return false }

func inPath(name, about string) common.Parameter {
	return parameter{name, about, "string", common.PathParameterKind, true}
}

var (
	namespaceParam = inPath("namespace", "the namespace that the object is in")
	pretty         = parameter{"pretty", "Unless 'false', the answer is indented for people when the client looks like a browser or a command line tool.", "string", common.QueryParameterKind, false}
	body           = parameter{"body", "", "", common.BodyParameterKind, true}
	optionalBody   = parameter{"body", "", "", common.BodyParameterKind, false}
)

// query lists the query parameters that the fields of an options type are, leaving out names.
func query(options any, without ...string) []common.Parameter {
	docs := options.(interface{ SwaggerDoc() map[string]string }).SwaggerDoc()
	var out []common.Parameter
	t := reflect.TypeOf(options)
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || slices.Contains(without, name) {
			continue
		}
		typ := f.Type
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		kind := ""
		switch typ.Kind() {
		case reflect.String:
			kind = "string"
		case reflect.Bool:
			kind = "boolean"
		case reflect.Int32, reflect.Int64:
			kind = "integer"
		default:
			continue
		}
		out = append(out, parameter{name, docs[name], kind, common.QueryParameterKind, false})
	}
	return out
}

// container holds the routes of one document.
type container struct {
	root   string
	routes []common.Route
}

func (c *container) RootPath() string                   { return c.root }
func (c *container) PathParameters() []common.Parameter { return nil }
func (c *container) Routes() []common.Route             { return c.routes }

func (c *container) add(r *route) { c.routes = append(c.routes, r) }

// identifier turns "rbac.authorization.k8s.io" into "RbacAuthorization".
func identifier(group string) string {
	if group == "" {
		return "Core"
	}
	out := ""
	for part := range strings.SplitSeq(strings.TrimSuffix(group, ".k8s.io"), ".") {
		out += title(part)
	}
	return out
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func tagOf(gv schema.GroupVersion) string {
	return lowerFirst(identifier(gv.Group)) + "_" + gv.Version
}

// writer adds the operations of one kind in one version.
type writer struct {
	c       *container
	scheme  *runtime.Scheme
	kind    *api.Kind
	version *api.Version
	gv      schema.GroupVersion
}

func rootOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// id makes an operation's id: the verb, where, and what.
func (w *writer) id(verb, before string, namespaced bool, after string) string {
	ns := ""
	if namespaced {
		ns = "Namespaced"
	}
	return verb + identifier(w.gv.Group) + title(w.gv.Version) + before + ns + w.kind.Kind + after
}

func (w *writer) route(method, path, id, about, action string) *route {
	return &route{
		method: method, path: path, id: id, about: about, action: action, tag: tagOf(w.gv), gvk: w.gv.WithKind(w.kind.Kind),
		consumes: anything, produces: produces,
	}
}

func (w *writer) write() {
	k, root := w.kind, rootOf(w.gv)
	ns := k.Namespaced
	collection := root + "/" + k.Resource
	watch := root + "/watch/" + k.Resource
	var scope []common.Parameter
	if ns {
		collection = root + "/namespaces/{namespace}/" + k.Resource
		watch = root + "/watch/namespaces/{namespace}/" + k.Resource
		scope = append(scope, namespaceParam)
	}
	item, named := collection+"/{name}", append(slices.Clone(scope), inPath("name", "name of the "+k.Kind))
	// A Binding is created like a part of something else.
	scope, named = append(scope, pretty), append(named, pretty)

	verbs := k.ResourceVerbs()
	has := func(v string) bool { return slices.Contains(verbs, v) }
	object, list := w.version.New(), any(nil)
	if w.version.NewList != nil {
		list = w.version.NewList()
	}
	deleted := any(&metav1.Status{})
	if k.ReturnDeleted {
		deleted = object
	}
	article := "a"
	if strings.ContainsAny(k.Kind[:1], "AEIOU") {
		article = "an"
	}

	if has("list") {
		r := w.route("GET", collection, w.id("list", "", ns, ""), "list or watch objects of kind "+k.Kind, "list")
		r.parameters = slices.Concat(scope, query(metav1.ListOptions{}))
		r.produces, r.responses = producesWatch, answers(list, 200)
		if !has("watch") {
			r.about, r.produces = "list objects of kind "+k.Kind, producesWatch
		}
		w.c.add(r)
	}
	if has("create") {
		r := w.route("POST", collection, w.id("create", "", ns, ""), "create "+article+" "+k.Kind, "post")
		r.parameters = slices.Concat(scope, query(metav1.CreateOptions{}), []common.Parameter{body})
		r.request, r.responses = object, answers(object, 200, 201, 202)
		w.c.add(r)
	}
	if has("deletecollection") {
		r := w.route("DELETE", collection, w.id("delete", "Collection", ns, ""), "delete collection of "+k.Kind, "deletecollection")
		r.parameters = slices.Concat(scope, query(metav1.DeleteOptions{}), query(metav1.ListOptions{}, "watch", "allowWatchBookmarks"), []common.Parameter{optionalBody})
		r.request, r.responses = &metav1.DeleteOptions{}, answers(&metav1.Status{}, 200)
		w.c.add(r)
	}
	if has("get") {
		r := w.route("GET", item, w.id("read", "", ns, ""), "read the specified "+k.Kind, "get")
		r.parameters, r.responses = named, answers(object, 200)
		w.c.add(r)
	}
	if has("update") {
		r := w.route("PUT", item, w.id("replace", "", ns, ""), "replace the specified "+k.Kind, "put")
		r.parameters = slices.Concat(named, query(metav1.UpdateOptions{}), []common.Parameter{body})
		r.request, r.responses = object, answers(object, 200, 201)
		w.c.add(r)
	}
	if has("patch") {
		r := w.route("PATCH", item, w.id("patch", "", ns, ""), "partially update the specified "+k.Kind, "patch")
		r.parameters = slices.Concat(named, query(metav1.PatchOptions{}), []common.Parameter{body})
		r.consumes, r.request, r.responses = patches, &metav1.Patch{}, answers(object, 200, 201)
		w.c.add(r)
	}
	if has("delete") {
		r := w.route("DELETE", item, w.id("delete", "", ns, ""), "delete "+article+" "+k.Kind, "delete")
		r.parameters = slices.Concat(named, query(metav1.DeleteOptions{}), []common.Parameter{optionalBody})
		r.request, r.responses = &metav1.DeleteOptions{}, answers(deleted, 200, 202)
		w.c.add(r)
	}
	if ns && has("list") {
		r := w.route("GET", root+"/"+k.Resource, w.id("list", "", false, "ForAllNamespaces"), "list or watch objects of kind "+k.Kind, "list")
		r.parameters = append(query(metav1.ListOptions{}), pretty)
		r.produces, r.responses = producesWatch, answers(list, 200)
		w.c.add(r)
	}
	if has("watch") {
		w.watch(watch, scope, named)
	}
	for _, s := range k.Subresources {
		w.subresource(s, item+"/"+s.Name, named)
	}
}

// watch adds the old paths of watches, which only old clients still use.
func (w *writer) watch(path string, scope, named []common.Parameter) {
	const deprecated = " deprecated: watch with the 'watch' parameter of a list instead."
	k := w.kind
	lists := []struct {
		path, id, action string
		params           []common.Parameter
	}{
		{path, w.id("watch", "", k.Namespaced, "List"), "watchlist", scope},
		{path + "/{name}", w.id("watch", "", k.Namespaced, ""), "watch", named},
	}
	if k.Namespaced {
		lists = append(lists, struct {
			path, id, action string
			params           []common.Parameter
		}{rootOf(w.gv) + "/watch/" + k.Resource, w.id("watch", "", false, "ListForAllNamespaces"), "watchlist", []common.Parameter{pretty}})
	}
	for _, l := range lists {
		r := w.route("GET", l.path, l.id, "watch changes to objects of kind "+k.Kind+"."+deprecated, l.action)
		r.parameters = slices.Concat(l.params, query(metav1.ListOptions{}))
		r.produces, r.responses = producesWatch, answers(&metav1.WatchEvent{}, 200)
		w.c.add(r)
	}
}

// options are the kinds whose fields are the query parameters of a connecting subresource.
var options = map[string]any{
	"PodAttachOptions":      corev1.PodAttachOptions{},
	"PodExecOptions":        corev1.PodExecOptions{},
	"PodPortForwardOptions": corev1.PodPortForwardOptions{},
	"PodProxyOptions":       corev1.PodProxyOptions{},
	"NodeProxyOptions":      corev1.NodeProxyOptions{},
	"ServiceProxyOptions":   corev1.ServiceProxyOptions{},
}

func (w *writer) subresource(s api.Subresource, path string, named []common.Parameter) {
	k, after := w.kind, title(s.Name)
	gvk, object := w.gv.WithKind(k.Kind), any(w.version.New())
	if !s.Kind.Empty() {
		gvk = s.Kind
		if o, err := w.scheme.New(gvk); err == nil {
			object = o
		}
	}
	named = slices.Clone(named)
	for i, p := range named {
		if p.Name() == "name" {
			named[i] = inPath("name", "name of the "+gvk.Kind)
		}
	}
	if o, connects := options[gvk.Kind]; connects {
		w.connect(s, path, gvk, o, named)
		return
	}
	for _, verb := range s.Verbs {
		var r *route
		switch verb {
		case "get":
			r = w.route("GET", path, w.id("read", "", k.Namespaced, after), "read "+s.Name+" of the specified "+k.Kind, "get")
			r.parameters, r.responses = named, answers(object, 200)
			if s.Name == "log" {
				r.parameters = slices.Concat(named, query(corev1.PodLogOptions{}))
				r.produces, r.responses = append([]string{"text/plain"}, produces...), answers("", 200)
			}
		case "create":
			r = w.route("POST", path, w.id("create", "", k.Namespaced, after), "create "+s.Name+" of a "+k.Kind, "post")
			r.parameters = slices.Concat(named, query(metav1.CreateOptions{}), []common.Parameter{body})
			r.request, r.responses = object, answers(object, 200, 201, 202)
		case "update":
			r = w.route("PUT", path, w.id("replace", "", k.Namespaced, after), "replace "+s.Name+" of the specified "+k.Kind, "put")
			r.parameters = slices.Concat(named, query(metav1.UpdateOptions{}), []common.Parameter{body})
			r.request, r.responses = object, answers(object, 200, 201)
		case "patch":
			r = w.route("PATCH", path, w.id("patch", "", k.Namespaced, after), "partially update "+s.Name+" of the specified "+k.Kind, "patch")
			r.parameters = slices.Concat(named, query(metav1.PatchOptions{}), []common.Parameter{body})
			r.consumes, r.request, r.responses = patches, &metav1.Patch{}, answers(object, 200, 201)
		default:
			panic(fmt.Sprintf("%s/%s: no operation for verb %s", k.Resource, s.Name, verb))
		}
		r.gvk = gvk
		w.c.add(r)
	}
}

// connect adds the operations that hand the connection on: all methods for a proxy, GET and POST for streams.
func (w *writer) connect(s api.Subresource, path string, gvk schema.GroupVersionKind, o any, named []common.Parameter) {
	k := w.kind
	named = slices.DeleteFunc(slices.Clone(named), func(p common.Parameter) bool { return p.Name() == "pretty" })
	methods, paths := []string{"GET", "POST"}, []string{path}
	if s.Name == "proxy" {
		methods, paths = []string{"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH"}, []string{path, path + "/{path}"}
	}
	for i, p := range paths {
		for _, m := range methods {
			verb := title(strings.ToLower(m))
			id := "connect" + identifier(w.gv.Group) + title(w.gv.Version) + verb
			if k.Namespaced {
				id += "Namespaced"
			}
			id += k.Kind + title(s.Name)
			r := w.route(m, p, id, "connect "+m+" requests to "+s.Name+" of "+k.Kind, "connect")
			r.parameters = slices.Concat(named, query(o))
			if i == 1 {
				r.id += "WithPath"
				r.parameters = append(r.parameters, inPath("path", "path to the resource"))
			}
			r.gvk, r.produces, r.responses = gvk, anything, answers("", 200)
			w.c.add(r)
		}
	}
}
