package webhook

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/transport"
)

// Identities say who the server is towards each webhook. They come from the users of a kubeconfig, which are named by the hosts that
// they are for: "hook.namespace.svc", "hook.namespace.svc:8443" for a port that is not 443, "*.example.com", or "*" for all others.
// Nil knows nobody. Read-only.
type Identities struct{ byName map[string]*Identity }

// Identity is what the server shows of itself: a certificate, a token, or a name and a password.
type Identity struct{ config *transport.Config }

// ReadIdentities reads a kubeconfig; what it says of clusters has no meaning here.
func ReadIdentities(path string) (*Identities, error) {
	file, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := &Identities{byName: make(map[string]*Identity, len(file.AuthInfos))}
	for name, user := range file.AuthInfos {
		config, err := identityConfig(user)
		if err != nil {
			return nil, fmt.Errorf("%s: user %q: %w", path, name, err)
		}
		out.byName[name] = &Identity{config: config}
	}
	return out, nil
}

// identityConfig is the part of a client's configuration that says who he is.
func identityConfig(user *clientcmdapi.AuthInfo) (*transport.Config, error) {
	name := "user"
	whole := clientcmd.NewDefaultClientConfig(clientcmdapi.Config{
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: user},
		// A cluster has to be there; nothing of it is used.
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: "https://webhook.invalid"}},
		Contexts:       map[string]*clientcmdapi.Context{name: {AuthInfo: name, Cluster: name}},
		CurrentContext: name,
	}, &clientcmd.ConfigOverrides{})
	config, err := whole.ClientConfig()
	if err != nil {
		return nil, err
	}
	config = &rest.Config{
		Username: config.Username, Password: config.Password, BearerToken: config.BearerToken, BearerTokenFile: config.BearerTokenFile,
		Impersonate: config.Impersonate, ExecProvider: config.ExecProvider, AuthProvider: config.AuthProvider, AuthConfigPersister: config.AuthConfigPersister,
		TLSClientConfig: rest.TLSClientConfig{
			CertFile: config.CertFile, CertData: config.CertData, KeyFile: config.KeyFile, KeyData: config.KeyData,
		},
	}
	out, err := config.TransportConfig()
	if err != nil {
		return nil, err
	}
	// A key that doesn't fit its certificate is found out now, not at the first call; files are read again when they change.
	if config.CertFile != "" && len(config.CertData) == 0 {
		if _, err := tls.LoadX509KeyPair(config.CertFile, config.KeyFile); err != nil {
			return nil, err
		}
	}
	if _, err := transport.TLSConfigFor(out); err != nil {
		return nil, err
	}
	return out, nil
}

// For finds who the server is towards a host: its own name first, then the patterns that it fits, the longest one first, and all of
// that once more without the port if that is 443.
func (i *Identities) For(host string) *Identity {
	if i == nil {
		return nil
	}
	names := []string{host}
	if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
		names = append(names, name)
	}
	for _, name := range names {
		if id := i.byName[name]; id != nil {
			return id
		}
		for rest := name; ; {
			_, after, more := strings.Cut(rest, ".")
			if !more {
				break
			}
			if id := i.byName["*."+after]; id != nil {
				return id
			}
			rest = after
		}
	}
	return i.byName["*"]
}

// wrap lets requests say who sends them.
func (i *Identity) wrap(rt http.RoundTripper) (http.RoundTripper, error) {
	rt, err := transport.HTTPWrappersForConfig(i.config, rt)
	if err != nil {
		return nil, err
	}
	return rt, nil
}
