package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	// nodeCommandProtocol is what exec and attach speak with a node.
	nodeCommandProtocol = "v4.channel.k8s.io"
	// closableProtocol lets a client close a stream and go on listening (KEP-4006).
	closableProtocol = "v5.channel.k8s.io"
	// tunnelPrefix begins the WebSocket protocols whose frames carry SPDY.
	tunnelPrefix = "SPDY/3.1+"

	// streamIdle ends streams on which nothing happens.
	streamIdle = 4 * time.Hour
	// nodePing keeps connections to nodes alive across what forgets idle ones.
	nodePing = 5 * time.Second
)

// The channels of a WebSocket, which are the first byte of each frame.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
	channels
)

// translate serves a client that speaks v5.channel.k8s.io with a node that speaks SPDY. Both carry the same five streams, with
// the same content, so they are copied one by one.
func translate(w http.ResponseWriter, r *http.Request, node way, target *url.URL, o *corev1.PodExecOptions) error {
	types := make([]wsstream.ChannelType, channels) // ignored unless wanted
	if o.Stdin {
		types[channelStdin] = wsstream.ReadChannel
	}
	if o.Stdout {
		types[channelStdout] = wsstream.WriteChannel
	}
	if o.Stderr {
		types[channelStderr] = wsstream.WriteChannel
	}
	types[channelError], types[channelResize] = wsstream.WriteChannel, wsstream.ReadChannel
	client := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{closableProtocol: {Binary: true, Channels: types}})
	client.SetIdleTimeout(streamIdle)
	// The library would log every client that goes away as an error.
	quiet := r.WithContext(klog.NewContext(r.Context(), logr.Discard()))
	_, streams, err := client.Open(w, quiet)
	if err != nil {
		return nil // the library has answered
	}
	defer client.Close()
	// An empty message tells the client that the connection stands.
	first := channelError
	switch {
	case o.Stdout:
		first = channelStdout
	case o.Stderr:
		first = channelStderr
	}
	if _, err := streams[first].Write(nil); err != nil {
		return nil // the client is gone
	}
	if err := pump(r, node, target, o, streams); err != nil {
		tell(streams[channelError], err)
	}
	return nil
}

// tell writes an error to a client's error stream.
func tell(stream io.Writer, err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.Kind, status.APIVersion, status.Status = "Status", "v1", metav1.StatusFailure
	data, merr := json.Marshal(status)
	if merr != nil {
		data = []byte(err.Error())
	}
	_, _ = stream.Write(data) // a client that left
}

// pump carries the streams of a command until it ends or one side goes away.
func pump(r *http.Request, node way, target *url.URL, o *corev1.PodExecOptions, client []io.ReadWriteCloser) error {
	conn, resp, err := node.upgrade(r.Context(), target, nodeCommandProtocol)
	if err != nil {
		return err
	}
	if conn == nil {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText)) // what came is told
		return fmt.Errorf("unable to upgrade connection: %s", strings.TrimSpace(string(text)))
	}
	defer conn.Close()
	defer context.AfterFunc(r.Context(), func() { _ = conn.Close() })()
	link, err := spdy.NewClientConnectionWithPings(conn, nodePing)
	if err != nil {
		return err
	}
	defer link.Close()

	open := func(kind string) (httpstream.Stream, error) {
		s, err := link.CreateStream(http.Header{corev1.StreamType: {kind}})
		if err != nil {
			return nil, fmt.Errorf("open the %s stream: %w", kind, err)
		}
		return s, nil
	}
	failed, err := open(corev1.StreamTypeError)
	if err != nil {
		return err
	}
	var stdin, stdout, stderr, resize httpstream.Stream
	for _, s := range []struct {
		wanted bool
		kind   string
		into   *httpstream.Stream
	}{
		{o.Stdin, corev1.StreamTypeStdin, &stdin}, {o.Stdout, corev1.StreamTypeStdout, &stdout},
		{o.Stderr, corev1.StreamTypeStderr, &stderr}, {o.TTY, corev1.StreamTypeResize, &resize},
	} {
		if s.wanted {
			if *s.into, err = open(s.kind); err != nil {
				return err
			}
		}
	}

	var toNode, toClient sync.WaitGroup
	if stdin != nil {
		toNode.Go(func() {
			_, _ = io.Copy(stdin, client[channelStdin]) // either side is gone, which the other streams notice
			_ = stdin.Close()
		})
	}
	toNode.Go(func() {
		into := io.Discard
		if resize != nil {
			into = resize
		}
		// The resize channel ends when the client goes away; nothing else tells of that.
		_, _ = io.Copy(into, client[channelResize])
		_ = link.Close()
	})
	for channel, from := range map[int]httpstream.Stream{channelStdout: stdout, channelStderr: stderr, channelError: failed} {
		if from != nil {
			toClient.Go(func() {
				if _, err := io.Copy(client[channel], from); err != nil {
					_ = link.Close() // the client is gone
				}
			})
		}
	}
	toClient.Wait()
	_ = link.Close()
	// The client's streams end with its connection, so that nobody waits for input that has nowhere to go.
	for _, s := range client {
		_ = s.Close()
	}
	toNode.Wait()
	return nil
}

// tunnel serves a client that speaks SPDY inside of WebSocket frames with a node that speaks SPDY.
func tunnel(w http.ResponseWriter, r *http.Request, node way, target *url.URL) error {
	var protocols []string
	for _, p := range websocket.Subprotocols(r) {
		if inner, ok := strings.CutPrefix(p, tunnelPrefix); ok {
			protocols = append(protocols, inner)
		}
	}
	conn, resp, err := node.upgrade(r.Context(), target, protocols...)
	if err != nil {
		return err
	}
	if conn == nil {
		echo(w, resp)
		return nil
	}
	defer conn.Close()
	upgrader := websocket.Upgrader{
		Subprotocols: []string{tunnelPrefix + resp.Header.Get("X-Stream-Protocol-Version")},
		// Browsers are kept out by what they cannot show: a certificate or a token.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil // the library has answered
	}
	client := portforward.NewTunnelingConnectionWithLogger(logr.Discard(), ws)
	defer client.Close()
	defer context.AfterFunc(r.Context(), func() { _ = conn.Close() })()
	join(client, conn)
	return nil
}

// join copies both ways until one side ends, and then ends the other.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	one := func(to, from net.Conn) func() {
		return func() {
			_, _ = io.Copy(to, from) // how a stream ends is its users' business
			_ = to.Close()
			_ = from.Close()
		}
	}
	both.Go(one(a, b))
	both.Go(one(b, a))
	both.Wait()
}
