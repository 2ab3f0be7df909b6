package dns

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// SetUpstream makes others the name servers for everything that neither the cluster nor a stub domain has, and the domains that pods inherit from the
// machine, as in Config. What was heard from those before is forgotten.
func (s *Server) SetUpstream(servers, search []string) error {
	if err := s.resolver.forward.set(servers); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	s.resolver.setSearch(search)
	s.upstream.Add(1)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

func (r *resolver) setSearch(domains []string) {
	search := make([]string, 0, len(domains))
	for _, d := range domains {
		search = append(search, dns.Fqdn(strings.ToLower(d)))
	}
	r.search.Store(&search)
}

// probes are questions by which we recognise ourselves. A server that is asked one, and asks us, would do so with every name for ever.
type probes struct {
	mu   sync.Mutex
	sent map[string]bool // by name: whether it came back; guarded by mu
}

// back notes that a name was asked here, and says whether it is one of ours.
func (p *probes) back(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ours := p.sent[name]
	if ours {
		p.sent[name] = true
	}
	return ours
}

// try asks with exchange and says whether that came back.
func (p *probes) try(name string, exchange func()) bool {
	p.mu.Lock()
	p.sent[name] = false
	p.mu.Unlock()
	exchange()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer delete(p.sent, name)
	return p.sent[name]
}

// findLoops looks for servers that ask us again, whenever there are others, until ctx ends. They are not asked any more, and the log has a word of it.
func (s *Server) findLoops(ctx context.Context) {
	for {
		for _, domain := range s.resolver.forward.domains() {
			for _, server := range s.resolver.forward.serversFor(domain) {
				// Nobody else has such a name, nor an answer to it that he remembers.
				name := strings.ToLower(rand.Text() + "." + rand.Text() + "." + strings.TrimPrefix(domain, "."))
				q := new(dns.Msg)
				q.SetQuestion(name, dns.TypeHINFO)
				if s.probes.try(name, func() { _, _ = s.resolver.forward.try(ctx, q, server) }) { // an answer is not what it is about
					s.resolver.forward.exclude(server)
					s.cfg.Log.Error("dns: a name server sends our questions back to us; it is not asked", "server", server, "domain", domain)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
	}
}
