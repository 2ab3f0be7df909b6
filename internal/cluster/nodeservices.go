package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/dns"
	"github.com/celox/celox/internal/network/proxy"
)

const (
	// resolvConf says which name servers the machine asks.
	resolvConf = "/etc/resolv.conf"
	dnsPort    = 53
	// dnsRetry is how long the name server waits when its port is taken.
	dnsRetry = 10 * time.Second
)

// linkLocalDNS is the address at which every node has the cluster's DNS besides that of the service, as NodeLocal DNSCache has it.
func linkLocalDNS() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 20, 10}) }

// startServices starts what makes services work on a node: their addresses and their names. pods is nil for a pod network of somebody else's.
func (h *host) startServices(run *group, pods *nodeNetwork) error {
	wantsDNS, wantsProxy := !slices.Contains(h.facts.disabled, config.DNS), !slices.Contains(h.facts.disabled, config.ServiceProxy)
	if !wantsDNS && !wantsProxy {
		return nil
	}
	addresses := network.ServiceAddresses{Sources: h.addrs}
	if wantsDNS {
		addresses.Own = []netip.Addr{h.facts.dns(), linkLocalDNS()}
	}
	if wantsProxy {
		addresses.Ranges = h.facts.serviceCIDRs
	}
	if err := network.EnsureServiceAddresses(addresses); err != nil {
		return err
	}
	if wantsProxy {
		if err := h.startProxy(run, pods); err != nil {
			return err
		}
	}
	if wantsDNS {
		return h.startDNS(run, addresses.Own)
	}
	return nil
}

func (h *host) startProxy(run *group, pods *nodeNetwork) error {
	ranges := func() []netip.Prefix { return nil }
	if pods != nil {
		ranges = pods.podRanges
	}
	datapath, err := proxy.NewNFTables(ranges, h.log)
	if err != nil {
		return err
	}
	tampering, err := proxy.NewTampering()
	if err != nil {
		return errors.Join(err, datapath.Close())
	}
	p, err := proxy.New(proxy.Config{NodeName: h.cfg.NodeName, Informers: h.informers, Datapath: datapath, Tampering: tampering.C(), Log: h.log})
	if err != nil {
		return errors.Join(err, datapath.Close(), tampering.Close())
	}
	if pods != nil {
		changed := pods.changed
		pods.changed = func() {
			changed()
			p.Again()
		}
	}
	run.run("news of nftables", tampering.Run)
	run.run("service proxy", p.Run)
	return nil
}

// startDNS starts the name server on addresses of this machine.
func (h *host) startDNS(run *group, own []netip.Addr) error {
	zone, err := dns.NewZone(h.facts.domain, h.informers)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	clients := &podNamespaces{node: h.cfg.NodeName, of: map[netip.Addr]string{}}
	pods := h.pods
	if pods == nil {
		pods = h.informers.Core().V1().Pods().Informer()
	}
	if _, err := pods.AddEventHandler(clients.handler()); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	upstream, search, err := machineResolver(own)
	if err != nil {
		return err
	}
	s, err := dns.New(dns.Config{Zone: zone, Upstream: upstream, Search: search, Clients: clients, Log: h.log})
	if err != nil {
		return err
	}
	run.run("dns", func(ctx context.Context) error {
		said := false
		for {
			udp, tcp, err := listenDNS(own)
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
	return nil
}

// machineResolver is whom the machine asks, but for ourselves, and which domains it searches.
func machineResolver(own []netip.Addr) (servers, search []string, err error) {
	c, err := mdns.ClientConfigFromFile(resolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("dns: %s: %w", resolvConf, err)
	}
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		if err == nil && !slices.Contains(own, a) {
			servers = append(servers, net.JoinHostPort(s, c.Port))
		}
	}
	for _, domain := range c.Search {
		if domain != "." {
			search = append(search, domain)
		}
	}
	return servers, search, nil
}

func listenDNS(addrs []netip.Addr) ([]*net.UDPConn, []net.Listener, error) {
	var udp []*net.UDPConn
	var tcp []net.Listener
	for _, a := range addrs {
		where := netip.AddrPortFrom(a, dnsPort)
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(where))
		if err == nil {
			udp = append(udp, c)
			var l *net.TCPListener
			if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(where)); err == nil {
				tcp = append(tcp, l)
				continue
			}
		}
		for _, c := range udp {
			err = errors.Join(err, c.Close())
		}
		for _, l := range tcp {
			err = errors.Join(err, l.Close())
		}
		return nil, nil, err
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
