package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	version = "v1alpha1"
	maxBody = 1 << 20 // bytes
	// eldest is how long a watch lasts that does not say.
	eldest = 30 * time.Minute
)

// document is the OpenAPI v2 document of the group whose name stands there.
//
//go:embed openapi.json
var document string

// root is where the objects of the group are.
func (o *objects) root() string { return "/apis/" + o.group + "/" + version }

// kinds are the kinds by their resource; namespaced says where their objects are.
var kinds = map[string]struct {
	kind, singular string
	namespaced     bool
}{"fishes": {"Fish", "fish", true}, "tanks": {"Tank", "tank", false}}

// target is what a request is about.
type target struct {
	apiVersion, resource, namespace, name, door, verb string
}

// parse understands a path below the root; false if there is nothing there.
func (o *objects) parse(r *http.Request) (target, bool) {
	path, ok := strings.CutPrefix(r.URL.Path, o.root()+"/")
	if !ok {
		return target{}, false
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	t := target{apiVersion: o.group + "/" + version}
	if len(parts) >= 3 && parts[0] == "namespaces" {
		t.namespace, parts = parts[1], parts[2:]
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.door = parts[2]
	}
	k, ok := kinds[t.resource]
	watching, _ := strconv.ParseBool(r.URL.Query().Get("watch"))
	switch r.Method {
	case http.MethodGet:
		t.verb = "get"
		if t.name == "" {
			t.verb = "list"
		}
		if watching {
			t.verb = "watch"
		}
	case http.MethodPost:
		t.verb = "create"
	case http.MethodPut:
		t.verb = "update"
	case http.MethodPatch:
		t.verb = "patch"
	case http.MethodDelete:
		t.verb = "delete"
		if t.name == "" {
			t.verb = "deletecollection"
		}
	}
	collection := t.verb == "list" || t.verb == "watch"
	ok = ok && len(parts) <= 3 && (t.door == "" || t.door == "status") && (k.namespaced && (t.namespace != "" || collection && t.name == "") || !k.namespaced && t.namespace == "")
	return t, ok && (t.name == "") == (collection || t.verb == "create" || t.verb == "deletecollection")
}

// handler serves who may.
func handler(o *objects, g *gate) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		u, err := g.who(r)
		if err != nil {
			complain(w, apierrors.NewUnauthorized(err.Error()))
			return
		}
		var a *authorizationv1.ResourceAttributes
		t, ok := o.parse(r)
		if ok {
			a = &authorizationv1.ResourceAttributes{Group: o.group, Version: version, Resource: t.resource, Namespace: t.namespace, Name: t.name, Subresource: t.door, Verb: t.verb}
		}
		if no, err := g.may(r.Context(), u, a, r.URL.Path, strings.ToLower(r.Method)); err != nil || no != "" {
			if err == nil {
				err = &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: no}}
			}
			complain(w, err)
			return
		}
		switch {
		case ok:
			if err := o.serve(w, r, t); err != nil {
				complain(w, err)
			}
		case r.URL.Path == "/openapi/v2":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, strings.ReplaceAll(document, "aquarium.celox.test", o.group)) // who is gone asks again
		default:
			o.describe(w, r.URL.Path)
		}
	})
	return mux
}

// describe answers with the documents that say what there is.
func (o *objects) describe(w http.ResponseWriter, path string) {
	v := metav1.GroupVersionForDiscovery{GroupVersion: o.group + "/" + version, Version: version}
	about := metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: o.group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
	switch strings.TrimSuffix(path, "/") {
	case "/apis":
		say(w, http.StatusOK, metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{about}})
	case "/apis/" + o.group:
		say(w, http.StatusOK, about)
	case o.root():
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: o.group + "/" + version}
		all := metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		for name, k := range kinds {
			list.APIResources = append(list.APIResources,
				metav1.APIResource{Name: name, SingularName: k.singular, Kind: k.kind, Namespaced: k.namespaced, Verbs: all},
				metav1.APIResource{Name: name + "/status", Kind: k.kind, Namespaced: k.namespaced, Verbs: metav1.Verbs{"get", "patch", "update"}})
		}
		say(w, http.StatusOK, list)
	default:
		complain(w, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: "there is nothing at " + path}})
	}
}

func say(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who is gone asks again
}

func complain(w http.ResponseWriter, err error) {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	say(w, int(s.Code), s)
}

// serve carries out a request.
func (o *objects) serve(w http.ResponseWriter, r *http.Request, t target) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return err
	}
	switch t.verb {
	case "get":
		u, err := o.get(t.resource, t.namespace, t.name)
		if err == nil {
			say(w, http.StatusOK, u)
		}
		return err
	case "create":
		u, err := t.decode(body)
		if err == nil {
			err = o.create(t.resource, u)
		}
		if err == nil {
			say(w, http.StatusCreated, u)
		}
		return err
	case "update", "patch":
		u, err := o.update(t.resource, t.namespace, t.name, t.door == "status", func(old *unstructured.Unstructured) (*unstructured.Unstructured, error) {
			if t.verb == "patch" {
				return t.patched(old, types.PatchType(r.Header.Get("Content-Type")), body)
			}
			return t.decode(body)
		})
		if err == nil {
			say(w, http.StatusOK, u)
		}
		return err
	case "delete":
		var opts metav1.DeleteOptions
		if len(body) > 0 {
			if err := json.Unmarshal(body, &opts); err != nil {
				return apierrors.NewBadRequest(err.Error())
			}
		}
		u, err := o.remove(t.resource, t.namespace, t.name, opts.Preconditions)
		if err == nil {
			say(w, http.StatusOK, u)
		}
		return err
	}
	want, err := selection(r)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if t.verb == "watch" {
		return o.watch(r.Context(), w, r, t, want)
	}
	found, revision := o.list(t.resource, t.namespace, want)
	if t.verb == "deletecollection" {
		for _, u := range found {
			if _, err := o.remove(t.resource, u.GetNamespace(), u.GetName(), nil); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	items := []any{}
	for _, u := range found {
		items = append(items, u.Object)
	}
	say(w, http.StatusOK, map[string]any{"kind": kinds[t.resource].kind + "List", "apiVersion": t.apiVersion,
		"metadata": map[string]any{"resourceVersion": strconv.FormatInt(revision, 10)}, "items": items})
	return nil
}

// decode reads an object and puts it where the request says.
func (t target) decode(body []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(body); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if u.GetKind() != kinds[t.resource].kind || u.GetAPIVersion() != t.apiVersion || t.name != "" && u.GetName() != t.name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s %s %q is no %s %q", u.GetAPIVersion(), u.GetKind(), u.GetName(), kinds[t.resource].kind, t.name))
	}
	u.SetNamespace(t.namespace)
	return u, nil
}

// patched is an object after a patch.
func (t target) patched(old *unstructured.Unstructured, kind types.PatchType, body []byte) (*unstructured.Unstructured, error) {
	before, err := old.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var after []byte
	switch kind {
	case types.MergePatchType:
		after, err = jsonpatch.MergePatch(before, body)
	case types.JSONPatchType:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(body); err == nil {
			after, err = p.Apply(before)
		}
	default:
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
			Message: fmt.Sprintf("the server knows no patch of type %q", kind)}}
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return t.decode(after)
}

// selection is what the selectors of a request let through.
func selection(r *http.Request) (func(*unstructured.Unstructured) bool, error) {
	l, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	f, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil, err
	}
	return func(u *unstructured.Unstructured) bool {
		return l.Matches(labels.Set(u.GetLabels())) && f.Matches(fields.Set{"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace()})
	}, nil
}

// watch tells what happens, from a revision on; without one it begins with all there is.
func (o *objects) watch(ctx context.Context, w http.ResponseWriter, r *http.Request, t target, want func(*unstructured.Unstructured) bool) error {
	q := r.URL.Query()
	last := eldest
	if s, err := strconv.Atoi(q.Get("timeoutSeconds")); err == nil && s > 0 {
		last = time.Duration(s) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, last)
	defer cancel()
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	send := func(kind watch.EventType, u any) error {
		if err := out.Encode(map[string]any{"type": kind, "object": u}); err != nil {
			return err
		}
		return flush.Flush()
	}
	initial, _ := strconv.ParseBool(q.Get("sendInitialEvents"))
	at, err := strconv.ParseInt(q.Get("resourceVersion"), 10, 64)
	fromNow := initial || err != nil || at == 0
	if !fromNow {
		if _, _, err := o.after(at); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if err := flush.Flush(); err != nil {
		return nil // the watcher is gone
	}
	if fromNow {
		var all []*unstructured.Unstructured
		all, at = o.list(t.resource, t.namespace, want)
		for _, u := range all {
			if send(watch.Added, u) != nil {
				return nil // as above
			}
		}
		if initial {
			mark := map[string]any{"kind": kinds[t.resource].kind, "apiVersion": t.apiVersion, "metadata": map[string]any{
				"resourceVersion": strconv.FormatInt(at, 10), "annotations": map[string]any{metav1.InitialEventsAnnotationKey: "true"}}}
			if send(watch.Bookmark, mark) != nil {
				return nil // as above
			}
		}
	}
	for {
		changes, wake, err := o.after(at)
		if err != nil {
			_ = send(watch.Error, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": http.StatusGone, "reason": "Expired", "message": err.Error()}) // as above
			return nil
		}
		for _, c := range changes {
			at = c.Revision
			if c.Resource != t.resource || t.namespace != "" && c.Object.GetNamespace() != t.namespace {
				continue
			}
			is, was := c.Kind != watch.Deleted && want(c.Object), c.Before != nil && want(c.Before)
			kind := watch.Modified
			switch {
			case !is && !was:
				continue
			case is && !was:
				kind = watch.Added
			case !is:
				kind = watch.Deleted
			}
			if send(kind, c.Object) != nil {
				return nil // as above
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}
