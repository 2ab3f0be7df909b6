package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

const (
	pemCertificate = "CERTIFICATE"
	pemPublicKey   = "PUBLIC KEY"
	pemECKey       = "EC PRIVATE KEY"
)

// authority is a certificate authority with its key.
type authority struct {
	cert    *x509.Certificate
	certPEM []byte
	key     crypto.Signer
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// loadAuthority reads NAME.crt and NAME.key, or makes them and returns the files to write. A key without a certificate is what a
// crash in the first start leaves behind: the certificate is made from it. A certificate without a key is an error, because a new
// authority would lock out everything that trusts the old one.
func loadAuthority(dir, name, cn string, now time.Time) (*authority, []file, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	key, err := readKey(keyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	certPEM, cert, certErr := readCertificate(certFile)
	switch {
	case certErr == nil && key == nil:
		return nil, nil, fmt.Errorf("%s is there but its key %s is missing: restore it from a backup", certFile, keyFile)
	case certErr == nil:
		if !samePublicKey(cert, key) {
			return nil, nil, fmt.Errorf("%s does not belong to the key %s: restore both from the same backup", certFile, keyFile)
		}
		if !cert.IsCA {
			return nil, nil, fmt.Errorf("%s is not a certificate authority", certFile)
		}
		if now.Before(cert.NotBefore) {
			return nil, nil, fmt.Errorf("the clock of this machine says %s, but the certificate authority %s is valid only from %s on: set the clock",
				now.UTC().Format(time.RFC3339), certFile, cert.NotBefore.UTC().Format(time.RFC3339))
		}
		if now.After(cert.NotAfter) {
			return nil, nil, fmt.Errorf("the certificate authority %s expired at %s and the clock of this machine says %s: set the clock, or replace the authority",
				certFile, cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		return &authority{cert: cert, certPEM: certPEM, key: key}, nil, nil
	case !errors.Is(certErr, fs.ErrNotExist):
		return nil, nil, certErr
	}
	var made []file
	if key == nil {
		var keyPEM []byte
		if key, keyPEM, err = newKey(); err != nil {
			return nil, nil, fmt.Errorf("make the key of %s: %w", name, err)
		}
		made = append(made, file{name + ".key", keyPEM})
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cn},
		NotBefore:             now.Add(-backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(authorityLifetime).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the certificate authority %s: %w", name, err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, fmt.Errorf("make the certificate authority %s: %w", name, err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
	return &authority{cert: cert, certPEM: certPEM, key: key}, append(made, file{name + ".crt", certPEM}), nil
}

// issue makes a key and a certificate for l.
func (a *authority) issue(l leaf, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	notBefore := now.Add(-backdate)
	if notBefore.Before(a.cert.NotBefore) {
		notBefore = a.cert.NotBefore
	}
	notAfter := now.Add(leafLifetime)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	usage := x509.ExtKeyUsageClientAuth
	if l.server {
		usage = x509.ExtKeyUsageServerAuth
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: l.cn, Organization: l.orgs},
		NotBefore:             notBefore.UTC(),
		NotAfter:              notAfter.UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
		BasicConstraintsValid: true,
		DNSNames:              l.dnsNames,
		IPAddresses:           l.ips,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), keyPEM, nil
}

// Pair is a certificate with its key. Certificate and PEM always return the newest.
type Pair struct {
	certFile, keyFile string
	current           atomic.Pointer[pairState]
}

type pairState struct {
	tls             *tls.Certificate
	certPEM, keyPEM []byte
}

// Certificate is the pair as TLS wants it; read-only.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load().tls }

// Leaf is the parsed certificate; read-only.
func (p *Pair) Leaf() *x509.Certificate { return p.current.Load().tls.Leaf }

// PEM returns certificate and key; read-only.
func (p *Pair) PEM() (cert, key []byte) {
	s := p.current.Load()
	return s.certPEM, s.keyPEM
}

// Files are the paths of certificate and key.
func (p *Pair) Files() (cert, key string) { return p.certFile, p.keyFile }

func (p *Pair) load() error {
	certPEM, _, err := readCertificate(p.certFile)
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(p.keyFile)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	if err := p.set(certPEM, keyPEM); err != nil {
		return fmt.Errorf("%s and %s are damaged or do not belong together (remove both, and they are made again): %w", p.certFile, p.keyFile, err)
	}
	return nil
}

func (p *Pair) set(certPEM, keyPEM []byte) error {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return err
		}
	}
	p.current.Store(&pairState{tls: &c, certPEM: certPEM, keyPEM: keyPEM})
	return nil
}

// fits tells whether the pair is what l asks for, signed by a, and good for a while from now.
func (p *Pair) fits(l leaf, a *authority, now time.Time) bool {
	s := p.current.Load()
	if s == nil {
		return false
	}
	c := s.tls.Leaf
	end := c.NotAfter.Add(-renewBefore)
	if c.NotAfter.Equal(a.cert.NotAfter) {
		end = c.NotAfter // it cannot be made longer
	}
	return !now.Before(c.NotBefore) && now.Before(end) &&
		c.CheckSignatureFrom(a.cert) == nil &&
		c.Subject.CommonName == l.cn &&
		slices.Equal(sortedNames(slices.Clone(c.Subject.Organization)), sortedNames(slices.Clone(l.orgs))) &&
		slices.Equal(sortedNames(slices.Clone(c.DNSNames)), l.dnsNames) &&
		slices.EqualFunc(sortedIPs(c.IPAddresses), l.ips, func(x, y net.IP) bool { return x.Equal(y) })
}

// loadServiceAccountKey reads sa.key, or makes it. sa.pub is there for tools that want the public half.
func loadServiceAccountKey(dir string) (crypto.Signer, []file, error) {
	key, err := readKey(filepath.Join(dir, "sa.key"))
	if err == nil {
		return key, nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make the service account key: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("make the service account key: %w", err)
	}
	return key, []file{{"sa.key", keyPEM}, {"sa.pub", pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: pub})}}, nil
}

func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: pemECKey, Bytes: der}), nil
}

// readKey reads a private key in any of the usual PEM forms.
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from a backup", path, err)
	}
	return key, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("it holds no private key in PEM form")
		}
		var key any
		var err error
		switch block.Type {
		case pemECKey:
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default: // e.g. EC PARAMETERS, which openssl writes first
			continue
		}
		if err != nil {
			return nil, err
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a %T cannot sign", key)
		}
		return signer, nil
	}
}

func readCertificate(path string) ([]byte, *x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read certificate: %w", err)
	}
	cert, err := parseCertificate(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is damaged (%w): restore it from a backup", path, err)
	}
	return data, cert, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

func samePublicKey(cert *x509.Certificate, key crypto.Signer) bool {
	a, errA := x509.MarshalPKIXPublicKey(cert.PublicKey)
	b, errB := x509.MarshalPKIXPublicKey(key.Public())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// serial is a random positive number of 127 bits (RFC 5280 allows 20 octets).
func serial() *big.Int {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic(err) // crypto/rand.Read never returns an error
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}
