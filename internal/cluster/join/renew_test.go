package join

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/certificates"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/servingapproval"
)

// asNode makes requests as those of node n. The API of these tests, which admits everything, does not note who made them.
type asNode struct{ kubernetes.Interface }

func (c asNode) CertificatesV1() typed.CertificatesV1Interface {
	return asNodeV1{c.Interface.CertificatesV1()}
}

type asNodeV1 struct{ typed.CertificatesV1Interface }

func (c asNodeV1) CertificateSigningRequests() typed.CertificateSigningRequestInterface {
	return asNodeRequests{c.CertificatesV1Interface.CertificateSigningRequests()}
}

type asNodeRequests struct {
	typed.CertificateSigningRequestInterface
}

func (c asNodeRequests) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	csr.Spec.Username, csr.Spec.Groups = nodeUser+"n", []string{"system:nodes", "system:authenticated"}
	return c.CertificateSigningRequestInterface.Create(ctx, csr, o)
}

// signing is an API whose controllers approve and sign, and a node's client of it.
type signing struct {
	*controllertest.Env
	a    *authority
	node kubernetes.Interface
}

func newSigning(t *testing.T) *signing {
	t.Helper()
	e, a := controllertest.Start(t), newAuthority(t)
	signer, err := certificates.New(e.Client, e.Informers, a.cert, a.key, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	approver, err := servingapproval.New(e.Client, e.Informers, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, signer, approver)
	return &signing{e, a, asNode{e.Client}}
}

func (s *signing) identity(t *testing.T, life time.Duration, now time.Time) *Identity {
	t.Helper()
	cert, key := s.a.issue(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now, now.Add(life) })
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.a.cert.Raw})
	id, err := Create(t.TempDir(), "https://10.0.0.1:6443", ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ck := clocktesting.NewFakeClock(now)
	s := newSigning(t)
	id := s.identity(t, 100*time.Hour, now)
	first := id.Client().Leaf.SerialNumber
	var renewed atomic.Int64
	r := &Renewal{
		Identity: id, Client: s.node, NodeName: "n", IPs: []net.IP{net.IPv4(10, 0, 0, 7)}, Renewed: func() { renewed.Add(1) }, Clock: ck, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.RunClient(ctx) })
	running.Go(func() { r.RunServing(ctx) })
	defer running.Wait()
	defer cancel()

	// The serving certificate waits for the node to say which address it has.
	eventually(t, "the request", func() error {
		l, err := s.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) != 1 {
			err = fmt.Errorf("%d requests", len(l.Items))
		}
		return err
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}}}}
	if id.Serving() != nil {
		t.Error("there is a serving certificate for an address that nobody has")
	}
	if _, err := s.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.7"}]}}`)
	if _, err := s.Client.CoreV1().Nodes().Patch(ctx, "n", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the serving certificate", func() error {
		if id.Serving() == nil {
			return errors.New("there is none")
		}
		return nil
	})
	if err := id.Serving().Leaf.VerifyHostname("10.0.0.7"); err != nil {
		t.Error(err)
	}

	// At 70 to 90 % of its life the client certificate is renewed. Until then nothing waits but timers.
	eventually(t, "both to wait", func() error {
		if !ck.HasWaiters() {
			return errors.New("nobody waits")
		}
		return nil
	})
	if n := id.Client().Leaf.SerialNumber; n.Cmp(first) != 0 {
		t.Error("renewed at once")
	}
	eventually(t, "the new client certificate", func() error {
		if ck.Now().Before(now.Add(95 * time.Hour)) {
			ck.Step(time.Hour) // long timers are shorter than what is waited for
		}
		if id.Client().Leaf.SerialNumber.Cmp(first) == 0 || renewed.Load() == 0 {
			return errors.New("it is the first one")
		}
		return nil
	})
	if got := id.NodeName(); got != "n" {
		t.Errorf("the new one is for %q", got)
	}
	again, err := Load(id.dir)
	if err != nil || again.Client().Leaf.SerialNumber.Cmp(id.Client().Leaf.SerialNumber) != 0 {
		t.Errorf("it is not kept: %v", err)
	}
}

// A request that the cluster refuses is an error at once, not a long wait.
func TestRefusal(t *testing.T) {
	t.Parallel()
	s := newSigning(t)
	w := clientWish("n")
	w.dns = []string{"not.allowed"} // the signer does not sign it, and nobody approves it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, _, err := request(ctx, s.node, w)
		done <- err
	}()
	eventually(t, "the request", func() error {
		l, err := s.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
		if err != nil || len(l.Items) == 0 {
			return fmt.Errorf("%d requests, %v", len(l.Items), err)
		}
		patch := []byte(`{"status":{"conditions":[{"type":"Denied","status":"True","reason":"No","message":"not you"}]}}`)
		_, err = s.Client.CertificatesV1().CertificateSigningRequests().Patch(ctx, l.Items[0].Name, types.MergePatchType, patch, metav1.PatchOptions{}, "approval")
		return err
	})
	if err := <-done; !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
}

// away is an API that cannot be asked for a time.
type away struct {
	kubernetes.Interface
	gone  *atomic.Bool
	tried chan struct{}
}

func (c away) CertificatesV1() typed.CertificatesV1Interface {
	return awayV1{c.Interface.CertificatesV1(), c}
}

type awayV1 struct {
	typed.CertificatesV1Interface
	of away
}

func (c awayV1) CertificateSigningRequests() typed.CertificateSigningRequestInterface {
	return awayRequests{c.CertificatesV1Interface.CertificateSigningRequests(), c.of}
}

type awayRequests struct {
	typed.CertificateSigningRequestInterface
	of away
}

func (c awayRequests) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	if c.of.gone.Load() {
		select {
		case c.of.tried <- struct{}{}:
		default:
		}
		return nil, errors.New("no way there")
	}
	return c.CertificateSigningRequestInterface.Create(ctx, csr, o)
}

// TestRenewedWhenTheAPIIsBack: what was due while the API was away does not wait for its next turn, which may be minutes away.
func TestRenewedWhenTheAPIIsBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := newSigning(t)
	id := s.identity(t, 100*time.Hour, now.Add(-99*time.Hour)) // due long ago
	first := id.Client().Leaf.SerialNumber
	c := away{s.node, &atomic.Bool{}, make(chan struct{}, 1)}
	c.gone.Store(true)
	back := make(chan struct{})
	never := make(chan struct{})
	var asked atomic.Int64
	r := &Renewal{
		Identity: id, Client: c, NodeName: "n", Renewed: func() {}, Log: slog.New(slog.DiscardHandler),
		Clock: clocktesting.NewFakeClock(now), // nobody moves it
		Back: func() <-chan struct{} {
			if asked.Add(1) == 1 {
				return back
			}
			return never
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.RunClient(ctx) })
	defer running.Wait()
	defer cancel()
	<-c.tried
	c.gone.Store(false)
	close(back)
	eventually(t, "the new certificate", func() error {
		if id.Client().Leaf.SerialNumber.Cmp(first) == 0 {
			return errors.New("it is the old one")
		}
		return nil
	})
}
