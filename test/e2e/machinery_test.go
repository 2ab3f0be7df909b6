package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/e2e/machine"
)

// backendAddress is where the test's own server listens: endpoints must not be on loopback.
const backendAddress = "192.0.2.7"

// backend is an API server of our own: it has one resource, remembers who asks, and answers slow requests when it is told to.
type backend struct {
	port    int
	release chan struct{} // closed: nobody waits any more

	mu      sync.Mutex
	asked   []http.Header // guarded by mu; of requests for flunders
	waiting int           // guarded by mu
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(v string) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, v)
	}
	const path = "/apis/flunders.example.com/v1"
	switch r.URL.Path {
	case path:
		say(`{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"flunders.example.com/v1","resources":[{"name":"flunders","singularName":"flunder","namespaced":false,"kind":"Flunder","verbs":["get","list"]}]}`)
	case "/openapi/v3" + path:
		say(`{"openapi":"3.0.0","info":{"title":"flunders","version":"v1"},"paths":{"` + path + `/flunders":{"get":{
			"x-kubernetes-action":"list","x-kubernetes-group-version-kind":{"group":"flunders.example.com","version":"v1","kind":"Flunder"},"responses":{"200":{"description":"OK"}}}}},
			"components":{"schemas":{"com.example.flunders.v1.Flunder":{"type":"object","description":"A flunder is not a fischer.",
			"x-kubernetes-group-version-kind":[{"group":"flunders.example.com","version":"v1","kind":"Flunder"}]}}}}`)
	case "/openapi/v2":
		say(`{"swagger":"2.0","paths":{"` + path + `/flunders":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.flunders.v1.Flunder"}}}}},"/apis/other/v1/x":{}},
			"definitions":{"com.example.flunders.v1.Flunder":{"type":"object"},"unused":{"type":"object"}}}`)
	case path + "/flunders":
		b.mu.Lock()
		b.asked = append(b.asked, r.Header.Clone())
		b.waiting++
		b.mu.Unlock()
		if r.URL.Query().Get("slow") != "" {
			select {
			case <-b.release:
			case <-r.Context().Done():
			}
		}
		b.mu.Lock()
		b.waiting--
		b.mu.Unlock()
		say(`{"kind":"FlunderList","apiVersion":"flunders.example.com/v1","metadata":{},"items":[{"kind":"Flunder","apiVersion":"flunders.example.com/v1","metadata":{"name":"one"}}]}`)
	default:
		http.NotFound(w, r)
	}
}

func (b *backend) last() http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.asked) == 0 {
		return nil
	}
	return b.asked[len(b.asked)-1]
}

func (b *backend) inside() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

// newBackend starts the server in the machine. It only answers who shows a certificate of the front proxy.
func newBackend(t *testing.T, m *machine.Machine, c kubernetes.Interface) (b *backend, bundle []byte) {
	t.Helper()
	config, err := c.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM([]byte(config.Data["requestheader-client-ca-file"])) {
		t.Fatalf("no CA of the front proxy in %v", config.Data)
	}
	ca := authority(t, time.Now().Add(-time.Hour))
	cert := issue(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "flunders"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"flunders.default.svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	pair, err := tls.X509KeyPair(cert.certPEM, cert.keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	err = m.NS.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(backendAddress), Mask: net.CIDRMask(32, 32)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.NS.Listen("tcp", net.JoinHostPort(backendAddress, "0"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b = &backend{release: make(chan struct{})}
	if b.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	}}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return b, ca.certPEM
}

// caller asks a machine's API without client-go in between, which would try again.
type caller struct {
	t    *testing.T
	http *http.Client
	host string
}

func newCaller(t *testing.T, m *machine.Machine) *caller {
	t.Helper()
	config, err := m.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return &caller{t, client, config.Host}
}

// get reads a path as somebody else, or as the administrator.
func (c *caller) get(ctx context.Context, path, as string, groups ...string) (code int, header http.Header, body string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.host+path, nil)
	if err != nil {
		return 0, nil, "", err
	}
	if as != "" {
		r.Header.Set("Impersonate-User", as)
		r.Header["Impersonate-Group"] = groups
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(data), err
}

func apply(t *testing.T, m *machine.Machine, text string) {
	t.Helper()
	if out, err := m.Kubectl(bytes.NewBufferString(text), "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

const flunders = "/apis/flunders.example.com/v1/flunders"

// TestMachinery is about what the API server does besides keeping objects, on a machine with two networks for services: another
// server's API, fairness between clients, services of two address families.
func TestMachinery(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, "--disable-node", "--service-cidr", "10.43.0.0/16,fd00:43::/108")
	b, bundle := newBackend(t, m, c)
	api := newCaller(t, m)
	slice := fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: flunders, namespace: default, labels: {kubernetes.io/service-name: flunders}}
addressType: IPv4
ports: [{name: https, port: %d}]
endpoints: [{addresses: [%s]}]
`, b.port, backendAddress)
	apply(t, m, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: flunders, namespace: default}
spec: {ports: [{name: https, port: 443}]}
---%s---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.flunders.example.com}
spec:
  group: flunders.example.com
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  caBundle: %s
  service: {name: flunders, namespace: default}
`, slice, base64.StdEncoding.EncodeToString(bundle)))

	t.Run("aggregation", func(t *testing.T) { aggregation(t, m, c, b, api, slice) })
	t.Run("fairness", func(t *testing.T) { fairness(t, m, b, api) })
	t.Run("dual stack", func(t *testing.T) { dualStack(t, c) })
}

// served waits until the other server's resource is answered with a code.
func served(t *testing.T, api *caller, want int) {
	t.Helper()
	machine.Wait(t, fmt.Sprintf("flunders are answered %d", want), func(ctx context.Context) error {
		code, _, body, err := api.get(ctx, flunders, "")
		if err == nil && code != want {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
}

func aggregation(t *testing.T, m *machine.Machine, c kubernetes.Interface, b *backend, api *caller, slice string) {
	ctx := t.Context()
	served(t, api, http.StatusOK)
	if out, err := m.Kubectl(nil, "get", "flunders", "-o", "name"); err != nil || strings.TrimSpace(out) != "flunder.flunders.example.com/one" {
		t.Errorf("kubectl get flunders: %q, %v", out, err)
	}
	h := b.last()
	if h.Get("X-Remote-User") == "" || !slices.Contains(h.Values("X-Remote-Group"), "system:masters") || h.Get("Authorization") != "" {
		t.Errorf("the server was told %v", h)
	}
	if out, err := m.Kubectl(nil, "explain", "flunder"); err != nil || !strings.Contains(out, "A flunder is not a fischer.") {
		t.Errorf("kubectl explain: %q, %v", out, err)
	}
	_, _, text, err := api.get(ctx, "/openapi/v2", "")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths       map[string]any `json:"paths"`
		Definitions map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Paths[flunders] == nil || doc.Paths["/api/v1/pods"] == nil || doc.Paths["/apis/other/v1/x"] != nil || doc.Definitions["com.example.flunders.v1.Flunder"] == nil || doc.Definitions["unused"] != nil {
		t.Errorf("OpenAPI v2 has %d paths, %d definitions, not the right ones", len(doc.Paths), len(doc.Definitions))
	}

	// Who may not is refused here; who may arrives as who he is.
	if code, _, body, err := api.get(ctx, flunders, "jane", "fishers"); err != nil || code != http.StatusForbidden {
		t.Errorf("before the role: %d %s, %v", code, body, err)
	}
	apply(t, m, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fishers}
rules: [{apiGroups: [flunders.example.com], resources: [flunders], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fishers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fishers}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: fishers}]
`)
	machine.Wait(t, "jane may list flunders", func(ctx context.Context) error {
		code, _, body, err := api.get(ctx, flunders, "jane", "fishers")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	if h := b.last(); h.Get("X-Remote-User") != "jane" || !slices.Contains(h.Values("X-Remote-Group"), "fishers") || h.Get("Impersonate-User") != "" {
		t.Errorf("the server was told %v", h)
	}

	// Without endpoints it is not available, and its group is still there.
	if err := c.DiscoveryV1().EndpointSlices("default").Delete(ctx, "flunders", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	served(t, api, http.StatusServiceUnavailable)
	machine.Wait(t, "the APIService says why", func(context.Context) error {
		out, err := m.Kubectl(nil, "get", "apiservice", "v1.flunders.example.com", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].reason}`)
		if err == nil && out != "EndpointsNotFound" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	apply(t, m, slice)
	served(t, api, http.StatusOK)
}

// fairness fills the few seats of one client; others, node agents above all, must not notice.
func fairness(t *testing.T, m *machine.Machine, b *backend, api *caller) {
	apply(t, m, `
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: greedy}
spec: {type: Limited, limited: {nominalConcurrencyShares: 1, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {type: Reject}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: greedy}
spec:
  matchingPrecedence: 100
  priorityLevelConfiguration: {name: greedy}
  rules:
  - subjects: [{kind: User, user: {name: greedy}}]
    resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: ["*"], clusterScope: true}]
`)
	served(t, api, http.StatusOK)
	ctx := t.Context()
	level := func(_ context.Context) error {
		_, header, _, err := api.get(ctx, flunders, "greedy", "fishers")
		if err != nil {
			return err
		}
		out, err := m.Kubectl(nil, "get", "prioritylevelconfiguration", "greedy", "-o", "jsonpath={.metadata.uid}")
		if err == nil && header.Get("X-Kubernetes-Pf-Prioritylevel-Uid") != out {
			err = fmt.Errorf("the level is %q, not %q", header.Get("X-Kubernetes-Pf-Prioritylevel-Uid"), out)
		}
		return err
	}
	machine.Wait(t, "the client has a level of its own", level)

	var slow sync.WaitGroup
	defer slow.Wait()
	var once sync.Once
	release := func() { once.Do(func() { close(b.release) }) }
	defer release()
	type answer struct {
		code  int
		retry string
		err   error
	}
	const many = 40 // more than the level's seats
	answers := make(chan answer, many)
	for range many {
		slow.Go(func() {
			code, header, _, err := api.get(ctx, flunders+"?slow=true", "greedy", "fishers")
			answers <- answer{code, header.Get("Retry-After"), err}
		})
	}
	refused := 0
	check := func(a answer) {
		t.Helper()
		seconds, _ := strconv.Atoi(a.retry)
		if a.err != nil || a.code != http.StatusTooManyRequests || seconds < 1 {
			t.Fatalf("a request beyond the seats is answered %d, Retry-After %q, %v", a.code, a.retry, a.err)
		}
		refused++
	}
	check(<-answers) // all seats are taken: those who have one wait at the other server, or are on their way there
	if code, _, body, err := api.get(ctx, "/api/v1/nodes/far", "system:node:far", "system:nodes"); err != nil || code != http.StatusNotFound {
		t.Errorf("a node asks for itself: %d %s, %v", code, body, err)
	}
	if code, _, body, err := api.get(ctx, "/api/v1/namespaces/default", ""); err != nil || code != http.StatusOK {
		t.Errorf("the administrator: %d %s, %v", code, body, err)
	}
	machine.Wait(t, "everybody without a seat has been refused", func(context.Context) error {
		for {
			select {
			case a := <-answers:
				check(a)
				continue
			default:
			}
			if left := many - refused; left != b.inside() {
				return fmt.Errorf("%d have no answer, %d are at the other server", left, b.inside())
			}
			return nil
		}
	})
	release()
	slow.Wait()
	for range many - refused {
		if a := <-answers; a.err != nil || a.code != http.StatusOK {
			t.Errorf("who had a seat is answered %d, %v", a.code, a.err)
		}
	}
	machine.Wait(t, "the client is served again", func(ctx context.Context) error {
		code, _, _, err := api.get(ctx, flunders, "greedy", "fishers")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d", code)
		}
		return err
	})
}

// dualStack takes a service from one family to two and back; what it gives up is free at once.
func dualStack(t *testing.T, c kubernetes.Interface) {
	ctx := t.Context()
	cidr, err := c.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || !slices.Equal(cidr.Spec.CIDRs, []string{"10.43.0.0/16", "fd00:43::/108"}) {
		t.Errorf("the ServiceCIDR is %v, %v", cidr.Spec, err)
	}
	own, err := c.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || !slices.Equal(own.Spec.ClusterIPs, []string{"10.43.0.1"}) || *own.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("the service kubernetes: %+v, %v", own.Spec, err)
	}
	services := c.CoreV1().Services("default")
	s, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "both"}, Spec: corev1.ServiceSpec{
		IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack), IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}, Ports: []corev1.ServicePort{{Port: 80}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Spec.ClusterIPs) != 2 || !strings.HasPrefix(s.Spec.ClusterIPs[0], "fd00:43::") || !strings.HasPrefix(s.Spec.ClusterIPs[1], "10.43.") || s.Spec.ClusterIP != s.Spec.ClusterIPs[0] ||
		!slices.Equal(s.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}) {
		t.Fatalf("created with %+v", s.Spec)
	}
	kept, freed := s.Spec.ClusterIPs[0], s.Spec.ClusterIPs[1]
	s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	if s, err = services.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Spec.ClusterIPs, []string{kept}) || len(s.Spec.IPFamilies) != 1 {
		t.Errorf("with one family: %+v", s.Spec)
	}
	taker := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "taker"}, Spec: corev1.ServiceSpec{ClusterIP: freed, Ports: []corev1.ServicePort{{Port: 80}}}}
	machine.Wait(t, "the address that was given up can be had", func(ctx context.Context) error {
		_, err := services.Create(ctx, taker, metav1.CreateOptions{})
		return err
	})
	s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyPreferDualStack)
	if s, err = services.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(s.Spec.ClusterIPs) != 2 || s.Spec.ClusterIPs[0] != kept || s.Spec.ClusterIPs[1] == freed {
		t.Errorf("with two families again: %+v", s.Spec)
	}
	machine.Wait(t, "each address has its object", func(ctx context.Context) error {
		l, err := c.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for i := range l.Items {
			if r := l.Items[i].Spec.ParentRef; r != nil && (r.Name == "both" || r.Name == "taker") {
				got = append(got, l.Items[i].Name)
			}
		}
		want := append([]string{freed}, s.Spec.ClusterIPs...)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("there are %v, not %v", got, want)
		}
		return nil
	})
}
