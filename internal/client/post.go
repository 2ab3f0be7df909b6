package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

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
	agent   []string
	encoder *protobuf.Serializer
}

// NewPoster returns a Poster that calls handler as u. userAgent is as for InProcess.
func NewPoster(handler http.Handler, u user.Info, userAgent string) *Poster {
	return &Poster{handler: handler, user: u, agent: []string{userAgent}, encoder: protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)}
}

// What the headers of all requests say. Read-only.
var (
	protobufType  = []string{runtime.ContentTypeProtobuf}
	strategicType = []string{string(types.StrategicMergePatchType)}
	noAnswer      = []string{request.NoAnswer}
)

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
	return p.call(ctx, http.MethodPost, path, protobufType, request.Give(obj, p.encode), -1)
}

// Patch changes the object at a path of the API by a strategic merge patch: edit returns what the patch that encode returns would make of it, as request.GiveEdit
// says, and may be called several times. Errors are as clientsets return them.
func (p *Poster) Patch(ctx context.Context, path string, edit func(runtime.Object) (runtime.Object, error), encode func() ([]byte, error)) error {
	return p.call(ctx, http.MethodPatch, path, strategicType, request.GiveEdit(edit, encode), -1)
}

// Delete deletes the object at a path of the API. The options are given away. If edit isn't nil the object is a pod whose status it changes in the same step, as
// request.WithParting says. Errors are as clientsets return them.
func (p *Poster) Delete(ctx context.Context, path string, o *metav1.DeleteOptions, edit func(runtime.Object) (runtime.Object, error)) error {
	if edit != nil {
		ctx = request.WithParting(ctx, edit)
	}
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}
	return p.call(ctx, http.MethodDelete, path, protobufType, request.Give(o, p.encode), -1)
}

// Send is Post for who keeps obj: it is encoded, and decoded by the server, as if it came from elsewhere.
func (p *Poster) Send(ctx context.Context, path string, obj runtime.Object) error {
	body, err := p.encode(obj)
	if err != nil {
		return err
	}
	return p.call(ctx, http.MethodPost, path, protobufType, io.NopCloser(bytes.NewReader(body)), int64(len(body)))
}

func (p *Poster) call(ctx context.Context, method, path string, contentType []string, body io.ReadCloser, length int64) error {
	r := (&http.Request{
		Method: method, URL: &url.URL{Path: path}, RequestURI: path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host[len("http://"):], RemoteAddr: "127.0.0.1:0",
		Header: http.Header{
			"Content-Type": contentType, "Accept": protobufType, "Prefer": noAnswer, "User-Agent": p.agent,
		},
		Body: body, ContentLength: length,
	}).WithContext(request.WithUser(ctx, p.user))
	w := &bufferedResponse{header: http.Header{}}
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
