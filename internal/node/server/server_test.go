package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	clientremotecommand "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	utilexec "k8s.io/utils/exec"
)

type backend struct{}

func (backend) Pods() []*corev1.Pod {
	return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}}}
}

func (backend) RunningPods(context.Context) ([]*corev1.Pod, error) { return nil, nil }

func (backend) ContainerID(_, pod, _, container string) (string, error) {
	if pod != "p" {
		return "", apierrors.NewNotFound(corev1.Resource("pods"), pod)
	}
	return "id-" + container, nil
}

func (backend) SandboxID(context.Context, string, string, string) (string, error) {
	return "sandbox", nil
}

func (backend) Logs(_ context.Context, _, _, container string, o LogOptions, begin func(), stdout, _ io.Writer) error {
	if container == "waits" {
		return apierrors.NewBadRequest(`container "waits" in pod "p" is waiting to start: ContainerCreating`)
	}
	begin()
	tail := int64(-1)
	if o.TailLines != nil {
		tail = *o.TailLines
	}
	_, err := fmt.Fprintf(stdout, "follow=%v tail=%d since=%v previous=%v\n", o.Follow, tail, !o.SinceTime.IsZero(), o.Previous)
	return err
}

func (backend) Summary(context.Context) (*statsapi.Summary, error) {
	return &statsapi.Summary{Node: statsapi.NodeStats{NodeName: "n"}, Pods: []statsapi.PodStats{}}, nil
}

func (backend) Configuration() any { return map[string]any{"maxPods": 110} }

// streams is a runtime that echoes.
type streams struct{}

func (streams) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, errout io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize) error {
	fmt.Fprintf(out, "%s %s tty=%v\n", id, strings.Join(cmd, " "), tty)
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if errout != nil {
		fmt.Fprint(errout, "to stderr")
	}
	if cmd[0] == "fail" {
		return utilexec.CodeExitError{Err: errors.New("exit 42"), Code: 42}
	}
	return nil
}

func (streams) Attach(_ context.Context, id string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	_, err := fmt.Fprintf(out, "attached to %s", id)
	return err
}

func (streams) PortForward(_ context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(stream, buf); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%s:%d says %s", sandbox, port, buf)
	return err
}

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_test"}))
	s := httptest.NewServer(New(Config{
		NodeName: "n", Backend: backend{}, Streaming: streams{}, Metrics: reg, Log: slog.New(slog.DiscardHandler), LogDir: t.TempDir(),
		Authenticate: func(r *http.Request) (user.Info, bool, error) {
			name := r.Header.Get("X-User")
			return &user.DefaultInfo{Name: name}, name != "nobody", nil
		},
		Authorize: func(_ context.Context, u user.Info, a Attributes) (bool, string, error) {
			if u.GetName() == "proxier" {
				return a.Subresource == "proxy", "", nil
			}
			return u.GetName() != "reader" || a.Verb == "get" && a.Subresource == "metrics", "", nil
		},
	}))
	t.Cleanup(s.Close)
	return s
}

func TestPaths(t *testing.T) {
	s := serve(t)
	tests := []struct {
		method, path, user string
		code               int
		body               string
	}{
		{"GET", "/healthz", "nobody", 401, "Unauthorized"},
		{"GET", "/healthz", "reader", 403, "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[healthz proxy])"},
		{"GET", "/healthz", "proxier", 200, "ok"},
		{"GET", "/metrics", "proxier", 403, "Forbidden (user=proxier, verb=get, resource=nodes, subresource(s)=[metrics])"},
		{"GET", "/healthz", "", 200, "ok"},
		{"GET", "/pods", "nobody", 401, "Unauthorized"},
		{"GET", "/pods", "reader", 403, "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[pods proxy])"},
		{"GET", "/metrics", "reader", 200, "kubelet_test 0"},
		{"GET", "/pods", "", 200, `"kind":"PodList"`},
		{"GET", "/runningpods/", "", 200, `"items":[]`},
		{"GET", "/configz", "", 200, `"maxPods":110`},
		{"GET", "/stats/summary", "", 200, `"nodeName":"n"`},
		{"GET", "/containerLogs/ns/p/c", "", 200, "follow=false tail=-1 since=false previous=false"},
		{"GET", "/containerLogs/ns/p/c?follow=true&tailLines=3&sinceSeconds=5&previous=true", "", 200, "follow=true tail=3 since=true previous=true"},
		{"GET", "/containerLogs/ns/p/c?tailLines=-1", "", 422, "tailLines"},
		{"GET", "/containerLogs/ns/p/waits", "", 400, `container "waits" in pod "p" is waiting to start: ContainerCreating`},
		{"POST", "/exec/ns/other/c?command=x&output=1", "", 404, `pods "other" not found`},
		{"POST", "/exec/ns/p/c?output=1", "", 400, "you must specify a command"},
		{"POST", "/exec/ns/p/c?command=x", "", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"GET", "/nope", "", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, s.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-User", tt.user)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.code || !strings.Contains(string(body), tt.body) {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestExecAndAttach(t *testing.T) {
	s := serve(t)
	config := &rest.Config{Host: s.URL}
	at := func(path string) *url.URL {
		u, err := url.Parse(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	run := func(path string, stdin io.Reader, tty bool) (stdout, stderr string, err error) {
		e, err := clientremotecommand.NewSPDYExecutor(config, "POST", at(path))
		if err != nil {
			t.Fatal(err)
		}
		var out, errout bytes.Buffer
		o := clientremotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Tty: tty}
		if !tty {
			o.Stderr = &errout
		}
		err = e.StreamWithContext(t.Context(), o)
		return out.String(), errout.String(), err
	}
	out, errout, err := run("/exec/ns/p/c?command=cat&command=-&input=1&output=1&error=1", strings.NewReader("typed"), false)
	if err != nil || out != "id-c cat - tty=false\ntyped" || errout != "to stderr" {
		t.Errorf("%q %q %v", out, errout, err)
	}
	out, _, err = run("/exec/ns/p/uid/c?command=x&stdout=true&tty=true", nil, true)
	if err != nil || out != "id-c x tty=true\n" {
		t.Errorf("%q %v", out, err)
	}
	_, _, err = run("/exec/ns/p/c?command=fail&output=1&error=1", nil, false)
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 42 {
		t.Errorf("error %v", err)
	}
	out, _, err = run("/attach/ns/p/c?output=1&error=1", nil, false)
	if err != nil || out != "attached to id-c" {
		t.Errorf("%q %v", out, err)
	}
}

// TestExecByWebSocket speaks v4.channel.k8s.io: the first byte of a message is its channel. (v5 is translated by the API
// server.)
func TestExecByWebSocket(t *testing.T) {
	s := serve(t)
	dialer := websocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, resp, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL, "http")+"/exec/ns/p/c?command=x&output=1&error=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer conn.Close()
	got := map[byte]string{}
	for {
		_, data, err := conn.ReadMessage()
		if err != nil {
			break
		}
		if len(data) > 1 {
			got[data[0]] += string(data[1:])
		}
	}
	if got[1] != "id-c x tty=false\n" || got[2] != "to stderr" || !strings.Contains(got[3], `"status":"Success"`) {
		t.Errorf("%q", got)
	}
}

func TestPortForward(t *testing.T) {
	s := serve(t)
	u, err := url.Parse(s.URL + "/portForward/ns/p")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u)
	f, err := clientportforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-result:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	got, err := talk(fmt.Sprintf("127.0.0.1:%d", ports[0].Local), "hello")
	if err != nil || got != "sandbox:8080 says hello" {
		t.Errorf("%q, %v", got, err)
	}
	close(stop)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// endless runs commands until their caller leaves.
type endless struct{ streaming.Runtime }

func (endless) Exec(ctx context.Context, _ string, cmd []string, _ io.Reader, _, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	if cmd[0] == "fails" {
		return errors.New("no such container")
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestCallerLeaves: a command whose caller has left was interrupted, which is no error of the node's.
func TestCallerLeaves(t *testing.T) {
	exec := func(ctx context.Context, cmd string) error {
		return adapter{endless{}}.ExecInContainer(ctx, "", "", "id", []string{cmd}, nil, nil, nil, false, nil, 0)
	}
	if err := exec(t.Context(), "fails"); err == nil || err.Error() != "no such container" {
		t.Errorf("a command that fails: %v", err)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	var exit utilexec.ExitError
	if err := exec(ctx, "sleep"); !errors.As(err, &exit) || exit.ExitStatus() != 130 {
		t.Errorf("whose caller has left: %v", err)
	}
}
