package client

import (
	"log/slog"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/store"
)

// Source is a resource whose objects an informer factory can take from the store.
type Source struct {
	GroupResource schema.GroupResource
	// Example is an empty object of the Go type that the store holds; informers are found by it.
	Example runtime.Object
	Reader  store.Reader
	// Index and IndexValue narrow what is seen, e.g. to the pods of one node; empty means everything.
	Index, IndexValue string
	// Log is told of lists that fail; nil is nobody.
	Log *slog.Logger
}

// Informers returns an informer factory whose informers for the given sources hold the store's own pointers. Informers for other
// types go through c as usual. The factory starts every informer it knows, so a caller names only the sources that it reads.
func Informers(c kubernetes.Interface, sources []Source) *informers.Factory {
	f := informers.New(c)
	for _, s := range sources {
		InformerFor(f, s)
	}
	return f
}

// InformerFor returns f's informer for a source; the first call makes it.
func InformerFor(f *informers.Factory, s Source) cache.SharedIndexInformer {
	return f.InformerFor(s.Example, func() cache.SharedIndexInformer { return newShared(s) })
}
