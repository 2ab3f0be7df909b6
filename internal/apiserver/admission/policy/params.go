package policy

import (
	"context"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/store"
)

// Kinds finds the kinds that parameters may be of, custom ones included.
type Kinds interface {
	// Kind returns false for a kind that is not served.
	Kind(gvk schema.GroupVersionKind) (Kind, bool)
}

// Objects are stored objects of one kind.
type Objects interface {
	Get(ctx context.Context, key string, o store.GetOptions) (*store.Item, error)
	List(ctx context.Context, o store.ListOptions) (store.List, error)
}

// Kind is a kind of parameters.
type Kind struct {
	Objects    Objects
	Namespaced bool
	Versions   admission.Versions
}

// FirstOf asks one after the other.
type FirstOf []Kinds

// Kind implements Kinds.
func (f FirstOf) Kind(gvk schema.GroupVersionKind) (Kind, bool) {
	for _, k := range f {
		if found, ok := k.Kind(gvk); ok {
			return found, true
		}
	}
	return Kind{}, false
}

// Built are the stored kinds of a catalogue.
type Built struct {
	Catalogue *api.Catalogue
	// Objects finds the collection of a resource.
	Objects func(schema.GroupResource) (store.Reader, bool)
}

// Kind implements Kinds.
func (b Built) Kind(gvk schema.GroupVersionKind) (Kind, bool) {
	k, _, ok := b.Catalogue.ByKind(gvk)
	if !ok || k.Virtual {
		return Kind{}, false
	}
	r, ok := b.Objects(k.GroupResource())
	if !ok {
		return Kind{}, false
	}
	return Kind{Objects: r, Namespaced: k.Namespaced, Versions: admission.NewBuilt(b.Catalogue, k, nil)}, true
}

// kindOf finds what parameters of a policy are of; nil when it takes none.
func (c *Config) kindOf(p *admissionregistrationv1.ParamKind) (*Kind, schema.GroupVersionKind, error) {
	if p == nil {
		return nil, schema.GroupVersionKind{}, nil
	}
	gv, err := schema.ParseGroupVersion(p.APIVersion)
	if err != nil {
		return nil, schema.GroupVersionKind{}, fmt.Errorf("failed to parse paramKind APIVersion: %w", err)
	}
	gvk := gv.WithKind(p.Kind)
	if c.Kinds != nil {
		if k, ok := c.Kinds.Kind(gvk); ok {
			return &k, gvk, nil
		}
	}
	return nil, gvk, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
}

// params are the objects that a binding evaluates its policy with, each in turn; a nil one stands for none. No objects at all means
// that the policy is not evaluated.
func (c *Config) params(ctx context.Context, k *Kind, gvk schema.GroupVersionKind, ref *admissionregistrationv1.ParamRef, requestNamespace string) ([]runtime.Object, error) {
	if k == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	namespace := ""
	switch {
	case !k.Namespaced && ref.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case k.Namespaced && ref.Namespace != "":
		namespace = ref.Namespace
	case k.Namespaced && requestNamespace == "":
		return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	case k.Namespaced:
		namespace = requestNamespace
	}
	found, err := k.find(ctx, ref, namespace)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionregistrationv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	out := make([]runtime.Object, len(found))
	for i, item := range found {
		if out[i], err = k.Versions.Show(item.Object, gvk); err != nil {
			return nil, fmt.Errorf("showing parameter %s as %s: %w", item.Key, gvk, err)
		}
	}
	return out, nil
}

func (k *Kind) find(ctx context.Context, ref *admissionregistrationv1.ParamRef, namespace string) ([]*store.Item, error) {
	switch {
	case ref.Name != "" && ref.Selector != nil:
		return nil, errors.New("paramRef.name and paramRef.selector are mutually exclusive")
	case ref.Name != "":
		key := ref.Name
		if namespace != "" {
			key = namespace + "/" + key
		}
		item, err := k.Objects.Get(ctx, key, store.GetOptions{AnyRevision: true})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*store.Item{item}, nil
	case ref.Selector != nil:
		s, err := metav1.LabelSelectorAsSelector(ref.Selector)
		if err != nil {
			return nil, err
		}
		l, err := k.Objects.List(ctx, store.ListOptions{
			Namespace: namespace, Match: store.NotOlderThan, Filter: func(o store.Object) bool { return s.Matches(labels.Set(o.GetLabels())) },
		})
		return l.Items, err
	}
	return nil, errors.New("one of name or selector must be provided")
}
