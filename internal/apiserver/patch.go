package apiserver

import (
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// patchType reads what kind of patch the body is.
func (x *exchange) patchType() (types.PatchType, error) {
	media, ok := negotiate.MediaOf(x.r.Header.Get("Content-Type"))
	switch t := types.PatchType(media); {
	case x.res.custom != nil && (!ok || t != types.JSONPatchType && t != types.MergePatchType && t != types.ApplyYAMLPatchType):
		return "", negotiate.UnsupportedCustomPatch()
	case !ok:
	case t == types.JSONPatchType, t == types.MergePatchType, t == types.StrategicMergePatchType, t == types.ApplyYAMLPatchType:
		return t, nil
	}
	return "", negotiate.UnsupportedPatch()
}

// readPatch reads the patch with its options.
func (x *exchange) readPatch() (*apply.Patch, writeOptions, error) {
	t, err := x.patchType()
	if err != nil {
		return nil, writeOptions{}, err
	}
	o, err := x.patchOptions(t)
	if err != nil {
		return nil, o, err
	}
	if edit, ok := x.r.Body.(*request.Edit); ok && t == types.StrategicMergePatchType {
		return &apply.Patch{Type: t, Edit: edit.Apply}, o, nil
	}
	data, err := negotiate.ReadBody(x.r)
	if err != nil {
		return nil, o, err
	}
	v := o.validation
	if v == "" {
		v = metav1.FieldValidationWarn
	}
	p := &apply.Patch{Type: t, Data: data, Validation: v, Warn: func(text string) { request.Warn(x.ctx, text) }}
	return p, o, p.Check()
}

// patch changes a part of an object, or with server-side apply makes it what a configuration says.
func (x *exchange) patch() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	p, o, err := x.readPatch()
	if err != nil {
		return err
	}
	up := &updating{
		sub: x.info.Subresource, options: o,
		admitOptions: o.forUpdate(),
	}
	if p.Type == types.ApplyYAMLPatchType {
		if err := x.prepareApply(up, p, o); err != nil {
			return err
		}
	} else {
		up.change = func(live api.Object) (api.Object, error) { return x.patched(p, live) }
	}
	result, created, err := x.updateObject(up)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return x.show(code, accept, result)
}

// patched is the live object with the patch applied, defaulted.
func (x *exchange) patched(p *apply.Patch, live api.Object) (api.Object, error) {
	t := apply.Target{
		Target: x.res.target, Types: x.s.cfg.Catalogue.Scheme(),
		JSON: func() ([]byte, error) { return x.currentJSON(live) },
	}
	if x.res.custom != nil {
		t.Untyped = x.res.custom.DecodePatched
		t.Merge = func(patch map[string]any, strictly bool) (runtime.Object, bool) {
			o, ok := live.(*custom.Object)
			if !ok {
				return nil, false
			}
			return x.res.custom.Merge(o, patch, strictly)
		}
	}
	if x.res.custom == nil || p.Type == types.StrategicMergePatchType {
		var err error
		if t.Object, err = x.s.cfg.Catalogue.FromHub(x.res.kind, x.res.version, live); err != nil {
			return nil, err
		}
	}
	obj, err := p.Apply(t)
	if err != nil {
		return nil, err
	}
	switch {
	case x.res.custom == nil:
		obj.GetObjectKind().SetGroupVersionKind(x.res.gvk)
	case obj.GetObjectKind().GroupVersionKind().Version == "":
		return nil, apierrors.NewInternalError(negotiate.ErrNoVersion)
	case x.info.Subresource != "status": // what a status comes with is not looked at
		if err := x.res.custom.CheckPatched(obj); err != nil {
			return nil, err
		}
	}
	if same, ok := obj.(api.Object); ok && p.Edit != nil && t.Object == runtime.Object(live) {
		return same, x.checkPatched(same) // it is of the hub type and has its defaults, which it shares with the live object
	}
	hub, err := x.toHub(obj)
	if err != nil {
		return nil, p.Unreadable(t, err)
	}
	return hub, x.checkPatched(hub)
}

// unchanged says whether server-side apply left a custom object as it was. It then has no defaults that it did not have: those of another version than the stored
// one would come and go with every apply. Objects of built-in kinds always have theirs.
func unchanged(obj, live api.Object) bool {
	o, ok := obj.(*custom.Object)
	before, ok2 := live.(*custom.Object)
	return ok && ok2 && o.Unchanged(before)
}

// currentJSON is the live object's JSON, from the cache if the object is the stored one.
func (x *exchange) currentJSON(live store.Object) ([]byte, error) {
	if x.live != nil && x.live.Object == live {
		return x.s.bytes(x.res, stored(x.live), negotiate.JSON)
	}
	return x.s.bytes(x.res, shown{obj: live}, negotiate.JSON)
}

// checkPatched refuses a patch that moves the object.
func (x *exchange) checkPatched(obj api.Object) error {
	if err := x.ensureNamespace(obj); err != nil {
		return err
	}
	return x.checkName(obj)
}

// prepareApply makes up a server-side apply.
func (x *exchange) prepareApply(up *updating, p *apply.Patch, o writeOptions) error {
	config, done, err := p.Configuration()
	if err != nil {
		return err
	}
	x.applied = true
	up.create, up.always, up.tracked = true, x.info.Subresource == "" && x.res.verbs["create"], true
	force := o.force != nil && *o.force
	up.change = func(live api.Object) (api.Object, error) {
		missing := live == nil
		if missing {
			empty, ok := x.res.empty(x.s.cfg.Catalogue).(api.Object)
			if !ok {
				return nil, apierrors.NewInternalError(fmt.Errorf("%s is no object", x.res.gvk))
			}
			live = empty
		}
		if gvk := config.GroupVersionKind(); gvk != x.res.gvk {
			gv, err := schema.ParseGroupVersion(config.GetAPIVersion())
			if err == nil {
				gvk = gv.WithKind(config.GetKind())
			}
			return nil, apierrors.NewBadRequest("invalid object type: " + gvk.String())
		}
		if err := x.readable(config); err != nil {
			return nil, fmt.Errorf("failed to convert to unversioned (%s/%s; %v): %w", config.GetNamespace(), config.GetName(), x.res.gvk, err)
		}
		obj, err := x.res.managers[up.sub].Apply(live, config, o.fieldManager, force)
		if err != nil {
			return nil, err
		}
		if err := done(); err != nil {
			return nil, err
		}
		if uid := config.GetUID(); missing && uid != "" {
			return nil, apierrors.NewConflict(x.res.gr, x.info.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
		}
		if x.res.kind.Default != nil && !unchanged(obj, live) {
			x.res.kind.Default(obj)
		}
		return obj, x.checkPatched(obj)
	}
	return nil
}
