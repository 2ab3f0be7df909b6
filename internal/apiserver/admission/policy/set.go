package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/apiserver/admission/match"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// Config is what both plugins need.
type Config struct {
	// Policies and Bindings are the collections of the plugin's kinds.
	Policies, Bindings live.Collection
	Namespaces         match.Namespaces
	// Kinds finds what parameters are of.
	Kinds Kinds
	// Authorizer is whom expressions ask.
	Authorizer request.Authorizer
}

// binding is one revision of a binding.
type binding struct {
	revision int64
	name     string
	policy   string
	criteria *match.Criteria // nil: everything that the policy is about
	param    *admissionregistrationv1.ParamRef
	actions  []admissionregistrationv1.ValidationAction
}

func (b *binding) matches(ctx context.Context, a *admission.Attributes, n match.Namespaces) (bool, error) {
	if b.criteria == nil {
		return true, nil
	}
	_, ok, err := b.criteria.Match(ctx, a, n)
	return ok, err
}

// policy is one revision of a policy; T is what is evaluated, compiled when first asked for.
type policy[T any] struct {
	revision int64
	name     string
	criteria *match.Criteria // nil: it has none, which is an error
	failOpen bool
	param    *admissionregistrationv1.ParamKind
	program  func() T
}

// bound is a policy with its bindings.
type bound[T any] struct {
	*policy[T]
	bindings []*binding
}

// inForce is what is configured at one moment. What did not change is kept with what it compiled.
type inForce[T any] struct {
	policies map[string]*policy[T]
	bindings map[string]*binding
	all      *match.Set[*bound[T]]
}

// view keeps what is in force: the policies with a binding, by name.
func view[T any](cfg Config, read func(store.Object) *policy[T], readBinding func(store.Object) *binding) *live.View[inForce[T]] {
	return live.New(func(old inForce[T], lists [][]*store.Item) inForce[T] {
		next := inForce[T]{policies: map[string]*policy[T]{}, bindings: map[string]*binding{}}
		byPolicy := map[string][]*binding{}
		for _, item := range lists[1] {
			b := old.bindings[item.Key]
			if b == nil || b.revision != item.Revision {
				if b = readBinding(item.Object); b == nil {
					continue
				}
				b.revision = item.Revision
			}
			next.bindings[item.Key] = b
			byPolicy[b.policy] = append(byPolicy[b.policy], b)
		}
		var all []*bound[T]
		for _, item := range lists[0] {
			p := old.policies[item.Key]
			if p == nil || p.revision != item.Revision {
				if p = read(item.Object); p == nil {
					continue
				}
				p.revision = item.Revision
			}
			next.policies[item.Key] = p
			if bindings := byPolicy[p.name]; len(bindings) > 0 {
				all = append(all, &bound[T]{p, bindings})
			}
		}
		slices.SortFunc(all, func(x, y *bound[T]) int { return strings.Compare(x.name, y.name) })
		next.all = match.NewSet(all, func(b *bound[T]) *match.Criteria { return b.criteria })
		return next
	}, cfg.Policies, cfg.Bindings)
}

// constraints makes the criteria of a policy or binding.
func constraints(m *admissionregistrationv1.MatchResources) *match.Criteria {
	if m == nil {
		return nil
	}
	return match.Resources(m)
}

var errNoConstraints = errors.New("policy contained no match constraints, a required field")

// matches says whether the policy is about a, and as what a is shown to it.
func (p *policy[T]) matches(ctx context.Context, a *admission.Attributes, n match.Namespaces) (admission.Door, bool, error) {
	if p.criteria == nil {
		return admission.Door{}, false, errNoConstraints
	}
	return p.criteria.Match(ctx, a, n)
}

// namespaceOf finds the object behind namespaceObject: none for what is in no namespace, and for namespaces themselves.
func (c *Config) namespaceOf(ctx context.Context, a *admission.Attributes) (*corev1.Namespace, error) {
	if a.Namespace == "" || a.Kind == corev1.SchemeGroupVersion.WithKind("Namespace") {
		return nil, nil
	}
	return c.Namespaces.Namespace(ctx, a.Namespace)
}

func configured(what string, err error) error {
	return fmt.Errorf("failed to configure %s: %w", what, err)
}
