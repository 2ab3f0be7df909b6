package e2e

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/e2e/machine"
	"github.com/celox/celox/test/image"
)

// mirrorImage is a server that says back what it is asked (test/ecosystem/mirror).
const mirrorImage = "mirror:1"

func giveMirror(t *testing.T, m *machine.Machine) {
	t.Helper()
	img, err := image.Build(image.Spec{Files: map[string]string{"bin/mirror": guest(t, "mirror")}, Entrypoint: []string{"/bin/mirror"}})
	fine(t, err)
	fine(t, m.Import(mirrorImage, img))
}

// putMirror runs a mirror on a node, behind a service of the same name, and waits until it is an endpoint. The bundle is the authority of its certificate.
func putMirror(t *testing.T, m *machine.Machine, c kubernetes.Interface, node string) (bundle []byte) {
	t.Helper()
	ca := authority(t, time.Now().Add(-time.Hour))
	cert := issue(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "mirror"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"mirror.default.svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	_, err := c.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "mirror"}, Data: map[string][]byte{"tls.crt": cert.certPEM, "tls.key": cert.keyPEM},
	}, metav1.CreateOptions{})
	fine(t, err)
	apply(t, m, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: mirror, labels: {app: mirror}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - name: c
    image: %s
    args: [-https, ":8443"]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1, timeoutSeconds: 60}
    volumeMounts: [{name: certs, mountPath: /certs}]
  volumes: [{name: certs, secret: {secretName: mirror}}]
---
apiVersion: v1
kind: Service
metadata: {name: mirror}
spec: {selector: {app: mirror}, ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]}
`, node, mirrorImage))
	machine.Wait(t, "the mirror behind its service", func(ctx context.Context) error {
		l, err := c.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=mirror"})
		if err != nil {
			return err
		}
		for i := range l.Items {
			for _, e := range l.Items[i].Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					return nil
				}
			}
		}
		return fmt.Errorf("no endpoint is ready")
	})
	return ca.certPEM
}

// askProxies asks the mirror with every method through the API's proxies, as upstream's conformance tests do, and more.
func askProxies(t *testing.T, m *machine.Machine) {
	t.Helper()
	config, err := m.RESTConfig()
	fine(t, err)
	client, err := rest.HTTPClientFor(config)
	fine(t, err)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer client.CloseIdleConnections()
	do := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, strings.NewReader(body))
		fine(t, err)
		resp, err := client.Do(req)
		fine(t, err)
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		fine(t, err)
		return resp, string(text)
	}
	for _, target := range []string{
		"pods/mirror:8080", "pods/http:mirror:8080", "pods/https:mirror:8443",
		"services/mirror:http", "services/mirror:80", "services/http:mirror:80", "services/https:mirror:https", "services/https:mirror:443",
	} {
		proxy := "/api/v1/namespaces/default/" + target + "/proxy"
		echoed := func(method, path, query, sent string, resp *http.Response, text string) {
			t.Helper()
			var got struct{ Host, Method, Path, Query, Body string }
			if err := json.Unmarshal([]byte(text), &got); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s%s: %s %q %v", method, proxy, path, resp.Status, text, err)
				return
			}
			if got.Host != "mirror" || got.Method != method || got.Path != path || got.Query != query || got.Body != sent {
				t.Errorf("%s %s%s?%s with %q arrives as %+v", method, proxy, path, query, sent, got)
			}
		}
		for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"} {
			sent := ""
			if method != "GET" && method != "HEAD" {
				sent = "foo"
			}
			path, query := "/some/path/with/"+method, "a=b&c=d%20e"
			resp, text := do(method, proxy+path+"?"+query, sent)
			if method == "HEAD" {
				if resp.StatusCode != http.StatusOK || text != "" {
					t.Errorf("HEAD %s: %s %q", proxy+path, resp.Status, text)
				}
			} else {
				echoed(method, path, query, sent, resp, text)
			}
			resp, text = do(method, proxy+"?method="+method, sent)
			if sent != "" {
				echoed(method, "/", "method="+method, sent, resp, text)
			} else if want := proxy + "/?method=" + method; resp.StatusCode != http.StatusMovedPermanently || resp.Header.Get("Location") != want {
				t.Errorf("%s %s: %s to %s, want it to lead to %s", method, proxy, resp.Status, resp.Header.Get("Location"), want)
			}
		}
		if resp, _ := do("GET", proxy+"/redirect", ""); resp.StatusCode != http.StatusFound || !strings.HasSuffix(resp.Header.Get("Location"), proxy+"/there?a=b") {
			t.Errorf("%s/redirect: %s to %s", proxy, resp.Status, resp.Header.Get("Location"))
		}
		if _, text := do("GET", proxy+"/links", ""); !strings.Contains(text, `"`+proxy+`/there"`) && !strings.Contains(text, proxy+`/there"`) {
			t.Errorf("%s/links: %s", proxy, text)
		}
	}
	for path, want := range map[string]int{
		"services/mirror:nothing": http.StatusServiceUnavailable, "services/nobody:http": http.StatusServiceUnavailable, "services/nobody:80": http.StatusNotFound, "pods/nobody:80": http.StatusNotFound,
	} {
		if resp, text := do("GET", "/api/v1/namespaces/default/"+path+"/proxy/", ""); resp.StatusCode != want {
			t.Errorf("%s: %s %s, want %d", path, resp.Status, text, want)
		}
	}
	// Nobody listens there.
	if resp, text := do("GET", "/api/v1/namespaces/default/pods/mirror:9/proxy/", ""); resp.StatusCode < 500 || !strings.Contains(text, "connection refused") {
		t.Errorf("a port that nobody listens on: %s %s", resp.Status, text)
	}
}
