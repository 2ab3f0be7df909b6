package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/node/observed"
)

// Restarts tells whether a container that ended so comes back: by its own rules and policy (KEP-5307), else by the pod's.
func Restarts(policy corev1.RestartPolicy, c *corev1.Container, exitCode int32) bool {
	if MatchingRule(c, exitCode) != nil {
		return true // both actions begin with a restart of this container
	}
	if c.RestartPolicy != nil {
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return exitCode != 0
		}
		return false
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// MatchingRule is the first of the container's restart rules that an exit code meets, nil if none does.
func MatchingRule(c *corev1.Container, exitCode int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		rule := &c.RestartPolicyRules[i]
		if rule.ExitCodes == nil {
			continue
		}
		if slices.Contains(rule.ExitCodes.Values, exitCode) == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return rule
		}
	}
	return nil
}

// MayRestartAll tells whether the exit of one container may restart all of the pod (KEP-5532).
func MayRestartAll(spec *corev1.PodSpec) bool {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			for _, rule := range list[i].RestartPolicyRules {
				if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

// past tells whether a container is from before all were restarted together.
func (in *Input) past(c *observed.Container) bool {
	return in.Past[c.ID]
}

// restarting is the condition that tells of it.
func (in *Input) restarting(out *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	switch {
	case out.Phase == corev1.PodSucceeded:
		c.Reason = "PodCompleted"
	case out.Phase == corev1.PodFailed:
		c.Reason = "PodFailed"
	case in.Restarting:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return c
}
