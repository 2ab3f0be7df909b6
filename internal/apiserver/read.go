package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// getNewest reads the newest state.
var getNewest store.GetOptions

// get answers with one object.
func (x *exchange) get() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	var o store.GetOptions
	if x.r.URL.RawQuery != "" {
		q := x.params()
		if q.Has("export") && q.Get("export") != "false" {
			return apierrors.NewBadRequest("the export parameter, deprecated since v1.14, is no longer supported")
		}
		if rv := q.Get("resourceVersion"); rv != "" {
			if o.MinRevision, err = parseRevision(rv); err != nil {
				return err
			}
			o.AnyRevision = o.MinRevision == 0
		}
	}
	item, err := x.load(x.info.Name, o)
	if err != nil {
		return err
	}
	return x.show(http.StatusOK, accept, stored(item))
}

// load reads the object of the request's namespace with a name.
func (x *exchange) load(name string, o store.GetOptions) (*store.Item, error) {
	if err := x.unfound(name); err != nil {
		return nil, err
	}
	item, err := x.res.col.Get(x.ctx, x.res.key(x.info.Namespace, name), o)
	if err != nil {
		return nil, x.named(err, name)
	}
	if item == nil {
		return nil, x.notFound(name)
	}
	return item, nil
}

func (x *exchange) notFound(name string) error { return apierrors.NewNotFound(x.res.gr, name) }

// named makes a "not found" of the store, which knows the object by its key, name what the client asked for. Others' (of the
// namespace, of an object that is referred to) stay as they are.
func (x *exchange) named(err error, name string) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Reason != metav1.StatusReasonNotFound {
		return err
	}
	if d := status.ErrStatus.Details; d == nil || d.Kind != x.res.kind.Resource || d.Group != x.res.kind.Group {
		return err
	}
	return x.notFound(name)
}

// show answers with one object in the shape that the client wants.
func (x *exchange) show(code int, a negotiate.Accept, o shown) error {
	if x.silent() {
		x.w.WriteHeader(code)
		return nil
	}
	switch a.Shape {
	case negotiate.Table:
		return x.showTable(code, a, []shown{o}, metav1.ListMeta{ResourceVersion: o.obj.GetResourceVersion()})
	case negotiate.Metadata:
		data, err := metadataBytes(x.res.kind, o, encodedMedia(a.Media), a.MetaVersion)
		if err != nil {
			return err
		}
		x.sendBytes(code, a, metadataForms(a.MetaVersion).protoHead, data)
		return nil
	case negotiate.MetadataList:
		return notAList(x.res)
	}
	data, err := x.s.bytes(x.res, o, encodedMedia(a.Media))
	if err != nil {
		return err
	}
	x.sendBytes(code, a, x.res.forms.protoHead, data)
	return nil
}

// silent says that nobody will read the answer to a write: the caller, in this process, has asked for none (RFC 7240), and it isn't wanted for the audit log.
func (x *exchange) silent() bool {
	return x.scope.InProcess && x.w.tap == nil && x.r.Header.Get("Prefer") == request.NoAnswer && !x.info.ReadOnly()
}

// encodedMedia is the cached form that an answer is made from: YAML is made from JSON.
func encodedMedia(media string) string {
	if media == negotiate.Protobuf {
		return media
	}
	return negotiate.JSON
}

func notAList(r *resource) error {
	return onlyShape(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (*%s.%s)", r.target.Internal, r.kind.Kind))
}

func onlyShape(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable, Message: message,
	}}
}

// list answers with the objects of a collection.
func (x *exchange) list() error {
	accept, err := x.accept()
	if err != nil {
		return err
	}
	o, err := x.listOptions()
	if err != nil {
		return err
	}
	if accept.Shape == negotiate.Metadata {
		kind := x.res.kind.Kind
		if x.res.custom != nil {
			kind = "Unstructured"
		}
		return onlyShape(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (*%s.%sList)", x.res.target.Internal, kind))
	}
	items, meta, err := x.listItems(&o)
	if err != nil {
		return err
	}
	return x.showList(accept, items, meta)
}

// listItems reads the selected part of the collection.
func (x *exchange) listItems(o *listOptions) ([]*store.Item, metav1.ListMeta, error) {
	sel := x.selection(o)
	lo := store.ListOptions{
		Namespace: sel.namespace, Name: sel.name, Filter: sel.filter, Index: sel.index, IndexValue: sel.value,
		Continue: o.Continue,
	}
	if o.Limit > 0 {
		lo.Limit = o.Limit
	}
	if o.Continue != "" && o.ResourceVersion != "" && o.ResourceVersion != "0" {
		err := store.CheckContinue(o.Continue)
		if err == nil {
			err = apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		return nil, metav1.ListMeta{}, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, metav1.ListMeta{}, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	switch {
	case o.Continue != "":
		if o.ResourceVersion == "0" {
			lo.Limit = 0
		}
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact:
		lo.Match, lo.Revision = store.Exact, rev
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchNotOlderThan:
		lo.Match, lo.Revision = store.NotOlderThan, rev
	case o.ResourceVersion == "":
	case o.ResourceVersion == "0":
		// As upstream's cache does: any state will do, and a limit is not looked at.
		lo.Match, lo.Limit = store.NotOlderThan, 0
	case lo.Limit > 0:
		lo.Match, lo.Revision = store.Exact, rev
	default:
		lo.Match, lo.Revision = store.NotOlderThan, rev
	}
	l, err := x.res.col.List(x.ctx, lo)
	if err != nil {
		return nil, metav1.ListMeta{}, err
	}
	if o.labels != nil || o.fields != nil {
		l.Remaining = nil // whatever the selectors are: how many are left is told of all that there is only
	}
	return l.Items, metav1.ListMeta{
		ResourceVersion: strconv.FormatInt(l.Revision, 10), Continue: l.Continue, RemainingItemCount: l.Remaining,
	}, nil
}
