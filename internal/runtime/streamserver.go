package runtime

import (
	"net"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/celox/celox/internal/linger"
)

const streamHeaderTimeout = 10 * time.Second

// streamListener serves a streaming.Server on a listener that is open already:
// the library's own Start would open it later, when a URL may be out already.
type streamListener struct {
	streaming.Server
	listener net.Listener
	server   *http.Server
}

func newStreamListener(l net.Listener, s streaming.Server) *streamListener {
	return &streamListener{Server: s, listener: l, server: &http.Server{Handler: s, ReadHeaderTimeout: streamHeaderTimeout}}
}

func (l *streamListener) serve() { _ = l.server.Serve(linger.Listener(l.listener)) }

// Stop ends the server and its connections.
func (l *streamListener) Stop() error { return l.server.Close() }
