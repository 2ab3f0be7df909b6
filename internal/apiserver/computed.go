package apiserver

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// Computed has the objects of a group version that are computed when somebody asks for them, and are stored nowhere. An APIService of
// another server for the group version takes its place.
type Computed interface {
	// Resource tells whether there is a resource of that name, and whether its objects are in namespaces.
	Resource(name string) (namespaced, ok bool)
	Get(ctx context.Context, resource, namespace, name string) (runtime.Object, error)
	// List returns the objects of a namespace, "" is all, that the selectors match, of which nil is everything.
	List(ctx context.Context, resource, namespace string, ls labels.Selector, fs fields.Selector) (runtime.Object, error)
	// Table makes a table of what the others return, with whole objects in its rows.
	Table(obj runtime.Object) *metav1.Table
}

// serveComputed answers a request for a group version whose objects are computed. False: it is none.
func (s *Server) serveComputed(x *exchange) bool {
	c := s.cfg.Computed[schema.GroupVersion{Group: x.info.Group, Version: x.info.Version}]
	if c == nil {
		return false
	}
	if err := x.computed(c); err != nil {
		x.fail(err)
	}
	return true
}

func (x *exchange) computed(c Computed) error {
	i := x.info
	namespaced, ok := c.Resource(i.Resource)
	if !ok || i.Malformed || i.Subresource != "" || len(i.Parts) > 2 || i.Namespace != "" && !namespaced {
		return noSuchResource()
	}
	if x.r.Method != http.MethodGet {
		return methodNotAllowed()
	}
	accept, err := negotiate.ParseAccept(x.r.Header)
	if err != nil {
		return err
	}
	var obj runtime.Object
	switch {
	case i.Verb == "get" && namespaced && i.Namespace == "":
		return noSuchResource()
	case i.Verb == "get":
		obj, err = c.Get(x.ctx, i.Resource, i.Namespace, i.Name)
	case i.Verb == "list":
		var ls labels.Selector
		var fs fields.Selector
		if ls, fs, err = x.selectors(namespaced); err == nil {
			obj, err = c.List(x.ctx, i.Resource, i.Namespace, ls, fs)
		}
	default:
		return methodNotAllowed()
	}
	if err != nil {
		return err
	}
	return x.showComputed(accept, c, obj)
}

// selectors reads the selectors of a list of objects that have no fields of their own to be selected by.
func (x *exchange) selectors(namespaced bool) (ls labels.Selector, fs fields.Selector, err error) {
	q := x.params()
	if s := q.Get("labelSelector"); s != "" {
		if ls, err = labels.Parse(s); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if s := q.Get("fieldSelector"); s != "" {
		if fs, err = fields.ParseSelector(s); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		for _, r := range fs.Requirements() {
			if r.Field != "metadata.name" && (r.Field != "metadata.namespace" || !namespaced) {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", r.Field))
			}
		}
	}
	return ls, fs, nil
}

// showComputed answers with an object or a list in the shape that the client wants.
func (x *exchange) showComputed(a negotiate.Accept, c Computed, obj runtime.Object) error {
	isList := meta.IsListType(obj)
	switch {
	case a.Shape == negotiate.Whole:
		x.send(http.StatusOK, negotiate.Accept{Media: a.Media, Pretty: a.Pretty}, obj)
		return nil
	case a.Shape == negotiate.Table:
		include, err := x.includeObject()
		if err != nil {
			return err
		}
		t := c.Table(obj)
		t.TypeMeta = metav1.TypeMeta{Kind: "Table", APIVersion: metav1.GroupName + "/" + a.MetaVersion}
		for i := range t.Rows {
			o := &t.Rows[i].Object
			switch include {
			case metav1.IncludeObject:
			case metav1.IncludeNone:
				*o = runtime.RawExtension{}
			default:
				if o.Object, err = metadataOf(o.Object, a.MetaVersion); err != nil {
					return err
				}
			}
		}
		x.send(http.StatusOK, negotiate.Accept{Media: a.Media, Pretty: a.Pretty}, t)
		return nil
	case a.Shape == negotiate.MetadataList && isList:
		out := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: metav1.GroupName + "/" + a.MetaVersion}}
		out.Items = []metav1.PartialObjectMetadata{}
		err := meta.EachListItem(obj, func(o runtime.Object) error {
			p, err := metadataOf(o, a.MetaVersion)
			if err == nil {
				p.TypeMeta = metav1.TypeMeta{}
				out.Items = append(out.Items, *p)
			}
			return err
		})
		if err != nil {
			return err
		}
		x.send(http.StatusOK, negotiate.Accept{Media: a.Media, Pretty: a.Pretty}, out)
		return nil
	case a.Shape == negotiate.Metadata && !isList:
		p, err := metadataOf(obj, a.MetaVersion)
		if err != nil {
			return err
		}
		x.send(http.StatusOK, negotiate.Accept{Media: a.Media, Pretty: a.Pretty}, p)
		return nil
	}
	return negotiate.NotAcceptable("")
}

// metadataOf is the metadata of an object alone.
func metadataOf(obj runtime.Object, version string) (*metav1.PartialObjectMetadata, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	p := meta.AsPartialObjectMetadata(m)
	p.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.GroupName + "/" + version}
	return p, nil
}
