package join

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// A certificate is renewed when between 70 and 90 % of its life are over, as kubelets do; chance keeps nodes that joined together from asking together.
	renewFrom, renewSpan = 0.7, 0.2
	retryFirst           = time.Second
	retryLast            = 5 * time.Minute
	// longTimer bounds timers: they stand still while a machine sleeps.
	longTimer = 24 * time.Hour
)

// Renewal keeps the certificates of a node good.
type Renewal struct {
	Identity *Identity
	// Client speaks to the API as the node.
	Client kubernetes.Interface
	// NodeName and IPs are what the serving certificate is for.
	NodeName string
	IPs      []net.IP
	// Renewed is called when there is a new client certificate: connections still show the old one.
	Renewed func()
	// Back returns what is closed when the API can be reached again after a time in which it could not: what waited for it need not wait longer. Nil never is.
	Back  func() <-chan struct{}
	Clock clock.WithTicker
	Log   *slog.Logger
}

// kind is one of the two certificates.
type kind struct {
	name    string
	wish    wish
	current func() *x509.Certificate // nil: there is none
	renewed func()
}

// RunClient renews the client certificate until ctx ends.
func (r *Renewal) RunClient(ctx context.Context) {
	r.run(ctx, kind{name: clientName, wish: clientWish(r.NodeName), renewed: r.Renewed, current: func() *x509.Certificate { return r.Identity.Client().Leaf }})
}

// RunServing gets the serving certificate and renews it until ctx ends, or at once if it is not for what the node is called and where it is.
func (r *Renewal) RunServing(ctx context.Context) {
	w := wish{node: r.NodeName, signer: certificatesv1.KubeletServingSignerName, dns: []string{r.NodeName}, ips: r.IPs}
	r.run(ctx, kind{name: servingName, wish: w, renewed: func() {}, current: func() *x509.Certificate {
		c := r.Identity.Serving()
		if c == nil || !covers(c.Leaf, w) {
			return nil
		}
		return c.Leaf
	}})
}

// covers says whether a certificate is for all that is wished.
func covers(c *x509.Certificate, w wish) bool {
	for _, ip := range w.ips {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	for _, name := range w.dns {
		if !slices.Contains(c.DNSNames, name) {
			return false
		}
	}
	return true
}

func (r *Renewal) run(ctx context.Context, k kind) {
	share, retry := renewFrom+renewSpan*rand.Float64(), retryFirst
	var back <-chan struct{}
	for {
		if r.Back != nil {
			back = r.Back()
		}
		wait := time.Duration(0)
		if c := k.current(); c != nil {
			wait = due(c, share).Sub(r.Clock.Now())
		}
		if wait <= 0 {
			err := r.renew(ctx, k)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				r.Log.Warn("cannot renew a certificate of the node; trying again", "certificate", k.name, "err", err, "in", retry)
				wait, retry = retry, min(2*retry, retryLast)
			} else {
				share, retry = renewFrom+renewSpan*rand.Float64(), retryFirst
				k.renewed()
				continue
			}
		}
		t := r.Clock.NewTimer(min(wait, longTimer))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-back:
			t.Stop()
			retry = retryFirst
		case <-t.C():
		}
	}
}

// due is when a certificate is to be renewed.
func due(c *x509.Certificate, share float64) time.Time {
	return c.NotBefore.Add(time.Duration(share * float64(c.NotAfter.Sub(c.NotBefore))))
}

func (r *Renewal) renew(ctx context.Context, k kind) error {
	cert, key, err := request(ctx, r.Client, k.wish)
	if err != nil {
		return err
	}
	if err := r.Identity.set(k.name, cert, key); err != nil {
		return err
	}
	// A cluster that gives certificates that are due at once would be asked without end.
	if c := k.current(); c == nil || !due(c, renewFrom).After(r.Clock.Now()) {
		return errors.New("the cluster gave a certificate that is not for this node, or has to be renewed at once: are the clocks right?")
	}
	r.Log.Info("renewed a certificate of the node", "certificate", k.name)
	return nil
}
