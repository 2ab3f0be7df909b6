package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// Admit runs the mutators.
func (c Chain) Admit(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if m, ok := p.(Mutator); ok {
			if err := m.Admit(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate runs the validators.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if v, ok := p.(Validator); ok {
			if err := v.Validate(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}
