package scheduler

import (
	"cmp"
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Extender is a program beside the scheduler that has a say in decisions. All calls may take their time; no lock is held meanwhile.
type Extender interface {
	// Name is for messages.
	Name() string
	// Interested says whether a pod is asked about at all.
	Interested(pod *v1.Pod) bool
	// Ignorable says that the pod is decided without the extender if it fails.
	Ignorable() bool
	// Filter returns those of the nodes that would do, and for others why not; helpless are those of them that no eviction would change.
	Filter(ctx context.Context, pod *v1.Pod, nodes []string) (fit []string, refused, helpless map[string]string, err error)
	// Prioritize returns what is added to the scores of the nodes, already weighted.
	Prioritize(ctx context.Context, pod *v1.Pod, nodes []string) (map[string]int64, error)
	// Binds says that the extender binds pods that it is interested in.
	Binds() bool
	// Bind binds a pod to a node.
	Bind(ctx context.Context, pod *v1.Pod, node string) error
	// Preempt returns those of the planned evictions, one for each node, that are acceptable, perhaps with fewer victims; all of them if it has no opinion.
	Preempt(ctx context.Context, pod *v1.Pod, plans []Eviction) ([]Eviction, error)
}

// Candidate is a node on which a pod fits.
type Candidate struct {
	Node  string
	Score int64
}

// Candidates are the nodes that Decide would choose from, with the sums of their weighted scores, in no order. If there are none, the failure says why.
func (s *Snapshot) Candidates(p *Pod) ([]Candidate, *Failure) {
	c, others, no := s.prepare(p)
	if no != nil {
		return nil, s.refused(p, no).Failure
	}
	if f := s.search(p, c, others); f != nil {
		return nil, f
	}
	scores := s.scoresOf(c, others)
	out := make([]Candidate, len(scores))
	for k, i := range s.scratch.fitting {
		out[k] = Candidate{s.nodes[i].name, scores[k]}
	}
	return out, nil
}

// Fits says whether a pod fits on a node as things are now.
func (s *Snapshot) Fits(p *Pod, nodeName string) bool {
	i, ok := s.byName[nodeName]
	if !ok {
		return false
	}
	c, others, ok := s.fitsNominated(p, i)
	return ok && s.tryBesides(c, p, others, int32(i)) == 0
}

// interested are the extenders that want to know of a pod.
func (s *Scheduler) interested(pod *v1.Pod) []Extender {
	var out []Extender
	for _, e := range s.extenders {
		if e.Interested(pod) {
			out = append(out, e)
		}
	}
	return out
}

// askExtenders decides for a pod that extenders are interested in. s.mu must be held; it is released while they are asked, so that what comes back
// is checked again.
func (s *Scheduler) askExtenders(ctx context.Context, p *Pod, extenders []Extender) (Decision, error) {
	candidates, f := s.snapshot.Candidates(p)
	if f != nil {
		return Decision{Failure: f}, nil
	}
	nodes := make([]string, len(candidates))
	scores := map[string]int64{}
	for i, c := range candidates {
		nodes[i], scores[c.Node] = c.Node, c.Score
	}
	s.mu.Unlock()
	fit, f, err := s.filterThrough(ctx, p.pod, nodes, extenders)
	if err == nil && len(fit) > 1 {
		for _, e := range extenders {
			more, err := e.Prioritize(ctx, p.pod, fit)
			if err != nil {
				s.log.Warn("scheduler: an extender gives no scores", "extender", e.Name(), "err", err)
			}
			for n, v := range more {
				scores[n] += v
			}
		}
	}
	s.mu.Lock()
	if err != nil {
		return Decision{}, err
	}
	slices.SortStableFunc(fit, func(a, b string) int { return cmp.Compare(scores[b], scores[a]) })
	for _, n := range fit {
		if s.snapshot.Fits(p, n) {
			return Decision{Node: n, Nodes: s.snapshot.Nodes(), Fitting: len(fit)}, nil
		}
	}
	if len(fit) > 0 {
		out := s.snapshot.newFailure(p)
		out.Plugins, out.Occupied = []string{nameExtender}, out.Nodes
		out.Reasons = map[string]int{"node(s) changed while extenders were asked": len(fit)}
		return Decision{Nodes: out.Nodes, Failure: out}, nil
	}
	return Decision{Nodes: f.Nodes, Failure: s.snapshot.besideExtenders(p, f)}, nil
}

// besideExtenders adds why plugins refused nodes to why extenders refused the others.
func (s *Snapshot) besideExtenders(p *Pod, f *Failure) *Failure {
	c, others, no := s.prepare(p)
	if no != nil {
		return s.refused(p, no).Failure
	}
	if now := s.search(p, c, others); now != nil {
		return now
	}
	counts := countRejections(s.scratch.rejects)
	delete(counts, 0) // extenders were asked about those
	out := s.explain(p, counts)
	for why, n := range f.Reasons {
		out.Reasons[why] += n
	}
	out.hopeless = f.hopeless
	out.Helpless += len(f.hopeless)
	out.Occupied = max(out.Nodes-out.Helpless, 0)
	out.Plugins = append(out.Plugins, nameExtender)
	slices.Sort(out.Plugins)
	return out
}

// nameExtender stands for all extenders among the plugins that refused a node.
const nameExtender = "Extender"

// filterThrough has each extender filter what the one before it left. f counts what was refused.
func (s *Scheduler) filterThrough(ctx context.Context, pod *v1.Pod, nodes []string, extenders []Extender) (fit []string, f *Failure, err error) {
	f = &Failure{Reasons: map[string]int{}, hopeless: map[string]bool{}}
	fit = nodes
	for _, e := range extenders {
		if len(fit) == 0 {
			break
		}
		next, refused, helpless, err := e.Filter(ctx, pod, fit)
		if err != nil {
			if e.Ignorable() {
				s.log.Warn("scheduler: an extender is ignored", "extender", e.Name(), "err", err)
				continue
			}
			return nil, nil, err
		}
		for _, node := range fit {
			f.hopeless[node] = true // unless it is told otherwise: who says nothing of a node says nothing of evictions
		}
		for node, why := range refused {
			if _, both := helpless[node]; !both {
				delete(f.hopeless, node)
				f.Reasons[why]++
			}
		}
		for _, why := range helpless {
			f.Reasons[why]++
		}
		for _, node := range next {
			delete(f.hopeless, node)
		}
		fit = next
	}
	return fit, f, nil
}

// inOrder puts the extenders last that a pod can do without: what the others refuse they aren't asked about.
func inOrder(extenders []Extender) []Extender {
	out := slices.Clone(extenders)
	slices.SortStableFunc(out, func(a, b Extender) int {
		switch {
		case a.Ignorable() == b.Ignorable():
			return 0
		case b.Ignorable():
			return -1
		}
		return 1
	})
	return out
}
