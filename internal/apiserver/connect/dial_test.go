package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
)

// passage leads each node and each pod to a place of its own, whatever its address is.
type passage struct {
	mu    sync.Mutex
	nodes map[string]string // guarded by mu, as the next
	asked []string
	pod   string
}

func (p *passage) DialNode(ctx context.Context, node, address string, prepare Prepare) (net.Conn, error) {
	p.mu.Lock()
	p.asked = append(p.asked, node+" "+address)
	to := p.nodes[node]
	p.mu.Unlock()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, c)
}

func (p *passage) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	p.mu.Lock()
	p.asked = append(p.asked, "pod "+address)
	p.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, network, p.pod)
}

// What is asked of two nodes that have one address goes to each of them, also when connections are kept, and proxies of pods go to pods.
func TestDialer(t *testing.T) {
	f := &fixture{Store: lookuptest.New(t)}
	p := &passage{nodes: map[string]string{}}
	var trusted *tls.Config
	for _, name := range []string{"a", "b"} {
		node := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(name + r.URL.Path)) }))
		t.Cleanup(node.Close)
		trusted = node.Client().Transport.(*http.Transport).TLSClientConfig
		p.nodes[name] = node.Listener.Addr().String()
		f.Put(pod("p-"+name, name, "c"))
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("a page")) }))
	t.Cleanup(web.Close)
	p.pod = web.Listener.Addr().String()
	f.Put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Status: corev1.PodStatus{PodIP: "10.42.7.9"}})
	f.connector = New(Config{
		Objects: f.Objects, NodeTLS: &tls.Config{RootCAs: trusted.RootCAs}, Dialer: p,
		Nodes: locator(func(string) (Node, error) { return Node{URL: "https://127.0.0.1:10250"}, nil }),
	})
	t.Cleanup(f.connector.Close)
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)

	for range 2 {
		for _, name := range []string{"a", "b"} {
			want := name + "/containerLogs/ns/p-" + name + "/c"
			if code, got := f.get(t, "/api/v1/namespaces/ns/pods/p-"+name+"/log"); code != http.StatusOK || got != want {
				t.Errorf("node %s: %d %q, want %q", name, code, got, want)
			}
		}
	}
	if code, got := f.get(t, "/api/v1/namespaces/ns/pods/web:80/proxy/"); code != http.StatusOK || got != "a page" {
		t.Errorf("pod: %d %q", code, got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got, want := strings.Join(p.asked, ", "), "a 127.0.0.1:10250, b 127.0.0.1:10250, pod 10.42.7.9:80"; got != want {
		t.Errorf("connections: %s, want %s", got, want)
	}
}

// Who has no certificate of the cluster is not the node.
func TestDialerSomebodyElse(t *testing.T) {
	f := &fixture{Store: lookuptest.New(t)}
	other := httptest.NewUnstartedServer(http.NotFoundHandler())
	other.Config.ErrorLog = log.New(io.Discard, "", 0)
	other.StartTLS()
	t.Cleanup(other.Close)
	c := New(Config{
		Objects: f.Objects, NodeTLS: &tls.Config{}, Dialer: &passage{nodes: map[string]string{"a": other.Listener.Addr().String()}},
		Nodes: locator(func(string) (Node, error) { return Node{URL: "https://127.0.0.1:10250"}, nil }),
	})
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var unknown *tls.CertificateVerificationError
	if _, err := c.Read(ctx, "a", "stats"); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
}
