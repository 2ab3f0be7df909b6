package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// pace is how often ways are looked at.
type pace struct {
	// A new way is tried after first, then each time after twice as long, at most broken, until it works or has failed for fresh.
	first, fresh time.Duration
	// A way that works is looked at every so often. When it fails then, proven has to pass before anybody is told: the node may be starting anew.
	every, proven time.Duration
	// broken is how often a way is tried that does not work.
	broken time.Duration
	// wait is how long an answer may take.
	wait time.Duration
}

func usualPace() pace {
	return pace{first: 500 * time.Millisecond, fresh: 15 * time.Second, every: time.Minute, proven: 30 * time.Second, broken: 5 * time.Second, wait: 2 * time.Second}
}

// Report is news of the way to a node's pods.
type Report struct {
	Node string
	// Works is that packets of all sizes arrive; what follows is empty then.
	Works bool
	// Problem says what is wrong, and what would help.
	Problem string
	// Reason is the problem in one word: VXLANBlocked, WireGuardBlocked, PodRouteBlocked or MTUTooLarge.
	Reason string
}

// target is one way to look at: from the gateway of this node's pods to that of another's, which its kernel answers for.
type target struct {
	node     string
	from, to netip.Addr
	way      way
	// own and far are the addresses of the two nodes.
	own, far netip.Addr
	mtu      int
	port     uint16
}

// gateway is the address that a node has itself in the network of its pods.
func gateway(pods netip.Prefix) netip.Addr { return pods.Masked().Addr().Next() }

// targets are the ways that the kernel has now.
func (k kernel) targets(self Self, s spec, peers []Peer, links map[way]int) []target {
	var out []target
	for _, r := range s.Routes {
		if r.Way == refused {
			continue
		}
		at := slices.IndexFunc(peers, func(p Peer) bool { return slices.Contains(p.Pods, r.Dst) })
		mine := slices.IndexFunc(self.Pods, func(p netip.Prefix) bool { return p.Addr().Is6() == r.Dst.Addr().Is6() })
		if at < 0 || mine < 0 {
			continue
		}
		t := target{node: peers[at].Name, from: gateway(self.Pods[mine]), to: gateway(r.Dst), way: r.Way}
		link := r.Link
		if r.Way == direct {
			t.own, _ = family(self.Addrs, r.Via.Is6())
			t.far = r.Via
		} else {
			link = links[r.Way]
			t.own, t.far, _ = underlay(self.Addrs, peers[at].Addrs)
			t.port = Port
			if r.Way == encrypted {
				t.port = self.Port
			}
		}
		l, err := k.h.LinkByIndex(link)
		if err != nil {
			continue // it has just gone, and the next pass knows
		}
		t.mtu = l.Attrs().MTU
		out = append(out, t)
	}
	return out
}

// aim says which ways there are.
func (m *Mesh) aim(targets []target) {
	m.mu.Lock()
	m.targets = targets
	m.mu.Unlock()
	select {
	case m.looked <- struct{}{}:
	default:
	}
}

// sight is what is known of a target.
type sight struct {
	due    time.Time
	wait   time.Duration
	last   answer
	since  time.Time // of failing like that; zero is that it works
	worked bool      // ever
	told   string    // the reason that was reported; empty is none
}

// probe looks at the ways until ctx ends: at new ones soon, at those that work rarely. While nothing is due it sleeps.
func (m *Mesh) probe(ctx context.Context) {
	known := map[target]*sight{}
	for {
		var timer <-chan time.Time
		if next, ok := earliest(known); ok {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-m.looked:
			m.mu.Lock()
			targets := m.targets
			m.mu.Unlock()
			m.take(known, targets, time.Now())
		case <-timer:
			m.look(ctx, known)
		}
	}
}

func earliest(known map[target]*sight) (at time.Time, ok bool) {
	for _, s := range known {
		if !ok || s.due.Before(at) {
			at, ok = s.due, true
		}
	}
	return at, ok
}

// take takes up the targets that there are now. One that has gone, or is another now, is no problem any more.
func (m *Mesh) take(known map[target]*sight, targets []target, now time.Time) {
	for t := range known {
		if !slices.Contains(targets, t) {
			told := known[t].told
			delete(known, t)
			if told != "" && !troubled(known, t.node, "") {
				m.tell(Report{Node: t.node, Works: true})
			}
		}
	}
	for _, t := range targets {
		if known[t] == nil {
			known[t] = &sight{due: now.Add(m.pace.first), wait: m.pace.first, since: now, last: none}
		}
	}
}

// troubled says whether a problem of a node was told: that one, or any.
func troubled(known map[target]*sight, node, reason string) bool {
	for t, s := range known {
		if t.node == node && s.told != "" && (reason == "" || s.told == reason) {
			return true
		}
	}
	return false
}

// look probes what is due.
func (m *Mesh) look(ctx context.Context, known map[target]*sight) {
	now := time.Now()
	var due []target
	for t, s := range known {
		if !s.due.After(now) {
			due = append(due, t)
		}
	}
	answers, err := ping(ctx, m.ns, due, m.pace.wait)
	if ctx.Err() != nil {
		return
	}
	now = time.Now()
	for i, t := range due {
		s := known[t]
		if err != nil || answers[i] == unknown {
			if err != nil {
				m.log.Debug("pod network: cannot look at the ways to other nodes", "err", err)
			}
			s.due = now.Add(m.pace.every)
			continue
		}
		r, news := s.judge(t, answers[i], now, m.pace)
		// Of one node's ways, which are those of its families, one word is enough.
		switch {
		case !news:
		case r.Works && troubled(known, t.node, ""):
		case !r.Works && troubled(known, t.node, r.Reason), m.tell(r):
			s.told = r.Reason
		}
	}
}

// judge takes up an answer, and says what is to be told.
func (s *sight) judge(t target, a answer, now time.Time, p pace) (Report, bool) {
	if a == well {
		told := s.told
		s.due, s.wait, s.since, s.worked, s.told, s.last = now.Add(p.every), p.first, time.Time{}, true, "", well
		return Report{Node: t.node, Works: true}, told != ""
	}
	if s.since.IsZero() || a != s.last {
		s.since = now
	}
	s.last = a
	patience := p.fresh
	if s.worked {
		patience = p.proven
	}
	s.wait = min(2*s.wait, p.broken)
	s.due = now.Add(s.wait)
	r := t.trouble(a)
	if now.Sub(s.since) < patience || s.told == r.Reason {
		return Report{}, false
	}
	return r, true
}

// trouble puts into words what is wrong with a way, and what helps.
func (t target) trouble(a answer) Report {
	r := Report{Node: t.node}
	if a == short {
		r.Reason = "MTUTooLarge"
		r.Problem = fmt.Sprintf("packets of %d bytes to the pods of node %s get lost, small ones arrive: something between %v and %v passes only smaller ones and does not say so; "+
			"set the MTU of this machine's interface to what passes, or let ICMP through", t.mtu, t.node, t.own, t.far)
		return r
	}
	switch t.way {
	case direct:
		r.Reason = "PodRouteBlocked"
		r.Problem = fmt.Sprintf("node %s does not answer at %v by way of its address %v, a neighbour: if it runs, let packets from and to the addresses of pods through "+
			"(firewalls of both machines, and the source and destination check of a cloud's network)", t.node, t.to, t.far)
	case encrypted:
		r.Reason = "WireGuardBlocked"
		r.Problem = fmt.Sprintf("node %s does not answer through WireGuard: if it runs, let UDP port %d through between %v and %v (firewalls of both machines, and between them)",
			t.node, t.port, t.own, t.far)
	default:
		r.Reason = "VXLANBlocked"
		r.Problem = fmt.Sprintf("node %s does not answer through VXLAN: if it runs, let UDP port %d through between %v and %v (firewalls of both machines, and between them)",
			t.node, t.port, t.own, t.far)
	}
	return r
}

func (m *Mesh) tell(r Report) bool {
	if m.report != nil && !m.report(r) {
		return false
	}
	if r.Works {
		m.log.Info("pod network: the way to the pods of a node works again", "node", r.Node)
	} else {
		m.log.Warn("pod network: the way to the pods of a node does not work", "node", r.Node, "reason", r.Reason, "err", r.Problem)
	}
	return true
}
