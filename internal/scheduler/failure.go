package scheduler

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// rejectedByName is the rejection of nodes that a pod's affinity doesn't name.
const rejectedByName rejection = rejectedForGood | 0xff

// Numbers of the plugins that look at other pods, in a rejection.
const (
	filterTopologySpread rejection = 0xfe
	filterInterPod       rejection = 0xfd
)

// Failure says why a pod fits nowhere.
type Failure struct {
	Nodes int
	// Reasons counts nodes by what they were refused for; a node may have several.
	Reasons map[string]int
	// Plugins are the names of those that refused a node, sorted.
	Plugins []string
	// Helpless is on how many nodes no eviction would help, and Occupied on how many one would if there were a victim.
	Helpless, Occupied int
	// Never says that the pod doesn't want others to be evicted for it.
	Never bool
}

// explain counts the reasons of all nodes.
func (s *Snapshot) explain(p *Pod, rejections []rejection) *Failure {
	f := &Failure{Nodes: s.count, Reasons: map[string]int{}}
	f.Never = p.pod.Spec.PreemptionPolicy != nil && *p.pod.Spec.PreemptionPolicy == v1.PreemptNever
	// Few distinct rejections stand for many nodes.
	counts := map[rejection]int{}
	for _, r := range rejections {
		if r != rejectedMissing {
			counts[r]++
		}
	}
	for r, n := range counts {
		if r&rejectedForGood != 0 {
			f.Helpless += n
		} else {
			f.Occupied += n
		}
		name, reasons := s.reasons(p, r)
		for _, text := range reasons {
			f.Reasons[text] += n
		}
		if !slices.Contains(f.Plugins, name) {
			f.Plugins = append(f.Plugins, name)
		}
	}
	slices.Sort(f.Plugins)
	return f
}

func (s *Snapshot) reasons(p *Pod, r rejection) (plugin string, texts []string) {
	switch k := r & rejectedFilter; {
	case r == rejectedByName:
		return NameNodeAffinity, []string{"node(s) didn't satisfy plugin(s) [" + NameNodeAffinity + "]"}
	case k == filterTopologySpread:
		return NamePodTopologySpread, []string{spreadReason(r)}
	case k == filterInterPod:
		return NameInterPodAffinity, []string{interPodReason(r)}
	default:
		f := s.plugins.filters[k-1]
		return f.Name(), f.Reasons(s, p, r)
	}
}

// Error is upstream's message.
func (f *Failure) Error() string {
	if f.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available: %s.", f.Nodes, histogram(f.Reasons))
	// The next words are those of upstream's plugin for resource claims, which has none to give up either.
	b.WriteString(" no new claims to deallocate, preemption: ")
	if f.Never {
		b.WriteString("not eligible due to preemptionPolicy=Never.")
		return b.String()
	}
	fmt.Fprintf(&b, "0/%d nodes are available: %s.", f.Nodes, histogram(map[string]int{
		"Preemption is not helpful for scheduling":     f.Helpless,
		"No preemption victims found for incoming pod": f.Occupied,
	}))
	return b.String()
}

// histogram writes counts as "2 of this, 3 of that", sorted as text, as upstream does.
func histogram(counts map[string]int) string {
	var parts []string
	for text, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, text))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
