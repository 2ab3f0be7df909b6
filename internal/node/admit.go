package node

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/celox/celox/internal/node/sysctl"
)

// rejection is why a pod may not run here.
type rejection struct{ reason, message string }

// admission is the account of what the node's pods ask for.
type admission struct {
	mu    sync.Mutex
	pods  map[types.UID]corev1.ResourceList // what each admitted pod asks for
	ports map[types.UID][]hostPort          // of those that want any
}

// admit takes the pod into account, or says why it may not run. A pod that ran here before is never refused.
func (n *Node) admit(pod *corev1.Pod, ran bool) *rejection {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	ports := hostPorts(pod)
	n.admission.mu.Lock()
	defer n.admission.mu.Unlock()
	if _, ok := n.admission.pods[pod.UID]; !ok && !ran {
		if r := admissible(pod, requests, n.admission.pods, n.allocatable(), n.self(), n.cfg.MaxPods, n.cfg.Sysctls); r != nil {
			return r
		}
		if r := portsTaken(ports, n.admission.ports); r != nil {
			return r
		}
	}
	n.admission.pods[pod.UID] = requests
	if len(ports) > 0 {
		n.admission.ports[pod.UID] = ports
	}
	return nil
}

// released takes the pod out of the account.
func (n *Node) released(uid types.UID) {
	n.admission.mu.Lock()
	defer n.admission.mu.Unlock()
	delete(n.admission.pods, uid)
	delete(n.admission.ports, uid)
}

// admissible decides about one more pod.
func admissible(pod *corev1.Pod, requests corev1.ResourceList, others map[types.UID]corev1.ResourceList, allocatable corev1.ResourceList, node *corev1.Node, maxPods int, sysctls sysctl.Allowed) *rejection {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != "" && pod.Spec.OS.Name != corev1.Linux {
		return &rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if r := forbiddenSysctl(pod, sysctls); r != nil {
		return r
	}
	if node != nil {
		ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
		if err != nil || !ok {
			return &rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
		}
		for i := range node.Spec.Taints {
			t := &node.Spec.Taints[i]
			if t.Effect == corev1.TaintEffectNoExecute && !tolerated(pod, t) {
				return &rejection{"TaintToleration", fmt.Sprintf("Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
			}
		}
	}
	if len(others) >= maxPods {
		return lacking(corev1.ResourcePods, 1, int64(len(others)), int64(maxPods))
	}
	for name, want := range requests {
		if want.IsZero() {
			continue
		}
		have, known := allocatable[name]
		if !known && (extended(name) || claimed(pod, name)) {
			// Somebody else says in the node's status how much of it there is; what nobody says is the cluster's and not the node's business.
			if node != nil {
				have, known = node.Status.Allocatable[name]
			}
			if !known {
				continue
			}
		}
		if !known && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			return lacking(name, want.Value(), 0, 0)
		}
		var used resource.Quantity
		for _, list := range others {
			if q, ok := list[name]; ok {
				used.Add(q)
			}
		}
		total := used.DeepCopy()
		total.Add(want)
		if total.Cmp(have) > 0 {
			if name == corev1.ResourceCPU {
				return lacking(name, want.MilliValue(), used.MilliValue(), have.MilliValue())
			}
			return lacking(name, want.Value(), used.Value(), have.Value())
		}
	}
	return nil
}

// claimed says whether the scheduler got a claim to devices for an extended resource of a pod (KEP-5004).
func claimed(pod *corev1.Pod, name corev1.ResourceName) bool {
	st := pod.Status.ExtendedResourceClaimStatus
	return st != nil && slices.ContainsFunc(st.RequestMappings, func(r corev1.ContainerExtendedResourceRequest) bool { return r.ResourceName == string(name) })
}

// extended says whether a resource is one that Kubernetes itself knows nothing of.
func extended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), "kubernetes.io/")
}

func tolerated(pod *corev1.Pod, t *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		tol := &pod.Spec.Tolerations[i]
		if (tol.Effect == "" || tol.Effect == t.Effect) && (tol.Key == "" || tol.Key == t.Key) &&
			(tol.Operator == corev1.TolerationOpExists || tol.Value == t.Value) {
			return true
		}
	}
	return false
}

func lacking(name corev1.ResourceName, requested, used, capacity int64) *rejection {
	return &rejection{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}
