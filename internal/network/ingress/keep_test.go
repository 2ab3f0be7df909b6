package ingress

import (
	"bytes"
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
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/network/ingress/route"
)

// certificate is a secret with one for a.example; its common name tells it from others.
func certificate(t testing.TB, name string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"a.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cert", UID: types.UID(name), ResourceVersion: "1"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}
}

// awaySecrets are secrets of an API that can be away.
type awaySecrets struct {
	someSecrets
	away *atomic.Bool
}

func (s *awaySecrets) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	if s.away.Load() {
		return nil, errors.New("connection refused")
	}
	got, err := s.someSecrets.Secret(ctx, namespace, name)
	if err != nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return got, nil
}

// life is one life of a node.
type life struct {
	*Ingress
	ports   *ports
	secrets *awaySecrets
	away    atomic.Bool
	stop    func()
}

// live starts one. The cluster's API is away if away says so.
func live(t *testing.T, client *fake.Clientset, keep *Keep, away bool, secrets ...*corev1.Secret) *life {
	t.Helper()
	l := &life{ports: &ports{at: map[int]string{}}}
	l.away.Store(away)
	l.secrets = &awaySecrets{away: &l.away, someSecrets: someSecrets{have: map[string]*corev1.Secret{}}}
	for _, s := range secrets {
		l.secrets.have[s.Name] = s
	}
	refused := func(clienttesting.Action) (bool, runtime.Object, error) {
		if l.away.Load() {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	}
	client.PrependReactor("list", "*", refused)
	client.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		_, _, err := refused(a)
		return err != nil, nil, err
	})
	f := informers.New(client)
	var err error
	l.Ingress, err = New(Config{
		Informers: f, Secrets: l.secrets, HTTPPort: 80, HTTPSPort: 443, Listen: l.ports.listen, Keep: keep, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Tell: func(*networkingv1.Ingress, string, string) {}, Say: func(string, ...any) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.patience = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	f.StartWithContext(ctx)
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	}
	t.Cleanup(l.stop)
	return l
}

// answers says what the node answers for a path of a.example, over TLS: "CERTIFICATE CODE BODY".
func (l *life) answers(t *testing.T, path string) (string, error) {
	t.Helper()
	at := l.ports.address(443)
	if at == "" {
		return "", errors.New("it does not listen")
	}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, at)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://a.example" + path)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%s %d %s", resp.TLS.PeerCertificates[0].Subject.CommonName, resp.StatusCode, body), errors.Join(err, resp.Body.Close())
}

func (l *life) wants(t *testing.T, path, want string) {
	t.Helper()
	eventually(t, func() error {
		got, err := l.answers(t, path)
		if err == nil && got != want {
			err = fmt.Errorf("%s: got %q, want %q", path, got, want)
		}
		return err
	})
}

// elsewhere is where a backend of a test is: addresses of loopback are no endpoints, so that those of the machine are taken.
func elsewhere(t *testing.T) net.Listener {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0")); err == nil {
				return l
			}
		}
	}
	t.Fatal("the machine has no address but loopback's")
	return nil
}

// site is a backend with all that leads to it.
func site(t *testing.T) (client *fake.Clientset, secret *corev1.Secret) {
	t.Helper()
	backend := &httptest.Server{Listener: elsewhere(t), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "site") })}}
	backend.Start()
	t.Cleanup(backend.Close)
	address := backend.Listener.Addr().(*net.TCPAddr)
	class, prefix, kind := route.ClassName, networkingv1.PathTypePrefix, discoveryv1.AddressTypeIPv4
	if address.IP.To4() == nil {
		kind = discoveryv1.AddressTypeIPv6
	}
	name, number := "http", int32(address.Port)
	to := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Name: "http"}}}
	return fake.NewClientset(
		&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: route.ClassName}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}},
		&networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "theirs", Annotations: map[string]string{route.ClassAnnotation: "other"}}},
		&networkingv1.Ingress{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i", UID: "1", Annotations: map[string]string{route.Prefix + "rewrite-target": "/x"}},
			Spec: networkingv1.IngressSpec{
				IngressClassName: &class, TLS: []networkingv1.IngressTLS{{SecretName: "cert"}},
				Rules: []networkingv1.IngressRule{{Host: "a.example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: to}}}}}},
			},
		},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "unused"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, AddressType: kind,
			Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address.IP.String()}}},
		},
	), certificate(t, "first")
}

// TestStartWithoutAPI: a node that starts while the API is away serves as it did, and what the API says once it is back.
func TestStartWithoutAPI(t *testing.T) {
	keep := &Keep{Path: filepath.Join(t.TempDir(), "ingress"), Cluster: "one"}
	client, secret := site(t)
	first := live(t, client, keep, false, secret)
	first.wants(t, "/", "first 200 site")
	first.stop() // it writes at the end
	data, err := os.ReadFile(keep.Path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(keep.Path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, not := range []string{"theirs", "unused"} {
		if bytes.Contains(data, []byte(not)) {
			t.Errorf("it keeps %q, which is not served", not)
		}
	}

	second := live(t, client, keep, true)
	second.wants(t, "/", "first 200 site")
	// Back, with another certificate and without the endpoint.
	slice, err := client.Tracker().Get(schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, "ns", "s-1")
	if err != nil {
		t.Fatal(err)
	}
	without := slice.(*discoveryv1.EndpointSlice).DeepCopy()
	without.Endpoints = nil
	if err := client.Tracker().Update(schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, without, "ns"); err != nil {
		t.Fatal(err)
	}
	second.secrets.mu.Lock()
	second.secrets.have["cert"] = certificate(t, "second")
	second.secrets.mu.Unlock()
	second.away.Store(false)
	eventually(t, func() error {
		got, err := second.answers(t, "/")
		if err == nil && !strings.HasPrefix(got, "first ") && !strings.HasPrefix(got, "second ") {
			t.Errorf("meanwhile: %q", got)
		}
		if err == nil && !strings.HasPrefix(got, "second 503 ") {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	// What nobody serves any more is not kept.
	if err := client.NetworkingV1().Ingresses("ns").Delete(t.Context(), "i", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := second.answers(t, "/"); err == nil {
			return errors.New("it still answers")
		}
		return nil
	})
	second.stop()
	if _, err := os.Stat(keep.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestFilesThatDoNotCount: damaged ones, and those of another cluster.
func TestFilesThatDoNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ingress")
	client, secret := site(t)
	first := live(t, client, &Keep{Path: path, Cluster: "one"}, false, secret)
	first.wants(t, "/", "first 200 site")
	first.stop()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cluster string
		data    []byte
		want    error
	}{
		"good":          {"one", data, nil},
		"other cluster": {"two", data, errOtherCluster},
		"empty":         {"one", nil, errDamaged},
		"only a head":   {"one", []byte(keepMagic), errDamaged},
		"cut":           {"one", data[:len(data)-1], errDamaged},
		"longer":        {"one", append(bytes.Clone(data), 0), errDamaged},
		"changed":       {"one", bytes.Replace(data, []byte("a.example"), []byte("b.example"), 1), errDamaged},
		"other version": {"one", bytes.Replace(data, []byte("ingress 1"), []byte("ingress 2"), 1), errDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			_, have := newKeeper(Keep{Path: path, Cluster: tt.cluster}, slog.New(slog.NewTextHandler(&said, nil)))
			if (have != nil) != (tt.want == nil) || tt.want != nil && !strings.Contains(said.String(), tt.want.Error()) {
				t.Errorf("kept %v; it says %q, want %v", have != nil, said.String(), tt.want)
			}
		})
	}
}

// FuzzRestore: whatever the file has, it is a source or an error.
func FuzzRestore(f *testing.F) {
	c := contents{}
	c.ingresses.Items = []networkingv1.Ingress{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "i"}}}
	c.secrets.Items = []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}}}
	data, err := c.encode("one")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(keepMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range [][]byte{data, appendSum(data)} {
			k, err := restore("one", d)
			if (k == nil) != (err != nil) && err != nil {
				t.Fatalf("%v and %v", k, err)
			}
			if err != nil {
				continue
			}
			if _, _, err := k.ours(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
