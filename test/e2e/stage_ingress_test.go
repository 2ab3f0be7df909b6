package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// sites is a site that is rolled while clients use it, and a program that speaks its own protocol after an upgrade.
const sites = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: site, namespace: default}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: site}}
  template:
    metadata: {labels: {app: site}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www/sub; echo root > /www/index.html; echo sub > /www/sub/index.html; httpd -f -p 0.0.0.0:8080 -h /www']
        ports: [{name: web, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: default}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'printf "#!/bin/sh\nread first\nwhile read line && [ \${#line} -gt 1 ]; do :; done\nprintf \"HTTP/1.1 101 Switching Protocols\\\\r\\\\nUpgrade: echo\\\\r\\\\nConnection: Upgrade\\\\r\\\\n\\\\r\\\\n\"\nexec cat\n" > /echo; chmod +x /echo; exec nc -ll -p 8081 -e /echo']
---
apiVersion: v1
kind: Service
metadata: {name: site, namespace: default}
spec: {selector: {app: site}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec: {selector: {app: echo}, ports: [{port: 80, targetPort: 8081}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: site
  namespace: default
  annotations: {ingress.celox.io/ssl-redirect: "false"}
spec:
  tls: [{hosts: [site.example, "*.wild.example"], secretName: site}]
  rules:
  - host: site.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: site, port: {name: http}}}}
      - {path: /echo, pathType: Exact, backend: {service: {name: echo, port: {number: 80}}}}
      - {path: /none, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}
  - host: "*.wild.example"
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: site, port: {number: 80}}}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: site-below
  namespace: default
  annotations: {ingress.celox.io/rewrite-target: /, ingress.celox.io/nonsense: x}
spec:
  rules: [{host: below.example, http: {paths: [{path: /app, pathType: Prefix, backend: {service: {name: site, port: {number: 80}}}}]}}]
`

// siteCertificate makes a certificate for the hosts of the site; its common name tells it from others.
func siteCertificate(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"site.example", "*.wild.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "site"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}
}

// visitor is a client from outside of the cluster that knows one node only.
func (s *fleet) visitor(t *testing.T, node string, h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return s.router.Dial(ctx, network, net.JoinHostPort(node, port))
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func visit(c *http.Client, url string) (int, string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), errors.Join(err, resp.Body.Close())
}

// ingresses has a site served by all nodes, to clients outside of the cluster.
func (s *fleet) ingresses(t *testing.T) {
	ctx := t.Context()
	if _, err := s.client.CoreV1().Secrets("default").Create(ctx, siteCertificate(t, "first"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machines[0].Kubectl(strings.NewReader(sites), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	var nodes []string
	machine.Wait(t, "the status to name all nodes", func(ctx context.Context) error {
		all, err := s.nodes(ctx, 3)
		if err != nil {
			return err
		}
		nodes = nil
		for _, n := range all {
			for _, a := range n.Status.Addresses {
				if a.Type == corev1.NodeInternalIP && !strings.Contains(a.Address, ":") {
					nodes = append(nodes, a.Address)
				}
			}
		}
		slices.Sort(nodes)
		i, err := s.client.NetworkingV1().Ingresses("default").Get(ctx, "site", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, in := range i.Status.LoadBalancer.Ingress {
			if !strings.Contains(in.IP, ":") {
				got = append(got, in.IP)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, nodes) {
			return fmt.Errorf("the status says %v, and the nodes are %v", got, nodes)
		}
		return nil
	})
	machine.Wait(t, "the events", func(ctx context.Context) error {
		l, err := s.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Ingress"})
		if err != nil {
			return err
		}
		for _, want := range []string{"there is no service none", "nonsense"} {
			if !slices.ContainsFunc(l.Items, func(e corev1.Event) bool { return strings.Contains(e.Message, want) }) {
				return fmt.Errorf("no event says %q", want)
			}
		}
		return nil
	})
	if !t.Run("to each node", func(t *testing.T) {
		for _, node := range nodes {
			t.Run(node, func(t *testing.T) {
				t.Parallel()
				s.visits(t, node)
			})
		}
	}) {
		return
	}
	s.rolled(t, nodes)
	if _, err := s.machines[0].Kubectl(strings.NewReader(sites), "delete", "--wait=false", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if err := s.client.CoreV1().Secrets("default").Delete(ctx, "site", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the ports to close", func(ctx context.Context) error {
		for _, node := range nodes {
			if c, err := s.router.Dial(ctx, "tcp", net.JoinHostPort(node, "80")); err == nil {
				return errors.Join(fmt.Errorf("%s still listens", node), c.Close())
			}
		}
		return nil
	})
}

// visits looks at everything on one node.
func (s *fleet) visits(t *testing.T, node string) {
	for _, h2 := range []bool{false, true} {
		c := s.visitor(t, node, h2)
		for _, want := range []struct {
			url  string
			code int
			body string
		}{
			{"http://site.example/", 200, "root\n"}, {"https://site.example/sub/", 200, "sub\n"}, {"https://x.wild.example/", 200, "root\n"},
			{"https://x.y.wild.example/", 404, ""}, {"https://site.example/none/x", 503, ""}, {"http://below.example/app/sub/", 200, "sub\n"}, {"http://below.example/", 404, ""},
		} {
			machine.Wait(t, want.url, func(context.Context) error {
				code, body, err := visit(c, want.url)
				if err == nil && (code != want.code || want.body != "" && body != want.body) {
					err = fmt.Errorf("got %d %q, want %d %q", code, body, want.code, want.body)
				}
				return err
			})
		}
	}
	machine.Wait(t, "the certificate", func(ctx context.Context) error { return s.presents(ctx, node, "first") })
	machine.Wait(t, "the upgrade", func(ctx context.Context) error { return s.upgraded(ctx, node) })
}

// presents asks a node for the certificate of the site.
func (s *fleet) presents(ctx context.Context, node, want string) error {
	raw, err := s.router.Dial(ctx, "tcp", net.JoinHostPort(node, "443"))
	if err != nil {
		return err
	}
	c := tls.Client(raw, &tls.Config{ServerName: "x.wild.example", InsecureSkipVerify: true})
	defer func() { _ = c.Close() }()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
		return fmt.Errorf("it is that of %q, want %q", got, want)
	}
	return nil
}

// upgraded speaks another protocol through a node.
func (s *fleet) upgraded(ctx context.Context, node string) error {
	c, err := s.router.Dial(ctx, "tcp", net.JoinHostPort(node, "80"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c, "GET /echo HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("got %s", resp.Status)
	}
	for _, word := range []string{"hello\n", "again\n"} {
		if _, err := io.WriteString(c, word); err != nil {
			return err
		}
		if got, err := r.ReadString('\n'); err != nil || got != word {
			return fmt.Errorf("got %q back, want %q: %w", got, word, err)
		}
	}
	return nil
}

// rolled replaces the pods and the certificate of the site while clients use it by all nodes.
func (s *fleet) rolled(t *testing.T, nodes []string) {
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered atomic.Int64
	for _, node := range nodes {
		c := s.visitor(t, node, false)
		clients.Go(func() {
			for ctx.Err() == nil {
				if code, body, err := visit(c, "http://site.example/sub/"); err != nil || code != 200 || body != "sub\n" {
					t.Errorf("by %s: %d %q %v", node, code, body, err)
					return
				}
				answered.Add(1)
				time.Sleep(5 * time.Millisecond) // three clients must not be all that the machine does
			}
		})
	}
	_, err := s.machines[0].Kubectl(nil, "rollout", "restart", "deployment/site")
	if err == nil {
		_, err = s.machines[0].Kubectl(nil, "rollout", "status", "deployment/site", "--timeout", patience.String())
	}
	if err != nil {
		t.Error(err)
	}
	secret := siteCertificate(t, "second")
	if _, err := s.client.CoreV1().Secrets("default").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	for _, node := range nodes {
		machine.Wait(t, "the new certificate", func(ctx context.Context) error { return s.presents(ctx, node, "second") })
	}
	cancel()
	clients.Wait()
	if answered.Load() == 0 {
		t.Error("nothing was answered meanwhile")
	}
}
