package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"
)

// ownLife is how long a default certificate is good. It is made anew when half of it is over.
const ownLife = 365 * 24 * time.Hour

// ownCert is the default certificate: nobody trusts it, and with it TLS works for hosts that have none.
type ownCert struct {
	mu    sync.Mutex
	cert  *tls.Certificate // guarded by mu
	until time.Time        // guarded by mu
}

func (o *ownCert) get(now time.Time) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cert != nil && now.Before(o.until) {
		return o.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("default certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("default certificate: %w", err)
	}
	about := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "celox ingress default certificate"}, DNSNames: []string{"ingress.invalid"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(ownLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("default certificate: %w", err)
	}
	o.cert, o.until = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, now.Add(ownLife/2)
	return o.cert, nil
}

// certificate is tls.Config.GetCertificate.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if name := strings.ToLower(hello.ServerName); name != "" {
		if c := s.snap.Load().table.Certificate(name); c != nil {
			return c, nil
		}
	}
	return s.ownCert.get(time.Now())
}
