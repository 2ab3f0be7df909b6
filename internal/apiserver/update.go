package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// conflictText is what clients look for when they lost a race.
const conflictText = "the object has been modified; please apply your changes to the latest version and try again"

func (x *exchange) conflict(name string) error {
	return apierrors.NewConflict(x.res.gr, name, errors.New(conflictText))
}

// update replaces an object, or its status.
func (x *exchange) update() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	o, err := x.updateOptions()
	if err != nil {
		return err
	}
	obj, err := x.decodeHub(o.validation)
	if err != nil {
		return err
	}
	if err := x.ensureNamespace(obj); err != nil {
		return err
	}
	if err := x.checkName(obj); err != nil {
		return err
	}
	// A body with a resource version can win at most once: its second try is a conflict, so it need not be kept as it came.
	version := obj.GetResourceVersion()
	once := version != "" && version != "0"
	up := &updating{
		sub: x.info.Subresource, options: o, admitOptions: o.forUpdate(), uid: obj.GetUID(), create: true,
		change: func(live api.Object) (api.Object, error) {
			if err := x.sameKind(obj, live); err != nil {
				return nil, err
			}
			if once {
				if obj.GetResourceVersion() != version { // the store had it for a write that another one preceded
					return nil, x.conflict(x.info.Name)
				}
				return obj, nil
			}
			return obj.DeepCopyObject().(api.Object), nil
		},
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

// checkName compares the body's name with the path's.
func (x *exchange) checkName(obj metav1.Object) error {
	switch obj.GetName() {
	case x.info.Name:
		return nil
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", x.info.Name))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), x.info.Name))
}

// updating is one change of an object that exists, by whatever verb.
type updating struct {
	sub          string
	options      writeOptions
	admitOptions runtime.Object
	// uid, if set, must be that of the object.
	uid types.UID
	// change makes the wanted object from the live one, which it must not modify; live is nil when there is none and create is set.
	change func(live api.Object) (api.Object, error)
	// create allows the object to be made if the kind does; always makes it whatever the kind says (server-side apply).
	create, always bool
	// tracked says that change has kept the managed fields itself.
	tracked bool
	// validate, if set, takes the place of the kind's own validation: for subresources with rules of their own.
	validate func(obj, old api.Object) field.ErrorList
	// prepare, if set, takes the place of the kind's own preparation.
	prepare func(obj, old api.Object)
	// last is the object as it was written when that was its end.
	last api.Object
	// attributes, if set, changes what admission is shown; admitted takes over what it made of that.
	attributes func(a *admission.Attributes)
	admitted   func(a *admission.Attributes, obj api.Object)
}

// updateObject changes one object in one guarded step.
func (x *exchange) updateObject(up *updating) (result shown, created bool, err error) {
	name := x.info.Name
	if err := x.unfound(name); err != nil {
		return shown{}, false, err
	}
	commit := nothing
	result, err = x.mutate(x.res.key(x.info.Namespace, name), up.options.dryRun, func(current *store.Item) (store.Mutation, error) {
		created, up.last = false, nil
		commit(false)
		commit = nothing
		if current == nil {
			if !up.always && (!up.create || up.sub != "" || !x.res.kind.AllowCreateOnUpdate) {
				return store.Mutation{}, x.notFound(name)
			}
			created = true
			m, c, err := x.createByUpdate(up)
			if c != nil {
				commit = c
			}
			return m, err
		}
		m, c, err := x.change(up, current)
		if c != nil {
			commit = c
		}
		return m, err
	})
	commit(err == nil)
	if err == nil && up.last != nil {
		up.last.SetResourceVersion(result.obj.GetResourceVersion())
		result = shown{obj: up.last}
	}
	return result, created, x.named(err, name)
}

// createByUpdate makes the object that a PUT or an apply patch named and that does not exist.
func (x *exchange) createByUpdate(up *updating) (store.Mutation, func(bool), error) {
	obj, err := up.change(nil)
	if err != nil {
		return store.Mutation{}, nil, err
	}
	if up.uid != "" {
		return store.Mutation{}, nil, x.uidConflict(up, "")
	}
	if rv := obj.GetResourceVersion(); rv != "" {
		if _, err := strconv.ParseUint(rv, 10, 64); err != nil {
			return store.Mutation{}, nil, err
		}
	}
	if err := x.mayCreate(obj); err != nil {
		return store.Mutation{}, nil, err
	}
	if x.info.Verb == "update" {
		x.dedupOwners(obj, asSent)
	}
	if !up.tracked {
		if obj, err = x.track(nil, obj, "", up.options); err != nil {
			return store.Mutation{}, nil, err
		}
	}
	a := x.attributes(admission.Create, obj, nil, up.options.dryRun)
	a.Options = up.options.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return store.Mutation{}, nil, err
	}
	x.dedupOwners(obj, asAdmitted)
	wipeSystemMeta(obj)
	if err := x.prepareCreate(obj); err != nil {
		return store.Mutation{}, nil, err
	}
	if err := x.authorizeCreate(); err != nil {
		return store.Mutation{}, nil, err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return store.Mutation{}, nil, err
	}
	if !up.options.dryRun { // which gives back what it was told
		obj.SetResourceVersion("")
	}
	commit, err := x.reserve(obj, nil)
	if err != nil {
		return store.Mutation{}, nil, err
	}
	return store.Mutation{Object: obj, TTL: x.res.kind.TTL}, commit, nil
}

// authorizeCreate refuses a write that would make an object to those who may change such objects, but not make them.
func (x *exchange) authorizeCreate() error {
	a := request.AttributesOf(x.user, x.info)
	a.Verb = "create"
	return x.allowed(a)
}

func (x *exchange) uidConflict(up *updating, have types.UID) error {
	return apierrors.NewConflict(x.res.gr, x.info.Name, unmet(x.res.kind.Prefix+"/"+x.res.key(x.info.Namespace, x.info.Name), up.options.dryRun, "UID", up.uid, have))
}

// unmet says that what a writer asked of the object at a key is not so. A dry run is told the key without what is before all keys.
func unmet(key string, dryRun bool, what string, want, have any) error {
	prefix := "/registry/"
	if dryRun {
		prefix = "/"
	}
	return fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s%s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: %s in precondition: %v, %[3]s in object meta: %[5]v",
		prefix, key, what, want, have)
}

// change computes the write that turns the current object into the wanted one.
func (x *exchange) change(up *updating, current *store.Item) (store.Mutation, func(bool), error) {
	k, none := x.res.kind, store.Mutation{}
	live := current.Object
	x.live = current
	if up.uid != "" && up.uid != live.GetUID() {
		return none, nil, x.uidConflict(up, live.GetUID())
	}
	obj, err := up.change(live)
	if err != nil {
		return none, nil, err
	}
	if x.info.Verb == "update" {
		x.dedupOwners(obj, asSent)
	}
	if !up.tracked {
		if obj, err = x.track(live, obj, up.sub, up.options); err != nil {
			return none, nil, err
		}
	}
	a := x.attributes(admission.Update, obj, live, up.options.dryRun)
	a.Options = up.admitOptions
	if up.attributes != nil {
		up.attributes(a)
	}
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return none, nil, err
	}
	if up.admitted != nil {
		up.admitted(a, obj)
	}
	x.dedupOwners(obj, asAdmitted)
	if err := x.checkVersion(obj, live); err != nil {
		return none, nil, err
	}
	if err := x.prepareUpdate(up, obj, live); err != nil {
		return none, nil, err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return none, nil, err
	}
	if timesOnly(obj, live) {
		return none, nil, nil
	}
	if finished(obj, live) {
		// The last finalizer is gone: the object goes as well. What the client sees is what it wrote.
		commit, err := x.reserve(nil, live)
		if err != nil {
			return none, nil, err
		}
		up.last = obj
		return store.Mutation{Delete: true}, commit, nil
	}
	commit, err := x.reserve(obj, live)
	if err != nil {
		return none, nil, err
	}
	return store.Mutation{Object: obj, TTL: k.TTL}, commit, nil
}

// checkVersion refuses an update of a state that is no longer the newest. One without a version overwrites where the kind allows it.
// It names what was asked for: admission may have given the object another name.
func (x *exchange) checkVersion(obj, live api.Object) error {
	rv := obj.GetResourceVersion()
	if rv == "" {
		rv = "0"
	}
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil {
		return err
	}
	switch {
	case n == 0 && x.res.kind.AllowUnconditionalUpdate:
		obj.SetResourceVersion(live.GetResourceVersion())
	case n == 0:
		errs := field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), n, "must be specified for an update")}
		return apierrors.NewInvalid(schema.GroupKind{Group: x.res.gr.Group, Kind: x.res.gr.Resource}, x.info.Name, errs)
	case rv != live.GetResourceVersion():
		return x.conflict(x.info.Name)
	}
	return nil
}

// prepareUpdate puts back what an update may not change and checks the rest.
func (x *exchange) prepareUpdate(up *updating, obj, live api.Object) error {
	k := x.res.kind
	if err := x.keptKind(up.sub, obj); err != nil {
		return err
	}
	obj.SetGeneration(live.GetGeneration())
	if !up.options.dryRun { // which gives back what it was told
		obj.SetSelfLink("")
	}
	switch {
	case up.prepare != nil:
		up.prepare(obj, live)
	case up.sub == "status":
		if k.PrepareForStatusUpdate != nil {
			k.PrepareForStatusUpdate(obj, live)
		}
	case up.sub != "":
		if f := x.res.subs[up.sub].PrepareForUpdate; f != nil {
			f(obj, live)
		} else if up.sub == "finalize" {
			keepNamespaceStatus(obj, live)
		}
	case k.PrepareForUpdate != nil:
		k.PrepareForUpdate(obj, live)
	}
	if up.sub != "status" && k.HasGeneration && obj.GetGeneration() == live.GetGeneration() && generationChanged(k, obj, live) {
		obj.SetGeneration(live.GetGeneration() + 1)
	}
	if up.sub == "" {
		if err := x.completeService(obj, live); err != nil {
			return err
		}
	}
	if obj.GetUID() == "" {
		obj.SetUID(live.GetUID())
	}
	obj.SetCreationTimestamp(live.GetCreationTimestamp())
	if t := live.GetDeletionTimestamp(); t != nil {
		obj.SetDeletionTimestamp(t)
	}
	if s := live.GetDeletionGracePeriodSeconds(); s != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(s)
	}
	errs := validateMeta(obj, k.Namespaced, segmentName, false)
	// Upstream checks the change of metadata in general and again with each kind, and clients see both.
	change := validateMetaUpdate(obj, live)
	errs = append(append(errs, change...), change...)
	qualified := x.qualifies(up.sub)
	if qualified {
		errs = append(errs, validateQualified(obj.GetFinalizers(), field.NewPath("metadata", "finalizers"))...)
	}
	if (up.sub == "" || up.sub == "resize" || up.sub == "ephemeralcontainers") && (len(errs) > 0 || k.ValidateNameOf != nil || obj.GetGenerateName() != live.GetGenerateName()) && x.res.custom == nil && checksAll(k.GroupResource()) {
		errs = append(errs, validateMeta(obj, k.Namespaced, x.nameFunc(obj), qualified)...)
	}
	switch {
	case x.res.custom != nil:
		errs = append(errs, x.validateCustom(up.sub, obj, live, change)...)
	case up.validate != nil:
		errs = append(errs, up.validate(obj, live)...)
	case up.sub == "status":
		if k.ValidateStatusUpdate != nil {
			errs = append(errs, k.ValidateStatusUpdate(obj, live)...)
		}
	case up.sub != "" && up.sub != "scale":
		if f := x.res.subs[up.sub].ValidateUpdate; f != nil {
			errs = append(errs, f(obj, live)...)
		} else if ns, ok := obj.(*corev1.Namespace); ok && up.sub == "finalize" {
			errs = append(errs, validateNamespaceFinalizers(ns)...)
		}
	default:
		if k.ValidateUpdate != nil {
			errs = append(errs, k.ValidateUpdate(obj, live)...)
		}
		if x.res.version.Validate != nil {
			errs = append(errs, x.res.version.Validate(obj, live)...)
		}
	}
	errs = append(x.validateInNamespace(obj, live), errs...)
	if x.res.custom == nil && declared(k.Group) {
		errs = declaredLast(distinct(errs))
	}
	if len(errs) > 0 {
		return x.invalid(obj.GetName(), errs)
	}
	var warn func(obj, old api.Object) []string
	switch up.sub {
	case "":
		warn = k.Warnings
	case "status":
		warn = k.StatusWarnings
	}
	if warn != nil {
		for _, w := range warn(obj, live) {
			request.Warn(x.ctx, w)
		}
	}
	if k.Canonicalize != nil {
		k.Canonicalize(obj)
	}
	return x.settle(obj)
}

// keepNamespaceStatus lets the finalize door of a namespace change anything but its status, as upstream's does.
func keepNamespaceStatus(obj, live api.Object) {
	ns, ok := obj.(*corev1.Namespace)
	if old, ok2 := live.(*corev1.Namespace); ok && ok2 {
		ns.Status = old.Status
	}
}

func validateNamespaceFinalizers(ns *corev1.Namespace) field.ErrorList {
	p := field.NewPath("spec", "finalizers")
	var errs field.ErrorList
	for i, f := range ns.Spec.Finalizers {
		errs = append(errs, validateFinalizers([]string{string(f)}, p.Index(i))...)
		errs = append(errs, check.FinalizerDomain(string(f), p.Index(i))...)
	}
	return errs
}

// finished says whether an update took the last finalizer of an object that waits for its deletion.
func finished(obj, live metav1.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	grace := live.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// timesOnly says whether nothing but the times of managed fields differs: that is no change.
func timesOnly(obj, live metav1.Object) bool {
	a, b := obj.GetManagedFields(), live.GetManagedFields()
	if len(a) != len(b) || len(a) == 0 {
		return false
	}
	differs := false
	for i := range a {
		p, q := &a[i], &b[i]
		if p.Manager != q.Manager || p.Operation != q.Operation || p.APIVersion != q.APIVersion || p.Subresource != q.Subresource || !sameFields(p.FieldsV1, q.FieldsV1) {
			return false
		}
		if !p.Time.Equal(q.Time) {
			differs = true
		}
	}
	if !differs {
		return false
	}
	obj.SetManagedFields(b)
	same := sameObjects(obj, live)
	if !same {
		obj.SetManagedFields(a)
	}
	return same
}

// written compares as equality.Semantic does, but tells amounts apart that are written differently: 1Gi is as much as 1024Mi, and yet a
// client that writes it wants to read it. Read-only.
var written = func() conversion.Equalities {
	e := equality.Semantic.Copy()
	if err := e.AddFunc(func(a, b quantity.Quantity) bool { return a.Cmp(b) == 0 && a.String() == b.String() }); err != nil {
		panic(err) // the function above has the wrong shape
	}
	return e
}()

// sameObjects compares what differs most often, the status and the specification, before the metadata, which takes longest.
func sameObjects(obj, live any) bool {
	a, b := reflect.ValueOf(obj), reflect.ValueOf(live)
	if a.Kind() != reflect.Pointer || a.Type() != b.Type() || a.Elem().Kind() != reflect.Struct {
		return written.DeepEqual(obj, live)
	}
	a, b = a.Elem(), b.Elem()
	for i := a.NumField() - 1; i >= 0; i-- {
		if !a.Type().Field(i).IsExported() {
			return written.DeepEqual(obj, live)
		}
		if !written.DeepEqual(a.Field(i).Addr().Interface(), b.Field(i).Addr().Interface()) {
			return false
		}
	}
	return true
}

func sameFields(a, b *metav1.FieldsV1) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}

// generationChanged says whether an update changes what the kind's generation counts.
func generationChanged(k *api.Kind, obj, old api.Object) bool {
	if k.GenerationChanged != nil {
		return k.GenerationChanged(obj, old)
	}
	a, b := reflect.ValueOf(obj), reflect.ValueOf(old)
	if a.Kind() != reflect.Pointer || a.Type() != b.Type() || a.Elem().Kind() != reflect.Struct {
		return !equality.Semantic.DeepEqual(obj, old)
	}
	a, b = a.Elem(), b.Elem()
	for i := range a.NumField() {
		switch a.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
			continue
		}
		if !equality.Semantic.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			return true
		}
	}
	return false
}
