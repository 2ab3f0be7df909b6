package apiserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
)

// The names of the event types on the wire.
const (
	wireAdded    = "ADDED"
	wireModified = "MODIFIED"
	wireDeleted  = "DELETED"
	wireBookmark = "BOOKMARK"
	wireError    = "ERROR"
)

// watch streams changes until its time is over, the client goes, or it falls too far behind.
func (x *exchange) watch() error {
	w, err := x.beginWatch()
	if err != nil {
		return err
	}
	if isWebSocket(x.r) {
		defer w.end()
		x.watchSocket(w.ctx, w.source, w.enc)
		return nil
	}
	x.onward(w.run)
	return nil
}

// openWatch is a watch that has begun. What beginning takes, and writing, is in functions of their own: the stack of a handler that waits is kept small,
// for it is most of what an idle watcher costs.
type openWatch struct {
	x      *exchange
	ctx    context.Context
	cancel context.CancelFunc // nil if the request's context has the watch's end
	source interface {
		events
		Stop()
	}
	enc  *eventEncoder
	wait func(context.Context) ([]store.Event, error)
	flow *http.ResponseController
}

func (x *exchange) beginWatch() (*openWatch, error) {
	accept, err := x.accept()
	if err != nil {
		return nil, err
	}
	o, err := x.listOptions()
	if err != nil {
		return nil, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if accept.Shape == negotiate.MetadataList {
		accept.Shape = negotiate.Metadata
	}
	enc := &eventEncoder{x: x, accept: accept, media: encodedMedia(accept.Media)}
	if accept.Shape == negotiate.Table {
		if enc.include, err = x.includeObject(); err != nil {
			return nil, err
		}
	}
	if accept.Media == negotiate.YAML { // what is asked for is looked at before the form in which its events would come
		return nil, negotiate.NoStream()
	}
	sel := x.selection(&o)
	wo := store.WatchOptions{
		Namespace: sel.namespace, Name: sel.name, Index: sel.index, IndexValue: sel.value, Filter: sel.filter,
		FilterName: sel.filterName(x.res.gvk.Version), Revision: rev, Bookmarks: o.AllowWatchBookmarks, Settled: x.ticket.Leave,
	}
	if o.SendInitialEvents != nil {
		wo.SendInitial = *o.SendInitialEvents
		if !wo.SendInitial && rev == 0 {
			wo.FromNow = true
		}
	}
	timeout := x.s.cfg.Limits.WatchTimeout
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	} else {
		// Spread the ends, or all clients of a restarted server would come back at one instant for ever.
		timeout += time.Duration(rand.Int64N(int64(timeout)))
	}
	w := &openWatch{x: x, enc: enc, ctx: x.ctx}
	if !x.own.Limit(timeout) {
		w.ctx, w.cancel = context.WithTimeout(x.ctx, timeout)
	}
	source, err := x.res.col.Watch(w.ctx, wo)
	switch {
	case err != nil && w.ctx.Err() != nil:
		w.source = endedWatch{err} // its time was over before the revision came that it begins after: there is nothing to tell
	case apierrors.IsResourceExpired(err), wo.SendInitial && apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		w.source = endedWatch{err} // a revision that is too old is told as an event, as to those who fall behind; so is one that those wait for in vain who want all objects
	case err != nil:
		w.stop()
		return nil, err
	default:
		w.source = source
	}
	x.s.metrics.longRunning(x).Inc()
	enc.told = x.s.metrics.events.WithLabelValues(x.info.Group, x.info.Version, x.info.Resource)
	return w, nil
}

// run is the watch from its first word on.
func (w *openWatch) run() {
	defer w.end()
	w.answer()
	for w.x.r.Method != http.MethodHead && w.next() { // who asks for the head has it
	}
}

func (w *openWatch) end() {
	w.x.s.metrics.longRunning(w.x).Dec()
	w.source.Stop()
	w.stop()
}

// stop ends the context that the watch has of its own, if it has one.
func (w *openWatch) stop() {
	if w.cancel != nil {
		w.cancel()
	}
}

// answer sends the header.
func (w *openWatch) answer() {
	x := w.x
	media := w.enc.accept.Media
	if media == negotiate.Protobuf {
		media += ";stream=watch"
	}
	x.w.Header()["Content-Type"] = []string{media}
	x.w.WriteHeader(http.StatusOK)
	w.flow = http.NewResponseController(x.w.ResponseWriter)
	_ = w.flow.Flush() // the client may go on before the first event
	w.wait = follow(w.source, w.enc, x.w.ResponseWriter)
}

// next waits for events and writes them; false is the end.
func (w *openWatch) next() bool {
	events, err := w.wait(w.ctx)
	return w.write(events, err)
}

func (w *openWatch) write(events []store.Event, err error) bool {
	if err != nil && (w.ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnregistered)) {
		return false
	}
	buf := newBlockWriter(w.x.w)
	defer buf.release()
	for i := range events {
		if err = w.enc.event(buf, &events[i]); err != nil {
			break
		}
	}
	if err != nil {
		w.enc.error(buf, err)
		_ = buf.flush()
		return false
	}
	w.enc.told.Add(float64(len(events)))
	return buf.flush() == nil && w.flow.Flush() == nil
}

// endedWatch is a watch that is over before it begins.
type endedWatch struct{ err error }

func (w endedWatch) Next(context.Context) ([]store.Event, error) { return nil, w.err }
func (endedWatch) Stop()                                         {}

// events is where a watch's events come from.
type events interface {
	Next(ctx context.Context) ([]store.Event, error)
}

// offerer is an http.ResponseWriter that takes bytes without waiting, and without a copy, from other goroutines than the handler's (package gather has one).
type offerer interface {
	// Offer queues bytes that nobody may ever change, or, if that would have to wait, does nothing and returns false.
	Offer(p []byte) bool
	// Kick writes what was offered.
	Kick()
}

// follow returns what a watch's handler waits in. Where source and connection are able to, the handler sleeps on while events go to the connection straight
// from who found them; it is woken when the client is slow, and by what needs it.
func follow(source events, enc *eventEncoder, w http.ResponseWriter) func(context.Context) ([]store.Event, error) {
	deliverer, able := source.(interface {
		Deliver(ctx context.Context, sink store.Sink) ([]store.Event, error)
	})
	if out, ok := reach[offerer](w); ok && able {
		sink := &streamSink{enc: enc, out: out}
		return func(ctx context.Context) ([]store.Event, error) { return deliverer.Deliver(ctx, sink) }
	}
	return source.Next
}

// streamSink hands events to a connection.
type streamSink struct {
	enc *eventEncoder
	out offerer
}

// Take is of store.Sink.
func (s *streamSink) Take(events []store.Event) int {
	for i := range events {
		data, err := s.enc.shared(&events[i])
		if err != nil || data == nil || !s.out.Offer(data) {
			s.enc.told.Add(float64(i))
			return i // the handler writes it, or the error
		}
	}
	s.enc.told.Add(float64(len(events)))
	return len(events)
}

// Sent is of store.Sink.
func (s *streamSink) Sent() { s.out.Kick() }

// eventEncoder writes events in the form that one watch is served in.
type eventEncoder struct {
	x       *exchange
	accept  negotiate.Accept
	media   string
	include metav1.IncludeObjectPolicy
	// columnsSent says that a table's columns have been shown: they come with the first event only.
	columnsSent bool
	scratch     []byte
	// told counts what was sent.
	told prometheus.Counter
	// frames names what shared makes with encode.
	frames store.Form
	encode func(*store.Event) ([]byte, error)
}

func wireType(t store.EventType) string {
	switch t {
	case store.Added:
		return wireAdded
	case store.Modified:
		return wireModified
	case store.Deleted:
		return wireDeleted
	default:
		return wireBookmark
	}
}

// shared returns the bytes of an event that all watchers in the same form share; nil if this watcher is not yet like the others.
func (e *eventEncoder) shared(ev *store.Event) ([]byte, error) {
	if e.accept.Shape == negotiate.Table && !e.columnsSent {
		return nil, nil
	}
	if e.frames.MediaType == "" {
		e.frames = e.frameForm()
	}
	if e.encode == nil {
		e.encode = func(ev *store.Event) ([]byte, error) {
			var w blockWriter
			if err := e.append(&w, ev); err != nil {
				return nil, err
			}
			return w.buf, nil
		}
	}
	return ev.Encoded(e.frames, e.encode)
}

// frameForm names the bytes of events: what of the request makes them differ.
func (e *eventEncoder) frameForm() store.Form {
	f := e.x.res.form(e.media + ";watch")
	switch e.accept.Shape {
	case negotiate.Table:
		f.MediaType += ";as=Table;v=" + e.accept.MetaVersion + ";include=" + string(e.include)
	case negotiate.Metadata:
		f.MediaType += ";as=PartialObjectMetadata;v=" + e.accept.MetaVersion
	}
	return f
}

// event writes one event. Those that others see too come from the bytes that all share.
func (e *eventEncoder) event(w *blockWriter, ev *store.Event) error {
	switch {
	case ev.Type == store.Bookmark:
		return e.bookmark(w, ev)
	case !ev.Shared():
		return e.append(w, ev)
	}
	data, err := e.shared(ev)
	if err != nil {
		return err
	}
	if data == nil {
		return e.append(w, ev)
	}
	w.write(data)
	return nil
}

// append puts an event together. The object's bytes come from the cache that all readers of it share.
func (e *eventEncoder) append(w *blockWriter, ev *store.Event) error {
	o := stored(ev.Item)
	var data, head []byte
	var err error
	switch e.accept.Shape {
	case negotiate.Table:
		data, err = e.table([]shown{o}, metav1.ListMeta{ResourceVersion: o.obj.GetResourceVersion()})
	case negotiate.Metadata:
		head = metadataForms(e.accept.MetaVersion).protoHead
		data, err = metadataBytes(e.x.res.kind, o, e.media, e.accept.MetaVersion)
	default:
		head = e.x.res.forms.protoHead
		data, err = e.x.s.bytes(e.x.res, o, e.media)
	}
	if err != nil {
		return err
	}
	e.frame(w, wireType(ev.Type), head, data)
	return nil
}

func (e *eventEncoder) table(rows []shown, meta metav1.ListMeta) ([]byte, error) {
	t, err := e.x.table(e.accept.MetaVersion, rows, meta, e.include)
	if err != nil {
		return nil, err
	}
	if e.columnsSent {
		t.ColumnDefinitions = nil
	}
	e.columnsSent = true
	return json.Marshal(t)
}

// bookmark is an empty object of the watched kind with a resource version.
func (e *eventEncoder) bookmark(w *blockWriter, ev *store.Event) error {
	var obj runtime.Object
	var head []byte
	rv := strconv.FormatInt(ev.Revision, 10)
	mark := func(m metav1.Object) {
		m.SetResourceVersion(rv)
		if ev.Initial {
			m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
	}
	switch e.accept.Shape {
	case negotiate.Table, negotiate.Metadata:
		p := &metav1.PartialObjectMetadata{}
		mark(p)
		p.APIVersion, p.Kind = metav1.GroupName+"/"+e.accept.MetaVersion, "PartialObjectMetadata"
		head = metadataForms(e.accept.MetaVersion).protoHead
		if e.accept.Shape == negotiate.Table {
			p.TypeMeta = metav1.TypeMeta{}
			var o api.Object
			if v, ok := e.x.res.version.New().(api.Object); ok {
				o = v
				mark(o)
				o.GetObjectKind().SetGroupVersionKind(e.x.res.gvk)
			}
			data, err := e.table(nil, metav1.ListMeta{ResourceVersion: rv})
			if err != nil {
				return err
			}
			if o != nil {
				data, err = e.bookmarkTable(o, rv)
				if err != nil {
					return err
				}
			}
			e.frame(w, wireBookmark, nil, data)
			return nil
		}
		obj = p
	default:
		obj = e.x.res.version.New()
		if m, ok := obj.(metav1.Object); ok {
			mark(m)
		}
		obj.GetObjectKind().SetGroupVersionKind(e.x.res.gvk)
		head = e.x.res.forms.protoHead
	}
	data, err := encodeObject(obj, e.media)
	if err != nil {
		return err
	}
	e.frame(w, wireBookmark, head, data)
	return nil
}

// bookmarkTable is a table whose one row is the bookmark's object.
func (e *eventEncoder) bookmarkTable(o api.Object, rv string) ([]byte, error) {
	t, err := e.x.table(e.accept.MetaVersion, []shown{{obj: o}}, metav1.ListMeta{ResourceVersion: rv}, e.include)
	if err != nil {
		return nil, err
	}
	t.ColumnDefinitions = nil
	return json.Marshal(t)
}

// error appends the event that ends a watch.
func (e *eventEncoder) error(w *blockWriter, err error) {
	status := e.x.status(err)
	data, merr := encodeObject(status, e.media)
	if merr != nil {
		return
	}
	e.frame(w, wireError, protoHead("v1", "Status"), data)
}

// frame appends an event: a line of JSON, or four bytes of length and a bare protobuf WatchEvent whose object is in its envelope.
func (e *eventEncoder) frame(w *blockWriter, typ string, head, data []byte) {
	if e.media != negotiate.Protobuf {
		w.write(jsonEventHead(typ))
		w.write(data)
		w.write(jsonEventTail)
		return
	}
	// WatchEvent{type=1, object=2: RawExtension{raw=1}}
	object := len(head) + uvarintLen(uint64(len(data))) + len(data) + len(protoTail)
	ext := 1 + uvarintLen(uint64(object)) + object
	event := 1 + uvarintLen(uint64(len(typ))) + len(typ) + 1 + uvarintLen(uint64(ext)) + ext
	b := binary.BigEndian.AppendUint32(e.scratch[:0], uint32(event))
	b = append(b, 1<<3|2)
	b = binary.AppendUvarint(b, uint64(len(typ)))
	b = append(b, typ...)
	b = append(b, 2<<3|2)
	b = binary.AppendUvarint(b, uint64(ext))
	b = append(b, 1<<3|2)
	b = binary.AppendUvarint(b, uint64(object))
	b = append(b, head...)
	b = binary.AppendUvarint(b, uint64(len(data)))
	e.scratch = b
	w.write(b)
	w.write(data)
	w.write(protoTail)
}

var jsonEventTail = []byte("}\n")

func jsonEventHead(typ string) []byte {
	switch typ {
	case wireAdded:
		return jsonAdded
	case wireModified:
		return jsonModified
	case wireDeleted:
		return jsonDeleted
	}
	return []byte(`{"type":"` + typ + `","object":`)
}

var (
	jsonAdded    = []byte(`{"type":"ADDED","object":`)
	jsonModified = []byte(`{"type":"MODIFIED","object":`)
	jsonDeleted  = []byte(`{"type":"DELETED","object":`)
)
