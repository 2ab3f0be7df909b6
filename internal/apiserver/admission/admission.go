package admission

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Operation is what a request wants to do.
type Operation string

// The operations.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes describes one write. Object is the hub object as it would be stored (nil for Delete); mutators change it in
// place: it belongs to this request. OldObject is read-only and nil for Create.
type Attributes struct {
	Operation   Operation
	Kind        schema.GroupVersionKind
	Resource    schema.GroupVersionResource
	Subresource string
	Namespace   string
	Name        string
	Object      runtime.Object
	OldObject   runtime.Object
	Options     runtime.Object
	DryRun      bool
	User        user.Info
	// Warn adds a Warning header to the answer. Never nil.
	Warn func(string)
	// Versions shows Object and OldObject as the versions of the API. Without it only the request's own version is known.
	Versions Versions
	// Annotate adds a note to the audit event of the request, if it is not nil.
	Annotate func(key, value string)
	// Metrics counts what happens, if it is not nil.
	Metrics *Metrics
	// Waited, if it is not nil, is told how long the request waited for somebody else.
	Waited func(time.Duration)

	rerun rerun
}

// rerun is what the two runs of the mutators know of each other.
type rerun struct {
	wanted, second bool
	memory         map[any]any
}

// RunAgain asks that all mutators run once more when they are through: the caller has changed the object in a way that others
// may want to react to. In the second run it does nothing.
func (a *Attributes) RunAgain() { a.rerun.wanted = true }

// SecondRun says that all mutators have run before.
func (a *Attributes) SecondRun() bool { return a.rerun.second }

// Remember keeps a value for the second run; Recall returns it there, or nil.
func (a *Attributes) Remember(key, value any) {
	if a.rerun.memory == nil {
		a.rerun.memory = map[any]any{}
	}
	a.rerun.memory[key] = value
}

// Recall returns what was remembered.
func (a *Attributes) Recall(key any) any { return a.rerun.memory[key] }

// Note adds a note to the audit event of the request.
func (a *Attributes) Note(key, value string) {
	if a.Annotate != nil {
		a.Annotate(key, value)
	}
}

// A Mutator may change Attributes.Object or refuse with an error in the API's own shape (apierrors).
type Mutator interface {
	Admit(ctx context.Context, a *Attributes) error
}

// A Validator may refuse; it changes nothing.
type Validator interface {
	Validate(ctx context.Context, a *Attributes) error
}

// Chain runs plugins in order: first every Mutator, later (after the object was validated) every Validator.
type Chain []any

// Admit runs the mutators, and once more if one of them asks for it. Managed fields that they leave in disorder become what they were.
func (c Chain) Admit(ctx context.Context, a *Attributes) (err error) {
	meta, _ := a.Object.(metav1.Object)
	if meta != nil {
		before := meta.GetManagedFields()
		defer func() {
			if err == nil {
				a.mendManagedFields(meta, before)
			}
		}()
	}
	watch := a.Metrics.start(stepAdmit)
	a.rerun = rerun{}
	if err = c.admit(ctx, a, &watch); err == nil && a.rerun.wanted {
		a.rerun.second = true
		err = c.admit(ctx, a, &watch)
	}
	if err == nil && meta != nil {
		err = a.keepNamespace(meta)
	}
	watch.end(a.Operation, err != nil)
	return err
}

// keepNamespace refuses an object that mutators put into another namespace than that of the request, and gives back the one that they took away.
func (a *Attributes) keepNamespace(meta metav1.Object) error {
	want := a.Namespace
	if a.Resource.Resource == "namespaces" && a.Resource.Group == "" {
		want = ""
	}
	switch have := meta.GetNamespace(); {
	case have == want:
	case have == "" || want == "":
		meta.SetNamespace(want)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// mendManagedFields takes back what mutators made of managed fields, if nobody can read it.
func (a *Attributes) mendManagedFields(meta metav1.Object, before []metav1.ManagedFieldsEntry) {
	after := meta.GetManagedFields()
	if len(after) == len(before) && (len(after) == 0 || &after[0] == &before[0]) {
		return // nobody has touched them
	}
	if err := managedfields.ValidateManagedFields(after); err != nil {
		meta.SetManagedFields(before)
		a.Warn(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: " + err.Error())
	}
}

func (c Chain) admit(ctx context.Context, a *Attributes, watch *stopwatch) error {
	for i, p := range c {
		if m, ok := p.(Mutator); ok {
			err := m.Admit(ctx, a)
			watch.plugin(i, a.Operation, err != nil)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate runs the validators.
func (c Chain) Validate(ctx context.Context, a *Attributes) (err error) {
	watch := a.Metrics.start(stepValidate)
	for i, p := range c {
		if v, ok := p.(Validator); ok {
			err = v.Validate(ctx, a)
			watch.plugin(i, a.Operation, err != nil)
			if err != nil {
				break
			}
		}
	}
	watch.end(a.Operation, err != nil)
	return err
}
