package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/ingress/route"
	"github.com/celox/celox/internal/network/ingress/serve"
)

// TestFactsOfIngress: agents have the ingress that the server was told, and none if the server knows of none.
func TestFactsOfIngress(t *testing.T) {
	want := config.Ingress{HTTPPort: 8080, HTTPSPort: 8443, TrustedProxies: []string{"10.0.0.0/8", "192.0.2.1"}, ProxyProtocol: true, AccessLog: "-"}
	got, err := ingressFrom(ingressData(want))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := ingressFrom(nil); err != nil || got.HTTPPort != 0 {
		t.Errorf("of a server that says nothing: %+v, %v", got, err)
	}
	for _, bad := range []map[string]string{{factIngressHTTP: "x", factIngressHTTPS: "443"}, {factIngressHTTP: "80"}, {factIngressHTTP: "80", factIngressHTTPS: "443", factIngressTrusted: "lan"}} {
		if _, err := ingressFrom(bad); err == nil {
			t.Errorf("%v is believed", bad)
		}
	}
}

// TestServedSecret: nodes may read what Ingresses of ours name, of their own namespaces, and nothing that others name.
func TestServedSecret(t *testing.T) {
	s := lookuptest.New(t)
	ingress := func(namespace, name, class, secret string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: networkingv1.IngressSpec{
			IngressClassName: &class, TLS: []networkingv1.IngressTLS{{SecretName: secret}},
		}}
	}
	basic := ingress("a", "basic", "celox", "")
	basic.Annotations = map[string]string{route.Prefix + "auth-type": "basic", route.Prefix + "auth-secret": "users"}
	s.Put(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "celox"}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}},
		ingress("a", "ours", "celox", "cert"), ingress("a", "theirs", "other", "other-cert"), basic)
	served := servedSecret(s.Objects)
	for text, want := range map[string]bool{"a/cert": true, "a/users": true, "a/other-cert": false, "b/cert": false, "a/": false, "a/x": false} {
		namespace, name, _ := strings.Cut(text, "/")
		if got, err := served(t.Context(), namespace, name); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
}

func TestAccessLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	log, err := openAccessLog(path)
	if err != nil {
		t.Fatal(err)
	}
	log.entry()(serve.Entry{Time: time.Unix(1, 0), Client: "192.0.2.1", Method: "GET", Host: "a.example", Path: "/\"\n", Code: 200, Bytes: 5, Took: time.Second})
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	want := `{"time":"1970-01-01T00:00:01Z","client":"192.0.2.1","scheme":"","method":"GET","host":"a.example","path":"/\"\n","code":200,"bytes":5,"seconds":1}` + "\n"
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	none, err := openAccessLog("")
	if err != nil || none.entry() != nil || none.close() != nil {
		t.Error("no log does something")
	}
}
