package network

import (
	"fmt"
	"net/netip"
)

// pool hands out the addresses of one range. It is a function of its own history and does no I/O. The network's first address and, for
// IPv4, its last are not handed out, nor is the gateway, which is the one after the first.
type pool struct {
	prefix  netip.Prefix
	gateway netip.Addr
	last    netip.Addr // the last address that may be handed out
	next    netip.Addr // where the search for a free one begins: addresses rest for as long as possible before they are used again
	used    map[netip.Addr]string
}

// minHostBits is what a range needs for a network, a gateway, a pod and (IPv4) a broadcast address.
const minHostBits = 2

func newPool(prefix netip.Prefix) (*pool, error) {
	if !prefix.IsValid() || prefix.Masked() != prefix {
		return nil, fmt.Errorf("pod range %v: not the first address of a network", prefix)
	}
	host := prefix.Addr().BitLen() - prefix.Bits()
	if host < minHostBits {
		return nil, fmt.Errorf("pod range %v is too small: it needs at least %d addresses", prefix, 1<<minHostBits)
	}
	p := &pool{prefix: prefix, gateway: prefix.Addr().Next(), used: map[netip.Addr]string{}}
	b := prefix.Addr().AsSlice()
	for i := range host {
		b[len(b)-1-i/8] |= 1 << (i % 8)
	}
	p.last, _ = netip.AddrFromSlice(b)
	if p.last.Is4() {
		p.last = p.last.Prev()
	}
	p.next = p.gateway.Next()
	return p, nil
}

// take hands out an address that isn't in use.
func (p *pool) take(owner string) (netip.Addr, error) {
	a := p.next
	// One of that many addresses is free, or there are no more.
	for range len(p.used) + 1 {
		if !p.prefix.Contains(a) || a.Compare(p.last) > 0 {
			a = p.gateway.Next()
		}
		if _, ok := p.used[a]; !ok {
			p.used[a] = owner
			p.next = a.Next()
			return a, nil
		}
		a = a.Next()
	}
	return netip.Addr{}, fmt.Errorf("no free address in pod range %v: all %d are in use", p.prefix, len(p.used))
}

// claim marks an address that was handed out by an earlier process.
func (p *pool) claim(a netip.Addr, owner string) error {
	if !p.prefix.Contains(a) || a == p.gateway || a == p.prefix.Addr() || a.Compare(p.last) > 0 {
		return fmt.Errorf("address %v is not one of pod range %v", a, p.prefix)
	}
	if o, ok := p.used[a]; ok && o != owner {
		return fmt.Errorf("address %v has two owners, %s and %s", a, o, owner)
	}
	p.used[a] = owner
	if a.Compare(p.next) >= 0 {
		p.next = a.Next()
	}
	return nil
}

func (p *pool) release(a netip.Addr, owner string) {
	if p.used[a] == owner {
		delete(p.used, a)
	}
}
