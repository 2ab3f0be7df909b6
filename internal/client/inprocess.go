package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/internal/apiserver/request"
)

// host is the authority of in-process requests. It is never resolved or dialled.
const host = "http://celox.invalid"

// InProcess returns a client configuration whose requests are calls of handler, made as u. userAgent becomes the field
// manager of what is written (its part before a slash). There is no rate limit: priority and fairness are the server's business.
func InProcess(handler http.Handler, u user.Info, userAgent string) *rest.Config {
	return &rest.Config{
		Host:      host,
		Transport: &transport{handler: handler, user: u},
		UserAgent: userAgent,
		QPS:       -1,
		// Warnings are for people; our own rooms know what they ask for.
		WarningHandlerWithContext: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
			ContentType:        runtime.ContentTypeProtobuf,
		},
	}
}

// Clientset is a kubernetes.Interface over InProcess.
func Clientset(handler http.Handler, u user.Info, userAgent string) (kubernetes.Interface, error) {
	c, err := kubernetes.NewForConfig(InProcess(handler, u, userAgent))
	if err != nil {
		return nil, fmt.Errorf("in-process client for %s: %w", u.GetName(), err)
	}
	return c, nil
}

// transport is an http.RoundTripper that calls a handler. Answers that end by themselves are collected in the
// caller's goroutine; answers that stream (watch, log) run in a goroutine that ends with the request's context or when the
// body is closed.
type transport struct {
	handler http.Handler
	user    user.Info
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := request.WithUser(r.Context(), t.user)
	if !streams(r) {
		w := &bufferedResponse{header: http.Header{}}
		t.handler.ServeHTTP(w, serverRequest(ctx, r))
		return w.response(r), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	body, sink := io.Pipe()
	w := &streamedResponse{header: http.Header{}, sink: sink, started: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		defer func() {
			// http.ErrAbortHandler is how a handler breaks off an answer; a server would close the connection.
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
				panic(p)
			}
			w.WriteHeader(http.StatusOK)
			_ = sink.Close() // never fails on a pipe
		}()
		t.handler.ServeHTTP(w, serverRequest(ctx, r))
	}()
	select {
	case <-w.started:
	case <-r.Context().Done():
		cancel()
		_ = body.CloseWithError(r.Context().Err())
		<-done
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &streamBody{PipeReader: body, cancel: cancel, done: done}, ContentLength: -1, Request: r,
	}, nil
}

// streams tells requests whose answers may never end.
func streams(r *http.Request) bool {
	switch r.URL.Query().Get("watch") {
	case "", "0", "false":
	default:
		return true
	}
	return strings.HasSuffix(r.URL.Path, "/log") || strings.Contains(r.URL.Path, "/watch/") || strings.Contains(r.URL.Path, "/proxy/")
}

// serverRequest makes the request look as a server sees it.
func serverRequest(ctx context.Context, r *http.Request) *http.Request {
	s := r.Clone(ctx)
	s.RequestURI = r.URL.RequestURI()
	s.RemoteAddr = "127.0.0.1:0"
	if s.Body == nil {
		s.Body = http.NoBody
	}
	return s
}

type bufferedResponse struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *bufferedResponse) Header() http.Header { return w.header }

func (w *bufferedResponse) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}

func (w *bufferedResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

func (w *bufferedResponse) Flush() {}

func (w *bufferedResponse) response(r *http.Request) *http.Response {
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(w.code), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}
}

type streamedResponse struct {
	header  http.Header
	sink    *io.PipeWriter
	once    sync.Once
	started chan struct{}
	// code and sent are written before started is closed and only read after.
	code int
	sent http.Header
}

func (w *streamedResponse) Header() http.Header { return w.header }

func (w *streamedResponse) WriteHeader(code int) {
	w.once.Do(func() {
		w.code = code
		w.sent = w.header.Clone()
		close(w.started)
	})
}

func (w *streamedResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	n, err := w.sink.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return n, context.Canceled
	}
	return n, err
}

func (w *streamedResponse) Flush() { w.WriteHeader(http.StatusOK) }

// streamBody ends the handler when the reader is done with it.
type streamBody struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (b *streamBody) Close() error {
	b.cancel()
	err := b.PipeReader.Close()
	<-b.done
	return err
}
