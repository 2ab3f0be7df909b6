package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
)

func noSuchResource() error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
}

func methodNotAllowed() error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
}

func notImplemented(what string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotImplemented, Reason: "NotImplemented", Message: "this server has no " + what,
	}}
}

// dispatch finds who serves an authorized request.
func (s *Server) dispatch(x *exchange) {
	if s.serveElsewhere(x) {
		return
	}
	if !x.info.IsResource {
		s.servePlain(x)
		return
	}
	i := x.info
	if strings.HasPrefix(i.Path, "/apis//") { // the core is no group
		notFoundPage(x.w)
		return
	}
	gvr := i.GroupVersionResource()
	gv := gvr.GroupVersion()
	if s.serveComputed(x) {
		return
	}
	if s.resources[gvr] == nil && s.dispatchCustom(x) {
		return
	}
	if !s.versions[gv] {
		if s.groups[gv.Group] {
			x.fail(noSuchResource())
			return
		}
		notFoundPage(x.w)
		return
	}
	res := s.resources[gvr]
	if res == nil || i.Malformed || len(i.Parts) > 2 && i.Parts[2] == "" || i.Verb == "proxy" ||
		(i.Namespace != "" || i.Nowhere) && !res.kind.Namespaced && gvr != namespaces ||
		len(i.Parts) > 3 && i.Subresource != "proxy" {
		x.fail(noSuchResource())
		return
	}
	x.res = res
	if res.deprecated != "" && res.routes(x) {
		request.Warn(x.ctx, res.deprecated)
		s.metrics.askedForDeprecated(x)
	}
	if err := s.serveResource(x); err != nil {
		x.fail(err)
	}
}

// routes says whether there is a handler for the request, whatever becomes of it then.
func (r *resource) routes(x *exchange) bool {
	i := x.info
	switch {
	case x.r.Method == http.MethodHead, !negotiate.Routed(x.r.Header):
		return false
	case i.Subresource != "":
		return true
	case r.kind.Virtual && i.Verb == "watch":
		return r.verbs["list"] && !i.LegacyWatch // the list's handler refuses to watch
	case !r.serves(i.Verb, i.Subresource):
		return false
	case i.Verb == "create" && i.NameInPath, (i.Verb == "update" || i.Verb == "patch" || i.Verb == "delete") && !i.NameInPath:
		return false
	case r.kind.Namespaced && i.Namespace == "":
		return i.Verb == "list" || i.Verb == "watch" || i.Nowhere
	}
	return true
}

// headless says whether r asks for a head where there is none to have: built-in kinds are routed by method, custom ones by what is asked for, and have one wherever
// they can be read.
func (r *resource) headless(req *http.Request) bool {
	return req.Method == http.MethodHead && r.custom == nil
}

// unfound refuses a name that no object can have, before anybody looks for it.
func (x *exchange) unfound(name string) error {
	if x.res.kind.Namespaced && x.info.Namespace == "" {
		return apierrors.NewBadRequest("Namespace parameter required.")
	}
	if name == "" {
		return apierrors.NewBadRequest("Name parameter required.")
	}
	if wrong := path.IsValidPathSegmentName(name); len(wrong) > 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", name, strings.Join(wrong, ";")))
	}
	return nil
}

var namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// serveResource carries out the verb.
func (s *Server) serveResource(x *exchange) error {
	i, res := x.info, x.res
	if i.Subresource != "" {
		sub := res.subs[i.Subresource]
		if sub == nil {
			return noSuchResource()
		}
		return s.serveSubresource(x, sub)
	}
	if !res.hasPath(i) {
		return noSuchResource()
	}
	if res.kind.Virtual {
		return s.serveVirtual(x)
	}
	if res.custom != nil && !res.verbs[i.Verb] {
		return apierrors.NewMethodNotSupported(res.gr, i.Verb)
	}
	if res.headless(x.r) || !res.verbs[i.Verb] || res.custom == nil && i.Verb == "watch" && x.r.Method != http.MethodGet {
		return methodNotAllowed()
	}
	everywhere := res.everywhere(i)
	switch i.Verb {
	case "get":
		return x.get()
	case "list":
		return x.list()
	case "watch":
		return x.watch()
	case "create":
		if i.NameInPath || everywhere {
			return methodNotAllowed()
		}
		return x.create()
	case "update", "patch", "delete":
		if !i.NameInPath {
			return x.nameless()
		}
		switch i.Verb {
		case "update":
			return x.update()
		case "patch":
			return x.patch()
		}
		return x.delete()
	case "deletecollection":
		if everywhere {
			return methodNotAllowed()
		}
		if i.Nowhere {
			return x.unfound("")
		}
		return x.deleteCollection()
	}
	return methodNotAllowed()
}

// hasPath says whether anything at all is served at the path of a request for a resource: what is not there answers 404 whatever the method, what is there 405 to
// those that it lacks.
func (r *resource) hasPath(i *request.Info) bool {
	everywhere := r.everywhere(i)
	switch {
	case i.NameInPath && everywhere:
		return false
	case i.LegacyWatch:
		return r.verbs["watch"]
	case i.NameInPath:
		return r.verbs["get"] || r.verbs["update"] || r.verbs["patch"] || r.verbs["delete"]
	case everywhere:
		return r.verbs["list"]
	}
	return true
}

// everywhere says that a request is for the objects of all namespaces.
func (r *resource) everywhere(i *request.Info) bool {
	return r.kind.Namespaced && i.Namespace == "" && !i.Nowhere
}

// streams are the subresources that a node answers.
func streams(sub string) bool {
	switch sub {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// streamsBy says whether a subresource that a node answers takes a method.
func streamsBy(sub, method string) bool {
	switch sub {
	case "log":
		return method == http.MethodGet
	case "proxy":
		switch method {
		case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
			return true
		}
		return false
	}
	return method == http.MethodGet || method == http.MethodPost
}

// serveSubresource carries out the verb on a part of a resource.
func (s *Server) serveSubresource(x *exchange, sub *subresource) error {
	i := x.info
	if x.res.everywhere(i) {
		return noSuchResource()
	}
	if streams(sub.Name) {
		if !streamsBy(sub.Name, x.r.Method) {
			return methodNotAllowed()
		}
		if err := x.mayStream(sub); err != nil {
			return err
		}
		if s.cfg.Connect == nil {
			return notImplemented("way to reach nodes")
		}
		if err := x.admitConnect(sub); err != nil {
			return err
		}
		running := s.metrics.longRunning(x)
		running.Inc()
		defer running.Dec()
		return s.cfg.Connect.Connect(x.w, x.r, *i)
	}
	if x.res.headless(x.r) || !sub.verbs[i.Verb] {
		return methodNotAllowed()
	}
	if i.Name == "" {
		return errNameless()
	}
	switch sub.Name {
	case "status", "approval", "ephemeralcontainers", "resize", "finalize":
		return x.plainSubresource()
	case "scale":
		return x.scale()
	case "binding":
		return x.bind(i.Name)
	case "eviction":
		return x.evict()
	case "token":
		return x.token()
	}
	return noSuchResource()
}

// nameless refuses to change what has no name. Built-in kinds have no route for that; of a custom one it is looked at what the patch is.
func (x *exchange) nameless() error {
	if x.res.custom == nil {
		return methodNotAllowed()
	}
	if x.info.Verb == "patch" {
		if _, err := x.patchType(); err != nil {
			return err
		}
	}
	return errNameless()
}

func errNameless() error { return apierrors.NewBadRequest("name must be provided") }

// mayStream looks at what is wrong with a request for a stream before anybody looks for what it is about. A log is an answer like others, with a type of its own.
func (x *exchange) mayStream(sub *subresource) error {
	if x.info.Name == "" {
		return errNameless()
	}
	if sub.Name == "log" {
		accept, err := negotiate.ParseTextAccept(x.r.Header)
		if err != nil {
			return err
		}
		if accept.Shape == negotiate.Metadata {
			if _, err := x.load(x.info.Name, getNewest); err != nil {
				return err
			}
			return errors.New("object does not implement the Object interfaces")
		}
	}
	if sub.Name == "proxy" {
		return nil // its name may have a scheme and a port
	}
	return x.unfound(x.info.Name)
}

// plainSubresource serves a door to the same object with other rules.
func (x *exchange) plainSubresource() error {
	switch x.info.Verb {
	case "get":
		return x.get()
	case "update":
		return x.update()
	case "patch":
		return x.patch()
	}
	return methodNotAllowed()
}
