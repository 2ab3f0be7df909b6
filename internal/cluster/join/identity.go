package join

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/atomicfile"
)

// The files of an identity.
const (
	caFile      = "ca.crt"
	serverFile  = "server"
	clientName  = "client"
	servingName = "serving"
)

// Identity is what a node keeps of its membership: where the server is, whom to believe, and its certificates. Its methods may be called from many
// goroutines.
type Identity struct {
	dir    string
	Server string // the addresses of API servers that the node was given, as URLs with commas between them
	CA     []byte // the cluster's authority, in PEM

	mu       sync.Mutex // guards what follows
	learned  []string   // where the cluster says that its servers are, as host:port
	answered string     // the server that was reached last

	client, serving atomic.Pointer[tls.Certificate]
}

// Load reads an identity; fs.ErrNotExist says that there is none.
func Load(dir string) (*Identity, error) {
	i := &Identity{dir: dir}
	server, err := os.ReadFile(filepath.Join(dir, serverFile))
	if err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	i.Server = strings.TrimSpace(string(server))
	if err := i.loadServers(); err != nil {
		return nil, err
	}
	if i.CA, err = os.ReadFile(filepath.Join(dir, caFile)); err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	if _, err := parseCertificate(i.CA); err != nil {
		return nil, fmt.Errorf("identity of the node: %s is damaged: %w", filepath.Join(dir, caFile), err)
	}
	cert, err := loadPair(dir, clientName)
	if err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	i.client.Store(cert)
	if cert, err := loadPair(dir, servingName); err == nil {
		i.serving.Store(cert)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	return i, nil
}

// Create begins an identity with a first certificate. The file that says where the server is comes last: without it there is none.
func Create(dir, server string, ca, certPEM, keyPEM []byte) (*Identity, error) {
	i := &Identity{dir: dir, Server: server, CA: ca}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	if err := write(filepath.Join(dir, caFile), ca); err != nil {
		return nil, fmt.Errorf("identity of the node: %w", err)
	}
	if err := i.set(clientName, certPEM, keyPEM); err != nil {
		return nil, err
	}
	if err := i.SetServer(server); err != nil {
		return nil, err
	}
	return i, nil
}

// SetServer notes that the server has another address.
func (i *Identity) SetServer(server string) error {
	if err := write(filepath.Join(i.dir, serverFile), []byte(server+"\n")); err != nil {
		return fmt.Errorf("identity of the node: %w", err)
	}
	i.Server = server
	return nil
}

// Client is the certificate that the node shows to the API server.
func (i *Identity) Client() *tls.Certificate { return i.client.Load() }

// Serving is the certificate of the node's own API, nil before the cluster gave one.
func (i *Identity) Serving() *tls.Certificate { return i.serving.Load() }

// ClientExpired says since when the client certificate is not good any more; ok is false while it is.
func (i *Identity) ClientExpired(now time.Time) (since time.Time, ok bool) {
	end := i.Client().Leaf.NotAfter
	return end, now.After(end)
}

// NodeName is the name that the client certificate gives the node.
func (i *Identity) NodeName() string {
	return strings.TrimPrefix(i.Client().Leaf.Subject.CommonName, nodeUser)
}

// Pool holds the authority alone.
func (i *Identity) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(i.CA)
	return p
}

// set keeps a certificate and uses it from then on. Key and certificate are one file: there is no moment at which they do not fit.
func (i *Identity) set(name string, certPEM, keyPEM []byte) error {
	cert, err := pair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("identity of the node: %s: %w", name, err)
	}
	if err := write(filepath.Join(i.dir, name+".pem"), append(append([]byte{}, certPEM...), keyPEM...)); err != nil {
		return fmt.Errorf("identity of the node: %w", err)
	}
	if name == clientName {
		i.client.Store(cert)
	} else {
		i.serving.Store(cert)
	}
	return nil
}

func loadPair(dir, name string) (*tls.Certificate, error) {
	path := filepath.Join(dir, name+".pem")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := pair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return cert, nil
}

func pair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &cert, nil
}

// newKey makes a key (ECDSA on P-256).
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// write replaces a file as a whole, also after a crash of the machine; nobody but its owner may read it.
func write(path string, data []byte) error {
	return atomicfile.Write(path, data, 0o600, atomicfile.Synced)
}
