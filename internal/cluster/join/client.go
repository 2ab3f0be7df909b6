package join

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

// keepAlive is how often idle connections are looked after.
const keepAlive = 30 * time.Second

// Config is how a node speaks to an API server: to the one that answered last, or the next of those that it knows. The function ends all connections, so that the next ones show the newest certificate.
func (i *Identity) Config(userAgent string) (config *rest.Config, reconnect func()) {
	// Wherever the URL leads: the server that answers.
	dialer := connrotation.NewDialer(func(ctx context.Context, network, _ string) (net.Conn, error) { return i.dial(ctx, network) })
	transport := utilnet.SetTransportDefaults(&http.Transport{ // with health checks of HTTP/2 connections: a dead server is noticed
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: i.Pool(), ServerName: serverName,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.Client(), nil },
		},
		Proxy:               func(*http.Request) (*url.URL, error) { return nil, nil }, // dial sees to that
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: 25,
		IdleConnTimeout:     90 * time.Second,
	})
	return &rest.Config{
		Host: "https://" + i.ways()[0], Transport: transport, UserAgent: userAgent, QPS: -1, // priority and fairness are the server's business
		WarningHandlerWithContext: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON, ContentType: runtime.ContentTypeProtobuf,
		},
	}, dialer.CloseAll
}

// ServingTLS is for the listener of the node's own API. Until the cluster has given a certificate, connections are refused.
func (i *Identity) ServingTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: i.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := i.Serving(); c != nil {
				return c, nil
			}
			return nil, errNoCertificate
		},
	}
}
