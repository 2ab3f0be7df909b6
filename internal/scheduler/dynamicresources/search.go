package dynamicresources

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// search looks for devices on one node. What it has chosen is counted in the inventory as if it were taken; undo takes it back.
type search struct {
	*Ask
	node   Node
	pools  []*pool
	picks  []pick
	chosen []*option // by request
	// fixed are the only options that may be chosen, by request; nil leaves the choice.
	fixed []*option
	// candidates are the devices that each option can take on the node, by its number.
	candidates [][]*device
	kinds      map[*device]int
	kindOf     map[string]int
	// constrained says that the device which was not picked last was refused by a constraint.
	constrained bool
}

// pick is a device that was chosen.
type pick struct {
	o    *option
	d    *device
	take map[resourcev1.QualifiedName]resource.Quantity // of a device that is shared
}

func (a *Ask) search(n Node) *search {
	s := &search{Ask: a, node: n, chosen: make([]*option, len(a.requests)), fixed: make([]*option, len(a.requests)), candidates: make([][]*device, len(a.options))}
	a.v.poolsFor(n.Name(), func(p *pool) bool {
		s.pools = append(s.pools, p)
		return true
	})
	return s
}

// satisfy finds devices for a request and those after it.
func (s *search) satisfy(i int) bool {
	if i == len(s.requests) {
		return true
	}
	for _, o := range s.requests[i].options {
		if s.fixed[i] != nil && s.fixed[i] != o {
			continue
		}
		s.chosen[i] = o
		if o.all && s.takeAll(i, o) || !o.all && s.take(i, o, 0, 0) {
			return true
		}
		if s.problem != "" {
			return false
		}
	}
	return false
}

// prefer improves on what satisfy found: for one request after the other, the first of its options that goes together with those of the requests before it is
// chosen. (satisfy alone takes the first that goes together with the devices which it happened to choose before.)
func (s *search) prefer() bool {
	if !slices.ContainsFunc(s.requests, func(r request) bool { return len(r.options) > 1 }) {
		return true
	}
	best := slices.Clone(s.chosen)
	for i := range s.requests {
		for _, o := range s.requests[i].options {
			if o == best[i] {
				break
			}
			s.undo(0)
			if s.fixed[i] = o; s.satisfy(0) {
				copy(best, s.chosen)
				break
			}
			if s.problem != "" { // out of patience: what was found is good enough
				break
			}
		}
		s.fixed[i] = best[i]
	}
	s.undo(0)
	copy(s.fixed, best)
	s.problem, s.steps = "", 0
	return s.satisfy(0)
}

// take chooses devices for an option from the k-th on, among the candidates from a place on.
func (s *search) take(i int, o *option, k, from int) bool {
	if k == o.count {
		return s.satisfy(i + 1)
	}
	candidates := s.devices(o)
	if s.problem != "" || k == 0 && s.tooMany(o, o.count) {
		return false
	}
	var failed []int // kinds of devices with which it didn't work
	for j := from; j+o.count-k <= len(candidates); j++ {
		d := candidates[j]
		if len(failed) > 0 && slices.Contains(failed, s.kind(d)) {
			continue
		}
		if s.steps++; s.steps > maxSteps {
			s.problem = "too many ways to choose devices, search given up"
			return false
		}
		if !s.pick(o, d) {
			continue
		}
		if s.take(i, o, k+1, j+1) {
			return true
		}
		s.undo(len(s.picks) - 1)
		if s.problem != "" {
			return false
		}
		if !d.shared() && !o.admin { // to an administrator it isn't the same whether somebody has the device
			failed = append(failed, s.kind(d))
		}
	}
	return false
}

// takeAll chooses all devices that an option can take: every one must be free.
func (s *search) takeAll(i int, o *option) bool {
	for _, p := range s.pools {
		what := ""
		switch {
		case !p.reaches(s.node):
		case p.incomplete:
			what = "being updated"
		case p.invalid != "":
			what = "invalid"
		}
		if what != "" {
			c := s.claims[o.claim]
			s.problem = fmt.Sprintf("claim %s/%s, request %s: asks for all devices, but resource pool %s is currently %s", c.Namespace, c.Name, o.short, p.id, what)
			return false
		}
	}
	all := s.devices(o)
	if len(all) == 0 || s.problem != "" || s.tooMany(o, len(all)) {
		return false
	}
	start := len(s.picks)
	for _, d := range all {
		if s.steps++; !s.pick(o, d) {
			if s.constrained {
				s.excuses(o, fmt.Sprintf("cannot add device %s because a claim constraint would not be satisfied", d.id))
			}
			s.undo(start)
			return false
		}
	}
	if s.satisfy(i + 1) {
		return true
	}
	s.undo(start)
	return false
}

// tooMany says that a claim would get more devices than it may with so many for an option.
func (s *search) tooMany(o *option, n int) bool {
	have := 0
	for i := range s.picks {
		if s.picks[i].o.claim == o.claim {
			have++
		}
	}
	if have+n <= resourcev1.AllocationResultsMaxSize {
		return false
	}
	s.excuses(o, fmt.Sprintf("adding %d devices exceeds the claim limit of %d, with %d already accounted for", n, resourcev1.AllocationResultsMaxSize, have))
	return true
}

// excuses notes why an option doesn't do, unless something was noted before: the first that is found wrong is what users of upstream are told.
func (s *search) excuses(o *option, why string) {
	if c := s.claims[o.claim]; s.excuse == "" {
		s.excuse = fmt.Sprintf("claim %s/%s, request %s: %s", c.Namespace, c.Name, o.short, why)
	}
}

// reaches says whether a node can use any of a pool's devices.
func (p *pool) reaches(n Node) bool {
	if p.node != "" {
		return p.node == n.Name()
	}
	return slices.ContainsFunc(p.devices, func(d *device) bool { return d.reach.covers(n) })
}

// devices are the candidates of an option on the node.
func (s *search) devices(o *option) []*device {
	if have := s.candidates[o.number]; have != nil {
		return have
	}
	out := []*device{}
	for _, p := range s.pools {
		if p.incomplete || p.invalid != "" {
			continue
		}
		for _, d := range s.matching(o, p) {
			if p.node != "" || d.reach.covers(s.node) {
				out = append(out, d)
			}
		}
	}
	s.candidates[o.number] = out
	return out
}

// matching are the devices of a pool that are as an option wants them.
func (s *search) matching(o *option, p *pool) []*device {
	if have, ok := o.found[p]; ok {
		return have
	}
	var out []*device
	for _, d := range p.devices {
		if s.selects(o, d) && d.offers(o.capacity) {
			out = append(out, d)
		}
		if s.problem != "" {
			return nil
		}
	}
	if o.found == nil {
		o.found = map[*pool][]*device{}
	}
	o.found[p] = out
	return out
}

func (s *search) selects(o *option, d *device) bool {
	for _, f := range o.filters {
		got := s.v.ask(f.filter, d)
		if got.err != nil {
			s.problem = fmt.Sprintf("%s on device %s: CEL runtime error: %v", f.label, d.id, got.err)
			if strings.Contains(s.problem, "no such key") {
				s.problem += ". consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields"
			}
			return false
		}
		if !got.yes {
			return false
		}
	}
	return true
}

// pick chooses a device if it is free and fits those that were chosen before.
func (s *search) pick(o *option, d *device) bool {
	s.constrained = false
	of := 0 // devices of the claim
	for i := range s.picks {
		if p := &s.picks[i]; p.o.claim == o.claim {
			if of++; p.d == d && !d.shared() {
				return false
			}
		}
	}
	if of == resourcev1.AllocationResultsMaxSize || !tolerates(o, d) {
		return false
	}
	p := pick{o: o, d: d}
	if !o.admin {
		if d.use.whole > 0 || d.use.claims > 0 && !d.shared() {
			return false
		}
		if d.use.claims == 0 && !d.pool.left(d) {
			return false
		}
	}
	if d.shared() {
		p.take = d.consumption(o.capacity)
		if !o.admin && !d.room(p.take) {
			return false
		}
	}
	for i, c := range s.constraints {
		if c.concerns(o) && !c.add(d) {
			s.unconstrain(o, i)
			s.constrained = true
			return false
		}
	}
	s.picks = append(s.picks, p)
	p.count(1)
	return true
}

// count counts a choice as taken, or takes that back.
func (p *pick) count(sign int) {
	if p.o.admin {
		return
	}
	u := p.d.use
	u.claims += sign
	if p.take != nil {
		u.consume(p.take, sign)
	} else {
		u.whole += sign
	}
	if sign > 0 && u.claims == 1 || sign < 0 && u.claims == 0 {
		p.d.pool.count(p.d, sign)
	}
}

// undo takes back all choices from a place on.
func (s *search) undo(to int) {
	for len(s.picks) > to {
		p := &s.picks[len(s.picks)-1]
		p.count(-1)
		s.unconstrain(p.o, len(s.constraints))
		s.picks = s.picks[:len(s.picks)-1]
	}
}

// unconstrain has the first n constraints forget what was added last for an option.
func (s *search) unconstrain(o *option, n int) {
	for _, c := range s.constraints[:n] {
		if c.concerns(o) {
			c.drop()
		}
	}
}

// kind numbers devices so that two of one number are the same to the search: what works with one works with the other.
func (s *search) kind(d *device) int {
	if k, ok := s.kinds[d]; ok {
		return k
	}
	if s.kinds == nil {
		s.kinds, s.kindOf = map[*device]int{}, map[string]int{}
	}
	b := strconv.AppendQuote(nil, d.pool.id.driver)
	b = strconv.AppendQuote(b, d.pool.id.name)
	for _, o := range s.options {
		sign := byte('-')
		if slices.Contains(s.devices(o), d) && tolerates(o, d) {
			sign = '+'
		}
		b = append(b, sign)
	}
	for _, c := range s.constraints {
		val, _ := d.attributeOf(c.name)
		b = append(b, val.kind)
		b = strconv.AppendInt(b, val.n, 10)
		b = strconv.AppendQuote(b, val.text)
	}
	for i := range d.ConsumesCounters {
		c := &d.ConsumesCounters[i]
		b = strconv.AppendQuote(b, c.CounterSet)
		for _, name := range sorted(c.Counters) {
			q := c.Counters[name]
			b = strconv.AppendQuote(b, name)
			b = strconv.AppendQuote(b, q.Value.String())
		}
	}
	// A device that can be shared is like no other: how much is left of it counts.
	if d.shared() {
		b = strconv.AppendQuote(b, d.Name)
	}
	k, ok := s.kindOf[string(b)]
	if !ok {
		k = len(s.kindOf)
		s.kindOf[string(b)] = k
	}
	s.kinds[d] = k
	return k
}

// tolerates says whether an option puts up with all of a device's taints that keep claims away.
func tolerates(o *option, d *device) bool {
	for i := range d.taints {
		t := &d.taints[i]
		if t.Effect != resourcev1.DeviceTaintEffectNoSchedule && t.Effect != resourcev1.DeviceTaintEffectNoExecute {
			continue
		}
		if !slices.ContainsFunc(o.tolerations, func(tol resourcev1.DeviceToleration) bool { return toleratesTaint(&tol, t) }) {
			return false
		}
	}
	return true
}

func toleratesTaint(tol *resourcev1.DeviceToleration, t *resourcev1.DeviceTaint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	switch tol.Operator {
	case "", resourcev1.DeviceTolerationOpEqual:
		return tol.Value == t.Value
	case resourcev1.DeviceTolerationOpExists:
		return true
	}
	return false
}
