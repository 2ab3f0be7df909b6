package podcertificate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOldRequestsGo(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	api := e.Client.CertificatesV1().PodCertificateRequests(metav1.NamespaceDefault)
	r, err := api.Create(ctx, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.PodCertificateRequestSpec{
		SignerName: "example.com/s", PodName: "p", PodUID: "1", ServiceAccountName: "sa", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3", StubPKCS10Request: stub,
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clk := clocktesting.NewFakePassiveClock(r.CreationTimestamp.Add(life - time.Second))
	ctl, err := NewCleaner(e.Client, e.Informers, clk, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	known := func() error {
		_, err := ctl.requests.PodCertificateRequests(r.Namespace).Get(r.Name)
		return err
	}
	controllertest.Eventually(t, known)
	name := cache.MetaObjectToName(r).String()
	if err := ctl.Reconcile(ctx, name); err != nil {
		t.Error(err)
	}
	if _, err := api.Get(ctx, r.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("it went before its time: %v", err)
	}
	clk.SetTime(r.CreationTimestamp.Add(life))
	if err := ctl.Reconcile(ctx, name); err != nil {
		t.Error(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := api.Get(context.WithoutCancel(ctx), r.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.New("it is still there")
		}
		return nil
	})
	if err := ctl.Reconcile(ctx, name); err != nil {
		t.Error(err)
	}
}
