package scheduler

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// rejectedByName is the rejection of nodes that a pod's affinity doesn't name.
const rejectedByName rejection = rejectedForGood | 0xff

// Failure says why a pod fits nowhere.
type Failure struct {
	Nodes int
	// Whole is a reason that has nothing to do with nodes; then there are no Reasons.
	Whole string
	// Reasons counts nodes by what they were refused for; a node may have several.
	Reasons map[string]int
	// Plugins are the names of those that refused a node, sorted.
	Plugins []string
	// Helpless is on how many nodes no eviction would help, and Occupied on how many one would if there were a victim.
	Helpless, Occupied int
	// Unfit counts nodes by why the pod doesn't fit there even if the pods that it may evict were gone.
	Unfit map[string]int
	// Never is why no pods are evicted for this one at all, in upstream's words.
	Never string
	// Quiet says that the reason will soon be gone by itself.
	Quiet bool
	// Claims is what was done about the pod's claims to devices, in upstream's words; empty if nothing was.
	Claims string
	// hopeless are nodes of which extenders say that no eviction would help there. They are among the Helpless.
	hopeless map[string]bool
	// Room says, in upstream's words, which room is being made for the pod by evicting others; empty if none is.
	Room string
}

func (s *Snapshot) newFailure(p *Pod) *Failure {
	f := &Failure{Nodes: s.count, Reasons: map[string]int{}}
	switch {
	case !p.profile.preempts:
		f.Never = notConfigured
	case p.pod.Spec.PreemptionPolicy != nil && *p.pod.Spec.PreemptionPolicy == v1.PreemptNever:
		f.Never = "not eligible due to preemptionPolicy=Never."
	}
	return f
}

// notConfigured stands for no words at all: the profile has no preemption.
const notConfigured = "-"

func countRejections(rejections []rejection) map[rejection]int32 {
	// Few distinct rejections stand for many nodes, and mostly in long runs.
	counts := map[rejection]int32{}
	for i := 0; i < len(rejections); {
		r, from := rejections[i], i
		for i < len(rejections) && rejections[i] == r {
			i++
		}
		if r != rejectedMissing {
			counts[r] += int32(i - from)
		}
	}
	return counts
}

// explain counts the reasons of all nodes.
func (s *Snapshot) explain(p *Pod, counts map[rejection]int32) *Failure {
	f := s.newFailure(p)
	for r, many := range counts {
		n := int(many)
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
	case k == filterClaims:
		return NameDynamicResources, []string{s.claimReason(r)}
	case k >= filterVolumeZone && k <= filterVolumeRestrictions:
		return s.volumeReason(r)
	default:
		f := p.profile.filters[k-1]
		return f.Name(), f.Reasons(s, p, r)
	}
}

// Error is upstream's message.
func (f *Failure) Error() string {
	if f.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var b strings.Builder
	why := f.Whole
	if why == "" {
		why = histogram(f.Reasons)
	}
	fmt.Fprintf(&b, "0/%d nodes are available:", f.Nodes)
	if why != "" { // extenders need not say why
		b.WriteString(" " + why + ".")
	}
	switch {
	case f.Room != "":
		return b.String() + " preemption: " + f.Room
	case f.Never == notConfigured && f.Claims == "":
		return b.String()
	case f.Never == notConfigured:
		return b.String() + " " + f.Claims
	case f.Claims != "":
		b.WriteString(" " + f.Claims + ",")
	}
	b.WriteString(" preemption: ")
	if f.Never != "" {
		b.WriteString(f.Never)
		return b.String()
	}
	counts := map[string]int{
		"Preemption is not helpful for scheduling":     f.Helpless,
		"No preemption victims found for incoming pod": f.Occupied,
	}
	for text, n := range f.Unfit {
		counts[text] += n
	}
	fmt.Fprintf(&b, "0/%d nodes are available: %s.", f.Nodes, histogram(counts))
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
