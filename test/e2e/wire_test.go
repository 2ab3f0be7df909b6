package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/e2e/machine"
)

// wire speaks HTTP to the API of a machine, as the administrator, without any of client-go's manners.
type wire struct {
	t    *testing.T
	m    *machine.Machine
	tls  *tls.Config
	host string
	two  *http.Client // HTTP/2
	one  *http.Client // HTTP/1.1
}

func newWire(t *testing.T, m *machine.Machine) *wire {
	t.Helper()
	c, err := m.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := rest.TLSConfigFor(c)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(c.Host)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, m: m, tls: conf, host: u.Host}
	two := &http.Transport{DialContext: m.NS.Dial, TLSClientConfig: conf.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}
	one := &http.Transport{DialContext: m.NS.Dial, TLSClientConfig: conf.Clone(), DisableCompression: true}
	one.TLSClientConfig.NextProtos = []string{"http/1.1"}
	w.two, w.one = &http.Client{Transport: two}, &http.Client{Transport: one}
	t.Cleanup(func() {
		two.CloseIdleConnections()
		one.CloseIdleConnections()
	})
	return w
}

// dial opens a connection for HTTP/1.1 written by hand.
func (w *wire) dial() *tls.Conn {
	w.t.Helper()
	raw, err := w.m.NS.Dial(w.t.Context(), "tcp", w.host)
	if err != nil {
		w.t.Fatal(err)
	}
	conf := w.tls.Clone()
	conf.ServerName, _, _ = strings.Cut(w.host, ":")
	conf.NextProtos = []string{"http/1.1"}
	return tls.Client(raw, conf)
}

// answer is what came back.
type answer struct {
	*http.Response
	body   []byte
	status metav1.Status // if it is one
}

// do makes a request with pairs of headers.
func (w *wire) do(c *http.Client, method, path string, body io.Reader, headers ...string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+w.host+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	data, err := io.ReadAll(res.Body)
	_ = res.Body.Close() // it was read to its end
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{Response: res, body: data}
	_ = json.Unmarshal(data, &a.status) // many answers are something else
	return a
}

// goroutines is how many the server has.
func (w *wire) goroutines() int {
	w.t.Helper()
	a := w.do(w.two, "GET", "/metrics", nil)
	for line := range strings.Lines(string(a.body)) {
		if v, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				w.t.Fatal(err)
			}
			return n
		}
	}
	w.t.Fatalf("no go_goroutines in the metrics: %s", a.Status)
	return 0
}

const (
	configMaps = "/api/v1/namespaces/default/configmaps"
	asJSON     = "application/json"
	asYAML     = "application/yaml"
	asProtobuf = "application/vnd.kubernetes.protobuf"
)

// wireCase is a request and the Status that it deserves.
type wireCase struct {
	name, method, path, contentType, body string
	code                                  int
	reason                                metav1.StatusReason
	message                               string // a part of it
}

func wireCases() []wireCase {
	const deep = 100_000
	nested := strings.Repeat("[", deep)
	objects := strings.Repeat(`{"a":`, deep)
	configMap := func(meta string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":` + meta + `}`
	}
	deployment := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"large"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},` +
		`"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"` + strings.Repeat("x", 2<<20) + `"}]}]}}}}`
	return []wireCase{
		{"malformed JSON", "POST", configMaps, asJSON, `{"kind": "ConfigMap", `, 400, metav1.StatusReasonBadRequest, ""},
		{"JSON with rubbish behind", "POST", configMaps, asJSON, configMap(`{"name":"a"}`) + "}", 400, metav1.StatusReasonBadRequest, ""},
		{"a list for an object", "POST", configMaps, asJSON, `[]`, 400, metav1.StatusReasonBadRequest, ""},
		{"nothing", "POST", configMaps, asJSON, ``, 400, metav1.StatusReasonBadRequest, ""},
		{"wrong type", "POST", configMaps, asJSON, configMap(`{"name":"a","labels":["a"]}`), 400, metav1.StatusReasonBadRequest, "labels"},
		{"malformed YAML", "POST", configMaps, asYAML, "apiVersion: v1\n\tkind: ConfigMap\n", 400, metav1.StatusReasonBadRequest, ""},
		{"YAML bomb", "POST", configMaps, asYAML, yamlBomb(), 400, metav1.StatusReasonBadRequest, ""},
		{"malformed protobuf", "POST", configMaps, asProtobuf, "k8s\x00\xff\xff\xff\xff\xff", 400, metav1.StatusReasonBadRequest, ""},
		{"protobuf without its magic", "POST", configMaps, asProtobuf, "rubbish", 400, metav1.StatusReasonBadRequest, ""},
		{"protobuf of a huge length", "POST", configMaps, asProtobuf, "k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\xff\xff\xff\xff\x7f", 400, metav1.StatusReasonBadRequest, ""},
		{"unknown kind", "POST", configMaps, asJSON, `{"apiVersion":"v1","kind":"Nonsense","metadata":{"name":"a"}}`, 400, metav1.StatusReasonBadRequest, `"Nonsense"`},
		{"another kind", "POST", configMaps, asJSON, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`, 400, metav1.StatusReasonBadRequest, "Secret"},
		{"unknown version", "POST", configMaps, asJSON, `{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"a"}}`, 400, metav1.StatusReasonBadRequest, ""},
		{"unknown resource", "GET", "/api/v1/namespaces/default/nonsenses", "", "", 404, metav1.StatusReasonNotFound, "could not find the requested resource"},
		{"unknown object", "GET", configMaps + "/none", "", "", 404, metav1.StatusReasonNotFound, `configmaps "none" not found`},
		{"unknown namespace", "POST", "/api/v1/namespaces/none/configmaps", asJSON, configMap(`{"name":"a"}`), 404, metav1.StatusReasonNotFound, `namespaces "none" not found`},
		{"unknown field, strict", "POST", configMaps + "?fieldValidation=Strict", asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dada":{}}`, 400, metav1.StatusReasonBadRequest, `strict decoding error: unknown field "dada"`},
		{"double field, strict", "POST", configMaps + "?fieldValidation=Strict", asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\ndata: {}\n", 400, metav1.StatusReasonBadRequest, `"data"`},
		{"bad validation directive", "POST", configMaps + "?fieldValidation=Harsh", asJSON, configMap(`{"name":"a"}`), 422, metav1.StatusReasonInvalid, `fieldValidation: Unsupported value: "Harsh"`},
		{"wrong content type", "POST", configMaps, "application/xml", "<a/>", 415, metav1.StatusReasonUnsupportedMediaType, ""},
		{"wrong patch type", "PATCH", configMaps + "/here", "application/json", "{}", 415, metav1.StatusReasonUnsupportedMediaType, ""},
		{"body over 3 MiB", "POST", configMaps, asJSON, configMap(`{"name":"a","annotations":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`), 413, metav1.StatusReasonRequestEntityTooLarge, "limit is 3145728"},
		{"object over etcd's limit", "POST", "/apis/apps/v1/namespaces/default/deployments", asJSON, deployment, 413, metav1.StatusReasonRequestEntityTooLarge, "request is too large"},
		{"annotations over their limit", "POST", configMaps, asJSON, configMap(`{"name":"a","annotations":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`), 422, metav1.StatusReasonInvalid, "262144"},
		{"invalid name", "POST", configMaps, asJSON, configMap(`{"name":"A_b"}`), 422, metav1.StatusReasonInvalid, `metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain`},
		{"no name", "POST", configMaps, asJSON, configMap(`{}`), 422, metav1.StatusReasonInvalid, "name or generateName is required"},
		{"long name", "POST", configMaps, asJSON, configMap(`{"name":"` + strings.Repeat("a", 254) + `"}`), 422, metav1.StatusReasonInvalid, "must be no more than 253"},
		{"name with a slash", "POST", configMaps, asJSON, configMap(`{"name":"a/b"}`), 422, metav1.StatusReasonInvalid, "metadata.name"},
		{"invalid label", "POST", configMaps, asJSON, configMap(`{"name":"a","labels":{"-a":"b c"}}`), 422, metav1.StatusReasonInvalid, "metadata.labels"},
		{"another namespace", "POST", configMaps, asJSON, configMap(`{"name":"a","namespace":"other"}`), 400, metav1.StatusReasonBadRequest, "the namespace of the provided object does not match the namespace sent on the request"},
		{"another name", "PUT", configMaps + "/here", asJSON, configMap(`{"name":"there"}`), 400, metav1.StatusReasonBadRequest, "the name of the object (there) does not match the name on the URL (here)"},
		{"exists", "POST", configMaps, asJSON, configMap(`{"name":"here"}`), 409, metav1.StatusReasonAlreadyExists, `configmaps "here" already exists`},
		{"old revision", "PUT", configMaps + "/here", asJSON, configMap(`{"name":"here","resourceVersion":"1"}`), 409, metav1.StatusReasonConflict, "the object has been modified; please apply your changes to the latest version and try again"},
		{"another uid", "DELETE", configMaps + "/here", asJSON, `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"x"}}`, 409, metav1.StatusReasonConflict, "the UID in the precondition (x) does not match the UID in record"},
		{"bad label selector", "GET", configMaps + "?labelSelector=%3D%3D", "", "", 400, metav1.StatusReasonBadRequest, ""},
		{"bad field selector", "GET", configMaps + "?fieldSelector=spec.nonsense%3Dx", "", "", 400, metav1.StatusReasonBadRequest, `"spec.nonsense" is not a known field selector`},
		{"bad limit", "GET", configMaps + "?limit=many", "", "", 400, metav1.StatusReasonBadRequest, ""},
		{"bad continue", "GET", configMaps + "?limit=1&continue=rubbish", "", "", 400, metav1.StatusReasonBadRequest, "continue"},
		{"bad revision", "GET", configMaps + "?resourceVersion=x", "", "", 400, metav1.StatusReasonBadRequest, ""},
		{"no such method", "PUT", configMaps, asJSON, configMap(`{"name":"a"}`), 405, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource"},
		{"malformed merge patch", "PATCH", configMaps + "/here", "application/merge-patch+json", `{"a"`, 400, metav1.StatusReasonBadRequest, ""},
		{"malformed JSON patch", "PATCH", configMaps + "/here", "application/json-patch+json", `{"op":"add"}`, 400, metav1.StatusReasonBadRequest, ""},
		{"JSON patch of nothing", "PATCH", configMaps + "/here", "application/json-patch+json", `[{"op":"remove","path":"/data/none"}]`, 422, metav1.StatusReasonInvalid, ""},
		{"apply without a manager", "PATCH", configMaps + "/here", "application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\n", 422, metav1.StatusReasonInvalid, "fieldManager: Required value"},
		{"deep JSON array", "POST", configMaps, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":` + nested, 400, metav1.StatusReasonBadRequest, ""},
		{"deep JSON objects", "POST", configMaps, asJSON, objects + "1" + strings.Repeat("}", deep), 400, metav1.StatusReasonBadRequest, ""},
		{"deep YAML", "POST", configMaps, asYAML, "apiVersion: v1\nkind: ConfigMap\ndata: " + nested + strings.Repeat("]", deep), 400, metav1.StatusReasonBadRequest, ""},
		{"deep merge patch", "PATCH", configMaps + "/here", "application/merge-patch+json", objects + "1" + strings.Repeat("}", deep), 400, metav1.StatusReasonBadRequest, ""},
		{"deep JSON patch", "PATCH", configMaps + "/here", "application/json-patch+json", `[{"op":"add","path":"/data","value":` + nested + strings.Repeat("]", deep) + `}]`, 400, metav1.StatusReasonBadRequest, ""},
		{"deep apply", "PATCH", configMaps + "/here?fieldManager=m", "application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\ndata: " + nested + strings.Repeat("]", deep), 400, metav1.StatusReasonBadRequest, ""},
	}
}

// yamlBomb is a small document that would fill the memory if its aliases were followed.
func yamlBomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nx0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "x%d: &x%d [", i, i)
		for j := range 9 {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "*x%d", i-1)
		}
		b.WriteString("]\n")
	}
	return b.String()
}

func TestWireFaults(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, controlPlaneOnly...)
	w := newWire(t, m)
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), bigMap("here", 300), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range wireCases() {
		t.Run(tt.name, func(t *testing.T) {
			w := *w
			w.t = t
			for _, client := range []*http.Client{w.two, w.one} {
				a := w.do(client, tt.method, tt.path, strings.NewReader(tt.body), "Content-Type", tt.contentType)
				if a.StatusCode != tt.code || int(a.status.Code) != tt.code || a.status.Reason != tt.reason || a.status.Status != metav1.StatusFailure || !strings.Contains(a.status.Message, tt.message) {
					t.Errorf("%s: %s, want %d %s with %q:\n%.500s", a.Proto, a.Status, tt.code, tt.reason, tt.message, a.body)
				}
				if len(a.status.Message) > 10_000 {
					t.Errorf("the message has %d bytes", len(a.status.Message))
				}
			}
		})
	}
	t.Run("negotiation", func(t *testing.T) { w := *w; w.t = t; w.negotiation() })
	t.Run("field validation", func(t *testing.T) { w := *w; w.t = t; w.fieldValidation() })
	t.Run("who are you", func(t *testing.T) { w := *w; w.t = t; w.strangers() })
	t.Run("odd requests", func(t *testing.T) { w := *w; w.t = t; w.oddities() })
	t.Run("gzip", func(t *testing.T) { w := *w; w.t = t; w.compression() })
	t.Run("slow clients", func(t *testing.T) { w := *w; w.t = t; w.slowClients() })
	t.Run("clients that vanish", func(t *testing.T) { w := *w; w.t = t; w.vanishingClients() })

	if a := w.do(w.two, "GET", "/readyz", nil); a.StatusCode != http.StatusOK || string(a.body) != "ok" {
		t.Errorf("after all that: %s %s", a.Status, a.body)
	}
	if said := m.Output(); strings.Contains(said, "panic") {
		t.Errorf("something panicked:\n%s", said)
	}
}

func (w *wire) negotiation() {
	for accept, want := range map[string]string{
		asJSON: asJSON, "*/*": asJSON, asYAML: asYAML, asProtobuf: asProtobuf, "application/vnd.kubernetes.protobuf, */*": asProtobuf,
		"application/json;as=Table;g=meta.k8s.io;v=v1": asJSON, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1": asJSON,
	} {
		a := w.do(w.two, "GET", configMaps, nil, "Accept", accept)
		if got, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";"); a.StatusCode != http.StatusOK || got != want {
			w.t.Errorf("Accept %q: %s %s, want %s", accept, a.Status, got, want)
		}
	}
	for _, accept := range []string{"application/xml", "text/html", "application/json;as=Nonsense;g=meta.k8s.io;v=v1"} {
		a := w.do(w.two, "GET", configMaps, nil, "Accept", accept)
		if a.StatusCode != http.StatusNotAcceptable || a.status.Reason != metav1.StatusReasonNotAcceptable || !strings.Contains(a.status.Message, asProtobuf) {
			w.t.Errorf("Accept %q: %s %s", accept, a.Status, a.body)
		}
	}
	if a := w.do(w.two, "GET", "/version", nil); a.Proto != "HTTP/2.0" || a.StatusCode != http.StatusOK {
		w.t.Errorf("version over HTTP/2: %s %s", a.Proto, a.Status)
	}
	if a := w.do(w.one, "GET", "/version", nil); a.Proto != "HTTP/1.1" || a.StatusCode != http.StatusOK {
		w.t.Errorf("version over HTTP/1.1: %s %s", a.Proto, a.Status)
	}
}

func (w *wire) fieldValidation() {
	const body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fields"},"dada":{}}`
	for directive, warned := range map[string]bool{"": true, "fieldValidation=Warn&": true, "fieldValidation=Ignore&": false} {
		a := w.do(w.two, "POST", configMaps+"?"+directive+"dryRun=All", strings.NewReader(body), "Content-Type", asJSON)
		if a.StatusCode != http.StatusCreated || (a.Header.Get("Warning") == `299 - "unknown field \"dada\""`) != warned {
			w.t.Errorf("%q: %s, warning %q", directive, a.Status, a.Header.Get("Warning"))
		}
	}
}

// strangers has no certificate, or a token that is none.
func (w *wire) strangers() {
	conf := w.tls.Clone()
	conf.Certificates, conf.GetClientCertificate = nil, nil
	transport := &http.Transport{DialContext: w.m.NS.Dial, TLSClientConfig: conf, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	stranger := &http.Client{Transport: transport}
	for _, header := range []string{"", "Bearer rubbish", "Bearer a.b.c", "Basic YTpi"} {
		a := w.do(stranger, "GET", configMaps, nil, "Authorization", header)
		if header == "" {
			a = w.do(stranger, "GET", configMaps, nil)
		}
		if a.StatusCode != http.StatusUnauthorized || a.status.Reason != metav1.StatusReasonUnauthorized {
			w.t.Errorf("Authorization %q: %s %s", header, a.Status, a.body)
		}
	}
	// A certificate counts when the cluster's own authority has signed it.
	foreign := leaf(w.t, authority(w.t, time.Now().Add(-time.Hour)), "kubernetes-admin")
	pair, err := tls.X509KeyPair(foreign.certPEM, foreign.keyPEM)
	if err != nil {
		w.t.Fatal(err)
	}
	conf = conf.Clone()
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whatever the server would like
	impostor := &http.Transport{DialContext: w.m.NS.Dial, TLSClientConfig: conf, ForceAttemptHTTP2: true}
	defer impostor.CloseIdleConnections()
	r, err := http.NewRequestWithContext(w.t.Context(), "GET", "https://"+w.host+configMaps, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := (&http.Client{Transport: impostor}).Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = res.Body.Close() // the status says it all
	if res.StatusCode != http.StatusUnauthorized {
		w.t.Errorf("with somebody's certificate: %s", res.Status)
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		if a := w.do(stranger, "GET", path, nil); a.StatusCode != http.StatusOK {
			w.t.Errorf("%s for everybody: %s", path, a.Status)
		}
	}
	if a := w.do(w.two, "GET", configMaps, nil, "Impersonate-User", "nobody"); a.StatusCode != http.StatusForbidden || a.status.Reason != metav1.StatusReasonForbidden ||
		!strings.Contains(a.status.Message, `User "nobody" cannot list resource "configmaps" in API group "" in the namespace "default"`) {
		w.t.Errorf("as somebody without rights: %s %s", a.Status, a.body)
	}
}

// oddities are requests that no client library makes. Each is answered by something, and never by a 500.
func (w *wire) oddities() {
	for _, path := range []string{
		"/api/v1/namespaces/default/configmaps/..%2f..%2fetc", "/api/v1/namespaces/../../../etc/passwd", "//api//v1//nodes", "/api/v1/namespaces/%00/configmaps", "/%zz",
		"/api/v1/namespaces/default/configmaps/here/nonsense", "/apis", "/apis/none/v1", "/apis/apps/v9/deployments", "/api/v1/watch/namespaces/default/configmaps/none?timeoutSeconds=1",
		configMaps + "?timeoutSeconds=-1", configMaps + "?watch=maybe&timeoutSeconds=1", configMaps + "?labelSelector=" + strings.Repeat("a,", 20_000), "/openapi/v3/none", "/logs", "/debug/pprof/",
	} {
		conn := w.dial()
		_, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if err != nil {
			w.t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			w.t.Errorf("%.100s: %v", path, err)
		} else {
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				w.t.Errorf("%.100s: %v", path, err)
			}
			if res.StatusCode >= 500 {
				w.t.Errorf("%.100s: %s", path, res.Status)
			}
		}
		_ = conn.Close() // as both sides know
	}
	// Plain HTTP on the port of TLS, and rubbish.
	for _, hello := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\xff\xffrubbish", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		conn, err := w.m.NS.Dial(w.t.Context(), "tcp", w.host)
		if err != nil {
			w.t.Fatal(err)
		}
		_, _ = io.WriteString(conn, hello)                      // the server may hang up before it has read everything
		_ = conn.(interface{ CloseWrite() error }).CloseWrite() // as above
		_, _ = io.Copy(io.Discard, conn)                        // until the server hangs up
		_ = conn.Close()
	}
	r, err := http.NewRequestWithContext(w.t.Context(), "GET", "https://"+w.host+"/version", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("X-Large", strings.Repeat("x", 2<<20))
	res, err := w.one.Do(r)
	if err != nil {
		w.t.Logf("2 MiB of headers: the server hung up before it had read them all: %v", err)
		return
	}
	_ = res.Body.Close() // the status says it all
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		w.t.Errorf("2 MiB of headers: %s", res.Status)
	}
}

// compression compares a large answer with and without gzip, by both protocols.
func (w *wire) compression() {
	plain := w.do(w.two, "GET", configMaps+"/here", nil)
	if plain.Header.Get("Content-Encoding") != "" || len(plain.body) < 300<<10 {
		w.t.Fatalf("%d bytes, encoding %q", len(plain.body), plain.Header.Get("Content-Encoding"))
	}
	for _, c := range []*http.Client{w.one, w.two} {
		for _, path := range []string{configMaps + "/here", configMaps} {
			a := w.do(c, "GET", path, nil, "Accept-Encoding", "gzip")
			if a.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(strings.Join(a.Header.Values("Vary"), ","), "Accept-Encoding") {
				w.t.Errorf("%s %s: encoding %q, vary %q", a.Proto, path, a.Header.Get("Content-Encoding"), a.Header.Values("Vary"))
				continue
			}
			r, err := gzip.NewReader(bytes.NewReader(a.body))
			if err != nil {
				w.t.Error(err)
				continue
			}
			got, err := io.ReadAll(r)
			if err != nil || path != configMaps && !bytes.Equal(got, plain.body) || !json.Valid(got) {
				w.t.Errorf("%s %s: %v, %d bytes of %d", a.Proto, path, err, len(got), len(plain.body))
			}
		}
	}
	if a := w.do(w.two, "GET", "/version", nil, "Accept-Encoding", "gzip"); a.Header.Get("Content-Encoding") != "" {
		w.t.Error("small answers are not worth it")
	}
}

// slowClients holds connections that say nothing, or half of something, or do not listen: others are served all the same.
func (w *wire) slowClients() {
	before := w.goroutines()
	var conns []*tls.Conn
	say := []string{
		"", "GET /api", "POST " + configMaps + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{\"kind\":",
		"GET " + configMaps + "?watch=true HTTP/1.1\r\nHost: x\r\n\r\n", "GET " + configMaps + " HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	for i := range 50 {
		conn := w.dial()
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, say[i%len(say)]); err != nil {
			w.t.Fatal(err)
		}
	}
	for i := range 20 {
		name := "slow-" + strconv.Itoa(i)
		if a := w.do(w.two, "POST", configMaps, strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`+name+`"}}`), "Content-Type", asJSON); a.StatusCode != http.StatusCreated {
			w.t.Errorf("while others are slow: %s %s", a.Status, a.body)
		}
	}
	for _, c := range conns {
		_ = c.NetConn().Close() // without a word
	}
	w.noMoreGoroutines(before)
}

// vanishingClients watches a lot, and hangs up in the middle of it.
func (w *wire) vanishingClients() {
	// A first one, so that what is made once for all watchers counts as before.
	w.do(w.two, "GET", configMaps+"?watch=true&timeoutSeconds=1", nil)
	before := w.goroutines()
	for _, c := range []*http.Client{w.one, w.two} {
		ctx, cancel := context.WithCancel(w.t.Context())
		var watchers sync.WaitGroup
		for range 100 {
			r, err := http.NewRequestWithContext(ctx, "GET", "https://"+w.host+configMaps+"?watch=true&resourceVersion=0", nil)
			if err != nil {
				w.t.Fatal(err)
			}
			res, err := c.Do(r)
			if err != nil {
				w.t.Fatal(err)
			}
			if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
				w.t.Errorf("first event: %v", err)
			}
			watchers.Go(func() {
				<-ctx.Done()
				_ = res.Body.Close() // with events under way
			})
		}
		if during := w.goroutines(); during < before+100 {
			w.t.Logf("%d goroutines serve 100 watches, %d before", during, before)
		}
		for i := range 20 {
			a := w.do(w.two, "PUT", configMaps+"/here", strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"here"},"data":{"n":"`+strconv.Itoa(i)+`"}}`), "Content-Type", asJSON)
			if a.StatusCode != http.StatusOK {
				w.t.Errorf("update: %s %s", a.Status, a.body)
			}
		}
		cancel()
		watchers.Wait()
		c.CloseIdleConnections()
	}
	w.noMoreGoroutines(before)
}

// noMoreGoroutines waits until the server has about as many as before. Connections that idle have one or two.
func (w *wire) noMoreGoroutines(before int) {
	w.t.Helper()
	const some = 12
	machine.Wait(w.t, "the server to forget its clients", func(context.Context) error {
		if now := w.goroutines(); now > before+some {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}

// TestExpiredRevisions compacts the store's history through etcd's own socket.
func TestExpiredRevisions(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, controlPlaneOnly...)
	ctx := eventually(t)
	maps := c.CoreV1().ConfigMaps("default")
	old, err := maps.Create(ctx, bigMap("old", 1), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := maps.Create(ctx, bigMap("new-"+strconv.Itoa(i), 1), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || page.Continue == "" {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	exactly := metav1.ListOptions{ResourceVersion: old.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	if _, err := maps.List(ctx, exactly); err != nil {
		t.Errorf("list at a revision that is remembered: %v", err)
	}
	last, err := maps.Update(ctx, bigMap("old", 2), metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := strconv.ParseInt(last.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(m.DataDir, "run", "etcd.sock")}, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	_, err = etcd.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err := errors.Join(err, etcd.Close()); err != nil {
		t.Fatal(err)
	}

	// What a server has seen itself it remembers, so that nobody has to start anew; the next one has not seen it.
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m, controlPlaneOnly...)
	maps = c.CoreV1().ConfigMaps("default")
	if _, err := maps.List(ctx, exactly); !apierrors.IsResourceExpired(err) {
		t.Errorf("list at a revision that was compacted: %v", err)
	}
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: page.Continue})
	var status apierrors.APIStatus
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
		t.Fatalf("page of a list that was compacted: %v", err)
	}
	rest, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: status.Status().Continue})
	if err != nil || len(rest.Items) != 2 {
		t.Errorf("the rest of that list, inconsistently: %v, %v", rest, err)
	}
	stream, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: old.ResourceVersion})
	if err == nil {
		defer stream.Stop()
		e := <-stream.ResultChan()
		err = apierrors.FromObject(e.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("watch from a revision that was compacted: %v", err)
	}
	if _, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{ResourceVersion: "999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}); !apierrors.IsTimeout(err) {
		t.Errorf("list at a revision that does not exist yet: %v", err)
	}
	got, err := c.CoreV1().ConfigMaps("default").Get(ctx, "old", metav1.GetOptions{})
	if err != nil || len(got.Data["body"]) != 2<<10 {
		t.Errorf("after the compaction: %v, %v", got, err)
	}
}
