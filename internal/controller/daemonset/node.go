package daemonset

import (
	"maps"
	"strconv"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// nameField is the field that binds a pod to one node through its affinity.
const nameField = "metadata.name"

// generationLabel carries the number of the template as it was counted before there were revisions.
const generationLabel = "pod-template-generation"

// generationOf is the number of a set's template, which the API keeps; false if somebody made nonsense of it.
func generationOf(ds *appsv1.DaemonSet) (string, bool) {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return strconv.FormatInt(n, 10), err == nil
}

// podFor makes the pod of a set for a node.
func podFor(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	t := ds.Spec.Template.DeepCopy()
	p := &corev1.Pod{Spec: t.Spec}
	p.GenerateName, p.Namespace = ds.Name+"-", ds.Namespace
	p.Annotations, p.Finalizers, p.Labels = t.Annotations, t.Finalizers, map[string]string{}
	maps.Copy(p.Labels, t.Labels)
	p.Labels[hashLabel] = hash
	if generation, ok := generationOf(ds); ok {
		p.Labels[generationLabel] = generation
	}
	bindTo(&p.Spec, node)
	tolerate(&p.Spec)
	return p
}

// bindTo lets the scheduler choose one node alone: whatever the terms of the affinity ask, in place of their fields.
func bindTo(s *corev1.PodSpec, node string) {
	field := corev1.NodeSelectorRequirement{Key: nameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if s.Affinity == nil {
		s.Affinity = &corev1.Affinity{}
	}
	if s.Affinity.NodeAffinity == nil {
		s.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// What the set asks of nodes has been looked at already (see shouldRun).
	s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{field}}},
	}
}

// tolerate adds the tolerations of every daemon: it stays on a node in trouble.
func tolerate(s *corev1.PodSpec) {
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		for i := range s.Tolerations {
			if s.Tolerations[i].MatchToleration(&t) {
				s.Tolerations[i] = t
				return
			}
		}
		s.Tolerations = append(s.Tolerations, t)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if s.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
}

// shouldRun says whether a set wants a pod on a node, and whether one that is there may stay (a NoSchedule taint keeps away, but does not drive away).
func shouldRun(ds *appsv1.DaemonSet, node *corev1.Node) (run, stay bool) {
	s := ds.Spec.Template.Spec.DeepCopy()
	tolerate(s)
	if s.NodeName != "" && s.NodeName != node.Name {
		return false, false
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *s})
	if match, err := affinity.Match(node); err != nil || !match {
		return false, false
	}
	_, away := v1helper.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, s.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, false)
	_, driven := v1helper.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, s.Tolerations, func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }, false)
	return !away, !driven
}

// nodeOf returns the node that a pod is on or bound for.
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil || p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == nameField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}
