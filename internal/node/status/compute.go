package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/node/observed"
)

// ProbeResult is what the probes say about a running container.
type ProbeResult struct {
	Started bool
	Ready   bool
}

// Input is everything that a pod's status depends on. Nothing in it is changed.
type Input struct {
	Pod      *corev1.Pod
	Observed *observed.Pod // nil: nothing known yet
	Now      time.Time

	RuntimeName string // the scheme of container ids
	HostIPs     []string
	StartTime   time.Time // when the node took the pod; zero: not yet

	Waiting  map[string]Waiting     // by container name
	Probes   map[string]ProbeResult // by container name
	Messages map[string]string      // termination messages, by container id

	// Terminal says that every container has ended and none will be started again.
	Terminal bool
	// Deadline says that the pod is being ended by the node: nothing in it is ready.
	Deadline bool
	// Reason and Message explain why the node ended or refused the pod; Rejected: it was never run.
	Reason   string
	Message  string
	Rejected bool
	// ExtraConditions are set besides the computed ones (DisruptionTarget).
	ExtraConditions []corev1.PodCondition
	// Resize are the conditions of a resize that is asked for or under way (KEP-1287).
	Resize []corev1.PodCondition
	// Given are the resources that running containers have now, by container id; who isn't in it has what the pod says.
	Given map[string]corev1.ResourceRequirements
	// Replaced are ended containers, by id, that the node ended itself to start others in their place.
	Replaced map[string]bool
	// Past are the containers, by id, that there were when all were to be restarted together (KEP-5532).
	Past map[string]bool
	// Restarting says that they are not all ended yet.
	Restarting bool
	// Devices are the devices of containers with claims and their health, by container name. What was said before stays of who isn't in it (KEP-4680).
	Devices map[string][]corev1.ResourceStatus
	// Plugged are the devices that containers have of device plugins, in the same way.
	Plugged map[string][]corev1.ResourceStatus
}

// owned are the conditions that the node writes; all others belong to others and are kept as they are.
var owned = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
	corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting,
}

// Compute makes the pod's status. Conditions keep their transition time while their status stays.
func Compute(in Input) corev1.PodStatus {
	pod := in.Pod
	old := pod.Status
	out := corev1.PodStatus{
		ObservedGeneration:    pod.Generation,
		NominatedNodeName:     old.NominatedNodeName,
		QOSClass:              QOSClass(pod),
		Reason:                in.Reason,
		Message:               in.Message,
		ResourceClaimStatuses: old.ResourceClaimStatuses,

		ExtendedResourceClaimStatus:          old.ExtendedResourceClaimStatus,
		NodeAllocatableResourceClaimStatuses: old.NodeAllocatableResourceClaimStatuses,
		VolumeHealth:                         old.VolumeHealth,
	}
	if old.QOSClass != "" {
		out.QOSClass = old.QOSClass
	}
	if !in.StartTime.IsZero() {
		t := metav1.NewTime(in.StartTime.Truncate(time.Second))
		out.StartTime = &t
	}
	if old.StartTime != nil {
		out.StartTime = old.StartTime
	}
	if in.Rejected {
		out.Phase = corev1.PodFailed
		out.Conditions = slices.Clone(old.Conditions)
		return out
	}
	if old.Reason != "" && in.Reason == "" && isTerminal(old.Phase) {
		out.Reason, out.Message = old.Reason, old.Message
	}

	for _, ip := range in.HostIPs {
		out.HostIPs = append(out.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(in.HostIPs) > 0 {
		out.HostIP = in.HostIPs[0]
	}
	in.fillIPs(&out, &old)
	in.fillContainers(&out, &old)

	out.Phase = in.phase(&out)
	if isTerminal(old.Phase) {
		out.Phase = old.Phase // a pod never comes back from the end
	}
	in.fillConditions(&out, &old)
	in.fillPodResources(&out)
	return out
}

func isTerminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func (in *Input) fillIPs(out, old *corev1.PodStatus) {
	var ips []string
	if in.Pod.Spec.HostNetwork {
		if in.Observed.Sandbox() != nil {
			ips = in.HostIPs
		}
	} else if s := in.Observed.Sandbox(); s != nil {
		ips = s.IPs
	}
	if len(ips) == 0 && (in.Terminal || isTerminal(old.Phase) || in.Pod.DeletionTimestamp != nil) {
		out.PodIP, out.PodIPs = old.PodIP, old.PodIPs
		return
	}
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		out.PodIP = ips[0]
	}
}

func (in *Input) fillContainers(out, old *corev1.PodStatus) {
	spec := &in.Pod.Spec
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		r := roleInit
		if IsSidecar(c) {
			r = roleSidecar
		}
		out.InitContainerStatuses = append(out.InitContainerStatuses, in.containerStatus(c, r, Find(old.InitContainerStatuses, c.Name)))
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		out.ContainerStatuses = append(out.ContainerStatuses, in.containerStatus(c, roleMain, Find(old.ContainerStatuses, c.Name)))
	}
	// Clients diff statuses: the order must be stable. Init containers stay in the order in which they run.
	slices.SortFunc(out.ContainerStatuses, func(a, b corev1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		out.EphemeralContainerStatuses = append(out.EphemeralContainerStatuses, in.containerStatus(&c, roleEphemeral, Find(old.EphemeralContainerStatuses, c.Name)))
	}
}

// Find looks a container's status up by name.
func Find(statuses []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range statuses {
		if statuses[i].Name == name {
			return &statuses[i]
		}
	}
	return nil
}

// FindAny looks in containers, init containers and ephemeral containers.
func FindAny(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		if c := Find(list, name); c != nil {
			return c
		}
	}
	return nil
}

// phase is where the pod stands in its life.
func (in *Input) phase(s *corev1.PodStatus) corev1.PodPhase {
	spec := &in.Pod.Spec
	if in.Reason == "DeadlineExceeded" || in.Reason == "Evicted" {
		return corev1.PodFailed
	}
	var pendingInit, failedInit, running, waiting, stopped, succeeded, back int
	lost := false // an init container failed for good
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		cs := Find(s.InitContainerStatuses, c.Name)
		if IsSidecar(c) {
			switch {
			case cs.State.Running != nil:
				if cs.Started == nil || !*cs.Started {
					pendingInit++
				}
			case cs.State.Waiting != nil && cs.LastTerminationState.Terminated == nil:
				pendingInit++
			}
			continue
		}
		switch {
		case cs.State.Terminated != nil:
			if code := cs.State.Terminated.ExitCode; code != 0 {
				failedInit++
				lost = lost || !in.comesBack(c, code)
			}
		case cs.State.Waiting != nil && cs.LastTerminationState.Terminated != nil:
			if code := cs.LastTerminationState.Terminated.ExitCode; code != 0 {
				failedInit++
				lost = lost || !in.comesBack(c, code)
			}
			pendingInit++
		default:
			pendingInit++
		}
	}
	for i := range spec.Containers {
		cs := Find(s.ContainerStatuses, spec.Containers[i].Name)
		switch {
		case cs.State.Running != nil, in.replaced(spec.Containers[i].Name):
			running++
		case cs.State.Terminated != nil:
			stopped++
			if in.comesBack(&spec.Containers[i], cs.State.Terminated.ExitCode) {
				back++
			}
			if cs.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case cs.LastTerminationState.Terminated != nil:
			stopped++
			back++ // what waits after it ran waits to run again
		default:
			waiting++
		}
	}
	if in.Terminal {
		if failedInit == 0 && stopped == len(spec.Containers) && succeeded == stopped {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	switch {
	case lost && running == 0 && !in.Restarting:
		return corev1.PodFailed
	case (pendingInit > 0 || failedInit > 0) && running == 0 && stopped == 0, waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case back > 0:
		return corev1.PodRunning
	case stopped == succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// comesBack tells whether a container that ended so is started again.
func (in *Input) comesBack(c *corev1.Container, exitCode int32) bool {
	l := in.Observed.Latest(c.Name)
	return l != nil && (in.past(l) || in.Replaced[l.ID]) || Restarts(in.Pod.Spec.RestartPolicy, c, exitCode)
}

func (in *Input) replaced(name string) bool {
	l := in.Observed.Latest(name)
	return l != nil && in.Replaced[l.ID]
}

func (in *Input) fillConditions(out, old *corev1.PodStatus) {
	generation := in.Pod.Generation
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}
	if s := in.Observed.ReadySandbox(); s != nil && (in.Pod.Spec.HostNetwork || len(s.IPs) > 0) {
		sandbox.Status = corev1.ConditionTrue
	}
	containersReady := in.containersReady(out)
	conditions := []corev1.PodCondition{
		sandbox,
		in.initialized(out),
		in.ready(containersReady, old),
		containersReady,
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if MayRestartAll(&in.Pod.Spec) {
		conditions = append(conditions, in.restarting(out))
	}
	conditions = append(conditions, in.Resize...)
	for i := range conditions {
		c := &conditions[i]
		c.LastTransitionTime = metav1.NewTime(in.Now.Truncate(time.Second))
		isResize := c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
		if !isResize {
			c.ObservedGeneration = generation
		}
		if before := FindCondition(old.Conditions, c.Type); before != nil && before.Status == c.Status && (!isResize || before.Reason == c.Reason) {
			c.LastTransitionTime = before.LastTransitionTime
		}
	}
	extra := slices.Clone(in.ExtraConditions)
	for _, c := range old.Conditions {
		if slices.Contains(owned, c.Type) || FindCondition(extra, c.Type) != nil {
			continue
		}
		conditions = append(conditions, c)
	}
	for _, c := range extra {
		c.ObservedGeneration = generation
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.NewTime(in.Now.Truncate(time.Second))
		}
		if before := FindCondition(old.Conditions, c.Type); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		conditions = append(conditions, c)
	}
	out.Conditions = conditions
}

// FindCondition looks a condition up by type.
func FindCondition(conditions []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

func (in *Input) initialized(out *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	var incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		spec := &in.Pod.Spec.InitContainers[i]
		cs := Find(out.InitContainerStatuses, spec.Name)
		if IsSidecar(spec) {
			if cs.Started == nil || !*cs.Started {
				incomplete = append(incomplete, spec.Name)
			}
		} else if !cs.Ready {
			incomplete = append(incomplete, spec.Name)
		}
	}
	switch {
	case out.Phase == corev1.PodSucceeded && len(in.Pod.Spec.InitContainers) > 0, out.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case len(incomplete) > 0 && !in.mainEverRan(out):
		c.Status = corev1.ConditionFalse
		c.Reason = "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", names(incomplete))
	}
	return c
}

// mainEverRan tells whether the pod has come past its initialization: sidecars may restart afterwards.
func (in *Input) mainEverRan(out *corev1.PodStatus) bool {
	for i := range out.ContainerStatuses {
		s := &out.ContainerStatuses[i]
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

func names(list []string) string { return "[" + strings.Join(list, " ") + "]" }

func (in *Input) containersReady(out *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}
	var unready []string
	for i := range in.Pod.Spec.InitContainers {
		spec := &in.Pod.Spec.InitContainers[i]
		if IsSidecar(spec) && !Find(out.InitContainerStatuses, spec.Name).Ready {
			unready = append(unready, spec.Name)
		}
	}
	for i := range in.Pod.Spec.Containers {
		if name := in.Pod.Spec.Containers[i].Name; !Find(out.ContainerStatuses, name).Ready {
			unready = append(unready, name)
		}
	}
	switch {
	case out.Phase == corev1.PodSucceeded:
		c.Status, c.Reason = corev1.ConditionFalse, "PodCompleted"
	case out.Phase == corev1.PodFailed:
		c.Status, c.Reason = corev1.ConditionFalse, "PodFailed"
	case len(unready) > 0:
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotReady"
		c.Message = "containers with unready status: " + names(unready)
	}
	return c
}

func (in *Input) ready(containers corev1.PodCondition, old *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReady, Status: containers.Status, Reason: containers.Reason, Message: containers.Message}
	if containers.Status != corev1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		if slices.Contains(owned, gate.ConditionType) && gate.ConditionType != corev1.PodReady {
			continue
		}
		switch have := FindCondition(old.Conditions, gate.ConditionType); {
		case have == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case have.Status != corev1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, have.Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}

// Equal tells whether writing the new status would change anything.
func Equal(a, b *corev1.PodStatus) bool {
	return apiequality.Semantic.DeepEqual(a, b)
}

// Rebase is our status with the conditions that belong to others as the API has them.
func Rebase(api, ours *corev1.PodStatus) corev1.PodStatus {
	out := *ours
	out.Conditions = nil
	for _, c := range ours.Conditions {
		if slices.Contains(owned, c.Type) || c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for _, c := range api.Conditions {
		if !slices.Contains(owned, c.Type) && FindCondition(out.Conditions, c.Type) == nil {
			out.Conditions = append(out.Conditions, c)
		}
	}
	return out
}
