package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/celox/celox/internal/apiserver/request"
)

// Poster creates objects by calls of a handler, for who makes tens of thousands of them and doesn't want to see what became of them. It does what a
// clientset of InProcess would without most of what that costs: the answer is an object's metadata only, and isn't read. It may be used by several goroutines.
type Poster struct {
	handler http.Handler
	user    user.Info
	agent   string
	encoder *protobuf.Serializer
}

// NewPoster returns a Poster that calls handler as u. userAgent is as for InProcess.
func NewPoster(handler http.Handler, u user.Info, userAgent string) *Poster {
	return &Poster{handler: handler, user: u, agent: userAgent, encoder: protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)}
}

// shortAnswer asks for the metadata of what was made.
const shortAnswer = runtime.ContentTypeProtobuf + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1," + runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON

// Post sends obj, which must say its kind and version, to a path of the API. What the server refuses is an error as clientsets return it.
func (p *Poster) Post(ctx context.Context, path string, obj runtime.Object) error {
	var body bytes.Buffer
	if err := p.encoder.Encode(obj, &body); err != nil {
		return fmt.Errorf("encode %T: %w", obj, err)
	}
	r := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: path}, RequestURI: path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host[len("http://"):], RemoteAddr: "127.0.0.1:0",
		Header: http.Header{
			"Content-Type": {runtime.ContentTypeProtobuf}, "Accept": {shortAnswer}, "User-Agent": {p.agent},
		},
		Body: io.NopCloser(&body), ContentLength: int64(body.Len()),
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
	return apierrors.NewGenericServerResponse(w.code, "post", schema.GroupResource{}, "", w.body.String(), 0, true)
}
