package cluster

import (
	"slices"
	"time"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/proxy"
)

// startServices starts what makes services work on a node: their addresses and their names. pods is nil for a pod network of somebody else's.
func (h *host) startServices(run *group, pods *nodeNetwork) error {
	wantsDNS, wantsProxy := !slices.Contains(h.facts.disabled, config.DNS), !slices.Contains(h.facts.disabled, config.ServiceProxy)
	if !wantsDNS && !wantsProxy {
		return network.RemoveServiceAddresses() // of an earlier configuration: others have them now
	}
	addresses := network.ServiceAddresses{Sources: h.addrs}
	if wantsDNS {
		addresses.Own = append(h.facts.dns(), config.LinkLocalDNS())
	}
	mode := ""
	if wantsProxy {
		if mode = proxyMode(h.facts.proxyMode, func() error { return rulesPossible(proxy.Probe, time.Sleep, h.log) }, h.say); mode == config.ProxyNFTables {
			addresses.Ranges = h.facts.serviceCIDRs // the other mode has routes of its own
		}
	}
	if err := network.EnsureServiceAddresses(addresses); err != nil {
		return err
	}
	if wantsProxy {
		if err := h.startProxy(run, pods, mode); err != nil {
			return err
		}
	}
	if wantsDNS {
		return h.startDNS(run, addresses.Own)
	}
	return nil
}
