package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/network/ingress/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something may take that certainly happens.
const patience = time.Minute

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still after %s: %v", patience, err)
		}
		time.Sleep(5 * time.Millisecond) // there is no one event for "whatever the check looks at"
	}
}

// someSecrets are secrets without an API.
type someSecrets struct {
	mu   sync.Mutex
	used []types.NamespacedName    // guarded by mu
	have map[string]*corev1.Secret // guarded by mu
}

func (s *someSecrets) Use(names []types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = names
}

func (s *someSecrets) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.have[name]; x != nil {
		return x, nil
	}
	return nil, errors.New("there is none")
}

// ports are listeners of loopback in the place of the machine's.
type ports struct {
	mu    sync.Mutex
	taken bool           // guarded by mu
	at    map[int]string // guarded by mu
}

func (p *ports) listen(port int) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken {
		return nil, &net.OpError{Op: "listen", Err: syscall.EADDRINUSE}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		p.at[port] = l.Addr().String()
	}
	return l, err
}

func (p *ports) address(port int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[port]
}

func TestLife(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: route.ClassName}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}})
	f := informers.New(client)
	secrets := &someSecrets{have: map[string]*corev1.Secret{}}
	p := &ports{taken: true, at: map[int]string{}}
	told := make(chan string, 100)
	var said sync.Map
	g, err := New(Config{
		Informers: f, Secrets: secrets, HTTPPort: 80, HTTPSPort: 443, Listen: p.listen, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Tell: func(i *networkingv1.Ingress, reason, message string) { told <- i.Name + " " + reason + " " + message },
		Say:  func(format string, args ...any) { said.Store(fmt.Sprintf(format, args...), true) },
	})
	if err != nil {
		t.Fatal(err)
	}
	g.retry = 10 * time.Millisecond
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	f.StartWithContext(ctx)
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	}()

	class, prefix := route.ClassName, networkingv1.PathTypePrefix
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i", UID: "1", Generation: 1}, Spec: networkingv1.IngressSpec{
		IngressClassName: &class,
		TLS:              []networkingv1.IngressTLS{{SecretName: "cert"}},
		Rules: []networkingv1.IngressRule{{Host: "a.example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
			Path: "/", PathType: &prefix, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}},
		}}}}}},
	}}
	i.Annotations = map[string]string{route.Prefix + "ssl-redirect": "false"}
	if i, err = client.NetworkingV1().Ingresses("ns").Create(ctx, i, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The port is another program's: that is said on the Ingress.
	if got := <-told; !strings.HasPrefix(got, "i PortTaken this node cannot serve it yet: ") || !strings.Contains(got, "address already in use") {
		t.Errorf("told %q", got)
	}
	p.mu.Lock()
	p.taken = false
	p.mu.Unlock()
	eventually(t, func() error { // at the next try
		if p.address(80) == "" {
			return errors.New("not listening")
		}
		return nil
	})
	secrets.mu.Lock()
	if fmt.Sprint(secrets.used) != "[ns/cert]" {
		t.Errorf("secrets used: %v", secrets.used)
	}
	secrets.mu.Unlock()
	get := func(want int) {
		t.Helper()
		eventually(t, func() error {
			req, err := http.NewRequest("GET", "http://"+p.address(80)+"/", nil)
			if err != nil {
				return err
			}
			req.Host, req.Close = "a.example", true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != want {
				err = fmt.Errorf("got %d, want %d", resp.StatusCode, want)
			}
			return err
		})
	}
	get(503) // no service
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if _, err := client.CoreV1().Services("ns").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	backend := route.Backend{Namespace: "ns", Service: "s", Port: 80, PortName: "http"}
	name, number := "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
	}
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got := g.endpoints(backend); len(got) != 1 || got[0] != netip.MustParseAddrPort("192.0.2.1:8080") {
			return fmt.Errorf("endpoints %v", got)
		}
		return nil
	})
	// Away with it: the ports close, others may have them.
	at := p.address(80)
	if err := client.NetworkingV1().Ingresses("ns").Delete(ctx, i.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		c, err := net.Dial("tcp", at)
		if err == nil {
			return errors.Join(errors.New("still listening"), c.Close())
		}
		return nil
	})
	if _, ok := said.Load("ingress works now, on ports 80 and 443"); !ok {
		t.Error("that it works was not said")
	}
}
