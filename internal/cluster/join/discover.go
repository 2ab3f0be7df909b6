package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/celox/celox/internal/cluster/wayout"
)

// dialTimeout is how long a server may take to answer.
const dialTimeout = 10 * time.Second

// ServerURL makes the address of an API server whole: https and port 6443 go without saying.
func ServerURL(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%q is no address of an API server like https://10.0.0.1:6443", text)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "6443")
	}
	u.Path = ""
	return u, nil
}

// Discovered is what a first look at a server tells.
type Discovered struct {
	// CA is the cluster's authority in PEM. It has the hash that was asked for.
	CA []byte
	// Local is the address of this machine that the server was reached from.
	Local net.IP
}

// ErrUnreachable is what an error of Discover or First wraps if the server may be reached later: it does not answer, or is only starting.
var ErrUnreachable = errors.New("the server cannot be reached")

// unreachable is an error that may pass by itself.
type unreachable struct{ error }

func (unreachable) Is(target error) bool { return target == ErrUnreachable }

func (u unreachable) Unwrap() error { return u.error }

// errOtherCluster is wrapped by Discover where the authority is another.
var errOtherCluster = errors.New("it belongs to another cluster than the token")

// Discover asks a server for the certificates that it shows, finds the authority with the wanted hash among them, and makes sure that it stands for the
// server. Nobody on the way can pretend anything, because the hash came by another way. Errors say what to do.
func Discover(ctx context.Context, server *url.URL, caHash string, now time.Time) (Discovered, error) {
	var d Discovered
	check := func(s tls.ConnectionState) error {
		for _, c := range s.PeerCertificates {
			if Hash(c) == caHash && c.IsCA {
				d.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
				return verify(s.PeerCertificates, c, server.Hostname(), now)
			}
		}
		return errOtherCluster
	}
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&wayout.Dialer{}).DialContext(dialCtx, "tcp", server.Host)
	if err == nil {
		defer conn.Close()
		err = tls.Client(conn, &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: server.Hostname(),
			InsecureSkipVerify: true, // check does it, with the authority that it finds
			VerifyConnection:   check,
		}).HandshakeContext(dialCtx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Discovered{}, ctx.Err()
		}
		return Discovered{}, Explain(err, server, now)
	}
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		d.Local = a.IP
	}
	return d, nil
}

func verify(shown []*x509.Certificate, ca *x509.Certificate, host string, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// Explain puts into words why a server cannot be reached, and what helps. Those that may pass by themselves wrap ErrUnreachable.
func Explain(err error, server *url.URL, now time.Time) error {
	var (
		invalid  x509.CertificateInvalidError
		hostname x509.HostnameError
		dns      *net.DNSError
		timeout  net.Error
		record   tls.RecordHeaderError
	)
	at := fmt.Sprintf("the server at %s", server.Host)
	switch {
	case errors.Is(err, errOtherCluster):
		return fmt.Errorf("%s is not the one that the token is for (the hash of its authority is another): compare the address, or make a new token there with `celox token create`", at)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		word := "has expired"
		if now.Before(c.NotBefore) {
			word = "is not good yet"
		}
		return fmt.Errorf("the clocks differ: this machine believes that it is %s, and the certificate of %s (%s to %s) %s: set the clock of this machine, or of the server",
			now.UTC().Format(time.RFC3339), at, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), word)
	case errors.As(err, &hostname):
		return fmt.Errorf("the certificate of %s is not for that name: start the server with --tls-san %s, or use one of its own addresses (%w)", at, server.Hostname(), err)
	case errors.As(err, &dns):
		return passing("%s cannot be found: %w", at, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return passing("%s refuses connections: is `celox server` running there, and does it listen on that address (--bind-address) and port?", at)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return passing("there is no way from this machine to %s: check the address and the routes (%w)", at, err)
	case errors.As(err, &record):
		return fmt.Errorf("%s does not speak TLS: is that the port of the API?", at)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return passing("%s does not answer within %s: a firewall between may drop packets to TCP port %s, or the address is wrong", at, dialTimeout, server.Port())
	}
	return passing("%s: %w", at, err)
}

func passing(format string, args ...any) error { return unreachable{fmt.Errorf(format, args...)} }

func hostPort(host string, port int32) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
