package connect

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	utilexec "k8s.io/utils/exec"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
	"github.com/celox/celox/internal/apiserver/request"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The libraries of both ends, which linger for a second where the other end closed first, or until the next ping.
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"),
		goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

// fakeNode is the API of a node, with the real library for streams and a make-believe runtime.
type fakeNode struct{ t *testing.T }

func (n fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u, ok := request.UserFrom(r.Context()); ok && u.GetName() != "kube-apiserver-kubelet-client" {
		n.t.Errorf("the node was asked by %s", u.GetName())
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	switch parts[0] {
	case "containerLogs":
		switch parts[3] {
		case "waiting":
			http.Error(w, `container "waiting" in pod "p" is waiting to start: ContainerCreating`, http.StatusBadRequest)
		case "broken":
			http.Error(w, "disk on fire", http.StatusInternalServerError)
		case "gone":
			http.Error(w, "no such thing", http.StatusNotFound)
		default:
			fmt.Fprintf(w, "log of %s with %s", strings.Join(parts[1:], "/"), r.URL.RawQuery)
			if q.Get("follow") == "true" {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
		}
	case "exec":
		if q["command"][0] == "refuse" {
			http.Error(w, "container not found (\"c\")", http.StatusNotFound)
			return
		}
		o := &criremote.Options{Stdin: q.Get("input") == "1", Stdout: q.Get("output") == "1", Stderr: q.Get("error") == "1", TTY: q.Get("tty") == "1"}
		criremote.ServeExec(w, r, n, parts[2], "", parts[3], q["command"], o, time.Minute, time.Minute, criremote.SupportedStreamingProtocols)
	case "portForward":
		o, err := criportforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		criportforward.ServePortForward(w, r, n, parts[2], "", o, time.Minute, time.Minute, criportforward.SupportedProtocols)
	default:
		fmt.Fprintf(w, "node says %s?%s", r.URL.Path, r.URL.RawQuery)
	}
}

// ExecInContainer understands a few commands.
func (n fakeNode) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan criremote.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat": // ends when its input does
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		_, err = out.Write(bytes.ToUpper(data))
		return err
	case "exit":
		_, _ = errOut.Write([]byte("bye"))
		return utilexec.CodeExitError{Code: 7, Err: errors.New("command terminated")}
	case "size":
		s := <-resize
		_, err := fmt.Fprintf(out, "%dx%d", s.Width, s.Height)
		return err
	case "hang": // until the client goes away
		_, _ = out.Write([]byte("hanging"))
		_, err := in.Read(make([]byte, 1))
		return err
	}
	return fmt.Errorf("unknown command %q", cmd)
}

// PortForward answers with the port and what was sent.
func (fakeNode) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	line, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stream, "port %d: %s", port, line)
	return err
}

type locator func(name string) (Node, error)

func (l locator) Locate(_ context.Context, name string) (Node, error) { return l(name) }

type fixture struct {
	*lookuptest.Store
	connector *Connector
	server    *httptest.Server
}

// setup serves pods on two nodes: "local" is in this process, "remote" is reached through TLS.
func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Store: lookuptest.New(t)}
	remote := httptest.NewTLSServer(fakeNode{t})
	t.Cleanup(remote.Close)
	f.connector = New(Config{
		Objects: f.Objects, NodeTLS: &tls.Config{RootCAs: remote.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
		Nodes: locator(func(name string) (Node, error) {
			switch name {
			case "local":
				return Node{Handler: fakeNode{t}}, nil
			case "remote":
				return Node{URL: remote.URL}, nil
			case "dead":
				return Node{URL: "https://127.0.0.1:1"}, nil
			}
			return Node{}, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name)
		}),
	})
	t.Cleanup(f.connector.Close)
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.serve(w, r)
	}))
	t.Cleanup(f.server.Close)
	for _, node := range []string{"local", "remote", "dead", "unknown", ""} {
		f.Put(pod("p-"+node, node, "c"), pod("many-"+node, node, "a", "b", "waiting", "broken", "gone"))
	}
	return f
}

func pod(name, node string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

// get returns the answer's code, and its text or the message of its Status.
func (f *fixture) get(t *testing.T, path string) (int, string) {
	t.Helper()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Get(f.server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		var status metav1.Status
		if err := json.Unmarshal(data, &status); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, status.Message
	}
	if l := resp.Header.Get("Location"); l != "" {
		return resp.StatusCode, l
	}
	return resp.StatusCode, strings.ReplaceAll(string(data), strings.TrimPrefix(f.server.URL, "http://"), "HOST")
}

func TestLog(t *testing.T) {
	f := setup(t)
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"p-local/log", 200, "log of ns/p-local/c with "},
		{"p-remote/log?tailLines=3&timestamps=true&container=c", 200, "log of ns/p-remote/c with tailLines=3&timestamps=true"},
		{"p-local/log?sinceTime=2026-01-02T03:04:05Z&limitBytes=7&previous=1", 200, "log of ns/p-local/c with limitBytes=7&previous=true&sinceTime=2026-01-02T03%3A04%3A05Z"},
		{"p-/log", 204, ""},
		{"p-unknown/log", 404, `pods "unknown" not found`},
		{"nope/log", 404, `pods "nope" not found`},
		{"many-local/log", 400, "a container name must be specified for pod many-local, choose one of: [a b waiting broken gone]"},
		{"many-local/log?container=x", 400, "container x is not valid for pod many-local"},
		{"many-local/log?container=waiting", 400, `container "waiting" in pod "p" is waiting to start: ContainerCreating`},
		{"many-remote/log?container=broken", 500, "Internal error occurred: disk on fire"},
		{"many-remote/log?container=gone", 404, "the server could not find the requested resource (get pods many-remote)"},
		{"p-local/log?tailLines=-1", 422, `PodLogOptions "p-local" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`},
		{"p-local/log?limitBytes=0", 422, `PodLogOptions "p-local" is invalid: limitBytes: Invalid value: 0: must be greater than 0`},
		{"p-local/log?stream=x", 422, `PodLogOptions "p-local" is invalid: stream: Unsupported value: "x": supported values: "All", "Stderr", "Stdout"`},
		{"p-local/log?tailLines=many", 400, ""},
	} {
		code, got := f.get(t, "/api/v1/namespaces/ns/pods/"+c.path)
		if code != c.code || got != c.want && c.want != "" {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, got, c.code, c.want)
		}
	}
	if code, got := f.get(t, "/api/v1/namespaces/ns/pods/p-dead/log"); code != 500 || !strings.Contains(got, "error dialing backend: dial tcp 127.0.0.1:1: connect: connection refused") {
		t.Errorf("dead node: got %d %q", code, got)
	}
}

// A log comes as messages, the first of which is empty, and then the connection is closed.
func TestLogByWebSocket(t *testing.T) {
	f := setup(t)
	for protocol, want := range map[string]string{"": "log of ns/p-remote/c with ", "binary.k8s.io": "log of ns/p-remote/c with ", "base64.binary.k8s.io": "bG9nIG9mIG5zL3AtcmVtb3RlL2Mgd2l0aCA="} {
		dialer := websocket.Dialer{}
		if protocol != "" {
			dialer.Subprotocols = []string{protocol}
		}
		conn, resp, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(f.server.URL, "http")+"/api/v1/namespaces/ns/pods/p-remote/log?container=c", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				break
			}
			got = append(got, string(data))
		}
		if resp.Header.Get("Sec-WebSocket-Protocol") != protocol || len(got) < 2 || got[0] != "" || strings.Join(got, "") != want {
			t.Errorf("%q: %q", protocol, got)
		}
		_ = resp.Body.Close()
		_ = conn.Close() // the server has closed it
	}
	_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(f.server.URL, "http")+"/api/v1/namespaces/ns/pods/many-remote/log?container=gone", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
}

// A follower sees what there is at once, and the node is told when he leaves.
func TestFollow(t *testing.T) {
	f := setup(t)
	for _, node := range []string{"local", "remote"} {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.server.URL+"/api/v1/namespaces/ns/pods/p-"+node+"/log?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, len("log of"))); err != nil {
			t.Error(err)
		}
		cancel()
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

// executors are the two ways in which kubectl runs commands.
func (f *fixture) executors(t *testing.T, path string) map[string]remotecommand.Executor {
	t.Helper()
	config := &rest.Config{Host: f.server.URL}
	u, err := url.Parse(f.server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	if err != nil {
		t.Fatal(err)
	}
	sp, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"websocket": ws, "spdy": sp}
}

type sizes struct{ left int }

func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.left--; s.left < 0 {
		return nil
	}
	return &remotecommand.TerminalSize{Width: 80, Height: 24}
}

func TestExec(t *testing.T) {
	f := setup(t)
	for _, node := range []string{"local", "remote"} {
		base := "/api/v1/namespaces/ns/pods/p-" + node + "/exec?"
		for name, e := range f.executors(t, base+"stdin=true&stdout=true&stderr=true&command=cat") {
			var out bytes.Buffer
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: io.Discard}); err != nil || out.String() != "HELLO" {
				t.Errorf("%s %s cat: got %q, %v", node, name, out.String(), err)
			}
		}
		for name, e := range f.executors(t, base+"stdout=true&stderr=true&command=exit") {
			var errOut bytes.Buffer
			err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: &errOut})
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 7 || errOut.String() != "bye" {
				t.Errorf("%s %s exit: got %q, %v", node, name, errOut.String(), err)
			}
		}
		for name, e := range f.executors(t, base+"stdin=true&stdout=true&tty=true&command=size") {
			var out bytes.Buffer
			in, keep := io.Pipe()
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: &sizes{1}}); err != nil || out.String() != "80x24" {
				t.Errorf("%s %s size: got %q, %v", node, name, out.String(), err)
			}
			keep.Close()
		}
		for name, e := range f.executors(t, base+"stdout=true&stderr=true&command=refuse") {
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard}); err == nil || !strings.Contains(err.Error(), `container not found ("c")`) {
				t.Errorf("%s %s refuse: got %v", node, name, err)
			}
		}
		for name, e := range f.executors(t, base+"stdin=true&stdout=true&command=hang") {
			ctx, cancel := context.WithCancel(t.Context())
			in, keep := io.Pipe()
			err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: writerFunc(func([]byte) { cancel() })})
			if err == nil {
				t.Errorf("%s %s hang: no error", node, name)
			}
			keep.Close()
			cancel()
		}
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	if len(p) > 0 {
		f(p)
	}
	return len(p), nil
}

func TestExecErrors(t *testing.T) {
	f := setup(t)
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"p-local/exec?command=x&stdout=true", 400, "Upgrade request required"},
		{"p-local/exec?command=x", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"p-/exec?command=x&stdout=true", 400, "pod p- does not have a host assigned"},
		{"many-local/exec?command=x&stdout=true", 400, "a container name must be specified for pod many-local, choose one of: [a b waiting broken gone]"},
		{"many-local/attach?stdout=true&container=z", 400, "container z is not valid for pod many-local"},
		{"nope/exec?command=x&stdout=true", 404, `pods "nope" not found`},
		{"p-/portforward", 400, "pod p- does not have a host assigned"},
		{"p-local/portforward", 400, "Upgrade request required"},
	} {
		if code, got := f.get(t, "/api/v1/namespaces/ns/pods/"+c.path); code != c.code || got != c.want {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, got, c.code, c.want)
		}
	}
	for name, e := range f.executors(t, "/api/v1/namespaces/ns/pods/p-dead/exec?command=x&stdout=true") {
		if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "error dialing backend") {
			t.Errorf("%s to a dead node: %v", name, err)
		}
	}
}

func TestPortForward(t *testing.T) {
	f := setup(t)
	for _, node := range []string{"local", "remote"} {
		config := &rest.Config{Host: f.server.URL}
		u, err := url.Parse(f.server.URL + "/api/v1/namespaces/ns/pods/p-" + node + "/portforward")
		if err != nil {
			t.Fatal(err)
		}
		rt, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			t.Fatal(err)
		}
		ws, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
		if err != nil {
			t.Fatal(err)
		}
		for name, dialer := range map[string]httpstream.Dialer{
			"spdy":   spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: rt}, http.MethodPost, u),
			"tunnel": ws,
		} {
			stop, ready := make(chan struct{}), make(chan struct{})
			fw, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- fw.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatalf("%s %s: %v", node, name, err)
			}
			ports, err := fw.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(conn, "hello")
			if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != "port 8080: hello\n" {
				t.Errorf("%s %s: got %q, %v", node, name, got, err)
			}
			conn.Close()
			close(stop)
			if err := <-done; err != nil {
				t.Errorf("%s %s: %v", node, name, err)
			}
		}
	}
}

func TestProxies(t *testing.T) {
	f := setup(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".html") {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `<a href="/other">x</a>`)
			return
		}
		fmt.Fprintf(w, "%s %s %s", r.Host, r.URL.EscapedPath(), r.URL.RawQuery)
	}))
	defer backend.Close()
	f.connector.direct.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "192.0.2.9:") {
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", backend.Listener.Addr().String())
	}
	f.connector.pods.DialContext = f.connector.direct.DialContext
	web := pod("web", "local", "c")
	web.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
	web.Status.PodIP = "192.0.2.1"
	lost := pod("lost", "local", "c")
	lost.Status.PodIP = "192.0.2.9"
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s1", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}},
		Ports:     []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}, {Addresses: []string{"192.0.2.3"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}}}
	f.Put(web, lost, slice,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}}})
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"namespaces/ns/pods/web/proxy", 301, "/api/v1/namespaces/ns/pods/web/proxy/"},
		{"namespaces/ns/pods/web/proxy/a%2Fb/?x=1", 200, "192.0.2.1:8080 /a%2Fb/ x=1"},
		{"namespaces/ns/pods/web:99/proxy/", 200, "192.0.2.1:99 / "},
		{"namespaces/ns/pods/web/proxy/x.html", 200, `<a href="/api/v1/namespaces/ns/pods/web/proxy/other">x</a>`},
		{"namespaces/ns/pods/p-local/proxy/", 400, "address not allowed"},
		{"namespaces/ns/pods/nope/proxy/", 404, `pods "nope" not found`},
		{"namespaces/ns/pods/lost:80/proxy/", 503, "error trying to reach service: no route to host"},
		{"namespaces/ns/services/svc:http/proxy/y", 200, "192.0.2.1:8080 /y "},
		{"namespaces/ns/services/http:svc:80/proxy/y", 200, "192.0.2.1:8080 /y "},
		{"namespaces/ns/services/svc/proxy/", 503, `no endpoints available for service "svc"`},
		{"namespaces/ns/services/svc:81/proxy/", 503, `no service port 81 found for service "svc"`},
		{"namespaces/ns/services/nope:80/proxy/x", 404, `services "nope" not found`},
		{"namespaces/ns/services/a:b:c:d/proxy/", 400, `invalid service request "a:b:c:d"`},
		{"nodes/local/proxy/metrics?x=1", 200, "node says /metrics?x=1"},
		{"nodes/local:10250/proxy/pods", 200, "node says /pods?"},
		{"nodes/local:9100/proxy/metrics", 200, "192.0.2.7:9100 /metrics "},
		{"nodes/nope/proxy/metrics", 404, `nodes "nope" not found`},
	} {
		if code, got := f.get(t, "/api/v1/"+c.path); code != c.code || got != c.want {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, got, c.code, c.want)
		}
	}
}

func TestRemoteLocator(t *testing.T) {
	s := lookuptest.New(t)
	s.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "b.example"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 1234}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: "Other", Address: "192.0.2.1"}}}})
	for _, c := range []struct{ name, url, fails string }{
		{"a", "https://[2001:db8::1]:10250", ""},
		{"b", "https://b.example:1234", ""},
		{"c", "", "no preferred addresses found; known addresses: []"},
		{"d", "", "no preferred addresses found; known addresses: [{Other 192.0.2.1}]"},
		{"e", "", `nodes "e" not found`},
	} {
		n, err := Remote{Objects: s.Objects}.Locate(t.Context(), c.name)
		if n.URL != c.url || (err == nil) != (c.fails == "") || err != nil && err.Error() != c.fails {
			t.Errorf("%s: got %q, %v", c.name, n.URL, err)
		}
	}
}

type onlyVerb string

func (v onlyVerb) Authorize(_ context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.Verb == string(v) {
		return request.Allow, "", nil
	}
	return request.NoOpinion, "", nil
}

// serve is what a server does with a stream: it tells of errors itself.
func (f *fixture) serve(w http.ResponseWriter, r *http.Request) {
	var known apierrors.APIStatus
	if err := f.connector.Connect(w, r, request.Parse(r)); errors.As(err, &known) {
		status := known.Status()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(status.Code))
		_ = json.NewEncoder(w).Encode(&status)
	}
}

// WebSockets are opened with a GET, but a stream is something that is created.
func TestGetNeedsCreate(t *testing.T) {
	f := setup(t)
	for verb, want := range map[string]int{"create": http.StatusBadRequest, "get": http.StatusForbidden} {
		f.connector.authorizer = onlyVerb(verb)
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/ns/pods/p-local/exec?stdout=true&command=x", nil)
		r = r.WithContext(request.WithUser(r.Context(), &user.DefaultInfo{Name: "dave"}))
		w := httptest.NewRecorder()
		f.serve(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d %s", verb, w.Code, w.Body)
		}
	}
}

func FuzzSplitAndOptions(f *testing.F) {
	f.Add("https:web:80", "tailLines=3&follow=true")
	f.Add("::", "sinceTime=x")
	f.Add("", "%zz")
	f.Fuzz(func(t *testing.T, id, query string) {
		if _, name, _, err := split("pod", id); err == nil && name == "" {
			t.Errorf("%q has no name and no error", id)
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if o, err := logOptions(q); err == nil {
			logQuery(o)
			validateLogOptions(o)
		}
		execOptions(q)
		if ports, err := portOptions(q); err == nil && len(ports) < len(q["ports"]) {
			t.Errorf("lost a port of %q: %v", query, ports)
		}
	})
}

func TestWithoutCORS(t *testing.T) {
	resp := &http.Response{Header: http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}, "X-Own": {"1"}}}
	if err := withoutCORS(resp); err != nil || len(resp.Header) != 1 || resp.Header.Get("X-Own") != "1" {
		t.Errorf("%v, %v", resp.Header, err)
	}
}
