package aggregate_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/aggregate"
	"github.com/celox/celox/internal/apiserver/discovery"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// alice is who everybody is.
type alice struct{}

func (alice) AuthenticateRequest(*http.Request) (user.Info, bool, error) {
	return &user.DefaultInfo{Name: "alice", UID: "17", Groups: []string{"makers", "system:authenticated"}, Extra: map[string][]string{"example.com/scope": {"a", "b"}}}, true, nil
}

func (alice) Authorize(context.Context, request.Attributes) (request.Decision, string, error) {
	return request.Allow, "", nil
}

// target is one service with endpoints, at an address.
type target struct {
	address      atomic.Pointer[string]
	there, ready atomic.Bool
}

func (o *target) Service(_ context.Context, ns, name string) (*corev1.Service, error) {
	if !o.there.Load() || ns != "backend" || name != "api" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, name)
	}
	return &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}}, nil
}

func (o *target) EndpointSlices(context.Context, string, string) ([]*discoveryv1.EndpointSlice, error) {
	s := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(1))}}}
	if o.ready.Load() {
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"127.0.0.1"}}}
	}
	return []*discoveryv1.EndpointSlice{s}, nil
}

func (o *target) ResolveEndpoint(context.Context, string, string, int32) (string, error) {
	if a := o.address.Load(); a != nil && o.ready.Load() {
		return *a, nil
	}
	return "", apierrors.NewServiceUnavailable("no endpoints")
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func certificate(t *testing.T, name string, by *authority) (*authority, *tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := c, key
	if by == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &authority{c, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// backend is another API server; it tells what it was asked.
func backend(t *testing.T, serving *tls.Certificate, clients *authority) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "front-proxy-client" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		switch {
		case r.URL.Path == "/apis/things.example/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList","groupVersion":"things.example/v1","resources":[{"name":"things","kind":"Thing","namespaced":true,"verbs":["get","list","delete"]},{"name":"things/status","kind":"Thing","namespaced":true,"verbs":["get"]},{"name":"places","kind":"Place","verbs":["list","delete"]},{"name":"shadows","kind":"Shadow","namespaced":true,"verbs":["list"]}]}`)
		case r.URL.Path == "/openapi/v3/apis/things.example/v1":
			w.Header().Set("Etag", `"1"`)
			fmt.Fprint(w, `{"openapi":"3.0.0"}`)
		case strings.HasSuffix(r.URL.Path, "/elsewhere"):
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		case r.Header.Get("Upgrade") == "echo":
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			rw.Flush()
			io.Copy(conn, rw)
		default:
			json.NewEncoder(w).Encode(map[string]any{"path": r.URL.RequestURI(), "user": r.Header["X-Remote-User"], "uid": r.Header["X-Remote-Uid"],
				"groups": r.Header["X-Remote-Group"], "scope": r.Header["X-Remote-Extra-Example.com%2fscope"], "evil": r.Header["X-Remote-Extra-Evil"], "token": r.Header["Authorization"]})
		}
	}))
	pool := x509.NewCertPool()
	pool.AddCert(clients.cert)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*serving}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// world is an API server with an aggregator.
type world struct {
	t      *testing.T
	url    string
	client apiregistrationclient.APIServiceInterface
	target *target
	docs   *discovery.Handler
	config aggregate.Config
	agg    *aggregate.Aggregator
}

func newWorld(t *testing.T, cert *tls.Certificate) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cat, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	engine := memory.New()
	st, err := store.New(ctx, engine, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close(); engine.Close() })
	if err := apiserver.Register(st, cat); err != nil {
		t.Fatal(err)
	}
	if err := st.Start(ctx); err != nil {
		t.Fatal(err)
	}
	col := func(group, resource string) store.Reader {
		c, ok := st.Collection(schema.GroupResource{Group: group, Resource: resource})
		if !ok {
			t.Fatal(resource)
		}
		return c
	}
	w := &world{t: t, target: &target{}}
	w.config = aggregate.Config{
		APIServices: col("apiregistration.k8s.io", "apiservices"), Definitions: col("apiextensions.k8s.io", "customresourcedefinitions"),
		Services: col("", "services"), EndpointSlices: col("discovery.k8s.io", "endpointslices"),
		Objects: w.target, Resolver: w.target, Certificate: func() *tls.Certificate { return cert },
		Local: []aggregate.Local{
			{GroupVersion: schema.GroupVersion{Group: "apps", Version: "v1"}, GroupPriority: 17800, VersionPriority: 15},
			{GroupVersion: yielding, GroupPriority: 100, VersionPriority: 100, Yields: true},
		},
	}
	agg, err := aggregate.New(ctx, w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.agg = agg
	if w.docs, err = discovery.New(cat, ""); err != nil {
		t.Fatal(err)
	}
	w.docs.AddSource(agg)
	s, err := apiserver.New(apiserver.Config{
		Store: st, Catalogue: cat, Authenticator: alice{}, Authorizer: alice{}, Aggregator: agg,
		Discovery: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if !w.docs.Serve(rw, r) {
				http.NotFound(rw, r)
			}
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(s.Handler())
	t.Cleanup(front.Close)
	w.url = front.URL
	c, err := apiregistrationclient.NewForConfig(client.InProcess(s.Handler(), &user.DefaultInfo{Name: "admin"}, "test"))
	if err != nil {
		t.Fatal(err)
	}
	w.client = c.APIServices()
	done := make(chan struct{})
	go func() { defer close(done); agg.Run(ctx, w.client) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *world) call(method, path, body string, header ...string) (int, string) {
	w.t.Helper()
	r, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// becomes waits until a condition holds.
func (w *world) becomes(what string, f func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

func (w *world) reason(name, want string) {
	w.t.Helper()
	last := ""
	w.becomes(name+" is "+want+" (last: "+last+")", func() bool {
		_, body := w.call("GET", "/apis/apiregistration.k8s.io/v1/apiservices/"+name, "")
		var s apiregistrationv1.APIService
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			w.t.Fatal(err, body)
		}
		return slices.ContainsFunc(s.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool { return c.Reason == want })
	})
}

const things = "/apis/things.example/v1"

// yielding is a group version of this server that another one may take over.
var yielding = schema.GroupVersion{Group: "yields.example", Version: "v1"}

func TestAnotherServerTakesOver(t *testing.T) {
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	w := newWorld(t, nil)
	const path = "/apis/apiregistration.k8s.io/v1/apiservices/v1.yields.example"
	w.becomes("the group has an APIService", func() bool {
		code, body := w.call("GET", path, "")
		return code == 200 && strings.Contains(body, "Local APIServices are always available")
	})
	if w.agg.Has(yielding) {
		t.Error("another server is said to have the group version")
	}
	// As kubectl apply does, which leaves labels that it does not name.
	if code, body := w.call("PATCH", path, `{"spec":{"service":{"namespace":"ns","name":"svc"},"insecureSkipTLSVerify":true}}`, "Content-Type", "application/merge-patch+json"); code != 200 {
		t.Fatal(code, body)
	}
	w.becomes("the other server has the group version", func() bool { return w.agg.Has(yielding) })

	// The next start of the server, with the group version and without, leaves the other one's APIService alone.
	for n, locals := range [][]aggregate.Local{w.config.Local, w.config.Local[:1]} {
		mark := schema.GroupVersion{Group: "mark" + strconv.Itoa(n) + ".example", Version: "v1"}
		w.config.Local = append(slices.Clone(locals), aggregate.Local{GroupVersion: mark, GroupPriority: 1, VersionPriority: 1})
		agg, err := aggregate.New(t.Context(), w.config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { agg.Run(ctx, w.client) })
		w.becomes("the next start is through", func() bool {
			code, _ := w.call("GET", "/apis/apiregistration.k8s.io/v1/apiservices/v1."+mark.Group, "")
			return code == 200
		})
		cancel()
		running.Wait()
		if code, body := w.call("GET", path, ""); code != 200 || !strings.Contains(body, `"name":"svc"`) {
			t.Errorf("after start %d the other server's APIService is %d %s", n, code, body)
		}
	}
	if code, body := w.call("DELETE", path, ""); code != 200 {
		t.Fatal(code, body)
	}
	w.becomes("the group version is ours again", func() bool { return !w.agg.Has(yielding) })
}

func TestRemote(t *testing.T) {
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	servers, _ := certificate(t, "servers", nil)
	clients, _ := certificate(t, "front-proxy", nil)
	_, serving := certificate(t, "api.backend.svc", servers)
	_, proxy := certificate(t, "front-proxy-client", clients)
	b := backend(t, serving, clients)
	w := newWorld(t, proxy)
	address := b.Listener.Addr().String()
	w.target.address.Store(&address)

	if code, _ := w.call("GET", things, ""); code != 404 {
		t.Fatalf("before: %d", code)
	}
	object, err := json.Marshal(map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1.things.example"},
		"spec": map[string]any{"group": "things.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": servers.pem,
			"service": map[string]any{"namespace": "backend", "name": "api"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if code, body := w.call("POST", "/apis/apiregistration.k8s.io/v1/apiservices", string(object)); code != 201 {
		t.Fatal(code, body)
	}
	w.reason("v1.things.example", "ServiceNotFound")
	if code, body := w.call("GET", things+"/x", ""); code != 503 || body != "service unavailable\n" {
		t.Errorf("unavailable: %d %q", code, body)
	}
	w.target.there.Store(true)
	nudge := func(name string) {
		if code, body := w.call("POST", "/api/v1/namespaces/backend/services", `{"metadata":{"name":"`+name+`"},"spec":{"ports":[{"port":443}]}}`); code != 201 {
			t.Fatal(code, body)
		}
	}
	nudge("api") // an event of the service wakes the check
	w.reason("v1.things.example", "MissingEndpoints")
	w.target.ready.Store(true)
	if code, body := w.call("POST", "/apis/discovery.k8s.io/v1/namespaces/backend/endpointslices",
		`{"metadata":{"name":"api-1","labels":{"kubernetes.io/service-name":"api"}},"addressType":"IPv4","endpoints":[]}`); code != 201 {
		t.Fatal(code, body)
	}
	w.reason("v1.things.example", "Passed")

	code, body := w.call("GET", things+"/namespaces/n/things/a?x=1", "", "X-Remote-User", "root", "X-Remote-Extra-Evil", "yes", "Authorization", "Bearer secret")
	want := `{"evil":null,"groups":["makers","system:authenticated"],"path":"/apis/things.example/v1/namespaces/n/things/a?x=1","scope":["a","b"],"token":null,"uid":["17"],"user":["alice"]}` + "\n"
	if code != 200 || body != want {
		t.Errorf("passed on: %d\n%s\nwant\n%s", code, body, want)
	}
	if code, body := w.call("GET", things+"/elsewhere", ""); code != 502 {
		t.Errorf("a redirect: %d %s", code, body)
	}
	if code, body := w.call("GET", things, ""); code != 200 || !strings.Contains(body, `"name":"things"`) {
		t.Errorf("resources: %d %s", code, body)
	}
	w.becomes("the group is in discovery", func() bool {
		_, body := w.call("GET", "/apis", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		return strings.Contains(body, `"resource":"things"`)
	})
	if found, unknown := w.agg.Namespaced(); fmt.Sprint(found) != "[things.example/v1, Resource=things]" || len(unknown) != 0 {
		t.Errorf("in namespaces there are %v, unknown %v", found, unknown)
	}
	if code, body := w.call("GET", "/apis/things.example", ""); code != 200 || !strings.Contains(body, `"preferredVersion":{"groupVersion":"things.example/v1"`) {
		t.Errorf("group: %d %s", code, body)
	}
	upgrade(t, w)

	w.target.ready.Store(false)
	if code, body := w.call("GET", things+"/x", ""); code != 503 || body != "service unavailable\n" {
		t.Errorf("no endpoints: %d %q", code, body)
	}
	if code, body := w.call("DELETE", "/apis/discovery.k8s.io/v1/namespaces/backend/endpointslices/api-1", ""); code != 200 {
		t.Fatal(code, body)
	}
	w.reason("v1.things.example", "MissingEndpoints")
	if found, unknown := w.agg.Namespaced(); len(found) != 0 || fmt.Sprint(unknown) != "[things.example/v1]" {
		t.Errorf("in namespaces there are %v, unknown %v", found, unknown)
	}
	if code, body := w.call("DELETE", "/apis/apiregistration.k8s.io/v1/apiservices/v1.things.example", ""); code != 200 {
		t.Fatal(code, body)
	}
	w.becomes("the group is gone", func() bool { code, _ := w.call("GET", things, ""); return code == 404 })
}

// upgrade opens a stream through the proxy.
func upgrade(t *testing.T, w *world) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/namespaces/n/things/a/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", things)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	fmt.Fprint(conn, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello" {
		t.Errorf("echo: %q, %v", got, err)
	}
}

// The server makes the APIServices of what it serves itself.
func TestLocal(t *testing.T) {
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	w := newWorld(t, nil)
	get := func(name string) (int, string) {
		return w.call("GET", "/apis/apiregistration.k8s.io/v1/apiservices/"+name, "")
	}
	w.becomes("apps has an APIService", func() bool {
		code, body := get("v1.apps")
		return code == 200 && strings.Contains(body, `"kube-aggregator.kubernetes.io/automanaged":"onstart"`) &&
			strings.Contains(body, `"groupPriorityMinimum":17800`) && strings.Contains(body, "Local APIServices are always available")
	})
	crd := func(plural string) string {
		return `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"` + plural + `.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
			"names":{"plural":"` + plural + `","kind":"K` + plural + `"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}},
			{"name":"v2","served":false,"storage":false,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`
	}
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	for _, plural := range []string{"as", "bs"} {
		if code, body := w.call("POST", crds, crd(plural)); code != 201 {
			t.Fatal(code, body)
		}
	}
	w.becomes("example.com has an APIService", func() bool {
		code, body := get("v1.example.com")
		return code == 200 && strings.Contains(body, `"kube-aggregator.kubernetes.io/automanaged":"true"`) && strings.Contains(body, `"versionPriority":100`)
	})
	if code, _ := get("v2.example.com"); code != 404 {
		t.Errorf("a version that is not served has an APIService: %d", code)
	}
	for _, plural := range []string{"as", "bs"} {
		if code, _ := get("v1.example.com"); code != 200 {
			t.Errorf("the APIService is gone while %s is there", plural)
		}
		if code, body := w.call("DELETE", crds+"/"+plural+".example.com", ""); code != 200 {
			t.Fatal(code, body)
		}
		// Nobody cleans up behind definitions here.
		w.call("PATCH", crds+"/"+plural+".example.com", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json")
	}
	w.becomes("the APIService goes with the last definition", func() bool { code, _ := get("v1.example.com"); return code == 404 })
}
