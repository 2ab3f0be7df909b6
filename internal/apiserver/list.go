package apiserver

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
)

// cachedList is up to how many stored bytes a list leaves its items' encodings behind for the next one. A larger one is encoded while it is sent: at any time
// there is no more of it in memory than what is under way.
const cachedList = 32 << 20

// pieces is what a big answer is written to, piece by piece. After an error nothing more is written.
type pieces interface {
	// write takes bytes that may not change as long as the writer says (see stream and streamOwn).
	write(p []byte)
	// keep takes a few bytes that may change at once.
	keep(p []byte)
	flush() error
	// broken says that nobody reads any more.
	broken() bool
}

// sharer is an http.ResponseWriter that takes bytes which nobody may ever change, without a copy (package gather has one).
type sharer interface {
	WriteShared(bufs ...[]byte) error
}

// sharedWriter hands pieces to a connection as they are.
type sharedWriter struct {
	w     sharer
	bufs  [][]byte
	small []byte // where bytes live that come one by one
	n     int
	sent  int
	err   error
}

func (s *sharedWriter) write(p []byte) {
	s.bufs = append(s.bufs, p)
	if s.n += len(p); s.n >= blockSize {
		_ = s.flush() // it is remembered
	}
}

func (s *sharedWriter) broken() bool { return s.err != nil }

// keep writes bytes from a place where they stay.
func (s *sharedWriter) keep(b []byte) {
	if len(s.small)+len(b) > cap(s.small) {
		s.small = make([]byte, 0, 1<<10)
	}
	from := len(s.small)
	s.small = append(s.small, b...)
	s.write(s.small[from:len(s.small):len(s.small)])
}

func (s *sharedWriter) flush() error {
	if s.err == nil && len(s.bufs) > 0 {
		s.err = s.w.WriteShared(s.bufs...)
	}
	s.sent += s.n
	s.bufs, s.n = s.bufs[:0], 0
	return s.err
}

// listing is a list on its way to the client.
type listing struct {
	x      *exchange
	accept negotiate.Accept
	media  string
	forms  *forms
	items  []*store.Item
	meta   metav1.ListMeta
	// whole items of built-in kinds go without their type, which the list says once.
	strip bool
	// bodies are the items' encodings; nil if they are made one by one.
	bodies [][]byte
	// scratch is where one is made.
	scratch []byte
}

// showList answers with a list, put together from its items' encodings.
func (x *exchange) showList(a negotiate.Accept, items []*store.Item, meta metav1.ListMeta) error {
	if a.Shape == negotiate.Table {
		return x.showTableOf(a, items, meta)
	}
	l := &listing{x: x, accept: a, media: encodedMedia(a.Media), forms: &x.res.forms, items: items, meta: meta, strip: a.Shape == negotiate.Whole}
	if a.Shape == negotiate.MetadataList {
		l.forms = metadataForms(a.MetaVersion)
	}
	size := 0
	for _, it := range items {
		size += it.Size
	}
	if size > cachedList && a.Media != negotiate.YAML && !a.Pretty && !x.pretty() {
		if l.media == negotiate.Protobuf {
			return l.streamProtobuf()
		}
		return l.stream()
	}
	if len(items) == 0 && a.Shape == negotiate.MetadataList && a.Media != negotiate.Protobuf {
		// Upstream's list of nothing has no items rather than an empty list of them.
		head := l.head()
		x.sendBytes(http.StatusOK, a, nil, append(head[:len(head)-1], "null}"...))
		return nil
	}
	l.bodies = make([][]byte, len(items))
	for i, it := range items {
		var err error
		if l.bodies[i], err = l.body(stored(it)); err != nil {
			return err
		}
	}
	if l.media == negotiate.Protobuf {
		sizes := make([]int, len(l.bodies))
		for i, b := range l.bodies {
			sizes[i] = len(b)
		}
		return l.protobuf(sizes, l.x.stream, func(i int) ([]byte, error) { return l.bodies[i], nil })
	}
	return l.json()
}

// body is one item's encoding.
func (l *listing) body(o shown) ([]byte, error) {
	if l.accept.Shape == negotiate.MetadataList {
		return metadataBytes(l.x.res.kind, o, l.media, l.accept.MetaVersion)
	}
	return l.x.s.bytes(l.x.res, o, l.media)
}

// stream answers in JSON whose length nobody knows yet, made item by item in the same memory.
func (l *listing) stream() error {
	if len(l.items) > 0 {
		if _, err := l.made(l.items[0]); err != nil {
			return err // one that concerns all items is found in time to say so
		}
	}
	l.x.streamOwn(negotiate.JSON, -1, func(w pieces) error {
		w.write(l.head())
		for i, it := range l.items {
			body, err := l.made(it)
			if err != nil {
				return fmt.Errorf("encoding %s: %w", it.Key, err)
			}
			rest, braced := l.inner(body)
			writeItem(w, i, rest, braced)
			if w.broken() {
				break
			}
		}
		w.write(listTail)
		return w.flush()
	})
	return nil
}

// made is one item's encoding, from the cache or made for now: it is good until the next one.
func (l *listing) made(it *store.Item) ([]byte, error) {
	if l.accept.Shape != negotiate.Whole {
		return l.body(shown{obj: it.Object})
	}
	if data, ok := it.Cached(l.x.res.form(l.media)); ok {
		return data, nil
	}
	v, err := l.x.s.cfg.Catalogue.FromHub(l.x.res.kind, l.x.res.version, it.Object)
	if err != nil {
		return nil, err
	}
	if l.media != negotiate.Protobuf {
		l.scratch, err = l.x.s.json.Append(l.scratch[:0], v)
		return l.scratch, err
	}
	m, ok := v.(sizedMarshaler)
	if !ok {
		return nil, negotiate.OnlyAccepted()
	}
	if n := m.Size(); n > cap(l.scratch) {
		l.scratch = make([]byte, n+n/4)
	}
	l.scratch = l.scratch[:cap(l.scratch)]
	n, err := m.MarshalToSizedBuffer(l.scratch[:m.Size()])
	return l.scratch[:n], err
}

// sizedMarshaler is what every protobuf message of the API can do.
type sizedMarshaler interface {
	Size() int
	MarshalToSizedBuffer(b []byte) (int, error)
}

// streamProtobuf answers in protobuf, where lengths come first: the items' sizes are found before they are made.
func (l *listing) streamProtobuf() error {
	sizes := make([]int, len(l.items))
	for i, it := range l.items {
		if l.accept.Shape == negotiate.Whole {
			v, err := l.x.s.cfg.Catalogue.FromHub(l.x.res.kind, l.x.res.version, it.Object)
			if err != nil {
				return err
			}
			m, ok := v.(sizedMarshaler)
			if !ok {
				return negotiate.OnlyAccepted()
			}
			sizes[i] = m.Size()
			continue
		}
		body, err := l.made(it)
		if err != nil {
			return err
		}
		sizes[i] = len(body)
	}
	return l.protobuf(sizes, l.x.streamOwn, func(i int) ([]byte, error) { return l.made(l.items[i]) })
}

func (l *listing) head() []byte {
	head := append([]byte(nil), l.forms.listHead...)
	if l.forms.continues && l.meta.Continue == "" {
		head = append(head, `{"continue":"",`...)
		head = append(head, appendListMeta(nil, l.meta)[1:]...)
	} else {
		head = appendListMeta(head, l.meta)
	}
	return append(head, `,"items":[`...)
}

// inner is what of a body the list shows after the type, and whether that has its opening brace.
func (l *listing) inner(body []byte) (rest []byte, braced bool) {
	if l.strip {
		return listItem(body, l.forms.jsonHead)
	}
	return body, true
}

// nextItem is what comes between the items of a list, and the brace of the next, which is no part of what listItem leaves.
var nextItem = []byte(",{")

func writeItem(w pieces, i int, rest []byte, braced bool) {
	from, to := 0, len(nextItem)
	if i == 0 {
		from++
	}
	if braced {
		to--
	}
	if from < to {
		w.write(nextItem[from:to])
	}
	w.write(rest)
}

func (l *listing) json() error {
	head := l.head()
	total := len(head) + len(listTail) + max(len(l.bodies)-1, 0)
	braced := make([]bool, len(l.bodies)) // looked at once: the beginnings of all bodies are not in the processor's cache
	for i, b := range l.bodies {
		if l.bodies[i], braced[i] = l.inner(b); !braced[i] {
			total++
		}
		total += len(l.bodies[i])
	}
	write := func(w pieces) error {
		w.write(head)
		for i, b := range l.bodies {
			writeItem(w, i, b, braced[i])
		}
		w.write(listTail)
		return w.flush()
	}
	if l.accept.Media == negotiate.YAML || l.accept.Pretty || l.x.pretty() {
		buf := &blockWriter{buf: make([]byte, 0, total)}
		_ = write(buf) // it only gathers
		l.x.sendBytes(http.StatusOK, l.accept, nil, buf.buf[:len(buf.buf)-1])
		return nil
	}
	l.x.stream(negotiate.JSON, total, write)
	return nil
}

var listTail = []byte("]}\n")

func appendListMeta(b []byte, m metav1.ListMeta) []byte {
	b = append(b, `{"resourceVersion":"`...)
	b = append(b, m.ResourceVersion...)
	b = append(b, '"')
	if m.Continue != "" {
		b = append(b, `,"continue":`...)
		b = strconv.AppendQuote(b, m.Continue)
	}
	if m.RemainingItemCount != nil {
		b = append(b, `,"remainingItemCount":`...)
		b = strconv.AppendInt(b, *m.RemainingItemCount, 10)
	}
	return append(b, '}')
}

// protobuf puts together the message of a list: every list type has its metadata as field 1 and its items as field 2.
func (l *listing) protobuf(sizes []int, stream func(string, int, func(pieces) error), body func(i int) ([]byte, error)) error {
	m, err := l.meta.Marshal()
	if err != nil {
		return err
	}
	size := 1 + uvarintLen(uint64(len(m))) + len(m)
	for _, n := range sizes {
		size += 1 + uvarintLen(uint64(n)) + n
	}
	head := append([]byte(nil), l.forms.protoListHead...)
	head = binary.AppendUvarint(head, uint64(size))
	head = append(head, 1<<3|2)
	head = binary.AppendUvarint(head, uint64(len(m)))
	head = append(head, m...)
	total := len(l.forms.protoListHead) + uvarintLen(uint64(size)) + size + len(protoTail)
	stream(l.accept.Media, total, func(w pieces) error {
		w.write(head)
		field := make([]byte, 0, 1+binary.MaxVarintLen64)
		for i, n := range sizes {
			b, err := body(i)
			if err != nil {
				return err
			}
			if len(b) != n {
				return fmt.Errorf("an item of %d bytes has %d", n, len(b))
			}
			w.keep(binary.AppendUvarint(append(field, 2<<3|2), uint64(n)))
			w.write(b)
			if w.broken() {
				break
			}
		}
		w.write(protoTail)
		return w.flush()
	})
	return nil
}

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// stream answers 200 with what write puts together of bytes that never change, compressed if it is worth it. total is its length, or -1. An answer that
// cannot be completed is broken off.
func (x *exchange) stream(media string, total int, write func(pieces) error) {
	out, ok := reach[sharer](x.w.ResponseWriter)
	if !ok || !x.beginStream(media, total) {
		x.streamOwn(media, total, write)
		return
	}
	w := &sharedWriter{w: out}
	_ = x.written(write(w), w.err) // a client that is gone
	x.w.size += w.sent
}

// zipped says whether an answer of a length is compressed.
func (x *exchange) zipped(total int) bool { return (total < 0 || total >= gzipFrom) && x.wantsGzip() }

// beginStream sends the header of an answer that is sent as it is; false says that it is to be sent otherwise.
func (x *exchange) beginStream(media string, total int) bool {
	if x.zipped(total) || x.r.Method == http.MethodHead {
		return false
	}
	h := x.w.Header()
	h["Content-Type"] = []string{media}
	if total >= 0 {
		h["Content-Length"] = []string{strconv.Itoa(total)}
	}
	x.w.WriteHeader(http.StatusOK)
	return true
}

// streamOwn is stream of bytes that may change as soon as they are written.
func (x *exchange) streamOwn(media string, total int, write func(pieces) error) {
	if x.zipped(total) {
		x.w.Header()["Content-Type"] = []string{media}
		x.writeGzip(http.StatusOK, func(z io.Writer) error {
			w := newBlockWriter(z)
			defer w.release()
			return x.written(write(w), w.err)
		})
		return
	}
	if !x.beginStream(media, total) {
		h := x.w.Header()
		h["Content-Type"] = []string{media}
		if total >= 0 {
			h["Content-Length"] = []string{strconv.Itoa(total)}
		}
		x.w.WriteHeader(http.StatusOK)
		return
	}
	w := newBlockWriter(x.w)
	defer w.release()
	_ = x.written(write(w), w.err) // a client that is gone
}

// written looks at how writing a part of an answer ended: an error that is not the connection's means that the client has half of it, and must see that.
func (x *exchange) written(err, connection error) error {
	if err != nil && connection == nil {
		x.s.log.Error("an answer was broken off", "path", x.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

// reach finds a writer with more abilities below what wraps it.
func reach[T any](w http.ResponseWriter) (T, bool) {
	for {
		if t, ok := w.(T); ok {
			return t, true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			var none T
			return none, false
		}
		w = u.Unwrap()
	}
}
