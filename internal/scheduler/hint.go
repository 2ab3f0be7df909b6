package scheduler

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// How far a node is from taking a pod: what one command settles is near, what needs another node or another pod is far. What lacks resources is as far as
// the part of the node that is lacking.
const (
	hintNear = 1.0
	hintFar  = 3.0
)

// hint says in plain words, for the event of a pod that fits nowhere, which node is the nearest to fitting and what would have to change there. It knows what a class
// knows; celox explain looks at more. Empty: there is nothing to say that the reasons don't.
func (s *Snapshot) hint(p *Pod) string {
	c := s.classes[p.key]
	if p.only != nil || c == nil || s.count == 0 || c.fitting > 0 {
		return ""
	}
	if c.hintFor == c.seen+1 && c.hint != "" {
		return c.hint
	}
	best, distance := -1, 0.0
	for i, r := range c.rejections {
		if r == 0 || r == rejectedMissing {
			continue
		}
		if d, ok := s.distance(p, &s.nodes[i], r); ok && (best < 0 || d < distance) {
			best, distance = i, d
		}
	}
	c.hint, c.hintFor = "", c.seen+1
	if best >= 0 {
		c.hint = " Nearest fit: " + s.change(c, p, &s.nodes[best], c.rejections[best]) + "."
	}
	return c.hint
}

// distance is how far a node is from taking a pod that it refuses for r; not ok if nothing can be done about it. The class knows the first plugin that refuses: what the node lacks besides
// counts too.
func (s *Snapshot) distance(p *Pod, n *node, r rejection) (float64, bool) {
	far := 0.0
	switch plugin, _ := s.reasons(p, r); plugin {
	case NameNodeResourcesFit:
	case NameNodeUnschedulable, NameTaintToleration, NameNodePorts:
		far = hintNear
	case NameNodeAffinity:
		far = hintFar
	default:
		return 0, false
	}
	for _, l := range s.lacks(p, n) {
		if l.Size == 0 {
			return 0, false
		}
		if far += float64(l.Wanted-max(l.Free, 0)) / float64(l.Size); l.Wanted > l.Size {
			far += hintFar
		}
	}
	return far, true
}

// change is what would have to change on a node.
func (s *Snapshot) change(c *class, p *Pod, n *node, r rejection) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch plugin, _ := s.reasons(p, r); plugin {
	case NameNodeUnschedulable:
		say("is cordoned")
	case NameTaintToleration:
		var taints []string
		for _, t := range n.hard {
			if !c.tolerates(s, t) {
				v := s.taints.values[t]
				text := v.key
				if v.value != "" {
					text += "=" + v.value
				}
				taints = append(taints, text+":"+v.effect)
			}
		}
		say("has the taint %s, which the pod doesn't tolerate", strings.Join(taints, ", "))
	case NameNodePorts:
		say("has a pod with the same host port")
	case NameNodeAffinity:
		say("lacks labels that the pod's node selector or affinity wants")
	}
	for _, l := range s.lacks(p, n) {
		wanted, size, free := plain(l.Resource, l.Wanted), plain(l.Resource, l.Size), max(l.Free, 0)
		switch {
		case l.Resource == "pods":
			say("has all of the %d pods that it may have", l.Size)
		case l.Wanted > l.Size:
			say("has %s %s in all (the pod asks for %s)", size, l.Resource, wanted)
		default:
			say("lacks %s %s (the pod asks for %s, %s of %s is free)", plain(l.Resource, l.Wanted-free), l.Resource, wanted, plain(l.Resource, free), size)
		}
	}
	return "node " + n.name + " " + strings.Join(parts, " and ")
}

// plain is an amount as people write it.
func plain(name string, n int64) string {
	switch name {
	case "cpu":
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case "memory", "ephemeral-storage":
		for _, u := range []struct {
			bytes int64
			name  string
		}{{1 << 40, "Ti"}, {1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}} {
			if n >= u.bytes {
				return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64), ".0") + u.name
			}
		}
	}
	return strconv.FormatInt(n, 10)
}
