package apiserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// Annotations of audit events about the decision whether the request was allowed.
const (
	decisionNote = "authorization.k8s.io/decision"
	reasonNote   = "authorization.k8s.io/reason"
)

// auditedBody is how much of a body is kept for an audit event, in bytes.
const auditedBody = 3 << 20

// tap keeps what flows through it, up to a bound.
type tap struct {
	buf  bytes.Buffer
	over bool
}

func (t *tap) keep(p []byte) {
	if t.over || t.buf.Len()+len(p) > auditedBody {
		t.over = true
		return
	}
	t.buf.Write(p)
}

// data is what flowed through, nil if it was too much.
func (t *tap) data() []byte {
	if t == nil || t.over {
		return nil
	}
	return t.buf.Bytes()
}

// tappedBody is the body of a request with a tap.
type tappedBody struct {
	io.ReadCloser
	t *tap
}

func (b tappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.t.keep(p[:n])
	return n, err
}

// beginAudit makes the audit event of the request, if there is to be one; u is nil for a request that nobody could be made out for.
func (x *exchange) beginAudit(u user.Info, received time.Time) {
	if x.s.cfg.Audit == nil {
		return
	}
	x.event = x.s.cfg.Audit.Begin(x.r, x.scope, u, received)
	if x.event.WantsRequest() && x.r.Body != nil && x.r.Body != http.NoBody {
		x.sent = &tap{}
		x.r.Body = tappedBody{x.r.Body, x.sent}
	}
	if x.event != nil {
		if x.info.LongRunning() {
			x.w.started = x.event.Started
		} else if x.event.WantsResponse() {
			x.w.tap = &tap{}
		}
	}
}

// endAudit completes the audit event; p is what the handler panicked with, or nil.
func (x *exchange) endAudit(p any) {
	if x.event == nil {
		return
	}
	if p != nil {
		x.event.Panicked(fmt.Sprint(p))
		return
	}
	if x.sent != nil {
		x.event.Request(x.asJSON(x.sent.data(), x.r.Header.Get("Content-Type"), ""))
	}
	if t := x.w.tap; t != nil {
		h := x.w.Header()
		x.event.Response(x.asJSON(t.data(), h.Get("Content-Type"), h.Get("Content-Encoding")))
	}
	code := x.w.code
	if code == 0 {
		code = http.StatusOK
	}
	x.event.Complete(code)
}

// asJSON turns a body into JSON; nil if it cannot.
func (x *exchange) asJSON(data []byte, contentType, encoding string) []byte {
	if encoding == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil
		}
		if data, err = io.ReadAll(io.LimitReader(z, auditedBody)); err != nil {
			return nil
		}
	}
	media, _, _ := strings.Cut(contentType, ";")
	switch {
	case media == negotiate.Protobuf:
		for _, s := range x.s.cfg.Catalogue.Serializers() {
			if s.MediaType != runtime.ContentTypeProtobuf {
				continue
			}
			obj, _, err := s.Serializer.Decode(data, nil, nil)
			if err != nil {
				return nil
			}
			if data, err = json.Marshal(obj); err != nil {
				return nil
			}
			return data
		}
		return nil
	case strings.HasSuffix(media, "yaml"):
		out, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil
		}
		return out
	}
	return bytes.TrimSpace(data)
}
