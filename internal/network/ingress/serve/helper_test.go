package serve

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/network/ingress/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something may take that certainly happens.
const patience = time.Minute

// ingressOf is an Ingress of ours. Rules are "host/path>service" and "host/path=service" for exact ones; a host may be missing.
func ingressOf(name string, annotations map[string]string, rules ...string) *networkingv1.Ingress {
	class := route.ClassName
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{}}, Spec: networkingv1.IngressSpec{IngressClassName: &class}}
	for k, v := range annotations {
		i.Annotations[route.Prefix+k] = v
	}
	for _, text := range rules {
		kind := networkingv1.PathTypePrefix
		at := strings.IndexAny(text, ">=")
		if text[at] == '=' {
			kind = networkingv1.PathTypeExact
		}
		host, path, _ := strings.Cut(text[:at], "/")
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/" + path, PathType: &kind, Backend: backendOf(text[at+1:])}},
		}}})
	}
	return i
}

func backendOf(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

// stage is a server on ports of loopback.
type stage struct {
	t             *testing.T
	s             *Server
	plain, secure string
	endpoints     map[string][]netip.AddrPort // by service
	secrets       map[string]*corev1.Secret
	stop          func()
}

func newStage(t *testing.T, cfg Config) *stage {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	plain, secure := listen(), listen()
	cfg.Loops = 2
	if cfg.HTTPSPort == 0 {
		cfg.HTTPSPort = 443
	}
	st := &stage{t: t, s: New(cfg), plain: plain.Addr().String(), secure: secure.Addr().String(), endpoints: map[string][]netip.AddrPort{}, secrets: map[string]*corev1.Secret{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- st.s.Serve(ctx, plain, secure) }()
	stopped := false
	st.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		st.s.Close()
	}
	t.Cleanup(st.stop)
	return st
}

// set makes Ingresses the table. Services are those that have endpoints; appProtocol may follow their name in endpoints' keys after a slash.
func (st *stage) set(all ...*networkingv1.Ingress) []route.Problem {
	classes := []*networkingv1.IngressClass{{ObjectMeta: metav1.ObjectMeta{Name: route.ClassName}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}}}
	table, problems := route.Compile(route.Sources{
		Ingresses: all, Classes: classes,
		Service: func(_, name string) *corev1.Service {
			if _, ok := st.endpoints[name]; !ok {
				return nil
			}
			p := corev1.ServicePort{Port: 80}
			if proto, found := strings.CutPrefix(name, "proto-"); found {
				proto = map[string]string{"h2c": "kubernetes.io/h2c", "https": "https"}[proto]
				p.AppProtocol = &proto
			}
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{p}}}
		},
		Secret: func(_, name string) *corev1.Secret { return st.secrets[name] },
	})
	st.s.SetTable(table, func(b route.Backend) []netip.AddrPort { return st.endpoints[b.Service] })
	return problems
}

// move gives a service other endpoints.
func (st *stage) move(service string, addrs ...netip.AddrPort) {
	st.endpoints[service] = addrs
	for b := range st.s.snap.Load().table.Backends() {
		if b.Service == service {
			st.s.SetEndpoints(b, addrs)
		}
	}
}

func addrOfServer(t *testing.T, s *httptest.Server) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// backend starts an HTTP server and makes it the only endpoint of a service.
func (st *stage) backend(service string, h http.HandlerFunc) *httptest.Server {
	st.t.Helper()
	s := httptest.NewServer(h)
	st.t.Cleanup(s.Close)
	st.endpoints[service] = append(st.endpoints[service], addrOfServer(st.t, s))
	return s
}

// hello answers with its name and the path.
func hello(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", name, r.RequestURI) }
}

// client speaks to the stage whatever the name of the host.
func (st *stage) client(h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := st.plain
			if strings.HasSuffix(address, ":443") {
				to = st.secure
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2, DisableCompression: true,
	}
	st.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get returns the status and body of an answer.
func get(t *testing.T, c *http.Client, req *http.Request) (int, string, http.Header) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// raw sends text and returns the answers that come until the connection ends, or their number is reached.
func (st *stage) raw(text string, answers int) []*http.Response {
	st.t.Helper()
	c, err := net.Dial("tcp", st.plain)
	if err != nil {
		st.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		st.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		st.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	var out []*http.Response
	for len(out) < answers {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			break
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			st.t.Fatalf("body: %v", err)
		}
		resp.Body = io.NopCloser(strings.NewReader(string(body)))
		out = append(out, resp)
	}
	return out
}
