package status

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/observed"
)

// Waiting is why a container does not run now.
type Waiting struct {
	Reason  string
	Message string
}

// ReasonContainerCreating and the others are the reasons of waiting and terminated containers that clients match on.
const (
	ReasonContainerCreating     = "ContainerCreating"
	ReasonPodInitializing       = "PodInitializing"
	ReasonCrashLoopBackOff      = "CrashLoopBackOff"
	ReasonContainerUnknown      = "ContainerStatusUnknown"
	reasonRestartingAll         = "RestartingAllContainers"
	messageRestartingAll        = "The container is removed because RestartAllContainers in place"
	reasonCompleted             = "Completed"
	reasonError                 = "Error"
	messageContainerStatusGone  = "The container could not be located when the pod was terminated"
	exitCodeContainerStatusGone = 137
)

// role is what a container is in its pod.
type role int8

const (
	roleMain role = iota
	roleInit
	roleSidecar
	roleEphemeral
)

// IsSidecar tells whether an init container keeps running besides the pod's containers (KEP-753).
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// containerStatus computes the status of one container. old is what the status said before, nil if nothing.
func (in *Input) containerStatus(c *corev1.Container, r role, old *corev1.ContainerStatus) corev1.ContainerStatus {
	out := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
	defaultWait := Waiting{Reason: ReasonContainerCreating}
	if r != roleEphemeral && len(in.Pod.Spec.InitContainers) > 0 {
		defaultWait = Waiting{Reason: ReasonPodInitializing}
	}
	waiting, isWaiting := in.Waiting[c.Name]
	latest := in.Observed.Latest(c.Name)

	switch {
	case latest == nil || latest.State == runtimeapi.ContainerState_CONTAINER_CREATED && !in.Terminal:
		out.State = waitingState(defaultWait)
		if latest != nil {
			out.RestartCount = int32(max(latest.RestartCount-1, 0)) // it isn't restarted before it runs
			if previous := in.Observed.Previous(c.Name); previous != nil {
				out.LastTerminationState = in.terminated(previous)
			}
		}
		if latest == nil && old != nil {
			// The runtime forgot a container that it once had: keep what is known of it.
			out.RestartCount = old.RestartCount
			out.LastTerminationState = old.LastTerminationState
			switch {
			case old.State.Terminated != nil:
				if in.Terminal || in.keeps(c, r, old) {
					out.State = old.State
					out.ContainerID, out.ImageID, out.Image = old.ContainerID, old.ImageID, old.Image
				} else {
					out.LastTerminationState = old.State
				}
			case old.State.Running != nil:
				gone := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					Reason:      ReasonContainerUnknown,
					Message:     messageContainerStatusGone,
					ExitCode:    exitCodeContainerStatusGone,
					ContainerID: old.ContainerID,
					StartedAt:   old.State.Running.StartedAt,
				}}
				if in.Terminal {
					out.State = gone
				} else {
					out.LastTerminationState = gone
				}
			}
		}
	case latest.Running():
		out.State.Running = &corev1.ContainerStateRunning{StartedAt: stamp(latest.StartedAt)}
		in.identity(&out, latest)
		if previous := in.Observed.Previous(c.Name); previous != nil {
			out.LastTerminationState = in.terminated(previous)
		} else if old != nil && latest.RestartCount > 0 {
			out.LastTerminationState = old.LastTerminationState
			if old.State.Terminated != nil {
				out.LastTerminationState = old.State
			}
		}
	default:
		in.identity(&out, latest)
		out.State = in.terminated(latest)
		if previous := in.Observed.Previous(c.Name); previous != nil {
			out.LastTerminationState = in.terminated(previous)
		} else if old != nil && latest.RestartCount > 0 {
			out.LastTerminationState = old.LastTerminationState
		}
	}

	if !isWaiting && latest != nil && in.past(latest) && !latest.Running() && r != roleEphemeral {
		waiting, isWaiting = Waiting{Reason: reasonRestartingAll, Message: messageRestartingAll}, true
	}
	if isWaiting && out.State.Running == nil && !in.Terminal {
		if out.State.Terminated != nil {
			out.LastTerminationState = out.State
		}
		out.State = waitingState(waiting)
	}
	if in.Terminal && out.State.Waiting != nil && (r == roleMain && in.pastInit() || out.LastTerminationState.Terminated != nil) {
		// Nothing will run any more: what never ran, or was lost, has ended as well.
		out.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: ReasonContainerUnknown, Message: messageContainerStatusGone, ExitCode: exitCodeContainerStatusGone,
		}}
	}
	in.fillReadiness(&out, c, r)
	in.fillResources(&out, c, latest)
	fillMounts(&out, c)
	if r == roleMain {
		in.fillDevices(&out, c, old)
	}
	return out
}

// pastInit tells whether the pod's containers had their turn: when an init container failed, they wait for ever.
func (in *Input) pastInit() bool {
	init := in.Pod.Spec.InitContainers
	if len(init) == 0 || in.mainEverRan(&in.Pod.Status) {
		return true
	}
	for i := range in.Pod.Spec.Containers {
		if in.Observed.Latest(in.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	last := &init[len(init)-1]
	latest, old := in.Observed.Latest(last.Name), Find(in.Pod.Status.InitContainerStatuses, last.Name)
	if IsSidecar(last) {
		return latest != nil && latest.Running() || old != nil && old.Started != nil && *old.Started
	}
	if latest != nil {
		return latest.State == runtimeapi.ContainerState_CONTAINER_EXITED && latest.ExitCode == 0
	}
	return old != nil && old.State.Terminated != nil && old.State.Terminated.ExitCode == 0
}

// keeps tells whether a finished container that the runtime has forgotten stays finished.
func (in *Input) keeps(c *corev1.Container, r role, old *corev1.ContainerStatus) bool {
	if r == roleInit && old.State.Terminated.ExitCode == 0 {
		return true
	}
	switch in.Pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return true
	case corev1.RestartPolicyOnFailure:
		return old.State.Terminated.ExitCode == 0
	}
	return false
}

// stamp is a time as the API keeps it: in seconds. Otherwise a status would differ from itself once it was stored.
func stamp(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

// neverStarted is when a container started that did not, in the status of its end: CRI's zero. Clients know it; none at all they would show as the year 1.
func neverStarted() metav1.Time { return metav1.Unix(0, 0) }

func waitingState(w Waiting) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}}
}

func (in *Input) identity(out *corev1.ContainerStatus, c *observed.Container) {
	out.RestartCount = int32(c.RestartCount)
	out.ContainerID = in.containerID(c.ID)
	out.ImageID = c.ImageRef
	if c.Image != "" && !strings.HasPrefix(c.Image, "sha256:") {
		out.Image = c.Image
	}
	if u := c.User.GetLinux(); u != nil {
		out.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if c.StopSignal != 0 && c.Running() {
		s := corev1.Signal(strings.TrimPrefix(c.StopSignal.String(), "SIGNAL_"))
		out.StopSignal = &s
	}
}

func (in *Input) containerID(id string) string {
	return in.RuntimeName + "://" + id
}

func (in *Input) terminated(c *observed.Container) corev1.ContainerState {
	t := &corev1.ContainerStateTerminated{
		ExitCode:    c.ExitCode,
		Reason:      c.Reason,
		Message:     c.Message,
		StartedAt:   neverStarted(),
		FinishedAt:  stamp(c.FinishedAt),
		ContainerID: in.containerID(c.ID),
	}
	if !c.StartedAt.IsZero() {
		t.StartedAt = stamp(c.StartedAt)
	}
	if m, ok := in.Messages[c.ID]; ok && m != "" {
		t.Message = m
	}
	if t.Reason == "" {
		t.Reason = reasonCompleted
		if c.ExitCode != 0 {
			t.Reason = reasonError
		}
	}
	return corev1.ContainerState{Terminated: t}
}

func (in *Input) fillReadiness(out *corev1.ContainerStatus, c *corev1.Container, r role) {
	started := false
	ready := false
	if out.State.Running != nil {
		p := in.Probes[c.Name]
		started = c.StartupProbe == nil || p.Started
		ready = started && (c.ReadinessProbe == nil || p.Ready)
	}
	switch r {
	case roleEphemeral:
		return
	case roleInit:
		ready = out.State.Terminated != nil && out.State.Terminated.ExitCode == 0
	}
	if in.Deadline {
		ready = ready && r == roleInit
	}
	out.Ready = ready
	out.Started = &started
}

func fillMounts(out *corev1.ContainerStatus, c *corev1.Container) {
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil {
				mode = *m.RecursiveReadOnly
			}
			s.RecursiveReadOnly = &mode
		}
		out.VolumeMounts = append(out.VolumeMounts, s)
	}
}

// NotRunningMessage is the answer to somebody who wants the log of a container, or to enter it, before it ran.
func NotRunningMessage(container, pod string, s *corev1.ContainerStatus) error {
	if s != nil && s.State.Waiting != nil {
		return fmt.Errorf("container %q in pod %q is waiting to start: %s", container, pod, waitText(s.State.Waiting))
	}
	return fmt.Errorf("container %q in pod %q is not available", container, pod)
}

func waitText(w *corev1.ContainerStateWaiting) string {
	switch w.Reason {
	case "ErrImagePull":
		return "image can't be pulled"
	case "ImagePullBackOff":
		return "trying and failing to pull image"
	case "":
		return ReasonContainerCreating
	}
	return w.Reason
}
