package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime      = 365 * 24 * time.Hour
	// renewBefore is how long before its end a leaf is replaced.
	renewBefore = 30 * 24 * time.Hour
	// backdate makes a fresh certificate valid for peers whose clocks run a little behind.
	backdate = 5 * time.Minute
	// renewRetry is the pause after a renewal that failed.
	renewRetry = time.Hour
)

// earliestClock is the start of what counts as a clock that was set. Machines without a battery wake up in 1970, and an
// authority made then would long have expired when the clock is set right.
var earliestClock = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// Options says for whom certificates are made.
type Options struct {
	// ServerNames and ServerIPs are the names and addresses that clients may call the API server by, besides the
	// names of the kubernetes service, localhost and the loopback addresses, which are always included.
	ServerNames []string
	ServerIPs   []net.IP
	// NodeName is the name of the node on this machine; "" means that there is none.
	NodeName string
	// NodeIPs are the addresses that the node's own API is reached at; nil means ServerIPs.
	NodeIPs []net.IP
	// Clock is the clock to judge validity by; nil is the real one.
	Clock clock.WithTicker
}

// PKI is the loaded material of one cluster. Its methods may be called from many goroutines.
type PKI struct {
	dir        string
	opts       Options
	cluster    *authority
	frontProxy *authority
	saKey      crypto.Signer

	mu     sync.Mutex // serializes renewals
	leaves map[string]*Pair
}

// The names of the leaf certificates, which are the names of their files.
const (
	leafServer            = "apiserver"
	leafKubeletServer     = "kubelet-server"
	leafKubeletClient     = "apiserver-kubelet-client"
	leafAdmin             = "admin"
	leafScheduler         = "scheduler"
	leafControllerManager = "controller-manager"
	leafNode              = "node"
	leafFrontProxyClient  = "front-proxy-client"
)

// leaf describes a wanted certificate.
type leaf struct {
	name       string
	frontProxy bool // signed by the front proxy's authority
	cn         string
	orgs       []string
	server     bool
	dnsNames   []string
	ips        []net.IP
}

// Ensure loads the material below dir and creates or renews what is needed. Files are readable by their owner only. It fails if
// a file is damaged (naming it) or if the clock cannot be right.
func Ensure(dir string, opts Options) (*PKI, error) {
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	now := opts.Clock.Now()
	if now.Before(earliestClock) {
		return nil, fmt.Errorf("the clock of this machine says %s: set it before certificates are made", now.UTC().Format(time.RFC3339))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the certificate directory: %w", err)
	}
	p := &PKI{dir: dir, opts: opts, leaves: map[string]*Pair{}}
	var made []file
	for _, a := range []struct {
		into     **authority
		file, cn string
	}{{&p.cluster, "ca", "celox-ca"}, {&p.frontProxy, "front-proxy-ca", "celox-front-proxy-ca"}} {
		au, files, err := loadAuthority(dir, a.file, a.cn, now)
		if err != nil {
			return nil, err
		}
		*a.into, made = au, append(made, files...)
	}
	saKey, files, err := loadServiceAccountKey(dir)
	if err != nil {
		return nil, err
	}
	p.saKey, made = saKey, append(made, files...)
	files, err = p.refresh(now)
	if err != nil {
		return nil, err
	}
	if err := writeFiles(dir, append(made, files...)); err != nil {
		return nil, fmt.Errorf("write certificates: %w", err)
	}
	return p, nil
}

// refresh loads or issues each wanted leaf and returns the files that must be written.
func (p *PKI) refresh(now time.Time) ([]file, error) {
	var made []file
	for _, l := range p.wanted() {
		pair, known := p.leaves[l.name]
		if !known {
			pair = &Pair{certFile: filepath.Join(p.dir, l.name+".crt"), keyFile: filepath.Join(p.dir, l.name+".key")}
			if err := pair.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		au := p.cluster
		if l.frontProxy {
			au = p.frontProxy
		}
		if !pair.fits(l, au, now) {
			certPEM, keyPEM, err := au.issue(l, now)
			if err != nil {
				return nil, fmt.Errorf("issue certificate %s: %w", l.name, err)
			}
			if err := pair.set(certPEM, keyPEM); err != nil {
				return nil, fmt.Errorf("issue certificate %s: %w", l.name, err)
			}
			made = append(made, file{l.name + ".key", keyPEM}, file{l.name + ".crt", certPEM})
		}
		// The map is complete after the first time, and then read by everybody without a lock.
		if !known {
			p.leaves[l.name] = pair
		}
	}
	return made, nil
}

// wanted lists the certificates that this machine needs.
func (p *PKI) wanted() []leaf {
	loopback := []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	nodeIPs := p.opts.NodeIPs
	if nodeIPs == nil {
		nodeIPs = p.opts.ServerIPs
	}
	leaves := []leaf{
		{
			name: leafServer, cn: "kube-apiserver", server: true,
			dnsNames: sortedNames(append([]string{
				"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
			}, p.opts.ServerNames...)),
			ips: sortedIPs(append(loopback, p.opts.ServerIPs...)),
		},
		{name: leafKubeletClient, cn: "kube-apiserver-kubelet-client", orgs: []string{"system:masters"}},
		{name: leafAdmin, cn: "kubernetes-admin", orgs: []string{"system:masters"}},
		{name: leafScheduler, cn: "system:kube-scheduler"},
		{name: leafControllerManager, cn: "system:kube-controller-manager"},
		{name: leafFrontProxyClient, cn: "front-proxy-client", frontProxy: true},
	}
	if n := p.opts.NodeName; n != "" {
		leaves = append(leaves,
			leaf{name: leafNode, cn: "system:node:" + n, orgs: []string{"system:nodes"}},
			leaf{
				name: leafKubeletServer, cn: "system:node:" + n, orgs: []string{"system:nodes"}, server: true,
				dnsNames: sortedNames([]string{n, "localhost"}), ips: sortedIPs(append(loopback, nodeIPs...)),
			})
	}
	return leaves
}

// Renew replaces the certificates that are about to expire and reports when to call it again at the latest.
func (p *PKI) Renew() (next time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	files, err := p.refresh(p.opts.Clock.Now())
	if err != nil {
		return time.Time{}, err
	}
	if err := writeFiles(p.dir, files); err != nil {
		return time.Time{}, fmt.Errorf("write certificates: %w", err)
	}
	for _, pair := range p.leaves {
		if t := pair.Leaf().NotAfter.Add(-renewBefore); next.IsZero() || t.Before(next) {
			next = t
		}
	}
	return next, nil
}

// Run renews certificates when they are due until ctx ends. Failures are given to report, and tried again.
func (p *PKI) Run(ctx context.Context, report func(error)) {
	for {
		wait := renewRetry
		if next, err := p.Renew(); err != nil {
			report(fmt.Errorf("renew certificates: %w", err))
		} else {
			// Long timers stand still while a machine sleeps, so the time is looked at again now and then.
			wait = min(max(next.Sub(p.opts.Clock.Now()), time.Minute), 24*time.Hour)
		}
		t := p.opts.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C():
		}
	}
}

// Dir is the directory of the files.
func (p *PKI) Dir() string { return p.dir }

// CACertPEM is the certificate of the cluster's authority.
func (p *PKI) CACertPEM() []byte { return p.cluster.certPEM }

// CAFile is the path of the cluster authority's certificate.
func (p *PKI) CAFile() string { return filepath.Join(p.dir, "ca.crt") }

// CA returns the cluster's authority, for those who sign certificate requests.
func (p *PKI) CA() (*x509.Certificate, crypto.Signer) { return p.cluster.cert, p.cluster.key }

// FrontProxyCA returns the certificate of the front proxy's authority and its PEM form.
func (p *PKI) FrontProxyCA() (*x509.Certificate, []byte) {
	return p.frontProxy.cert, p.frontProxy.certPEM
}

// CAPool holds the cluster's authority alone.
func (p *PKI) CAPool() *x509.CertPool { return p.cluster.pool() }

// ServiceAccountKey signs service account tokens (ECDSA on P-256 unless the file was brought along).
func (p *PKI) ServiceAccountKey() crypto.Signer { return p.saKey }

// Admin is the client certificate of the cluster's administrator, in system:masters.
func (p *PKI) Admin() *Pair { return p.leaves[leafAdmin] }

// Scheduler is the client certificate of system:kube-scheduler.
func (p *PKI) Scheduler() *Pair { return p.leaves[leafScheduler] }

// ControllerManager is the client certificate of system:kube-controller-manager.
func (p *PKI) ControllerManager() *Pair { return p.leaves[leafControllerManager] }

// KubeletClient is what the API server shows to nodes.
func (p *PKI) KubeletClient() *Pair { return p.leaves[leafKubeletClient] }

// FrontProxyClient is what the API server shows to aggregated API servers.
func (p *PKI) FrontProxyClient() *Pair { return p.leaves[leafFrontProxyClient] }

// Node is the client certificate of the node on this machine; nil if there is none.
func (p *PKI) Node() *Pair { return p.leaves[leafNode] }

// KubeletServer is the serving certificate of the node on this machine; nil if there is none.
func (p *PKI) KubeletServer() *Pair { return p.leaves[leafKubeletServer] }

// Server is the serving certificate of the API server.
func (p *PKI) Server() *Pair { return p.leaves[leafServer] }

// ServerTLSConfig is for the API server's listener. A client certificate is asked for, with both authorities named, and not
// verified: whoever authenticates does that, and can answer a foreign one as HTTP.
func (p *PKI) ServerTLSConfig() *tls.Config {
	c := p.serving(p.Server())
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		// With its authority: who knows no more of the cluster than that one's hash can check it by that (package join).
		own := *p.Server().Certificate()
		own.Certificate = append(own.Certificate[:len(own.Certificate):len(own.Certificate)], p.cluster.cert.Raw)
		return &own, nil
	}
	c.ClientCAs.AddCert(p.frontProxy.cert)
	c.ClientAuth = tls.RequestClientCert
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// KubeletTLSConfig is for the listener of the node's own API; nil if there is no node.
func (p *PKI) KubeletTLSConfig() *tls.Config {
	if p.KubeletServer() == nil {
		return nil
	}
	c := p.serving(p.KubeletServer())
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

func (p *PKI) serving(pair *Pair) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      p.cluster.pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Certificate(), nil },
		Time:           p.opts.Clock.Now,
	}
}

// ClientTLSConfig is for a client of this cluster that shows pair (nil: no certificate) and trusts the cluster's authority.
func (p *PKI) ClientTLSConfig(pair *Pair) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.cluster.pool(), Time: p.opts.Clock.Now}
	if pair != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Certificate(), nil }
	}
	return c
}

func sortedNames(in []string) []string {
	sort.Strings(in)
	return slices.Compact(slices.DeleteFunc(in, func(s string) bool { return s == "" }))
}

func sortedIPs(in []net.IP) []net.IP {
	out := make([]net.IP, 0, len(in))
	for _, ip := range in {
		// The short form, so that a comparison with what a certificate holds is exact.
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		if len(ip) > 0 {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, func(a, b net.IP) int { return bytes.Compare(a, b) })
	return slices.CompactFunc(out, func(a, b net.IP) bool { return a.Equal(b) })
}
