package webhook

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a TLS server on loopback and returns its address and certificate.
func serve(t *testing.T, h http.HandlerFunc) (address string, bundle []byte) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// fixed resolves every service to one address, or fails.
type fixed struct {
	address string
	err     error
	asked   atomic.Int32
}

func (f *fixed) ResolveEndpoint(_ context.Context, namespace, name string, port int32) (string, error) {
	f.asked.Add(1)
	if f.err != nil {
		return "", f.err
	}
	return f.address, nil
}

func newClient(t *testing.T, r Resolver) *Client {
	t.Helper()
	c := New(r)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestPost(t *testing.T) {
	var got *http.Request
	var body string
	address, bundle := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		switch r.URL.Path {
		case "/text":
			http.Error(w, "go away", http.StatusTeapot)
		case "/status":
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Conflict","code":409}`)
		case "/empty":
		case "/long":
			fmt.Fprint(w, strings.Repeat("x", 101))
		case "/redirect":
			http.Redirect(w, r, "/ok", http.StatusTemporaryRedirect)
		default:
			fmt.Fprint(w, `{"a":1}`)
		}
	})
	c := newClient(t, &fixed{})
	for _, tt := range []struct{ path, answer, err string }{
		{"/ok", `{"a":1}`, ""},
		{"/ok?x=y", `{"a":1}`, ""},
		{"/text", "", "the server responded with the status code 418"},
		{"/status", "", "no"},
		{"/empty", "", "0-length response with status code: 200"},
		{"/long", "", "the answer is longer than 100 bytes"},
		{"/redirect", "", "the server responded with the status code 307"},
	} {
		caller, err := c.For(Target{URL: "https://" + address + tt.path, CABundle: bundle, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		data, err := caller.Post(t.Context(), []byte("{}"))
		if string(data) != tt.answer || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %q, %v", tt.path, data, err)
		}
	}
	if got.ProtoMajor != 2 || got.Method != http.MethodPost || got.Header.Get("Content-Type") != "application/json" || got.UserAgent() != agent || body != "{}" {
		t.Errorf("got %s %s %v %q", got.Proto, got.Method, got.Header, body)
	}
	if len(c.byKey) != 1 {
		t.Errorf("%d transports for one destination", len(c.byKey))
	}
}

// hour is a context of an hour that is over when over is closed.
type hour struct {
	context.Context
	began time.Time
	over  chan struct{}
}

func (h hour) Deadline() (time.Time, bool) { return h.began.Add(time.Hour), true }
func (h hour) Done() <-chan struct{}       { return h.over }

func (h hour) Err() error {
	select {
	case <-h.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestDeadlineIsTold(t *testing.T) {
	release := make(chan struct{})
	query := make(chan string, 1)
	address, bundle := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		query <- r.URL.RawQuery
		<-release
	})
	defer close(release)
	c := newClient(t, &fixed{})
	caller, err := c.For(Target{URL: "https://" + address + "/slow", CABundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	ctx := hour{t.Context(), time.Now(), make(chan struct{})}
	result := make(chan error, 1)
	go func() {
		_, err := caller.Post(ctx, nil)
		result <- err
	}()
	q := <-query
	close(ctx.over)
	if err, want := <-result, fmt.Sprintf(`Post "https://%s/slow?%s": context deadline exceeded`, address, q); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// The time is that when it was called, rounded up.
	if left, err := time.ParseDuration(strings.TrimPrefix(q, "timeout=")); err != nil || left > time.Hour || left < time.Hour/2 || left%time.Second != 0 {
		t.Errorf("query %q", q)
	}
}

func TestService(t *testing.T) {
	var host atomic.Value
	address, bundle := serve(t, func(w http.ResponseWriter, r *http.Request) {
		host.Store(r.Host)
		fmt.Fprint(w, "{}")
	})
	r := &fixed{address: address}
	c := newClient(t, r)
	// The certificate is for example.com, so the name of the service does not match it.
	caller, err := c.For(Target{Service: &Service{Namespace: "n", Name: "s", Path: "hook"}, CABundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caller.Post(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "not s.n.svc") || !strings.HasPrefix(err.Error(), `Post "https://s.n.svc:443/hook": `) {
		t.Errorf("got %v", err)
	}
	r.err = apierrors.NewServiceUnavailable(`no endpoints available for service "s"`)
	if _, err := caller.Post(t.Context(), nil); err == nil || err.Error() != `Post "https://s.n.svc:443/hook": no endpoints available for service "s"` {
		t.Errorf("got %v", err)
	}
	if n := r.asked.Load(); n != 2 {
		t.Errorf("resolved %d times", n)
	}
}

func TestWrongTargets(t *testing.T) {
	c := newClient(t, &fixed{})
	for name, tt := range map[string]struct {
		t    Target
		want string
	}{
		"nothing":  {Target{}, "webhook configuration must have either service or URL"},
		"no url":   {Target{URL: "://"}, "Unparsable URL"},
		"no https": {Target{URL: "http://localhost/"}, "is no https URL"},
		"no pem":   {Target{URL: "https://localhost/", CABundle: []byte("x")}, "unable to load root certificates: unable to parse bytes as PEM block"},
	} {
		if _, err := c.For(tt.t); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTransportsAreBounded(t *testing.T) {
	c := newClient(t, &fixed{})
	for i := range kept + 10 {
		if _, err := c.For(Target{URL: fmt.Sprintf("https://h%d/", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.byKey) != kept || c.recent.Len() != kept {
		t.Errorf("%d transports, %d in order", len(c.byKey), c.recent.Len())
	}
}

type objects struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
}

func (o objects) Service(_ context.Context, _, name string) (*corev1.Service, error) {
	if o.svc == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, name)
	}
	return o.svc, nil
}

func (o objects) EndpointSlices(context.Context, string, string) ([]*discoveryv1.EndpointSlice, error) {
	return o.slices, nil
}

func TestServices(t *testing.T) {
	svc := func(s corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: s}
	}
	ports := []corev1.ServicePort{{Name: "https", Port: 443}}
	slice := func(t discoveryv1.AddressType, port string, ready bool, addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{AddressType: t, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: new(int32(8443))}}}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
		return s
	}
	for name, tt := range map[string]struct {
		o         objects
		want, err string
	}{
		"missing":       {objects{}, "", `service "s" not found`},
		"external":      {objects{svc: svc(corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "a.b"})}, "a.b:443", ""},
		"no port":       {objects{svc: svc(corev1.ServiceSpec{})}, "", `no service port 443 found for service "s"`},
		"no endpoints":  {objects{svc: svc(corev1.ServiceSpec{Ports: ports})}, "", `no endpoints available for service "s"`},
		"not ready":     {objects{svc(corev1.ServiceSpec{Ports: ports}), []*discoveryv1.EndpointSlice{slice("IPv4", "https", false, "10.0.0.1")}}, "", `no endpoints available for service "s"`},
		"another port":  {objects{svc(corev1.ServiceSpec{Ports: ports}), []*discoveryv1.EndpointSlice{slice("IPv4", "http", true, "10.0.0.1")}}, "", `no endpoints available for service "s"`},
		"ready":         {objects{svc(corev1.ServiceSpec{Ports: ports}), []*discoveryv1.EndpointSlice{slice("IPv4", "https", true, "10.0.0.1")}}, "10.0.0.1:8443", ""},
		"second family": {objects{svc(corev1.ServiceSpec{Ports: ports}), []*discoveryv1.EndpointSlice{slice("IPv6", "https", true, "fd00::1")}}, "[fd00::1]:8443", ""},
		"first family": {objects{svc(corev1.ServiceSpec{Ports: ports, IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}), []*discoveryv1.EndpointSlice{
			slice("IPv4", "https", true, "10.0.0.1"), slice("IPv6", "https", true, "fd00::1")}}, "[fd00::1]:8443", ""},
	} {
		got, err := NewServices(tt.o).ResolveEndpoint(t.Context(), "n", "s", 443)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestClosed(t *testing.T) {
	c := New(&fixed{err: errors.New("no")})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.For(Target{URL: "https://a/"}); err == nil {
		t.Error("a closed client makes calls")
	}
}
