package core

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func podColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	return api.Columns(
		table.Name(),
		table.Column("Ready", table.String, "The aggregate readiness state of this pod for accepting traffic."),
		table.Column("Status", table.String, "The aggregate status of the containers in this pod."),
		table.Column("Restarts", table.String, "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		table.AgeColumn(),
		table.Wide("IP", table.String, status["podIP"]),
		table.Wide("Node", table.String, spec["nodeName"]),
		table.Wide("Nominated Node", table.String, status["nominatedNodeName"]),
		table.Wide("Readiness Gates", table.String, spec["readinessGates"]),
	)
}

func podRow(p *corev1.Pod, now time.Time) []any {
	s := summarize(p)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts != 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, table.Since(s.lastRestart, now))
	}
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.reason, restarts, table.Age(p, now),
		table.OrNone(ip), table.OrNone(p.Spec.NodeName), table.OrNone(p.Status.NominatedNodeName), openGates(p),
	}
}

// podRowConditions mark pods that have ended.
func podRowConditions(obj api.Object) []metav1.TableRowCondition {
	c := metav1.TableRowCondition{Type: metav1.RowCompleted, Status: metav1.ConditionTrue}
	switch phase := obj.(*corev1.Pod).Status.Phase; phase {
	case corev1.PodSucceeded:
		c.Reason, c.Message = string(phase), "The pod has completed successfully."
	case corev1.PodFailed:
		c.Reason, c.Message = string(phase), "The pod failed."
	default:
		return nil
	}
	return []metav1.TableRowCondition{c}
}

// openGates counts the readiness gates whose condition holds.
func openGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return table.None
	}
	n := 0
	for _, g := range p.Spec.ReadinessGates {
		if holds(p, g.ConditionType) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(p.Spec.ReadinessGates))
}

func holds(p *corev1.Pod, t corev1.PodConditionType) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// summary is a pod as one line tells it.
type summary struct {
	reason       string
	ready, total int
	restarts     int
	lastRestart  metav1.Time
}

// nodeLost is the reason of pods whose node no longer answers.
const nodeLost = "NodeLost"

// completed is the reason of containers that ended well.
const completed = "Completed"

func summarize(p *corev1.Pod) summary {
	s := summary{reason: string(p.Status.Phase), total: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; podspec.IsSidecar(c) {
			sidecars[c.Name] = true
			s.total++
		}
	}
	if beside, initializing := s.init(p, sidecars); !initializing || holds(p, corev1.PodInitialized) {
		// From here on the restarts of init containers that have done their work no longer count.
		s.restarts, s.lastRestart = beside.restarts, beside.lastRestart
		s.regular(p)
	}
	if p.DeletionTimestamp != nil {
		switch phase := p.Status.Phase; {
		case p.Status.Reason == nodeLost:
			s.reason = "Unknown"
		case phase != corev1.PodFailed && phase != corev1.PodSucceeded:
			s.reason = "Terminating"
		}
	}
	return s
}

func (s *summary) count(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(&t.FinishedAt) {
		s.lastRestart = t.FinishedAt
	}
}

// init looks at the init containers up to the one that the pod waits for, if there is one, which gives the reason then.
// It returns the restarts of the sidecars.
func (s *summary) init(p *corev1.Pod, sidecars map[string]bool) (beside summary, initializing bool) {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.count(c)
		if sidecars[c.Name] {
			beside.count(c)
		}
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case t != nil && t.ExitCode == 0:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case t != nil:
			s.reason = "Init:" + ending(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.reason = "Init:" + w.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return beside, true
	}
	return beside, false
}

// ending tells why a container ended.
func ending(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// regular looks at the regular containers; the first that isn't simply running gives the reason.
func (s *summary) regular(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.count(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = ending(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason == completed && running {
		s.reason = "NotReady"
		if holds(p, corev1.PodReady) {
			s.reason = string(corev1.PodRunning)
		}
	}
}
