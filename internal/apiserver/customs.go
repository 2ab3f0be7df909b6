package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// collection is where the objects of a resource are.
type collection interface {
	Get(ctx context.Context, key string, o store.GetOptions) (*store.Item, error)
	List(ctx context.Context, o store.ListOptions) (store.List, error)
	Watch(ctx context.Context, o store.WatchOptions) (watching, error)
	Mutate(ctx context.Context, key string, f store.MutateFunc) (*store.Item, error)
	Len() int
	Watchers() int
}

// watching is a stream of events.
type watching interface {
	events
	Stop()
}

// manager keeps the managed fields of objects of one version through one subresource.
type manager interface {
	Update(live, obj api.Object, manager string) (api.Object, error)
	Apply(live api.Object, config *unstructured.Unstructured, manager string, force bool) (api.Object, error)
}

// storeCollection is a collection as it is stored.
type storeCollection struct{ custom.Collection }

// Watch implements collection.
func (c storeCollection) Watch(ctx context.Context, o store.WatchOptions) (watching, error) {
	w, err := c.Collection.Watch(ctx, o)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// viewCollection is a collection seen in another version.
type viewCollection struct{ *custom.View }

// Watch implements collection.
func (c viewCollection) Watch(ctx context.Context, o store.WatchOptions) (watching, error) {
	w, err := c.View.Watch(ctx, o)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// definitionResource is where definitions of custom resources are.
var definitionResource = apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")

// empty makes an object of the resource's hub type.
func (r *resource) empty(c *api.Catalogue) runtime.Object {
	if r.custom != nil {
		return r.custom.New()
	}
	return c.New(r.kind)
}

// customResource makes what serves one version of a custom resource.
func (s *Server) customResource(served *custom.Served, v *custom.Version, view *custom.View) *resource {
	k := v.APIKind()
	r := newResource(k, &k.Versions[0], nil, s.tracker)
	r.custom, r.served = v, served
	if plain, ok := view.Plain(); ok {
		r.col = storeCollection{plain}
	} else {
		r.col = viewCollection{view}
	}
	r.managers = map[string]manager{"": v.Manager("")}
	for name := range r.subs {
		r.managers[name] = v.Manager(name)
	}
	r.target = v.Target()
	r.forms.listHead = []byte(`{"kind":"` + v.ListKind() + `","apiVersion":"` + r.forms.gv.String() + `","metadata":`)
	r.forms.continues = true
	r.shownAs = &customVersions{served: served}
	return r
}

// lookupTries is how often a definition that changes under a request is looked up again.
const lookupTries = 5

// findCustom returns the custom resource that a request asks for; nil if there is none.
func (s *Server) findCustom(gvr schema.GroupVersionResource) (*resource, error) {
	for range lookupTries {
		served, ok := s.customs.Find(gvr.GroupResource())
		if !ok {
			return nil, nil
		}
		v, ok := served.Served(gvr.Version)
		if !ok {
			return nil, nil
		}
		r, err := served.Prepare(v, func(view *custom.View) any { return s.customResource(served, v, view) })
		switch {
		case errors.Is(err, custom.ErrReplaced):
			continue
		case err != nil:
			return nil, apierrors.NewInternalError(fmt.Errorf("error resolving resource: %w", err))
		}
		res, ok := r.(*resource)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("prepared a %T", r))
		}
		return res, nil
	}
	return nil, apierrors.NewServiceUnavailable("the definition of the resource is changing")
}

// dispatchCustom serves a request for a custom resource. It returns false, having done nothing, if there is none that is asked for.
func (s *Server) dispatchCustom(x *exchange) bool {
	i := x.info
	res, err := s.findCustom(i.GroupVersionResource())
	if err != nil {
		x.fail(err)
		return true
	}
	if res == nil || i.Malformed || i.Verb == "proxy" || slices.Contains(i.Parts, "") || len(i.Parts) > 3 {
		return false
	}
	if i.Namespace != "" && !res.kind.Namespaced || i.Namespace == "" && res.kind.Namespaced && i.Verb != "list" && i.Verb != "watch" {
		return false
	}
	x.res = res
	if res.deprecated != "" {
		request.Warn(x.ctx, res.deprecated)
		s.metrics.askedForDeprecated(x)
	}
	if i.Subresource != "" {
		switch sub := res.subs[i.Subresource]; {
		case sub == nil:
			x.fail(x.notFound(i.Name))
			return true
		case !sub.verbs[i.Verb]:
			x.fail(apierrors.NewMethodNotSupported(res.gr, i.Verb))
			return true
		}
	}
	if err := s.serveResource(x); err != nil {
		x.fail(err)
	}
	return true
}

// accept reads in which form the client wants the answer.
func (x *exchange) accept() (negotiate.Accept, error) {
	if x.res != nil && x.info.Verb == "patch" {
		if _, err := x.patchType(); err != nil {
			return negotiate.Accept{}, err // what came is looked at before what is to go
		}
	}
	if x.res != nil && x.res.custom != nil {
		return negotiate.ParseUntypedAccept(x.r.Header)
	}
	if x.res != nil {
		if sub := x.res.subs[x.info.Subresource]; sub != nil && sub.NoTable {
			return negotiate.ParseTablelessAccept(x.r.Header)
		}
	}
	a, err := negotiate.ParseAccept(x.r.Header)
	if err != nil && apierrors.IsNotAcceptable(err) && (x.info.Verb == "list" || x.info.Verb == "watch" && !x.info.NameInPath) {
		if s, ok := err.(apierrors.APIStatus); ok && s.Status().Details != nil {
			err = negotiate.ListNotAcceptable()
		}
	}
	return a, err
}

// decodeCustom reads the body as an object of the custom resource, with its defaults. It may say that it is of another kind: that is refused after admission.
func (x *exchange) decodeCustom(validation string) (api.Object, error) {
	media, ok := negotiate.MediaOf(x.r.Header.Get("Content-Type"))
	if !ok || media != negotiate.JSON && media != negotiate.YAML {
		return nil, negotiate.UnsupportedBody()
	}
	data, err := negotiate.ReadBody(x.r)
	if err != nil {
		return nil, err
	}
	if validation == "" {
		validation = metav1.FieldValidationWarn
	}
	obj, warnings, err := x.res.custom.Decode(data, media, negotiate.Validation(validation))
	for _, w := range warnings {
		request.Warn(x.ctx, w)
	}
	if err != nil {
		return nil, err
	}
	if err := x.res.custom.Default(obj); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// sameKind refuses an update that makes a custom object one of another kind; first it must be one of the state that there is. What a status comes with is not looked at.
func (x *exchange) sameKind(obj, live api.Object) error {
	o, ok := obj.(*custom.Object)
	switch {
	case !ok || x.res.custom == nil || o.Kind == x.res.gvk.Kind, x.info.Subresource == "status":
		return nil
	}
	if err := x.checkVersion(obj, live); err != nil {
		return err
	}
	return x.res.custom.CheckKind(o)
}

// misnamed says whether a custom object came as one of another kind or version than the request's. Those who write a status may call it what they like; others
// are refused later.
func (x *exchange) misnamed(obj runtime.Object) bool {
	return x.res.custom != nil && obj.GetObjectKind().GroupVersionKind() != x.res.gvk
}

// keptKind refuses a custom object that admission has made one of another kind. What a status comes with is not looked at. It may be in another version than the request's, if a webhook asked for one.
func (x *exchange) keptKind(sub string, obj api.Object) error {
	o, ok := obj.(*custom.Object)
	if !ok || x.res.custom == nil || sub == "status" {
		return nil
	}
	if o.GroupVersionKind().GroupKind() == x.res.gvk.GroupKind() {
		return nil
	}
	return x.res.custom.CheckPatched(o)
}

// validateCustom checks a custom object, new (live is nil) or changed; meta are the complaints about its metadata. Rules that it broke before already are told
// as warnings.
func (x *exchange) validateCustom(sub string, obj, live api.Object, meta field.ErrorList) field.ErrorList {
	o, ok := obj.(*custom.Object)
	if !ok {
		return field.ErrorList{field.InternalError(nil, fmt.Errorf("checking a %T", obj))}
	}
	if live == nil {
		return x.res.custom.Validate(x.ctx, o, meta)
	}
	old, ok := live.(*custom.Object)
	if !ok {
		return field.ErrorList{field.InternalError(nil, fmt.Errorf("comparing with a %T", live))}
	}
	ctx := warning.WithWarningRecorder(x.ctx, warnings{x.ctx})
	if sub == "status" {
		return x.res.custom.ValidateStatusUpdate(ctx, o, old, meta)
	}
	return x.res.custom.ValidateUpdate(ctx, o, old, meta)
}

// rehearsed is what a dry run shows of an object: a custom one that is stored in another version has been there and back.
func (x *exchange) rehearsed(obj store.Object) (shown, error) {
	view, ok := x.res.col.(viewCollection)
	if o, is := obj.(*custom.Object); ok && is {
		seen, err := view.Rehearse(x.ctx, o)
		if err != nil {
			return shown{}, err
		}
		obj = seen
	}
	return shown{obj: obj}, nil
}

// settle gives a valid object the form in which it is stored.
func (x *exchange) settle(obj api.Object) error {
	if !x.res.kind.StoredAsJSON { // which tells nothing and an empty list apart
		x.s.empties.clean(obj)
	}
	o, ok := obj.(*custom.Object)
	if !ok || x.res.custom == nil {
		return nil
	}
	if x.applied {
		if err := x.res.custom.Settle(o); err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	negotiate.Integers(o.Fields)
	return nil
}

// warnings takes what the libraries warn of.
type warnings struct{ ctx context.Context }

// AddWarning implements warning.Recorder.
func (w warnings) AddWarning(_, text string) { request.Warn(w.ctx, text) }

// mayCreate refuses new objects of a definition that is going away.
func (x *exchange) mayCreate(obj api.Object) error {
	if x.res.served == nil {
		return nil
	}
	// The store is asked, for those who follow it hear a moment later.
	crd := x.res.served.Newest()
	if item := x.s.definitionStore.Peek(crd.Name); item != nil {
		if now, ok := item.Object.(*custom.CRD); ok {
			crd = now
		}
	}
	if !custom.Terminating(crd) {
		return nil
	}
	return apierrors.NewForbidden(x.res.gr, obj.GetName(), errors.New("create not allowed while custom resource definition is terminating"))
}

// Customs are the custom resources that are served.
func (s *Server) Customs() *custom.Registry { return s.customs }

// startCustoms serves the custom resources whose definitions are stored.
func (s *Server) startCustoms(ctx context.Context) error {
	definitions, ok := s.resources[definitionResource]
	if !ok {
		return nil
	}
	stored, ok := s.cfg.Store.Collection(definitions.kind.GroupResource())
	if !ok {
		return fmt.Errorf("apiserver: the store has no collection for %s", definitions.kind.GroupResource())
	}
	s.definitionStore = stored
	s.definitions = &custom.Controller{
		Definitions: stored, Registry: s.customs, Write: s.writeDefinition, Empty: s.emptyCustom, Clock: s.clock, Logger: s.log,
	}
	var err error
	s.definitionsRevision, err = s.definitions.Load(ctx)
	return err
}

// Run follows the definitions of custom resources until ctx ends. It is called once.
func (s *Server) Run(ctx context.Context) error {
	if s.definitions == nil {
		return nil
	}
	return s.definitions.Run(ctx, s.definitionsRevision)
}

// definitionManager is who the conditions of definitions are owned by, as in upstream.
const definitionManager = "kube-apiserver"

// writeDefinition changes the status of a definition, or its finalizers.
func (s *Server) writeDefinition(ctx context.Context, name string, change func(*custom.CRD) *custom.CRD) error {
	res := s.resources[definitionResource]
	_, err := res.col.Mutate(ctx, name, func(current *store.Item) (store.Mutation, error) {
		if current == nil {
			return store.Mutation{}, nil
		}
		crd, ok := current.Object.(*custom.CRD)
		if !ok {
			return store.Mutation{}, fmt.Errorf("a definition is a %T", current.Object)
		}
		next := change(crd)
		if next == crd {
			return store.Mutation{}, nil
		}
		obj, err := res.managers["status"].Update(crd, next, definitionManager)
		if err != nil {
			return store.Mutation{}, err
		}
		s.empties.clean(obj)
		if finished(obj, crd) {
			return store.Mutation{Delete: true}, nil
		}
		return store.Mutation{Object: obj}, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// emptyCustom deletes all objects of a custom resource and waits until the last is gone.
func (s *Server) emptyCustom(ctx context.Context, gr schema.GroupResource) error {
	served, ok := s.customs.Find(gr)
	if !ok {
		return nil
	}
	v := served.Storage()
	r, err := served.Prepare(v, func(view *custom.View) any { return s.customResource(served, v, view) })
	if err != nil {
		return err
	}
	res, ok := r.(*resource)
	if !ok {
		return fmt.Errorf("prepared a %T", r)
	}
	// What was on its way when the deletion began may come late: look again until there is nothing.
	for {
		l, err := res.col.List(ctx, store.ListOptions{})
		if err != nil {
			return err
		}
		if len(l.Items) == 0 {
			return nil
		}
		if err := s.deleteAll(ctx, res, l); err != nil {
			return err
		}
	}
}

// deleteAll deletes the objects of a list and waits until they are gone.
func (s *Server) deleteAll(ctx context.Context, res *resource, l store.List) error {
	w, err := res.col.Watch(ctx, store.WatchOptions{Revision: l.Revision})
	if err != nil {
		return err
	}
	defer w.Stop()
	left := map[string]bool{}
	var errs []error
	for _, item := range l.Items {
		left[item.Key] = true
		if err := s.deleteCustom(ctx, res, item); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for len(left) > 0 {
		changed, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range changed {
			if e.Type == store.Deleted && e.Item != nil {
				delete(left, e.Item.Key)
			}
		}
	}
	return nil
}

// deleteCustom deletes one object in the name of the server.
func (s *Server) deleteCustom(ctx context.Context, res *resource, item *store.Item) error {
	scope := &request.Scope{InProcess: true, Info: request.Info{
		IsResource: true, Verb: "delete", Group: res.gvr.Group, Version: res.gvr.Version, Resource: res.gvr.Resource,
		Namespace: item.Object.GetNamespace(), Name: item.Object.GetName(), NameInPath: true,
	}}
	u := &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}
	ctx = request.WithUser(request.WithScope(ctx, scope), u)
	r, err := http.NewRequestWithContext(ctx, http.MethodDelete, "/", strings.NewReader(""))
	if err != nil {
		return err
	}
	x := &exchange{s: s, r: r, ctx: ctx, scope: scope, info: &scope.Info, user: u, res: res, unasked: true}
	_, err = x.deleteObject(item.Object.GetNamespace(), item.Object.GetName(), &metav1.DeleteOptions{}, nil)
	return err
}
