package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// deleteOptions reads the options of a deletion.
func (x *exchange) deleteOptions() (*metav1.DeleteOptions, error) {
	o, err := x.sentDeleteOptions()
	if err != nil {
		return nil, err
	}
	if err := invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(o)); err != nil {
		return nil, err
	}
	o.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "meta.k8s.io/v1"}
	return o, nil
}

// sentDeleteOptions are those of the body or, when there is none, of the query.
func (x *exchange) sentDeleteOptions() (*metav1.DeleteOptions, error) {
	if given, ok := x.r.Body.(*request.Given); ok {
		if o, ok := given.Object().(*metav1.DeleteOptions); ok {
			given.Take()
			return o, nil
		}
	}
	o := &metav1.DeleteOptions{}
	body, err := negotiate.ReadBody(x.r)
	if err != nil {
		return nil, err
	}
	switch {
	case len(body) > 0:
		return x.decodeDeleteOptions(body)
	case x.r.URL.RawQuery != "":
		q := x.params()
		if q.Has("gracePeriodSeconds") {
			n, err := parseInt64(q, "gracePeriodSeconds")
			if err != nil {
				return nil, err
			}
			o.GracePeriodSeconds = &n
		}
		if v, ok := q["orphanDependents"]; ok {
			b := request.Truth(v)
			o.OrphanDependents = &b //nolint:staticcheck // clients still send it
		}
		if v, ok := q["ignoreStoreReadErrorWithClusterBreakingPotential"]; ok {
			b := request.Truth(v)
			o.IgnoreStoreReadErrorWithClusterBreakingPotential = &b
		}
		if q.Has("propagationPolicy") {
			p := metav1.DeletionPropagation(q.Get("propagationPolicy"))
			o.PropagationPolicy = &p
		}
		uid, version := types.UID(q.Get("uid")), q.Get("resourceVersion")
		if uid != "" || version != "" {
			o.Preconditions = &metav1.Preconditions{}
			if uid != "" {
				o.Preconditions.UID = &uid
			}
			if version != "" {
				o.Preconditions.ResourceVersion = &version
			}
		}
		o.DryRun = q["dryRun"]
	}
	return o, nil
}

func (x *exchange) decodeDeleteOptions(body []byte) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	media, ok := negotiate.MediaOf(x.r.Header.Get("Content-Type"))
	if !ok {
		return nil, negotiate.UnsupportedBody()
	}
	switch media {
	case negotiate.Protobuf:
		m, raw, err := negotiate.UnwrapProtobuf(body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.APIVersion, o.Kind = m.APIVersion, m.Kind
		if err := o.Unmarshal(raw); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.TypeMeta = metav1.TypeMeta{APIVersion: m.APIVersion, Kind: m.Kind}
	case negotiate.YAML:
		j, err := yaml.YAMLToJSON(body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		body = j
		fallthrough
	case negotiate.JSON:
		var m struct { // whose type the library tells clients of
			APIVersion string `json:"apiVersion,omitempty"`
			Kind       string `json:"kind,omitempty"`
		}
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, apierrors.NewBadRequest("couldn't get version/kind; json parse error: " + err.Error())
		}
		if m.Kind == "" || m.Kind == "DeleteOptions" {
			if err := kjson.UnmarshalCaseSensitivePreserveInts(body, o); err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
		}
		o.TypeMeta = metav1.TypeMeta{APIVersion: m.APIVersion, Kind: m.Kind}
	default:
		return nil, negotiate.UnsupportedBody()
	}
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if o.Kind != "" && o.Kind != "DeleteOptions" {
		return nil, apierrors.NewBadRequest(negotiate.NotRegistered(gv.WithKind(o.Kind)).Error())
	}
	return o, nil
}

// delete removes one object, or begins to.
func (x *exchange) delete() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	o, err := x.deleteOptions()
	if err != nil {
		return err
	}
	x.warnOfOrphans(o)
	if err := x.mayPart(); err != nil {
		return err
	}
	if err := x.unfound(x.info.Name); err != nil {
		return err
	}
	d, err := x.deleteObject(x.info.Namespace, x.info.Name, o, nil)
	if err != nil {
		return err
	}
	if !d.gone || x.res.kind.ReturnDeleted || x.silent() {
		return x.show(http.StatusOK, accept, d.last)
	}
	x.send(http.StatusOK, negotiate.Accept{Media: accept.Media}, x.deletedStatus(d.last.obj))
	return nil
}

func (x *exchange) deletedStatus(obj metav1.Object) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: obj.GetName(), Group: x.res.gr.Group, Kind: x.res.gr.Resource, UID: obj.GetUID()},
	}
}

// warnOfOrphans tells clients of batch/v1 jobs about a default that surprises people.
func (x *exchange) warnOfOrphans(o *metav1.DeleteOptions) {
	if x.res.kind.Resource == "jobs" && x.res.gvr.Group == "batch" && x.res.kind.DefaultPropagation == metav1.DeletePropagationOrphan &&
		o.PropagationPolicy == nil && o.OrphanDependents == nil { //nolint:staticcheck // clients still send it
		request.Warn(x.ctx, "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning")
	}
}

// unsafe says that a deletion is for an object that can't be read any more (KEP-3926). All objects here can.
func unsafe(o *metav1.DeleteOptions) bool {
	ignore := o.IgnoreStoreReadErrorWithClusterBreakingPotential
	return ignore != nil && *ignore
}

// deletion is what became of a deletion: gone now, or waiting for time or finalizers.
type deletion struct {
	last shown
	gone bool
}

// deleteObject carries out a deletion in one guarded step. Of a collection's, whole are the options that it was asked for: admission hears of those, and of no name.
func (x *exchange) deleteObject(namespace, name string, o, whole *metav1.DeleteOptions) (deletion, error) {
	var d deletion
	commit := nothing
	dryRun := len(o.DryRun) > 0
	last, err := x.mutate(x.res.key(namespace, name), dryRun, func(current *store.Item) (store.Mutation, error) {
		commit(false)
		commit = nothing
		d = deletion{}
		if current == nil {
			return store.Mutation{}, x.notFound(name)
		}
		if unsafe(o) {
			return store.Mutation{}, apierrors.NewConflict(x.res.gr, name, fmt.Errorf("StorageError: invalid object, Code: 4, Key: /registry/%s/%s, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage",
				x.res.kind.Prefix, x.res.key(namespace, name)))
		}
		options := o.DeepCopy()
		next, gone, err := x.planDeletion(current.Object, options)
		if err != nil {
			return store.Mutation{}, err
		}
		var told store.Object
		if x.parting != nil {
			if told, err = x.told(current, gone, dryRun); err != nil {
				return store.Mutation{}, err
			}
			if !gone && told != nil {
				if next, _, err = x.planDeletion(told, options); err != nil {
					return store.Mutation{}, err
				}
				if next == nil {
					next = told // it is being deleted already
				}
			}
		}
		a := x.attributes(admission.Delete, nil, current.Object, dryRun)
		a.Namespace, a.Name, a.Options = namespace, name, options
		if x.res.kind.Resource == "namespaces" && x.res.kind.Group == "" {
			a.Namespace = name
		}
		if whole != nil {
			a.Name, a.Options = "", whole.DeepCopy()
		}
		if !x.unasked {
			if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
				return store.Mutation{}, err
			}
			if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
				return store.Mutation{}, err
			}
		}
		if gone {
			d.gone = true
			if next != nil {
				d.last = shown{obj: next}
			}
			if commit, err = x.reserve(nil, current.Object); err != nil {
				commit = nothing
				return store.Mutation{}, err
			}
			return store.Mutation{Delete: true, Object: told}, nil
		}
		if next == nil {
			return store.Mutation{}, nil
		}
		return store.Mutation{Object: next}, nil
	})
	commit(err == nil)
	if err != nil {
		return deletion{}, x.named(err, name)
	}
	if d.last.obj == nil {
		d.last = last
	} else if last.obj != nil {
		d.last.obj.SetResourceVersion(last.obj.GetResourceVersion())
	}
	return d, nil
}

// planDeletion decides what a deletion makes of an object: the object that is to be written or shown instead (a copy, nil for "as
// it is"), and whether it goes now. It may fill in options.
func (x *exchange) planDeletion(live store.Object, o *metav1.DeleteOptions) (next store.Object, gone bool, err error) {
	if err := x.preconditions(live, o.Preconditions); err != nil {
		return nil, false, err
	}
	if ns, ok := live.(*corev1.Namespace); ok {
		return x.planNamespaceDeletion(ns, o)
	}
	if crd, ok := live.(*custom.CRD); ok && crd.DeletionTimestamp == nil {
		return custom.BeginDeletion(crd, x.s.clock.Now()), false, nil
	}
	now := metav1.NewTime(x.s.clock.Now().UTC().Truncate(time.Second))
	if o.GracePeriodSeconds != nil && *o.GracePeriodSeconds < 0 {
		one := int64(1)
		o.GracePeriodSeconds = &one
	}
	var obj store.Object
	if pod, ok := live.(*corev1.Pod); ok {
		c := *pod // only metadata is replaced; what isn't is shared with the old pod
		obj = &c
	} else {
		obj = live.DeepCopyObject().(store.Object)
	}
	graceful := false
	if gp := x.res.kind.GracePeriod; gp != nil {
		var pending bool
		if graceful, pending = grace(gp, obj, o, now); pending {
			return nil, false, nil
		}
	}
	finalizers, changed := x.finalizersForDeletion(live, o)
	if changed {
		obj.SetFinalizers(finalizers)
	}
	switch {
	case graceful:
		gone = len(finalizers) == 0 && *obj.GetDeletionGracePeriodSeconds() == 0
		return obj, gone, nil
	case len(finalizers) > 0:
		markDeleting(obj, now)
		return obj, false, nil
	}
	return nil, true, nil
}

// grace sets the time until which a graceful deletion waits. Pending means that one is under way which this one does not shorten.
func grace(period func(api.Object, *int64) int64, obj store.Object, o *metav1.DeleteOptions, now metav1.Time) (graceful, pending bool) {
	if t := obj.GetDeletionTimestamp(); t != nil {
		running := obj.GetDeletionGracePeriodSeconds()
		if running == nil {
			return false, false
		}
		if o.GracePeriodSeconds == nil || *o.GracePeriodSeconds >= *running {
			if o.GracePeriodSeconds == nil {
				o.GracePeriodSeconds = running
			}
			return false, true
		}
		asked := *o.GracePeriodSeconds
		due := metav1.NewTime(t.Add(time.Duration(asked-*running) * time.Second))
		obj.SetDeletionTimestamp(&due)
		obj.SetDeletionGracePeriodSeconds(&asked)
		return true, false
	}
	seconds := period(obj, o.GracePeriodSeconds)
	o.GracePeriodSeconds = &seconds
	due := metav1.NewTime(now.Add(time.Duration(seconds) * time.Second))
	obj.SetDeletionTimestamp(&due)
	obj.SetDeletionGracePeriodSeconds(&seconds)
	if g := obj.GetGeneration(); g > 0 {
		obj.SetGeneration(g + 1)
	}
	return true, false
}

func markDeleting(obj metav1.Object, now metav1.Time) {
	if t := obj.GetDeletionTimestamp(); t == nil {
		if g := obj.GetGeneration(); g > 0 {
			obj.SetGeneration(g + 1)
		}
		obj.SetDeletionTimestamp(&now)
	} else if t.After(now.Time) {
		obj.SetDeletionTimestamp(&now)
	}
	var zero int64
	obj.SetDeletionGracePeriodSeconds(&zero)
}

func (x *exchange) preconditions(live metav1.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if words := preconditionWords(x.res.kind); words != "" {
		// Namespaces and definitions look by themselves before the general way does.
		if p.UID != nil && *p.UID != live.GetUID() {
			return apierrors.NewConflict(x.res.gr, live.GetName(), fmt.Errorf("%s: UID in precondition: %v, UID in object meta: %v", words, *p.UID, live.GetUID()))
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion() {
			return apierrors.NewConflict(x.res.gr, live.GetName(), fmt.Errorf("%s: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", words, *p.ResourceVersion, live.GetResourceVersion()))
		}
		return nil
	}
	gr := schema.GroupResource{Group: x.res.gvk.Group, Resource: x.res.gvk.Kind}
	if p.UID != nil && *p.UID != live.GetUID() {
		return apierrors.NewConflict(gr, live.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, live.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion() {
		return apierrors.NewConflict(gr, live.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, live.GetResourceVersion()))
	}
	return nil
}

// preconditionWords begin what kinds say of a precondition that doesn't hold and that they check by themselves; "" is for all others.
func preconditionWords(k *api.Kind) string {
	switch k.GroupKind() {
	case schema.GroupKind{Kind: "Namespace"}:
		return "Precondition failed"
	case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
		return "precondition failed"
	}
	return ""
}

// finalizersForDeletion are the finalizers of an object under deletion: the garbage collector's are added or taken as the
// options, or else the finalizers that are there, or else the kind say.
func (x *exchange) finalizersForDeletion(live metav1.Object, o *metav1.DeleteOptions) (finalizers []string, changed bool) {
	have := live.GetFinalizers()
	orphan, foreground := false, false
	switch {
	case o.OrphanDependents != nil: //nolint:staticcheck // clients still send it
		orphan = *o.OrphanDependents //nolint:staticcheck // clients still send it
	case o.PropagationPolicy != nil:
		orphan = *o.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *o.PropagationPolicy == metav1.DeletePropagationForeground
	case slices.Contains(have, metav1.FinalizerOrphanDependents):
		orphan = true
	case slices.Contains(have, metav1.FinalizerDeleteDependents):
		foreground = true
	default:
		orphan = x.res.kind.DefaultPropagation == metav1.DeletePropagationOrphan
	}
	for _, f := range have {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			finalizers = append(finalizers, f)
		}
	}
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if len(finalizers) == len(have) && !slices.ContainsFunc(finalizers, func(f string) bool { return !slices.Contains(have, f) }) {
		return have, false
	}
	return finalizers, true
}

// planNamespaceDeletion begins the end of a namespace, or ends it when nothing is left in it.
func (x *exchange) planNamespaceDeletion(live *corev1.Namespace, o *metav1.DeleteOptions) (store.Object, bool, error) {
	switch {
	case live.DeletionTimestamp == nil:
		ns := live.DeepCopy()
		now := metav1.NewTime(x.s.clock.Now().UTC().Truncate(time.Second))
		ns.DeletionTimestamp = &now
		ns.Status.Phase = corev1.NamespaceTerminating
		if finalizers, changed := x.finalizersForDeletion(live, o); changed {
			ns.Finalizers = finalizers
		}
		return ns, len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0, nil
	case len(live.Spec.Finalizers) > 0 || len(live.Finalizers) > 0:
		return nil, false, nil
	}
	return nil, true, nil
}

// deleteCollection removes what a list would show, one object after the other, and answers with that list.
func (x *exchange) deleteCollection() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	lo, err := x.listOptions()
	if err != nil {
		return err
	}
	o, err := x.deleteOptions()
	if err != nil {
		return err
	}
	if unsafe(o) {
		return invalidOptions("DeleteOptions", field.ErrorList{field.Invalid(field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential"), true,
			"is not allowed with DELETECOLLECTION, try again after removing the option")})
	}
	x.warnOfOrphans(o)
	items, meta, err := x.listItems(&lo)
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		options := o.DeepCopy()
		uid := item.Object.GetUID()
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		if options.Preconditions.UID == nil {
			options.Preconditions.UID = (*types.UID)(&uid)
		}
		_, err := x.deleteObject(item.Object.GetNamespace(), item.Object.GetName(), options, o)
		if err != nil && !apierrors.IsNotFound(err) && !(apierrors.IsConflict(err) && o.Preconditions == nil) {
			return err
		}
	}
	return x.showList(accept, items, meta)
}
