package apiserver

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
)

// The WebSocket subprotocols of watches: frames are binary, or text in base64. Without one JSON comes as text and protobuf as binary frames.
const (
	socketBinary = "binary.k8s.io"
	socketBase64 = "base64.binary.k8s.io"
)

const (
	// socketWriteTimeout is how long a client may take to take an event; over WebSocket there is no other way to see that it has gone.
	socketWriteTimeout = 30 * time.Second
	// socketMessage bounds what clients may say, which nobody reads.
	socketMessage = 4 << 10
)

// isWebSocket says whether a request wants to become a WebSocket (RFC 6455 section 4.2.1).
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket")
}

func headerHas(h http.Header, name, token string) bool {
	for _, v := range h[name] {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// watchSocket sends the events of a watch as messages of a WebSocket, one for each.
func (x *exchange) watchSocket(ctx context.Context, w events, enc *eventEncoder) {
	asked := websocket.Subprotocols(x.r)
	up := websocket.Upgrader{
		Subprotocols: []string{socketBinary, socketBase64},
		// Credentials do not come with cookies, so a page of another origin can do no more than it could anyway.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	if len(asked) > 0 && !slices.Contains(up.Subprotocols, asked[0]) && !slices.ContainsFunc(asked, func(p string) bool { return slices.Contains(up.Subprotocols, p) }) {
		up.Subprotocols = asked[:1] // a client that carries something else there, its token for one, wants to see it again
	}
	c, err := up.Upgrade(x.w.ResponseWriter, x.r, nil)
	if err != nil {
		x.w.code = http.StatusBadRequest // it has been answered
		return
	}
	x.w.code = http.StatusSwitchingProtocols
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	defer func() {
		cancel()
		_ = c.Close() // the end, whatever the reason
		<-gone
	}()
	c.SetReadLimit(socketMessage)
	go func() { // what the client says is not heard, but that it says goodbye
		defer close(gone)
		defer cancel()
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}()
	kind := websocket.TextMessage
	if enc.media == negotiate.Protobuf || c.Subprotocol() == socketBinary {
		kind = websocket.BinaryMessage
	}
	base64ed := c.Subprotocol() == socketBase64
	if base64ed {
		kind = websocket.TextMessage
	}
	send := func(w *blockWriter) error {
		data := w.buf
		if enc.media == negotiate.Protobuf {
			data = data[4:] // messages have a length of their own
		}
		if base64ed {
			data = base64.StdEncoding.AppendEncode(nil, data)
		}
		w.buf = w.buf[:0]
		_ = c.SetWriteDeadline(time.Now().Add(socketWriteTimeout)) // a connection that is closed already
		return c.WriteMessage(kind, data)
	}
	var buf blockWriter
	for {
		batch, err := w.Next(ctx)
		for i := range batch {
			if err = enc.event(&buf, &batch[i]); err != nil {
				break
			}
			if send(&buf) != nil {
				return
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnregistered):
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
			return
		default:
			buf.buf = buf.buf[:0]
			enc.error(&buf, err)
			_ = send(&buf)
			return
		}
	}
}
