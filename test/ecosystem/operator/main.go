package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	extv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"
)

//go:embed crd.yaml
var definition []byte

func main() {
	var o options
	flag.StringVar(&o.listen, "webhooks", "127.0.0.1:9443", "where the webhooks listen")
	flag.StringVar(&o.namespace, "namespace", "default", "the namespace of the leader's lease")
	flag.StringVar(&o.image, "image", "busybox:1", "the image of a ship")
	flag.Parse() // --kubeconfig is controller-runtime's
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

type options struct{ listen, namespace, image string }

func run(o options) error {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil)))
	ctx := ctrl.SetupSignalHandler()
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		return err
	}
	if err := extv1.AddToScheme(s); err != nil {
		return err
	}
	register(s)
	certs, err := os.MkdirTemp("", "operator")
	if err != nil {
		return err
	}
	defer os.RemoveAll(certs)
	host, portText, err := net.SplitHostPort(o.listen)
	if err != nil {
		return err
	}
	portNumber, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	ca, err := certificate(certs, host)
	if err != nil {
		return err
	}
	if err := install(ctx, config, s, o, ca); err != nil {
		return fmt.Errorf("installing the definition: %w", err)
	}
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        s,
		Metrics:                       metrics.Options{BindAddress: "0"},
		WebhookServer:                 webhook.NewServer(webhook.Options{Host: host, Port: portNumber, CertDir: certs}),
		LeaderElection:                true,
		LeaderElectionID:              "fleets.harbor.celox.test",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	r := &reconciler{Client: m.GetClient(), events: m.GetEventRecorder("harbor"), image: o.image}
	if err := ctrl.NewControllerManagedBy(m).For(&Fleet{}).Owns(&appsv1.Deployment{}).Complete(r); err != nil {
		return err
	}
	if err := ctrl.NewWebhookManagedBy(m, &Fleet{}).WithDefaulter(port{}).WithValidator(port{}).Complete(); err != nil {
		return err
	}
	go func() {
		<-m.Elected()
		if m.GetCache().WaitForCacheSync(ctx) {
			fmt.Println("the operator leads")
		}
	}()
	return m.Start(ctx)
}

// install brings the definition and the webhook configurations to the cluster, by server-side apply, and waits until the kind is served.
func install(ctx context.Context, config *rest.Config, s *runtime.Scheme, o options, ca []byte) error {
	c, err := client.New(config, client.Options{Scheme: s})
	if err != nil {
		return err
	}
	crd := &extv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(definition, crd); err != nil {
		return err
	}
	url := func(path string) *string { u := "https://" + o.listen + path; return &u }
	crd.Spec.Conversion = &extv1.CustomResourceConversion{Strategy: extv1.WebhookConverter, Webhook: &extv1.WebhookConversion{
		ConversionReviewVersions: []string{"v1"}, ClientConfig: &extv1.WebhookClientConfig{URL: url("/convert"), CABundle: ca}}}
	none := admissionv1.SideEffectClassNone
	rule := func(ops ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
		return []admissionv1.RuleWithOperations{{Operations: ops,
			Rule: admissionv1.Rule{APIGroups: []string{v1.Group}, APIVersions: []string{v1.Version}, Resources: []string{"fleets"}}}}
	}
	mutating := &admissionv1.MutatingWebhookConfiguration{TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "harbor.celox.test"},
		Webhooks: []admissionv1.MutatingWebhook{{Name: "default.harbor.celox.test", SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{URL: url("/mutate-harbor-celox-test-v1-fleet"), CABundle: ca}, Rules: rule(admissionv1.Create, admissionv1.Update)}}}
	validating := &admissionv1.ValidatingWebhookConfiguration{TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "harbor.celox.test"},
		Webhooks: []admissionv1.ValidatingWebhook{{Name: "validate.harbor.celox.test", SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{URL: url("/validate-harbor-celox-test-v1-fleet"), CABundle: ca}, Rules: rule(admissionv1.Create, admissionv1.Update, admissionv1.Delete)}}}
	for _, obj := range []client.Object{crd, mutating, validating} {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			return err
		}
		delete(content, "status")
		if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: content}), client.FieldOwner("operator"), client.ForceOwnership); err != nil {
			return err
		}
	}
	return envtest.WaitForCRDs(config, []*extv1.CustomResourceDefinition{crd}, envtest.CRDInstallOptions{MaxTime: 30 * time.Second, PollInterval: 50 * time.Millisecond})
}

// certificate makes a key and a certificate that is its own authority for host, as tls.key and tls.crt in dir, and returns the authority.
func certificate(dir, host string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "tls.crt"), crt, 0o600); err != nil {
		return nil, err
	}
	return bytes.Clone(crt), os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600)
}
