package apiserver

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/apiserver/wire"
)

// responseWriter remembers the status code and the size of the answer, for metrics, and adds the warnings to its header.
type responseWriter struct {
	http.ResponseWriter
	scope *request.Scope
	code  int
	size  int
	// started, if set, is told the code when the answer begins; tap, if set, keeps the answer. Both are for audit events.
	started func(code int)
	tap     *tap
}

func (w *responseWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
		if w.scope.Warned() {
			h := w.Header()
			for _, text := range w.scope.Warnings() {
				// What can't be said in a header is not said.
				if value, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
					h.Add("Warning", value)
				}
			}
		}
		if w.started != nil {
			w.started(code)
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.size += n
	if w.tap != nil {
		w.tap.keep(p[:n])
	}
	return n, err
}

// ReadFrom has io.Copy read straight into the connection's memory, where there is a way.
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok || w.tap != nil {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := to.ReadFrom(r)
	w.size += int(n)
	return n, err
}

// Unwrap lets http.ResponseController reach what is below.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush sends what is buffered, for handlers that look for an http.Flusher.
func (w *responseWriter) Flush() {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

type protoMarshaler interface {
	Marshal() ([]byte, error)
}

// encodeObject encodes obj as it is: JSON without a newline, or the bare protobuf message.
func encodeObject(obj runtime.Object, media string) ([]byte, error) {
	if o, ok := obj.(*custom.Object); ok && media != negotiate.Protobuf {
		return o.AppendJSON(nil)
	}
	if media == negotiate.Protobuf {
		m, ok := obj.(protoMarshaler)
		if !ok {
			return nil, negotiate.OnlyAccepted()
		}
		return m.Marshal()
	}
	return json.Marshal(obj)
}

// fail answers with an error.
func (x *exchange) fail(err error) {
	accept, acceptable := negotiate.ParseErrorAccept(x.r.Header)
	status := x.status(err)
	x.event.Status(status)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		x.w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	if !acceptable {
		// Whatever else goes wrong, the error is what the client has to see: in JSON, written for people.
		if data, err := json.MarshalIndent(status, "", "  "); err == nil {
			x.body(int(status.Code), negotiate.JSON, data)
			return
		}
	}
	x.send(int(status.Code), accept, status)
}

// status makes the Status of an error. What is no API error is an internal one, told as it is.
func (x *exchange) status(err error) *metav1.Status {
	var api apierrors.APIStatus
	switch {
	case errors.As(err, &api):
		s := api.Status()
		s.Kind, s.APIVersion = "Status", "v1"
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		return &s
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return x.status(apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0))
	case errors.Is(err, context.Canceled):
		s := x.status(apierrors.NewTimeoutError("the request was cancelled", 0))
		s.Code = 499
		return s
	}
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: err.Error(),
	}
}

// send answers with an object that is not cached: a Status, a Scale, a review.
func (x *exchange) send(code int, a negotiate.Accept, obj runtime.Object) {
	data, err := encodeObject(obj, a.Media)
	if err != nil {
		if code >= 400 {
			x.s.log.Error("encoding an error", "error", err)
			x.w.WriteHeader(http.StatusInternalServerError)
			return
		}
		x.fail(err)
		return
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	var head []byte
	if a.Media == negotiate.Protobuf {
		head = protoHead(gvk.GroupVersion().String(), gvk.Kind)
	}
	x.sendBytes(code, a, head, data)
}

// sendBytes answers with an encoded object: JSON (turned into YAML or indented if asked) or a protobuf message with the
// head of its envelope.
func (x *exchange) sendBytes(code int, a negotiate.Accept, head, data []byte) {
	switch a.Media {
	case negotiate.Protobuf:
		buf := make([]byte, 0, len(head)+len(data)+16)
		buf = append(buf, head...)
		buf = appendUvarint(buf, uint64(len(data)))
		buf = append(buf, data...)
		data = append(buf, protoTail...)
	case negotiate.YAML:
		y, err := yaml.JSONToYAML(data)
		if err != nil {
			x.fail(fmt.Errorf("turning an answer into YAML: %w", err))
			return
		}
		data = y
	default:
		if a.Pretty || x.pretty() {
			data = indent(data) // which ends without a newline, as upstream's does
		} else {
			data = wire.Line(data)
		}
	}
	x.body(code, a.Media, data)
}

// gzipFrom is the size in bytes from which an answer is compressed for clients that can read it.
const gzipFrom = 128 << 10

// body writes a finished answer.
func (x *exchange) body(code int, media string, data []byte) {
	h := x.w.Header()
	h["Content-Type"] = []string{media}
	if len(data) >= gzipFrom && x.wantsGzip() {
		x.writeGzip(code, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	x.w.WriteHeader(code)
	if x.r.Method == http.MethodHead {
		return
	}
	_, _ = x.w.Write(data) // a client that is gone
}

func (x *exchange) wantsGzip() bool {
	if x.scope.InProcess {
		return false
	}
	for _, v := range x.r.Header["Accept-Encoding"] {
		for part := range strings.SplitSeq(v, ",") {
			coding, q, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(coding), "gzip") && strings.ReplaceAll(q, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

func (x *exchange) writeGzip(code int, write func(io.Writer) error) {
	h := x.w.Header()
	h["Content-Encoding"] = []string{"gzip"}
	h.Add("Vary", "Accept-Encoding")
	x.w.WriteHeader(code)
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	z.Reset(x.w)
	if write(z) == nil {
		_ = z.Close() // a client that is gone
	}
}

// pretty says whether JSON is to be indented: asked for by ?pretty, or by a person with a browser or a terminal.
func (x *exchange) pretty() bool {
	if strings.Contains(x.r.URL.RawQuery, "pretty=") {
		if v := x.params().Get("pretty"); v != "" {
			wanted, err := strconv.ParseBool(v)
			return err == nil && wanted
		}
	}
	agent := x.r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}
