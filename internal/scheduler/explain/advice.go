package explain

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/klog/v2"

	"github.com/celox/celox/internal/scheduler"
)

// How far a problem is from being solved; what one can't do anything about is the farthest.
const (
	near     = 1
	far      = 3
	hopeless = 10
)

// advise says what would have to change for a plugin to have nothing against a pod on a node, and how far away that is.
func (w *world) advise(pod *v1.Pod, nodeName string, r scheduler.Refusal) (string, float64) {
	node := w.nodes[nodeName]
	switch r.Plugin {
	case scheduler.NameNodeUnschedulable:
		return uncordon(nodeName), near
	case scheduler.NameNodeName:
		return "the pod names another node in spec.nodeName", hopeless
	case scheduler.NameTaintToleration:
		return taints(pod, node)
	case scheduler.NameNodeAffinity:
		return affinity(pod, node), far
	case scheduler.NameNodePorts:
		return w.ports(pod, nodeName), near
	case scheduler.NameNodeResourcesFit:
		return resources(nodeName, r.Lacks)
	case scheduler.NamePodTopologySpread:
		var keys []string
		for _, c := range pod.Spec.TopologySpreadConstraints {
			if _, ok := node.Labels[c.TopologyKey]; !ok && c.WhenUnsatisfiable == v1.DoNotSchedule {
				return fmt.Sprintf("label the node: kubectl label node %s %s=...; the pod spreads by that label", nodeName, c.TopologyKey), near
			}
			if c.WhenUnsatisfiable == v1.DoNotSchedule {
				keys = append(keys, fmt.Sprintf("%s=%s (maxSkew %d)", c.TopologyKey, node.Labels[c.TopologyKey], c.MaxSkew))
			}
		}
		return fmt.Sprintf("there are too many such pods already in %s: make room in the other places, raise maxSkew, or say whenUnsatisfiable: ScheduleAnyway", strings.Join(keys, ", ")), far
	case scheduler.NameInterPodAffinity:
		if strings.Contains(strings.Join(r.Reasons, " "), "anti-affinity") {
			return "a pod that this one must not be near, or that doesn't want it near, is there: remove or move that one, or make the anti-affinity preferred", far
		}
		return "no pod that this one must be near is there: start that one first, or make the affinity preferred", far
	case scheduler.NameVolumeZone, scheduler.NameVolumeBinding, scheduler.NameVolumeRestrictions, scheduler.NameNodeVolumeLimits:
		return volumes(r), far
	case scheduler.NameDynamicResources:
		return devices(pod, r), far
	case scheduler.NameDeclaredFeatures:
		return "a rule of the pod restarts all of its containers, which this node is too old for: upgrade it", far
	}
	return strings.Join(r.Reasons, ", "), far
}

// adviceWhole is what to do about what keeps a pod from all nodes.
func (w *world) adviceWhole(plugin string, r *Report, pod *v1.Pod) string {
	if strings.HasPrefix(plugin, "Volume") {
		var claims, missing []string
		for i := range pod.Spec.Volumes {
			switch v := &pod.Spec.Volumes[i]; {
			case v.PersistentVolumeClaim != nil:
				name := v.PersistentVolumeClaim.ClaimName
				claims = append(claims, name)
				if !w.claims[types.NamespacedName{Namespace: pod.Namespace, Name: name}] {
					missing = append(missing, name)
				}
			case v.Ephemeral != nil:
				claims = append(claims, ephemeral.VolumeClaimName(pod, v))
			}
		}
		if len(missing) > 0 && !slices.Contains(r.Unread, "persistentvolumeclaims") {
			return fmt.Sprintf("make the volume claims that aren't in namespace %s, or name others in the pod: %s", pod.Namespace, strings.Join(missing, ", "))
		}
		return fmt.Sprintf("look at its volume claims: kubectl -n %s describe pvc %s", pod.Namespace, strings.Join(claims, " "))
	}
	if plugin == scheduler.NameDynamicResources {
		return fmt.Sprintf("look at its device claims: kubectl -n %s describe resourceclaims", pod.Namespace)
	}
	return "see kubectl describe pod"
}

func uncordon(node string) string {
	return fmt.Sprintf("let the node take pods again: kubectl uncordon %s", node)
}

// taints names those that the pod doesn't tolerate.
func taints(pod *v1.Pod, node *v1.Node) (string, float64) {
	var tolerate, conditions []string
	cordoned := false
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == v1.TaintEffectPreferNoSchedule ||
			slices.ContainsFunc(pod.Spec.Tolerations, func(o v1.Toleration) bool { return o.ToleratesTaint(klog.Logger{}, t, true) }) {
			continue
		}
		switch {
		case t.Key == v1.TaintNodeUnschedulable:
			cordoned = true
		case strings.HasPrefix(t.Key, "node.kubernetes.io/"):
			conditions = append(conditions, strings.TrimPrefix(t.Key, "node.kubernetes.io/"))
		default:
			tolerate = append(tolerate, t.ToString())
		}
	}
	var parts []string
	distance := 0.0
	if cordoned {
		parts = append(parts, uncordon(node.Name))
		distance += near
	}
	if len(conditions) > 0 {
		parts = append(parts, fmt.Sprintf("the node must recover, it is %s%s", strings.Join(conditions, " and "), whyNotReady(node)))
		distance += far
	}
	if len(tolerate) > 0 {
		parts = append(parts, fmt.Sprintf("tolerate the taint %s in the pod, or take it off: kubectl taint node %s %s-", strings.Join(tolerate, ", "), node.Name, strings.Join(tolerate, "- ")))
		distance += near
	}
	return strings.Join(parts, "; "), distance
}

func whyNotReady(node *v1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue && c.Message != "" {
			return " (" + c.Message + ")"
		}
	}
	return ""
}

// affinity names the labels that the node lacks.
func affinity(pod *v1.Pod, node *v1.Node) string {
	var parts []string
	for _, k := range sortedKeys(pod.Spec.NodeSelector) {
		want := pod.Spec.NodeSelector[k]
		switch have, ok := node.Labels[k]; {
		case !ok:
			parts = append(parts, fmt.Sprintf("label the node %s=%s, which the pod's nodeSelector wants", k, want))
		case have != want:
			parts = append(parts, fmt.Sprintf("the pod's nodeSelector wants %s=%s, the node has %s=%s", k, want, k, have))
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		required := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		if sel, err := nodeaffinity.NewNodeSelector(required); err != nil || !sel.Match(node) {
			var terms []string
			for i := range required.NodeSelectorTerms {
				terms = append(terms, unmet(&required.NodeSelectorTerms[i], node))
			}
			parts = append(parts, "the pod's node affinity wants "+strings.Join(terms, ", or "))
		}
	}
	if len(parts) == 0 {
		return "the scheduler's own configuration (addedAffinity) keeps these pods from the node"
	}
	return strings.Join(parts, "; ")
}

// unmet are the requirements of a term that a node doesn't meet.
func unmet(t *v1.NodeSelectorTerm, node *v1.Node) string {
	var out []string
	for _, part := range []struct {
		field bool
		from  []v1.NodeSelectorRequirement
	}{{false, t.MatchExpressions}, {true, t.MatchFields}} {
		for _, e := range part.from {
			one := v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{e}}
			if part.field {
				one = v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{e}}
			}
			sel, err := nodeaffinity.NewNodeSelector(&v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{one}})
			if err == nil && sel.Match(node) {
				continue
			}
			text := fmt.Sprintf("%s %s", e.Key, e.Operator)
			if len(e.Values) > 0 {
				text += " (" + strings.Join(e.Values, ", ") + ")"
			}
			if have, ok := node.Labels[e.Key]; ok {
				text += fmt.Sprintf(" and the node has %s", have)
			} else if !part.field {
				text += " and the node has no such label"
			}
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return "nothing: a term is empty, which matches no node"
	}
	return strings.Join(out, " and ")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ports names the pods that have the host ports.
func (w *world) ports(pod *v1.Pod, nodeName string) string {
	var out []string
	for i := range w.pods {
		o := &w.pods[i]
		if o.UID == pod.UID || o.Spec.NodeName != nodeName || o.Status.Phase == v1.PodSucceeded || o.Status.Phase == v1.PodFailed {
			continue
		}
		for _, p := range hostPorts(pod) {
			if slices.ContainsFunc(hostPorts(o), func(q v1.ContainerPort) bool { return q.HostPort == p.HostPort && q.Protocol == p.Protocol }) {
				out = append(out, fmt.Sprintf("host port %d/%s is taken by pod %s/%s", p.HostPort, p.Protocol, o.Namespace, o.Name))
			}
		}
	}
	if len(out) == 0 {
		return "a host port is taken"
	}
	return strings.Join(out, ", ") + ": move that pod, or use another port"
}

func hostPorts(pod *v1.Pod) []v1.ContainerPort {
	var out []v1.ContainerPort
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, p)
			}
		}
	}
	return out
}

// resources says how much of what there should be more.
func resources(nodeName string, lacks []scheduler.Shortage) (string, float64) {
	var parts []string
	distance := 0.0
	for _, l := range lacks {
		free := max(l.Free, 0)
		what := l.Resource
		if what == string(v1.ResourceCPU) {
			what = "CPU"
		}
		want, left, size, more := amount(l.Resource, l.Wanted), amount(l.Resource, free), amount(l.Resource, l.Size), amount(l.Resource, l.Wanted-free)
		switch {
		case l.Resource == string(v1.ResourcePods):
			parts = append(parts, fmt.Sprintf("the node has all of the %s pods that it may have: remove one", size))
			distance += near
		case l.Size == 0:
			parts = append(parts, fmt.Sprintf("needs %s %s, of which node %s has none", want, what, nodeName))
			distance += hopeless
		case l.Wanted > l.Size:
			parts = append(parts, fmt.Sprintf("needs %s %s, more than the %s that node %s has in all: ask for less, or use larger nodes", want, what, size, nodeName))
			distance += far + float64(l.Wanted)/float64(l.Size)
		default:
			parts = append(parts, fmt.Sprintf("needs %s %s more on node %s (wants %s, %s of %s is free)", more, what, nodeName, want, left, size))
			distance += float64(l.Wanted-free) / float64(l.Size)
		}
	}
	if len(parts) == 0 {
		return "something that the pod asks for is used up", near
	}
	return strings.Join(parts, "; "), distance
}

// amount writes a quantity as people do.
func amount(name string, n int64) string {
	switch v1.ResourceName(name) {
	case v1.ResourceCPU:
		if n%1000 != 0 && n > 1000 {
			return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64)
		}
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case v1.ResourceMemory, v1.ResourceEphemeralStorage:
		for _, u := range []struct {
			bytes float64
			name  string
		}{{1 << 40, "Ti"}, {1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}} {
			if v := float64(n) / u.bytes; v >= 1 {
				return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + u.name
			}
		}
	}
	return fmt.Sprint(n)
}

func volumes(r scheduler.Refusal) string {
	text := strings.Join(r.Reasons, ", ")
	switch r.Plugin {
	case scheduler.NameVolumeZone:
		return "a volume of the pod is in another zone than the node (" + text + ")"
	case scheduler.NameVolumeRestrictions:
		return "a volume of the pod can't be shared and is in use on the node (" + text + ")"
	case scheduler.NameNodeVolumeLimits:
		return "the node has as many volumes as it can: move pods with volumes away (" + text + ")"
	}
	return "a volume that the pod needs can't be had on the node (" + text + ")"
}

// devices says what to do about claims to devices.
func devices(pod *v1.Pod, r scheduler.Refusal) string {
	text := strings.Join(r.Reasons, ", ")
	switch text {
	case "resourceclaim not available on the node":
		return "the devices that the pod's claims have can't be reached from the node"
	case "cannot allocate all claims":
		return fmt.Sprintf("the node has no free devices that satisfy all claims of the pod: see kubectl get resourceslices, and who has them: kubectl get resourceclaims -A; or ask for others in the claims of %s/%s", pod.Namespace, pod.Name)
	}
	return "no devices can be looked for on the node: " + text
}
