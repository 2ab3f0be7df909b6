package controller

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Handlers are called for what an informer of T delivers; nil ones are left out. Objects are read-only.
type Handlers[T any] struct {
	Add func(T)
	// Update sees the state before and after. Changed, if set instead, sees only the state after, and additions as well.
	Update  func(old, obj T)
	Changed func(T)
	// Delete sees the last known state.
	Delete func(T)
}

// Watch registers handlers with an informer.
func Watch[T any](informer cache.SharedIndexInformer, h Handlers[T]) error {
	funcs := cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if t, ok := obj.(T); ok && h.Add != nil {
				h.Add(t)
			} else if ok && h.Changed != nil {
				h.Changed(t)
			}
		},
		UpdateFunc: func(old, obj any) {
			was, ok := old.(T)
			is, ok2 := obj.(T)
			if ok && ok2 && h.Update != nil {
				h.Update(was, is)
			} else if ok2 && h.Changed != nil {
				h.Changed(is)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if t, ok := obj.(T); ok && h.Delete != nil {
				h.Delete(t)
			}
		},
	}
	if _, err := informer.AddEventHandler(funcs); err != nil {
		var t T
		return fmt.Errorf("watch %T: %w", t, err)
	}
	return nil
}

// In returns what an informer's cache holds of a namespace, which is often nothing: a lister would make an object to ask with, each time. The objects are read-only.
func In[T any](cached cache.Indexer, namespace string) []T {
	objects, err := cached.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil || len(objects) == 0 {
		return nil // every cache has this index
	}
	list := make([]T, 0, len(objects))
	for _, o := range objects {
		if t, ok := o.(T); ok {
			list = append(list, t)
		}
	}
	return list
}

// SelectedIn says whether any service of a namespace selects pods: often there is none, as where the only one is the API server.
func SelectedIn(services cache.Indexer, namespace string) bool {
	return slices.ContainsFunc(In[*corev1.Service](services, namespace), func(s *corev1.Service) bool { return s.Spec.Selector != nil })
}
