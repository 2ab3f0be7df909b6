package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/celox/celox/internal/apiserver/request"
)

// Poster writes by calls of a handler, for who makes, changes and deletes tens of thousands of objects and doesn't want to see what became of them. It does what a
// clientset of InProcess would without most of what that costs: nothing is encoded and decoded, and there is no answer. It may be used by several goroutines.
type Poster struct {
	handler http.Handler
	user    user.Info
	encoder *protobuf.Serializer
	// blank is what all requests have in common, protobuf and strategic are their headers: nobody on the way of a request whose user is known writes in them.
	blank               *http.Request
	protobuf, strategic http.Header
	answers             sync.Pool // of *bufferedResponse
}

// NewPoster returns a Poster that calls handler as u. userAgent is as for InProcess.
func NewPoster(handler http.Handler, u user.Info, userAgent string) *Poster {
	headers := func(contentType string) http.Header {
		return http.Header{
			"Content-Type": {contentType}, "Accept": {runtime.ContentTypeProtobuf}, "Prefer": {request.NoAnswer}, "User-Agent": {userAgent},
		}
	}
	return &Poster{
		handler: handler, user: u, encoder: protobuf.NewSerializer(scheme.Scheme, scheme.Scheme),
		protobuf: headers(runtime.ContentTypeProtobuf), strategic: headers(string(types.StrategicMergePatchType)),
		blank: &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host[len("http://"):], RemoteAddr: "127.0.0.1:0"},
	}
}

func (p *Poster) encode(obj runtime.Object) ([]byte, error) {
	var body bytes.Buffer
	if err := p.encoder.Encode(obj, &body); err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return body.Bytes(), nil
}

// Post gives obj, which must say its kind and version and be what decoding its encoding gives, to a path of the API. The server takes it as it is: it must not be
// used any more, whatever the outcome. What the server refuses is an error as clientsets return it.
func (p *Poster) Post(ctx context.Context, path string, obj runtime.Object) error {
	return p.call(ctx, http.MethodPost, path, p.protobuf, request.Give(obj, p.encode), -1)
}

// Patch changes the object at a path of the API by a strategic merge patch: edit returns what the patch that encode returns would make of it, as request.GiveEdit
// says, and may be called several times. Errors are as clientsets return them.
func (p *Poster) Patch(ctx context.Context, path string, edit func(runtime.Object) (runtime.Object, error), encode func() ([]byte, error)) error {
	return p.call(ctx, http.MethodPatch, path, p.strategic, request.GiveEdit(edit, encode), -1)
}

// Delete deletes the object at a path of the API. The options are given away. If edit isn't nil the object is a pod whose status it changes in the same step, as
// request.WithParting says. Errors are as clientsets return them.
func (p *Poster) Delete(ctx context.Context, path string, o *metav1.DeleteOptions, edit func(runtime.Object) (runtime.Object, error)) error {
	if edit != nil {
		ctx = request.WithParting(ctx, edit)
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
	return p.call(ctx, http.MethodDelete, path, p.protobuf, request.Give(o, p.encode), -1)
}

// Send is Post for who keeps obj: it is encoded, and decoded by the server, as if it came from elsewhere.
func (p *Poster) Send(ctx context.Context, path string, obj runtime.Object) error {
	body, err := p.encode(obj)
	if err != nil {
		return err
	}
	return p.call(ctx, http.MethodPost, path, p.protobuf, io.NopCloser(bytes.NewReader(body)), int64(len(body)))
}

func (p *Poster) call(ctx context.Context, method, path string, headers http.Header, body io.ReadCloser, length int64) error {
	r := p.blank.WithContext(request.WithUser(ctx, p.user))
	r.Method, r.URL, r.RequestURI = method, &url.URL{Path: path}, path
	r.Header, r.Body, r.ContentLength = headers, body, length
	w, ok := p.answers.Get().(*bufferedResponse)
	if !ok {
		w = &bufferedResponse{header: http.Header{}}
	}
	defer func() {
		clear(w.header)
		w.code = 0
		w.body.Reset()
		p.answers.Put(w)
	}()
	p.handler.ServeHTTP(w, r)
	if w.code < http.StatusBadRequest {
		return nil
	}
	decoded, _, err := scheme.Codecs.UniversalDeserializer().Decode(w.body.Bytes(), nil, nil)
	if status, ok := decoded.(*metav1.Status); err == nil && ok {
		return apierrors.FromObject(status)
	}
	return apierrors.NewGenericServerResponse(w.code, strings.ToLower(method), schema.GroupResource{}, "", w.body.String(), 0, true)
}
