package config

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/spf13/pflag"
)

// IngressController serves Ingresses on the ports of every node.
const IngressController = "ingress"

// Ingress is what the ingress of all nodes can be told.
type Ingress struct {
	// HTTPPort and HTTPSPort are those of the machines.
	HTTPPort, HTTPSPort int
	// TrustedProxies are networks of proxies in front, whose words about clients count.
	TrustedProxies []string
	// ProxyProtocol says that those begin each connection with a line of the PROXY protocol.
	ProxyProtocol bool
	// AccessLog is a file on each node; "-" is the standard output, "" none.
	AccessLog string
}

func (i *Ingress) bind(fs *pflag.FlagSet) {
	fs.IntVar(&i.HTTPPort, "ingress-http-port", 80, "port of every node on which Ingresses are served; it is open only while there is one")
	fs.IntVar(&i.HTTPSPort, "ingress-https-port", 443, "port of every node on which Ingresses are served with TLS")
	fs.StringSliceVar(&i.TrustedProxies, "ingress-trusted-proxies", nil, "networks of proxies in front of the ingress, whose X-Forwarded-For, -Host and -Proto are believed; others' are replaced")
	fs.BoolVar(&i.ProxyProtocol, "ingress-proxy-protocol", false, "expect the PROXY protocol (1 or 2) on connections from --ingress-trusted-proxies")
	fs.StringVar(&i.AccessLog, "ingress-access-log", "", "file on every node that requests to Ingresses are written to, a line of JSON each; - is the standard output, none is no log")
}

// Trusted are the networks of TrustedProxies; an address alone is a network of one.
func (i *Ingress) Trusted() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range i.TrustedProxies {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no network like 10.0.0.0/8", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// check tells bad about every value that is wrong.
func (i *Ingress) check(bad func(key, format string, args ...any)) {
	for key, port := range map[string]int{"ingress-http-port": i.HTTPPort, "ingress-https-port": i.HTTPSPort} {
		checkPort(bad, key, port)
	}
	if i.HTTPPort == i.HTTPSPort {
		bad("ingress-https-port", "%d is that of --ingress-http-port", i.HTTPSPort)
	}
	if trusted, err := i.Trusted(); err != nil {
		bad("ingress-trusted-proxies", "%v", err)
	} else if i.ProxyProtocol && len(trusted) == 0 {
		bad("ingress-proxy-protocol", "say with --ingress-trusted-proxies who may use it")
	}
	if i.AccessLog != "" && i.AccessLog != "-" && !filepath.IsAbs(i.AccessLog) {
		bad("ingress-access-log", "%q is no absolute path", i.AccessLog)
	}
}
