package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/dns"
)

const (
	// resolvConf says which name servers the machine asks.
	resolvConf = "/etc/resolv.conf"
	dnsPort    = 53
	// dnsRetry is how long the name server waits when its port is taken.
	dnsRetry = 10 * time.Second
	// namesFile, in the directory of the pod network, has the names that the node knew last.
	namesFile = "names"
	// maxSockets is how many sockets the name server has at most for an address: the kernel deals questions out to them, and each is read by one goroutine.
	maxSockets = 4
	// receiveBuffer is how many bytes of questions may wait at a socket; the kernel counts about 800 for each.
	receiveBuffer = 1 << 20
)

// startDNS starts the name server on addresses of this machine.
func (h *host) startDNS(run *group, own []netip.Addr) error {
	zone, err := dns.NewZone(h.facts.domain, h.informers)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	if h.pods != nil { // an agent, whose API may be away when it starts
		dir := filepath.Join(h.cfg.DataDir, networkDir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("dns: %w", err)
		}
		keeper, err := zone.Keep(filepath.Join(dir, namesFile), h.log)
		if err != nil {
			return err
		}
		run.run("names for a time without the API", keeper.Run)
	}
	clients := &podNamespaces{node: h.cfg.NodeName, of: map[netip.Addr]string{}}
	pods := h.pods
	if pods == nil {
		pods = h.informers.Core().V1().Pods().Informer()
	}
	if _, err := pods.AddEventHandler(clients.handler()); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	stubs, err := config.StubDomains(h.facts.dnsStubs)
	if err != nil {
		return fmt.Errorf("dns: stub domains: %w", err)
	}
	outside := &machineResolver{file: resolvConf, own: own, given: h.facts.dnsUpstream}
	if err := outside.read(); err != nil {
		return err
	}
	c := dns.Config{
		Zone: zone, Upstream: outside.servers, StubDomains: map[string][]string{}, Search: outside.search, Clients: clients, Metrics: dns.NewMetrics(h.metrics), Log: h.log,
	}
	for domain, servers := range stubs {
		for _, a := range servers {
			c.StubDomains[domain] = append(c.StubDomains[domain], a.String())
		}
	}
	if h.names != nil {
		c.Audience = h.names
	}
	s, err := dns.New(c)
	if err != nil {
		return err
	}
	if h.names != nil {
		h.names.Follow(s.Forget)
	}
	outside.word(h)
	run.run("dns", func(ctx context.Context) error {
		said := false
		for {
			udp, tcp, err := listenDNS(ctx, own, h.processors.cores)
			if err == nil {
				return s.Serve(ctx, udp, tcp)
			}
			if !said {
				h.say("the cluster's DNS does not work yet: %v (is there another name server on all addresses of this machine? --disable=dns leaves ours out)", err)
				said = true
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(dnsRetry):
			}
		}
	})
	run.run("the machine's name servers", func(ctx context.Context) error {
		err := dns.WatchFile(ctx, resolvConf, func() { outside.again(h, s) })
		if err != nil { // what was read at the start is good for now
			h.log.Warn("dns: changes of the machine's name servers will not be seen", "err", err)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

// machineResolver is whom the machine asks, but for ourselves, and which domains it searches. One goroutine uses it.
type machineResolver struct {
	file  string
	own   []netip.Addr
	given []string // to be asked instead

	servers, search []string
	refused         []string // servers in the file that are ourselves
}

// read takes what the file says. One that does not exist says nothing.
func (r *machineResolver) read() error {
	c, err := mdns.ClientConfigFromFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = &mdns.ClientConfig{}, nil
	}
	if err != nil {
		return fmt.Errorf("dns: %s: %w", r.file, err)
	}
	r.servers, r.search, r.refused = nil, nil, nil
	for _, text := range c.Servers {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil:
		case slices.Contains(r.own, a.Unmap()):
			r.refused = append(r.refused, text)
		default:
			r.servers = append(r.servers, net.JoinHostPort(text, c.Port))
		}
	}
	if len(r.given) > 0 {
		r.servers, r.refused = r.given, nil
	}
	for _, domain := range c.Search {
		if domain != "." {
			r.search = append(r.search, domain)
		}
	}
	return nil
}

// word tells of what is wrong with what was read.
func (r *machineResolver) word(h *host) {
	if len(r.refused) > 0 {
		h.say("%s names the cluster's own DNS (%s): it is not asked, for it would ask itself", r.file, strings.Join(r.refused, ", "))
	}
	if len(r.servers) == 0 {
		h.say("%s names nobody who knows names outside of the cluster: give --dns-upstream, or write a name server there", r.file)
	}
}

// again takes a new version of the file, if it says something else.
func (r *machineResolver) again(h *host, s *dns.Server) {
	servers, search, refused := r.servers, r.search, r.refused
	if err := r.read(); err != nil {
		h.log.Warn("dns: the name servers stay as they were", "err", err)
		return
	}
	if slices.Equal(servers, r.servers) && slices.Equal(search, r.search) && slices.Equal(refused, r.refused) {
		return
	}
	if err := s.SetUpstream(r.servers, r.search); err != nil {
		h.log.Warn("dns: the name servers stay as they were", "err", err)
		return
	}
	h.log.Info("dns: other name servers are asked", "servers", r.servers, "search", r.search)
	r.word(h)
}

// listenDNS opens sockets at each address, for as many questions at once as there are processors.
func listenDNS(ctx context.Context, addrs []netip.Addr, processors int) (udp []*net.UDPConn, tcp []net.Listener, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, c := range udp {
			err = errors.Join(err, c.Close())
		}
		for _, l := range tcp {
			err = errors.Join(err, l.Close())
		}
	}()
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		if err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			// All pods of a node may start at once. Where it is not allowed, the kernel's own size has to do.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		}); err != nil {
			return err
		}
		return set
	}}
	for _, a := range addrs {
		where := netip.AddrPortFrom(a, dnsPort)
		for range min(processors, maxSockets) {
			c, err := shared.ListenPacket(ctx, "udp", where.String())
			if err != nil {
				return udp, tcp, err
			}
			udp = append(udp, c.(*net.UDPConn))
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(where))
		if err != nil {
			return udp, tcp, err
		}
		tcp = append(tcp, l)
	}
	return udp, tcp, nil
}

// podNamespaces are the namespaces of a node's pods by their addresses.
type podNamespaces struct {
	node string

	mu sync.RWMutex
	of map[netip.Addr]string // guarded by mu
}

// Namespace implements dns.Clients.
func (p *podNamespaces) Namespace(a netip.Addr) (string, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	ns, ok := p.of[a]
	return ns, ok
}

func (p *podNamespaces) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { p.change(nil, obj) },
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Pod)
			is, ok2 := obj.(*corev1.Pod)
			if !ok || !ok2 || is.Spec.NodeName != p.node || (slices.Equal(was.Status.PodIPs, is.Status.PodIPs) && over(was) == over(is)) {
				return
			}
			p.change(old, obj)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			p.change(obj, nil)
		},
	}
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// change forgets the addresses of a pod as it was and learns those of a pod as it is. A pod that is over has none: they may be another's by now.
func (p *podNamespaces) change(old, obj any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod, ok := old.(*corev1.Pod); ok && pod.Spec.NodeName == p.node && !over(pod) {
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil && p.of[a] == pod.Namespace {
				delete(p.of, a)
			}
		}
	}
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName == p.node && !pod.Spec.HostNetwork && !over(pod) {
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil {
				p.of[a] = pod.Namespace
			}
		}
	}
}
