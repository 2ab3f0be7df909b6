package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/celox/celox/internal/node/status"
	"github.com/celox/celox/internal/node/sysctl"
)

// rejection is why a pod may not run here.
type rejection struct{ reason, message string }

// admission is the account of what the node's pods ask for.
type admission struct {
	mu    sync.Mutex
	pods  map[types.UID]corev1.ResourceList // what each admitted pod asks for
	ports map[types.UID][]hostPort          // of those that want any
	// deferred are the pods, by id, that ask for more than there is and wait for it.
	deferred map[types.UID]deferral
}

// deferral is a resize that waits.
type deferral struct {
	pod   *corev1.Pod // as it is to be
	since time.Time
}

// admit takes the pod into account, or says why it may not run. A pod that ran here before is never refused.
func (n *Node) admit(pod *corev1.Pod, ran bool) *rejection {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	ports := hostPorts(pod)
	n.admission.mu.Lock()
	defer n.admission.mu.Unlock()
	if _, ok := n.admission.pods[pod.UID]; !ok && !ran {
		if r := admissible(pod, n.unplugged(pod, requests), n.admission.pods, n.allocatable(), n.self(), n.cfg.MaxPods, n.cfg.Sysctls); r != nil {
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
	delete(n.admission.pods, uid)
	delete(n.admission.ports, uid)
	delete(n.admission.deferred, uid)
	granted := n.admission.grant(n)
	n.admission.mu.Unlock()
	n.tellGranted(granted)
}

// resized takes what the pod asks for now into account, or says why it has to wait for it.
func (n *Node) resized(pod *corev1.Pod) *rejection {
	a := &n.admission
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	a.mu.Lock()
	if r := a.fits(n, pod, requests); r != nil {
		d, waits := a.deferred[pod.UID]
		if !waits {
			d.since = n.clock.Now()
		}
		d.pod = pod
		a.deferred[pod.UID] = d
		a.mu.Unlock()
		return r
	}
	a.pods[pod.UID] = requests
	delete(a.deferred, pod.UID)
	granted := a.grant(n)
	a.mu.Unlock()
	n.tellGranted(granted)
	return nil
}

// unresize takes back that the pod waits for more.
func (n *Node) unresize(uid types.UID) {
	n.admission.mu.Lock()
	defer n.admission.mu.Unlock()
	delete(n.admission.deferred, uid)
}

// fits says why a pod can't be resized yet; nil if it can. The caller holds mu.
func (a *admission) fits(n *Node, pod *corev1.Pod, requests corev1.ResourceList) *rejection {
	if !grows(a.pods[pod.UID], requests) {
		return nil
	}
	others := maps.Clone(a.pods)
	for _, obj := range n.cfg.Pods.GetStore().List() {
		// Those that are on their way in were promised what they have by the process before this one, or by the scheduler.
		p, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		if _, counted := others[p.UID]; !counted && p.Spec.NodeName == n.cfg.NodeName && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && !isMirror(p) {
			others[p.UID] = resourcehelper.PodRequests(promisedBefore(p), resourcehelper.PodResourcesOptions{})
		}
	}
	delete(others, pod.UID)
	return enough(pod, n.unplugged(pod, requests), others, n.allocatable(), n.self())
}

// unplugged is what a pod asks for without the devices of plugins that it has already: these are its own.
func (n *Node) unplugged(pod *corev1.Pod, requests corev1.ResourceList) corev1.ResourceList {
	out := maps.Clone(requests)
	maps.DeleteFunc(out, func(name corev1.ResourceName, _ resource.Quantity) bool { return n.plugged.Has(pod.UID, name) })
	return out
}

func grows(before, after corev1.ResourceList) bool {
	return after.Cpu().Cmp(*before.Cpu()) > 0 || after.Memory().Cmp(*before.Memory()) > 0
}

// grant takes into account what there is room for now of what pods wait for: the more important first, then guaranteed ones, then who has
// waited longest. It returns whose wishes were met. The caller holds mu.
func (a *admission) grant(n *Node) []types.UID {
	if len(a.deferred) == 0 {
		return nil
	}
	order := slices.SortedFunc(maps.Values(a.deferred), func(x, y deferral) int {
		priority := func(p *corev1.Pod) int32 {
			if p.Spec.Priority == nil {
				return 0
			}
			return *p.Spec.Priority
		}
		rank := func(p *corev1.Pod) int {
			if status.QOSClass(p) == corev1.PodQOSGuaranteed {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(priority(y.pod), priority(x.pod)), cmp.Compare(rank(x.pod), rank(y.pod)), x.since.Compare(y.since), cmp.Compare(x.pod.UID, y.pod.UID))
	})
	var out []types.UID
	for _, d := range order {
		requests := resourcehelper.PodRequests(d.pod, resourcehelper.PodResourcesOptions{})
		if a.fits(n, d.pod, requests) == nil {
			a.pods[d.pod.UID] = requests
			delete(a.deferred, d.pod.UID)
			out = append(out, d.pod.UID)
		}
	}
	return out
}

// tellGranted tells pods that what they waited for is theirs.
func (n *Node) tellGranted(uids []types.UID) {
	for _, uid := range uids {
		n.withWorker(uid, (*worker).resizeAgain)
	}
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
	return enough(pod, requests, others, allocatable, node)
}

// enough says what the node has too little of for the pod beside the others; nil if there is enough of all.
func enough(pod *corev1.Pod, requests corev1.ResourceList, others map[types.UID]corev1.ResourceList, allocatable corev1.ResourceList, node *corev1.Node) *rejection {
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
