package connect

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"github.com/celox/celox/internal/apiserver/request"
)

// split reads a name of a proxy request: [SCHEME:]NAME[:PORT].
func split(kind, id string) (scheme, name, port string, err error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", kind, id))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}

// proxyable refuses addresses that are this machine's own affair.
func proxyable(ip string) error {
	a, err := netip.ParseAddr(ip)
	if err != nil || !a.Unmap().IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (c *Connector) proxyPod(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	scheme, name, port, err := split("pod", info.Name)
	if err != nil {
		return err
	}
	pod, err := c.objects.Pod(r.Context(), info.Namespace, name)
	if err != nil {
		return err
	}
	for i := range pod.Spec.Containers {
		if ports := pod.Spec.Containers[i].Ports; port == "" && len(ports) > 0 {
			port = strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	if err := proxyable(pod.Status.PodIP); err != nil {
		return err
	}
	return c.pass(w, r, info, c.pods, &url.URL{Scheme: scheme, Host: hostPort(pod.Status.PodIP, port)})
}

func hostPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func (c *Connector) proxyService(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	scheme, name, port, err := split("service", info.Name)
	if err != nil {
		return err
	}
	if number, nerr := strconv.ParseInt(port, 10, 64); nerr == nil { // a name needs no Service to be found
		svc, err := c.objects.Service(r.Context(), info.Namespace, name)
		if err != nil {
			return err
		}
		if port, err = portName(svc, number); err != nil {
			return err
		}
	}
	slices, err := c.objects.EndpointSlices(r.Context(), info.Namespace, name)
	if err != nil {
		return err
	}
	var hosts []string
	for _, s := range slices {
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || p.Name == nil && port != "" || p.Name != nil && *p.Name != port {
				continue
			}
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && len(e.Addresses) > 0 {
					hosts = append(hosts, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	if len(hosts) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", info.Name))
	}
	host := hosts[rand.IntN(len(hosts))]
	ip, _, err := net.SplitHostPort(host)
	if err != nil {
		return err
	}
	if err := proxyable(ip); err != nil {
		return err
	}
	return c.pass(w, r, info, c.pods, &url.URL{Scheme: scheme, Host: host})
}

// portName finds the name by which endpoints know a port of a service.
func portName(svc *corev1.Service, number int64) (string, error) {
	for i := range svc.Spec.Ports {
		if int64(svc.Spec.Ports[i].Port) == number {
			return svc.Spec.Ports[i].Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, svc.Name))
}

func (c *Connector) proxyNode(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	scheme, name, port, err := split("node", info.Name)
	if err != nil {
		return err
	}
	node, err := c.objects.Node(r.Context(), name)
	if err != nil {
		return err
	}
	kubelet := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if kubelet == 0 {
		kubelet = defaultNodePort
	}
	if port == "" || port == strconv.Itoa(kubelet) {
		to, err := c.wayTo(r.Context(), name)
		if err != nil {
			return err
		}
		return c.pass(w, r, info, to.transport, to.base)
	}
	host, err := addressOf(node)
	if err != nil {
		return err
	}
	if err := proxyable(host); err != nil {
		return err
	}
	return c.pass(w, r, info, c.direct, &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)})
}

// pass hands a request on to the path below base that follows "proxy" in its own path. Links in pages are rewritten, so that
// they lead back here.
func (c *Connector) pass(w http.ResponseWriter, r *http.Request, info *request.Info, t http.RoundTripper, base *url.URL) error {
	own := "/" + strings.Join([]string{info.Resource, info.Name, "proxy"}, "/")
	before, rest, _ := strings.Cut(r.URL.Path, own)
	if rest == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// Relative links of a page need the slash.
		to := url.URL{Path: r.URL.Path + "/", RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", to.String())
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	target := *base
	target.Path, target.RawQuery = rest, r.URL.RawQuery
	if _, raw, ok := strings.Cut(r.URL.EscapedPath(), own); ok {
		target.RawPath = raw
	}
	if r.Header.Get("Upgrade") == "" {
		// Without scheme and host a link stays a path: who reads the page knows the way here, perhaps through proxies of their own.
		t = &utilproxy.Transport{PathPrepend: before + own, RoundTripper: t}
	}
	return c.forward(w, r, t, &target, withoutCORS)
}

// withoutCORS keeps what is behind the proxy from opening the API server's own origin to other sites.
func withoutCORS(resp *http.Response) error {
	for _, h := range []string{"Credentials", "Headers", "Methods", "Origin"} {
		resp.Header.Del("Access-Control-Allow-" + h)
	}
	return nil
}
