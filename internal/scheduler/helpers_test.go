package scheduler

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func list(amounts map[v1.ResourceName]string) v1.ResourceList {
	out := v1.ResourceList{}
	for k, v := range amounts {
		out[k] = resource.MustParse(v)
	}
	return out
}

type nodeOption func(*v1.Node)

func newNode(name, cpu, memory string, opts ...nodeOption) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	n.Status.Allocatable = list(map[v1.ResourceName]string{"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "100Gi"})
	for _, o := range opts {
		o(n)
	}
	return n
}

func labelled(kv ...string) nodeOption {
	return func(n *v1.Node) {
		for i := 0; i < len(kv); i += 2 {
			n.Labels[kv[i]] = kv[i+1]
		}
	}
}

func tainted(key, value string, effect v1.TaintEffect) nodeOption {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func allocatable(name v1.ResourceName, q string) nodeOption {
	return func(n *v1.Node) { n.Status.Allocatable[name] = resource.MustParse(q) }
}

func declaring(features ...string) nodeOption {
	return func(n *v1.Node) { n.Status.DeclaredFeatures = features }
}

func restartingAll(p *v1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers}}
}

func cordoned(n *v1.Node) { n.Spec.Unschedulable = true }

type podOption func(*v1.Pod)

func newPod(name string, opts ...podOption) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}}}
	p.Spec.SchedulerName = DefaultName
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "img"}}
	for _, o := range opts {
		o(p)
	}
	return p
}

func requesting(kv ...string) podOption {
	return func(p *v1.Pod) {
		r := v1.ResourceList{}
		for i := 0; i < len(kv); i += 2 {
			r[v1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
		}
		p.Spec.Containers[0].Resources.Requests = r
	}
}

func podLabels(kv ...string) podOption {
	return func(p *v1.Pod) {
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func priority(n int32) podOption { return func(p *v1.Pod) { p.Spec.Priority = &n } }

func on(node string) podOption { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func selecting(k, v string) podOption {
	return func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
}

func tolerating(t v1.Toleration) podOption {
	return func(p *v1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func port(n int32, ip string, proto v1.Protocol) podOption {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, v1.ContainerPort{HostPort: n, ContainerPort: n, HostIP: ip, Protocol: proto})
	}
}

func affinity(p *v1.Pod) *v1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &v1.Affinity{}
	}
	return p.Spec.Affinity
}

func requiring(terms ...v1.NodeSelectorTerm) podOption {
	return func(p *v1.Pod) {
		affinity(p).NodeAffinity = &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}
	}
}

func expression(key string, op v1.NodeSelectorOperator, values ...string) v1.NodeSelectorTerm {
	return v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func named(names ...string) v1.NodeSelectorTerm {
	return v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: names}}}
}

func preferring(weight int32, term v1.NodeSelectorTerm) podOption {
	return func(p *v1.Pod) {
		a := affinity(p)
		if a.NodeAffinity == nil {
			a.NodeAffinity = &v1.NodeAffinity{}
		}
		a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution, v1.PreferredSchedulingTerm{Weight: weight, Preference: term})
	}
}

func term(key string, kv ...string) v1.PodAffinityTerm {
	sel := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		sel.MatchLabels[kv[i]] = kv[i+1]
	}
	return v1.PodAffinityTerm{TopologyKey: key, LabelSelector: sel}
}

func near(t ...v1.PodAffinityTerm) podOption {
	return func(p *v1.Pod) {
		affinity(p).PodAffinity = &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: t}
	}
}

func apart(t ...v1.PodAffinityTerm) podOption {
	return func(p *v1.Pod) {
		affinity(p).PodAntiAffinity = &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: t}
	}
}

func spreading(skew int32, key string, when v1.UnsatisfiableConstraintAction, kv ...string) podOption {
	return func(p *v1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: term(key, kv...).LabelSelector,
		})
	}
}

func snapshotOf(nodes ...*v1.Node) *Snapshot {
	s := NewSnapshot(1)
	for _, n := range nodes {
		s.SetNode(n)
	}
	return s
}

func (s *Snapshot) with(pods ...*v1.Pod) *Snapshot {
	for _, p := range pods {
		s.Place(s.NewPod(p), p.Spec.NodeName, false)
	}
	return s
}

// outcome is the node or the failure.
func (s *Snapshot) outcome(p *v1.Pod) string {
	d := s.Decide(s.NewPod(p))
	if d.Failure != nil {
		return d.Failure.Error()
	}
	return d.Node
}

func nodeNumber(i int) string { return fmt.Sprintf("node-%05d", i) }
