package wayout

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxReason is how much of a proxy's status line is passed on, in bytes.
	maxReason = 200
	// headerLimit bounds an answer of a proxy, in bytes.
	headerLimit = 64 << 10
)

// Dialer opens connections. The zero Dialer is good.
type Dialer struct {
	// Timeout is how long it may take until the other side is there, proxy or not; 0 is as long as the context lets it.
	Timeout time.Duration
	// KeepAlive is that of net.Dialer.
	KeepAlive time.Duration
	// Proxy says which proxy leads to an https URL; no proxy is straight. Nil asks the environment, as it was when the process started.
	Proxy func(*url.URL) (*url.URL, error)
	// TLS is for proxies that are spoken to over TLS; nil is the system's authorities.
	TLS *tls.Config
}

// ProxyError says that a proxy is the trouble, not the server behind it. It does not unwrap: what happened to the proxy did not happen to the server.
type ProxyError struct {
	Proxy string // without credentials
	Err   error
}

func (e *ProxyError) Error() string {
	return fmt.Sprintf("the proxy %s (HTTPS_PROXY): %v", e.Proxy, e.Err)
}

// DialContext connects to an address (host and port).
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	proxy, err := d.proxy(address)
	if err != nil {
		return nil, err
	}
	straight := &net.Dialer{Timeout: d.Timeout, KeepAlive: d.KeepAlive}
	if proxy == nil {
		return straight.DialContext(ctx, network, address)
	}
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	conn, err := d.through(ctx, straight, network, proxy, address)
	if err != nil {
		return nil, &ProxyError{Proxy: proxy.Redacted(), Err: err}
	}
	return conn, nil
}

func (d *Dialer) proxy(address string) (*url.URL, error) {
	to := &url.URL{Scheme: "https", Host: address}
	find := d.Proxy
	if find == nil {
		find = func(u *url.URL) (*url.URL, error) { return http.ProxyFromEnvironment(&http.Request{URL: u}) }
	}
	proxy, err := find(to)
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	if proxy != nil && proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf("HTTPS_PROXY: a proxy of the kind %q is not supported: give one with http:// or https://", proxy.Scheme)
	}
	return proxy, nil
}

// through has a proxy connect to an address.
func (d *Dialer) through(ctx context.Context, straight *net.Dialer, network string, proxy *url.URL, address string) (_ net.Conn, err error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	conn, err := straight.DialContext(ctx, network, net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = conn.Close()
			if ctx.Err() != nil {
				err = fmt.Errorf("it does not answer: %w", context.Cause(ctx))
			}
		}
	}()
	if proxy.Scheme == "https" {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if d.TLS != nil {
			config = d.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = proxy.Hostname()
		}
		over := tls.Client(conn, config)
		if err := over.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = over
	}
	return conn, connect(conn, proxy.User, address)
}

// connect asks for the connection.
func connect(conn net.Conn, user *url.Userinfo, address string) error {
	var ask strings.Builder
	fmt.Fprintf(&ask, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", address, address)
	if user != nil {
		password, _ := user.Password()
		fmt.Fprintf(&ask, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	ask.WriteString("\r\n")
	if _, err := io.WriteString(conn, ask.String()); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: conn, N: headerLimit}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it does not connect to %s: %s", address, strings.ToValidUTF8(resp.Status[:min(len(resp.Status), maxReason)], "?"))
	}
	if br.Buffered() > 0 {
		return errors.New("it says more than it was asked for") // of TLS the client speaks first
	}
	return nil
}
