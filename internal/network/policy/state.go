package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// state is the compiler: it is told of what there is, piece by piece and in any order, and keeps Desired up to date. The result does not depend on the order. It is
// used by one goroutine.
type state struct {
	namespaces map[string]*namespace
	cluster    map[string]*policy // those that are in no namespace
	ordered    []*policy          // cluster, by tier and priority; nil is not known
	anywhere   map[string]*peers  // sets whose selector is about namespaces
	named      map[string]*peers  // sets of addresses that domain names have
	resolved   map[string]resolved
	renamed    bool // named has sets for other domains than when it was asked last
	sandboxes  map[string]sandbox
	owners     map[netip.Addr]string // of addresses of this node: the sandbox that came last
	chains     map[string]*chainUse
	sets       map[string]*peers
	unsettled  map[name]struct{} // pods of this node whose rules have to be looked at
	policies   uint64            // that were ever told of
	memory     map[string]built  // while settling: chains by what they follow from
	selected   []*policy         // room for the policies that select a pod
	key        []byte            // room for a key of memory

	desired *Desired
	dirty   *Dirty
}

type namespace struct {
	known    bool
	labels   labels.Set
	pods     map[string]known
	policies map[string]*policy
	sets     map[string]*peers // whose selector is for this namespace
	local    map[string]*local
}

// known is a pod that the API has.
type known struct {
	told *pod
	seen *pod // with the addresses of its sandboxes on this node, which the API gets to know later
}

// local is a pod of this node.
type local struct {
	pod       *pod // as it was when it was last known; nil never was
	sandboxes map[string]struct{}
	chains    Restriction
}

type sandbox struct {
	pod   name
	addrs []netip.Addr
}

type chainUse struct {
	users int
	sets  []definition
}

// definition is what a set is made from.
type definition struct {
	name     string
	kind     SetKind
	selector selector  // for Pods and Ports
	port     namedPort // for Ports
	nets     []Element // for Networks
	// domains, if it is for addresses of domain names: those that they have or, with lapsed, had.
	domains *domains
	lapsed  bool
}

// peers is a set in use.
type peers struct {
	definition
	*Set
	users int
}

func newState() *state {
	return &state{
		namespaces: map[string]*namespace{}, cluster: map[string]*policy{}, anywhere: map[string]*peers{}, named: map[string]*peers{}, resolved: map[string]resolved{},
		sandboxes: map[string]sandbox{}, owners: map[netip.Addr]string{}, chains: map[string]*chainUse{}, sets: map[string]*peers{},
		unsettled: map[name]struct{}{}, memory: map[string]built{}, desired: newDesired(), dirty: newDirty(),
	}
}

func (s *state) namespace(n string) *namespace {
	ns := s.namespaces[n]
	if ns == nil {
		ns = &namespace{pods: map[string]known{}, policies: map[string]*policy{}, sets: map[string]*peers{}, local: map[string]*local{}}
		s.namespaces[n] = ns
	}
	return ns
}

// tidy forgets a namespace that nothing is known of.
func (s *state) tidy(n string) {
	ns := s.namespaces[n]
	if ns != nil && !ns.known && len(ns.pods)+len(ns.policies)+len(ns.sets)+len(ns.local) == 0 {
		delete(s.namespaces, n)
	}
}

// settle brings Desired up to date and returns what may be different in it since the last time.
func (s *state) settle() *Dirty {
	for n := range s.unsettled {
		if l := s.namespace(n.namespace).local[n.name]; l != nil {
			s.restrict(n, l)
		}
		s.tidy(n.namespace)
	}
	clear(s.unsettled)
	clear(s.memory)
	d := s.dirty
	s.dirty = newDirty()
	return d
}

// Namespaces and pods.

// setNamespace says which labels a namespace has, or that it is not there.
func (s *state) setNamespace(n string, present bool, with labels.Set) {
	ns := s.namespace(n)
	defer s.tidy(n)
	for _, set := range s.anywhere {
		before, after := ns.known && set.selector.namespaces.Matches(ns.labels), present && set.selector.namespaces.Matches(with)
		if before == after {
			continue
		}
		by := 1
		if before {
			by = -1
		}
		for _, p := range ns.pods {
			if set.selector.pods.Matches(p.seen.labels) {
				s.count(set, p.seen, by)
			}
		}
	}
	ns.known, ns.labels = present, with
	if len(s.cluster) > 0 {
		for pod := range ns.local {
			s.unsettled[name{n, pod}] = struct{}{}
		}
	}
}

// setPod says what the API has of a pod; nil is nothing, or nothing that policies see.
func (s *state) setPod(n name, p *pod) {
	ns := s.namespace(n.namespace)
	defer s.tidy(n.namespace)
	if p.equal(ns.pods[n.name].told) {
		return
	}
	if l := ns.local[n.name]; l != nil && p != nil {
		l.pod = p
		s.unsettled[n] = struct{}{}
	}
	s.see(n, p)
}

// see brings the sets up to what is known of a pod.
func (s *state) see(n name, told *pod) {
	ns := s.namespace(n.namespace)
	before := ns.pods[n.name].seen
	after := told
	if l := ns.local[n.name]; l != nil && told != nil {
		copied := *told
		copied.addrs = slices.Clone(told.addrs)
		for id := range l.sandboxes {
			for _, a := range s.sandboxes[id].addrs {
				if !slices.Contains(copied.addrs, a) {
					copied.addrs = append(copied.addrs, a)
				}
			}
		}
		slices.SortFunc(copied.addrs, netip.Addr.Compare)
		after = &copied
	}
	if told == nil {
		delete(ns.pods, n.name)
	} else {
		ns.pods[n.name] = known{told, after}
	}
	if after.equal(before) {
		return
	}
	for _, sets := range []map[string]*peers{ns.sets, s.anywhere} {
		for _, set := range sets {
			// What is in both does not come and go.
			if after != nil && set.selects(ns, after) {
				s.count(set, after, 1)
			}
			if before != nil && set.selects(ns, before) {
				s.count(set, before, -1)
			}
		}
	}
}

func (p *peers) selects(ns *namespace, pod *pod) bool {
	if by := p.selector.namespaces; by != nil && (!ns.known || !by.Matches(ns.labels)) {
		return false
	}
	return p.selector.pods.Matches(pod.labels)
}

// count adds the elements of a pod to a set, or takes them off.
func (s *state) count(set *peers, p *pod, by int) {
	for _, a := range p.addrs {
		if set.kind == Pods {
			s.tally(set, Element{Addr: a}, by)
			continue
		}
		for _, port := range p.ports {
			if port.name == set.port.name && (set.port.protocol == 0 || port.protocol == set.port.protocol) {
				s.tally(set, Element{Addr: a, Protocol: port.protocol, Port: port.port}, by)
			}
		}
	}
}

func (s *state) tally(set *peers, e Element, by int) {
	before := set.Elements[e]
	if set.Elements[e] = before + by; before+by == 0 {
		delete(set.Elements, e)
	}
	if before == 0 || before+by == 0 {
		s.dirty.set(set.name)[e] = struct{}{}
	}
}

// Domain names.

// resolved are addresses of a domain name: those that it has, and those that it had and that connections stand to.
type resolved struct{ has, had []netip.Addr }

func (r *resolved) of(set *peers) []netip.Addr {
	if set.lapsed {
		return r.had
	}
	return r.has
}

// setName says which addresses a domain name has.
func (s *state) setName(n string, now resolved) {
	before := s.resolved[n]
	if s.resolved[n] = now; len(now.has)+len(now.had) == 0 {
		delete(s.resolved, n)
	}
	for _, set := range s.named {
		if !set.domains.has(n) {
			continue
		}
		// What is in both does not come and go.
		for _, a := range now.of(set) {
			s.tally(set, Element{Addr: a}, 1)
		}
		for _, a := range before.of(set) {
			s.tally(set, Element{Addr: a}, -1)
		}
	}
}

// mentioned are the domains whose addresses matter, if they may be others than when it was asked last.
func (s *state) mentioned() (_ *domains, changed bool) {
	if !s.renamed {
		return nil, false
	}
	s.renamed = false
	out := newDomains(nil)
	for _, set := range s.named {
		maps.Copy(out.whole, set.domains.whole)
		maps.Copy(out.below, set.domains.below)
	}
	return out, true
}

// Pods of this node.

// attach says that a pod of this node has a sandbox with addresses.
func (s *state) attach(id string, n name, addrs []netip.Addr) {
	if _, there := s.sandboxes[id]; there {
		s.detach(id)
	}
	ns := s.namespace(n.namespace)
	l := ns.local[n.name]
	if l == nil {
		l = &local{sandboxes: map[string]struct{}{}, pod: ns.pods[n.name].told}
		ns.local[n.name] = l
	}
	l.sandboxes[id] = struct{}{}
	s.sandboxes[id] = sandbox{n, addrs}
	for _, a := range addrs {
		s.owners[a] = id
		s.dirty.Pods[a] = struct{}{}
	}
	s.see(n, ns.pods[n.name].told)
	s.unsettled[n] = struct{}{}
}

// detach says that a sandbox is gone.
func (s *state) detach(id string) {
	box, there := s.sandboxes[id]
	if !there {
		return
	}
	delete(s.sandboxes, id)
	for _, a := range box.addrs {
		if s.owners[a] == id {
			delete(s.owners, a)
			delete(s.desired.Pods, a)
			s.dirty.Pods[a] = struct{}{}
		}
	}
	ns := s.namespace(box.pod.namespace)
	l := ns.local[box.pod.name]
	delete(l.sandboxes, id)
	if len(l.sandboxes) == 0 {
		s.use(l, Restriction{}, nil)
		delete(ns.local, box.pod.name)
	}
	s.see(box.pod, ns.pods[box.pod.name].told)
	s.tidy(box.pod.namespace)
}

// Policies.

// setPolicy says what a NetworkPolicy says, or that it is not there.
func (s *state) setPolicy(n name, p *policy) {
	ns := s.namespace(n.namespace)
	defer s.tidy(n.namespace)
	before := ns.policies[n.name]
	if p == nil {
		delete(ns.policies, n.name)
	} else {
		s.number(p)
		ns.policies[n.name] = p
	}
	for pod, l := range ns.local {
		if l.pod == nil || before != nil && before.subject.pods.Matches(l.pod.labels) || p != nil && p.subject.pods.Matches(l.pod.labels) {
			s.unsettled[name{n.namespace, pod}] = struct{}{}
		}
	}
}

// number tells a policy from all others.
func (s *state) number(p *policy) {
	s.policies++
	p.id = s.policies
	for _, r := range p.rules[Ingress] {
		p.namesPorts = p.namesPorts || len(r.named) > 0
	}
}

// setClusterPolicy says what a ClusterNetworkPolicy says, or that it is not there.
func (s *state) setClusterPolicy(n string, p *policy) {
	if p == nil {
		delete(s.cluster, n)
	} else {
		s.number(p)
		s.cluster[n] = p
	}
	s.ordered = nil
	for namespace, ns := range s.namespaces {
		for pod := range ns.local {
			s.unsettled[name{namespace, pod}] = struct{}{}
		}
	}
}

// tiers are the cluster's policies in the order in which they are asked.
func (s *state) tiers() []*policy {
	if s.ordered != nil {
		return s.ordered
	}
	names := make([]string, 0, len(s.cluster))
	for n := range s.cluster {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		p, q := s.cluster[a], s.cluster[b]
		return cmp.Or(cmp.Compare(p.tier, q.tier), cmp.Compare(p.priority, q.priority), cmp.Compare(a, b))
	})
	s.ordered = make([]*policy, 0, len(names))
	for _, n := range names {
		s.ordered = append(s.ordered, s.cluster[n])
	}
	return s.ordered
}

// restrict gives a pod of this node the rules that follow from the policies.
func (s *state) restrict(n name, l *local) {
	ns := s.namespaces[n.namespace]
	var want Restriction
	made := map[string]*builder{}
	switch {
	case l.pod == nil && len(ns.policies) == 0 && len(s.cluster) == 0:
	case l.pod == nil: // nobody knows which policies select it
		want = Restriction{closed, closed}
	default:
		for _, d := range []Direction{Ingress, Egress} {
			if c := s.built(ns, l.pod, d); c.name != "" {
				want[d], made[c.name] = c.name, c.builder
			}
		}
	}
	s.use(l, want, made)
	for id := range l.sandboxes {
		for _, a := range s.sandboxes[id].addrs {
			if s.owners[a] != id {
				continue
			}
			if s.desired.Pods[a] != want {
				s.dirty.Pods[a] = struct{}{}
			}
			if want == (Restriction{}) {
				delete(s.desired.Pods, a)
			} else {
				s.desired.Pods[a] = want
			}
		}
	}
}

// restricted says whether rules are in force for a pod of this node.
func (s *state) restricted(n name) bool {
	ns := s.namespaces[n.namespace]
	return ns != nil && ns.local[n.name] != nil && ns.local[n.name].chains != Restriction{}
}

// use takes up the chains of a pod and lets go those that it had.
func (s *state) use(l *local, want Restriction, made map[string]*builder) {
	for _, c := range want {
		if c == "" || c == closed {
			continue
		}
		u := s.chains[c]
		if u == nil {
			u = &chainUse{}
			s.chains[c] = u
			chain := made[c].chain
			s.desired.Chains[c] = &chain
			s.dirty.Chains[c] = struct{}{}
			for _, d := range made[c].sets {
				u.sets = append(u.sets, d)
				s.useSet(d)
			}
		}
		u.users++
	}
	for _, c := range l.chains {
		u := s.chains[c]
		if u == nil {
			continue
		}
		if u.users--; u.users == 0 {
			delete(s.chains, c)
			delete(s.desired.Chains, c)
			s.dirty.Chains[c] = struct{}{}
			for _, d := range u.sets {
				s.leaveSet(d.name)
			}
		}
	}
	l.chains = want
}

func (s *state) useSet(d definition) {
	set := s.sets[d.name]
	if set != nil {
		set.users++
		return
	}
	set = &peers{definition: d, Set: &Set{Kind: d.kind, Elements: map[Element]int{}}, users: 1}
	s.sets[d.name], s.desired.Sets[d.name] = set, set.Set
	s.dirty.set(d.name)
	if d.kind == Networks {
		for _, e := range d.nets {
			set.Elements[e] = 1
		}
		return
	}
	if d.domains != nil {
		s.named[d.name], s.renamed = set, true
		for n, r := range s.resolved {
			if d.domains.has(n) {
				for _, a := range r.of(set) {
					s.tally(set, Element{Addr: a}, 1)
				}
			}
		}
		return
	}
	fill := func(ns *namespace) {
		for _, p := range ns.pods {
			if set.selects(ns, p.seen) {
				s.count(set, p.seen, 1)
			}
		}
	}
	if d.selector.namespaces == nil {
		ns := s.namespace(d.selector.namespace)
		ns.sets[d.name] = set
		fill(ns)
		return
	}
	s.anywhere[d.name] = set
	for _, ns := range s.namespaces {
		fill(ns)
	}
}

func (s *state) leaveSet(n string) {
	set := s.sets[n]
	if set.users--; set.users > 0 {
		return
	}
	delete(s.sets, n)
	delete(s.desired.Sets, n)
	dirty := s.dirty.set(n)
	for e := range set.Elements { // it may be made again, with others, before anybody looks
		dirty[e] = struct{}{}
	}
	if set.domains != nil {
		delete(s.named, n)
		s.renamed = true
		return
	}
	delete(s.anywhere, n)
	if set.kind != Networks && set.selector.namespaces == nil {
		delete(s.namespace(set.selector.namespace).sets, n)
		s.tidy(set.selector.namespace)
	}
}
