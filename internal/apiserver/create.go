package apiserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// decode reads the request's body as an object of this version.
func (x *exchange) decode(t negotiate.Target, validation string) (runtime.Object, error) {
	if given, ok := x.r.Body.(*request.Given); ok {
		if obj := given.Object(); obj != nil && x.s.isFor(t, obj) {
			return given.Take(), nil
		}
	}
	media, ok := negotiate.MediaOf(x.r.Header.Get("Content-Type"))
	if !ok || media != negotiate.JSON && media != negotiate.YAML && media != negotiate.Protobuf {
		return nil, negotiate.UnsupportedBody()
	}
	data, err := negotiate.ReadBody(x.r)
	if err != nil {
		return nil, err
	}
	if validation == "" {
		validation = metav1.FieldValidationWarn
	}
	obj, warnings, err := negotiate.Decode(data, media, t, negotiate.Validation(validation), x.s.cfg.Catalogue.Scheme())
	for _, w := range warnings {
		request.Warn(x.ctx, w)
	}
	return obj, err
}

// isFor says whether an object that was given by somebody in this process is what decoding its encoding for t would give.
func (s *Server) isFor(t negotiate.Target, obj runtime.Object) bool {
	known := s.cfg.Catalogue.Scheme().AllKnownTypes()[t.Kind]
	is := reflect.TypeOf(obj)
	return known != nil && is.Kind() == reflect.Pointer && is.Elem() == known && obj.GetObjectKind().GroupVersionKind() == t.Kind
}

// decodeHub reads the body, turns it into the hub type and fills in the defaults.
func (x *exchange) decodeHub(validation string) (api.Object, error) {
	if x.res.custom != nil {
		return x.decodeCustom(validation)
	}
	obj, err := x.decode(x.res.target, validation)
	if err != nil {
		return nil, err
	}
	hub, err := x.toHub(obj)
	if err != nil {
		return nil, negotiate.CannotHandle(x.res.target, x.res.target.Kind, err)
	}
	return hub, nil
}

// toHub turns an object of this version into the hub type with its defaults.
func (x *exchange) toHub(obj runtime.Object) (api.Object, error) {
	if m, ok := obj.(metav1.Object); ok {
		if err := x.readable(m); err != nil {
			return nil, err
		}
	}
	hub, err := x.s.cfg.Catalogue.ToHub(x.res.kind, x.res.version, obj)
	if err != nil {
		return nil, err
	}
	if x.res.kind.Default != nil {
		x.res.kind.Default(hub)
	}
	return hub, nil
}

// readable says whether the annotations of an object of this version can be read as what they stand for.
func (x *exchange) readable(obj metav1.Object) error {
	if f := x.res.version.Readable; f != nil {
		return f(obj.GetAnnotations())
	}
	return nil
}

// create makes a new object.
func (x *exchange) create() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	o, err := x.createOptions()
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
	if err := x.mayCreate(obj); err != nil {
		return err
	}
	wipeSystemMeta(obj)
	x.dedupOwners(obj, asSent)
	obj, err = x.track(nil, obj, "", o)
	if err != nil {
		return err
	}
	a := x.attributes(admission.Create, obj, nil, o.dryRun)
	a.Options = o.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	x.dedupOwners(obj, asAdmitted)
	result, err := x.createObject(obj, a)
	if err != nil {
		return err
	}
	return x.show(http.StatusCreated, accept, result)
}

// maxNameTries is how often a generated name that is taken is generated again.
const maxNameTries = 8

// createObject completes, checks and writes an object that was admitted.
func (x *exchange) createObject(obj api.Object, a *admission.Attributes) (shown, error) {
	generate := obj.GetGenerateName() != "" && obj.GetName() == ""
	prefix := obj.GetGenerateName()
	for try := 1; ; try++ {
		next := obj
		if generate {
			if try < maxNameTries {
				next = obj.DeepCopyObject().(api.Object)
			}
			next.SetName(generateName(prefix))
		}
		result, err := x.createOnce(next, a)
		if !generate || !apierrors.IsAlreadyExists(err) || try >= maxNameTries {
			return result, err
		}
	}
}

// nameLetters leave out what can be mistaken for something else, and vowels, so that names spell no words.
const nameLetters = "bcdfghjklmnpqrstvwxz2456789"

// generateName appends five random letters to a prefix, which is cut so that the name fits a label.
func generateName(prefix string) string {
	const suffix, most = 5, 63
	if len(prefix) > most-suffix {
		prefix = prefix[:most-suffix]
	}
	var b [suffix]byte
	for i := range b {
		b[i] = nameLetters[rand.IntN(len(nameLetters))]
	}
	return prefix + string(b[:])
}

func (x *exchange) createOnce(obj api.Object, a *admission.Attributes) (shown, error) {
	k := x.res.kind
	if err := x.prepareCreate(obj); err != nil {
		return shown{}, err
	}
	a.Object, a.Name = obj, obj.GetName()
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return shown{}, err
	}
	if rv, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64); err == nil && rv != 0 && !a.DryRun {
		return shown{}, errors.New("resourceVersion should not be set on objects to be created")
	}
	if !a.DryRun { // which gives back what it was told
		obj.SetResourceVersion("")
	}
	commit, err := x.reserve(obj, nil)
	if err != nil {
		return shown{}, err
	}
	var out shown
	out, err = x.mutate(x.res.key(obj.GetNamespace(), obj.GetName()), a.DryRun, func(current *store.Item) (store.Mutation, error) {
		if current != nil {
			return store.Mutation{}, x.exists(obj, current)
		}
		return store.Mutation{Object: obj, TTL: k.TTL}, nil
	})
	commit(err == nil)
	return out, err
}

// exists refuses an object whose name is taken. That of one with a generateName is taken for generated, as upstream takes it.
func (x *exchange) exists(obj api.Object, current *store.Item) error {
	err := apierrors.NewAlreadyExists(x.res.gr, obj.GetName())
	if obj.GetGenerateName() != "" {
		err = apierrors.NewGenerateNameConflict(x.res.gr, obj.GetName(), 1)
	}
	if current.Object.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}

// mutate writes one object, or on a dry run only finds out what would be written.
func (x *exchange) mutate(key string, dryRun bool, f store.MutateFunc) (shown, error) {
	if !dryRun {
		item, err := x.res.col.Mutate(x.ctx, key, f)
		if err != nil {
			return shown{}, err
		}
		if item == nil {
			return shown{}, apierrors.NewInternalError(fmt.Errorf("writing %s gave nothing back", key))
		}
		return stored(item), nil
	}
	current, err := x.res.col.Get(x.ctx, key, store.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return shown{}, err
	}
	m, err := f(current)
	switch {
	case err != nil:
		return shown{}, err
	case m.Object != nil:
		return x.rehearsed(m.Object)
	case current != nil:
		return stored(current), nil
	}
	return shown{}, apierrors.NewInternalError(fmt.Errorf("a dry run of %s gave nothing", key))
}

// wipeSystemMeta takes away what only the system says of a new object.
func wipeSystemMeta(obj metav1.Object) {
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetUID("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

// prepareCreate fills in what the system says of a new object, takes away what a client may not, and checks the rest.
func (x *exchange) prepareCreate(obj api.Object) error {
	k := x.res.kind
	if err := x.keptKind("", obj); err != nil {
		return err
	}
	obj.SetSelfLink("")
	obj.SetUID(types.UID(newUID()))
	obj.SetCreationTimestamp(metav1.NewTime(x.s.clock.Now().UTC().Truncate(time.Second)))
	if k.HasGeneration {
		obj.SetGeneration(1)
	}
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(obj)
	}
	if err := x.completeService(obj, nil); err != nil {
		return err
	}
	var errs field.ErrorList
	if !k.MetadataLast {
		errs = validateMeta(obj, k.Namespaced, x.nameFunc(obj), x.qualifies(""))
		if k.DeclaresName {
			declareName(errs)
		}
	}
	switch {
	case x.res.custom != nil:
		errs = append(errs, x.validateCustom("", obj, nil, errs)...)
	case k.Validate != nil:
		errs = append(errs, k.Validate(obj)...)
	}
	if x.res.version.Validate != nil {
		errs = append(errs, x.res.version.Validate(obj, nil)...)
	}
	errs = append(x.validateInNamespace(obj, nil), errs...)
	switch {
	case len(errs) > 0:
	case k.MetadataLast:
		errs = validateMeta(obj, k.Namespaced, segmentName, false)
	default:
		errs = validateNames(obj, segmentName)
	}
	if x.res.custom == nil && declared(k.Group) {
		errs = declaredLast(distinct(errs))
	}
	if len(errs) > 0 {
		return x.invalid(obj.GetName(), errs)
	}
	if k.Warnings != nil {
		for _, w := range k.Warnings(obj, nil) {
			request.Warn(x.ctx, w)
		}
	}
	if k.Canonicalize != nil {
		k.Canonicalize(obj)
	}
	return x.settle(obj)
}

// validateInNamespace checks what depends on the namespace's labels; a namespace that is not there has none.
func (x *exchange) validateInNamespace(obj, old api.Object) field.ErrorList {
	f := x.res.kind.ValidateInNamespace
	if f == nil {
		return nil
	}
	var labels map[string]string
	if c, ok := x.s.cfg.Store.Collection(schema.GroupResource{Resource: "namespaces"}); ok {
		if item, err := c.Get(x.ctx, obj.GetNamespace(), store.GetOptions{}); err == nil {
			labels = item.Object.GetLabels()
		}
	}
	return f(obj, old, labels)
}

func (x *exchange) invalid(name string, errs field.ErrorList) error {
	return apierrors.NewInvalid(x.res.kind.GroupKind(), name, errs) // the hub's group, whatever door it is
}

// nameFunc is how names of an object of the kind are checked; a name must always be good for a path.
func (x *exchange) nameFunc(obj api.Object) apivalidation.ValidateNameFunc {
	if f := x.res.kind.ValidateNameOf; f != nil {
		return func(name string, prefix bool) []string { return f(obj, name, prefix) }
	}
	if f := x.res.kind.ValidateName; f != nil {
		return f
	}
	return check.NameIsDNSSubdomain
}

func segmentName(name string, prefix bool) []string {
	if prefix {
		return path.IsValidPathSegmentPrefix(name)
	}
	return path.IsValidPathSegmentName(name)
}

// ensureNamespace gives obj the namespace of the path, and refuses another.
func (x *exchange) ensureNamespace(obj api.Object) error {
	want := ""
	if x.res.kind.Namespaced {
		want = x.info.Namespace
	}
	switch {
	case want == "":
		// What is in no namespace may say one all the same, as upstream allows: it is taken away.
		obj.SetNamespace("")
	case obj.GetNamespace() == "":
		obj.SetNamespace(want)
	case obj.GetNamespace() != want:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// attributes describes the write for admission.
func (x *exchange) attributes(op admission.Operation, obj, old runtime.Object, dryRun bool) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, Kind: x.res.gvk, Resource: x.res.gvr, Subresource: x.info.Subresource,
		Namespace: x.info.Namespace, Name: x.info.Name, Object: obj, OldObject: old, DryRun: dryRun, User: x.user,
		Warn:     func(text string) { request.Warn(x.ctx, text) },
		Annotate: x.scope.Annotate,
		Versions: x.res.shownAs,
		Metrics:  x.s.admission,
		Waited:   func(d time.Duration) { x.waited += d },
	}
	if m, ok := obj.(metav1.Object); ok {
		x.event.Object(m)
		if a.Name == "" {
			a.Name = m.GetName()
		}
	}
	if !x.res.kind.Namespaced && x.res.kind.Resource != "namespaces" {
		a.Namespace = ""
	}
	if x.res.kind.Resource == "namespaces" && x.res.kind.Group == "" {
		a.Namespace = a.Name
	}
	return a
}

// track records who owns which fields: live is the object before (nil when there was none), obj the one after.
func (x *exchange) track(live, obj api.Object, sub string, o writeOptions) (api.Object, error) {
	m := x.res.managers[sub]
	if m == nil {
		return obj, nil
	}
	if x.misnamed(obj) { // what it changes can't be recorded
		if live != nil {
			obj.SetManagedFields(live.GetManagedFields())
		}
		return obj, nil
	}
	return m.Update(live, obj, x.manager(o))
}

// stage is how far an object has come whose owner references are looked at, in the words of warnings.
type stage string

const (
	asSent     stage = ""
	asAdmitted stage = " after mutating admission happens"
)

// dedupOwners drops owner references that come twice, and says so. It is done before their owners are recorded, and again when admission has changed the object; a
// patch makes an object for admission, so all that is wrong with it is found there.
func (x *exchange) dedupOwners(obj metav1.Object, at stage) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var twice []string
	kept := make([]metav1.OwnerReference, 0, len(refs))
	for _, r := range refs {
		same := false
		for i := range kept {
			if equalOwner(&kept[i], &r) {
				same = true
				break
			}
		}
		if same {
			twice = append(twice, string(r.UID))
			continue
		}
		kept = append(kept, r)
	}
	if len(twice) > 0 {
		obj.SetOwnerReferences(kept)
		request.Warn(x.ctx, ".metadata.ownerReferences contains duplicate entries"+string(at)+"; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "+strings.Join(twice, ", "))
	}
}

func equalOwner(a, b *metav1.OwnerReference) bool {
	same := func(p, q *bool) bool { return p == nil && q == nil || p != nil && q != nil && *p == *q }
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name && a.UID == b.UID &&
		same(a.Controller, b.Controller) && same(a.BlockOwnerDeletion, b.BlockOwnerDeletion)
}
