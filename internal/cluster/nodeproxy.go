package cluster

import (
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/proxy"
	"github.com/celox/celox/internal/network/proxy/userspace"
)

// proxyStatus is where kube-proxy tells its machine how it works.
const proxyStatus = "127.0.0.1:10249"

// proxyMode is how services are made to work on this machine: as the cluster wants it, if the kernel can.
func proxyMode(wanted string, possible func() error, say Say) string {
	if wanted == config.ProxyUserspace {
		return wanted
	}
	if err := possible(); err != nil {
		say("services go through celox itself (--proxy-mode=userspace), because this kernel cannot have the rules for them: %v", err)
		return config.ProxyUserspace
	}
	return config.ProxyNFTables
}

const (
	// A kernel that cannot have rules is asked again so many times, after a pause that doubles: somebody else's change may be in the way.
	probeTries = 6
	probePause = 50 * time.Millisecond
)

// rulesPossible returns why this kernel cannot have rules, or nil. What passes is no reason: who makes the rules tries again.
func rulesPossible(probe func() error, sleep func(time.Duration), log *slog.Logger) error {
	for try, pause := 1, probePause; ; try, pause = try+1, 2*pause {
		err := probe()
		switch {
		case err == nil:
			return nil
		case proxy.NoTables(err): // and never will
			return err
		case try < probeTries:
			sleep(pause)
		case proxy.Passing(err):
			log.Warn("nftables: the kernel does not answer as it should; going on", "err", err)
			return nil
		default:
			return err
		}
	}
}

func (h *host) startProxy(run *group, pods *nodeNetwork, mode string) error {
	ranges := func() []netip.Prefix { return nil }
	if pods != nil {
		ranges = pods.podRanges
	}
	cfg := proxy.Config{
		NodeName: h.cfg.NodeName, Informers: h.informers, HealthPort: config.ProxyHealthPort, Status: proxy.Status{Address: proxyStatus, Mode: mode, Metrics: h.metrics},
		Metrics: proxy.NewMetrics(h.metrics), Log: h.log,
	}
	if mode == config.ProxyUserspace {
		return h.startUserspace(run, pods, ranges, cfg)
	}
	datapath, err := proxy.NewNFTables(ranges, h.log)
	if err != nil {
		return err
	}
	if err := proxy.SetTimeouts(filepath.Join(h.cfg.DataDir, networkDir)); err != nil {
		h.log.Warn("service proxy: connections are forgotten when the kernel thinks so", "err", err)
	}
	tampering, err := proxy.NewTampering()
	if err != nil {
		return errors.Join(err, datapath.Close())
	}
	datapath.Quiet(tampering)
	cfg.Datapath, cfg.Tampering = datapath, tampering.C()
	p, err := proxy.New(cfg)
	if err != nil {
		return errors.Join(err, datapath.Close(), tampering.Close())
	}
	h.runProxy(run, pods, p)
	run.run("news of nftables", tampering.Run)
	return nil
}

func (h *host) startUserspace(run *group, pods *nodeNetwork, ranges func() []netip.Prefix, cfg proxy.Config) error {
	nodes := h.informers.Core().V1().Nodes()
	datapath, err := userspace.New(userspace.Config{
		Ranges: h.facts.serviceCIDRs, Sources: h.addrs, Pods: ranges, Log: h.log,
		Elsewhere: func(a netip.Addr) bool {
			all, err := nodes.Lister().List(labels.Everything())
			if err != nil {
				return true // listers of a cache don't fail
			}
			for _, n := range all {
				if n.Name != h.cfg.NodeName && hasAddress(n, a) {
					return true
				}
			}
			return false
		},
	})
	if err != nil {
		return err
	}
	cfg.Datapath, cfg.Tampering = datapath, datapath.Tampering()
	p, err := proxy.New(cfg)
	if err != nil {
		return errors.Join(err, datapath.Close())
	}
	// What leads to an address depends on whose it is.
	again := func(any) { p.Again() }
	if _, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: again, DeleteFunc: again,
		UpdateFunc: func(old, now any) {
			was, ok := old.(*corev1.Node)
			is, ok2 := now.(*corev1.Node)
			if ok && ok2 && !sameAddresses(was, is) {
				p.Again()
			}
		},
	}); err != nil {
		return errors.Join(err, datapath.Close())
	}
	h.runProxy(run, pods, p)
	return nil
}

func (h *host) runProxy(run *group, pods *nodeNetwork, p *proxy.Proxy) {
	if pods != nil {
		changed := pods.changed
		pods.changed = func() {
			changed()
			p.Again()
		}
	}
	run.run("service proxy", p.Run)
}

func hasAddress(n *corev1.Node, a netip.Addr) bool {
	for _, has := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(has.Address); err == nil && ip.Unmap() == a {
			return true
		}
	}
	return false
}

func sameAddresses(a, b *corev1.Node) bool {
	if len(a.Status.Addresses) != len(b.Status.Addresses) {
		return false
	}
	for i := range a.Status.Addresses {
		if a.Status.Addresses[i] != b.Status.Addresses[i] {
			return false
		}
	}
	return true
}
