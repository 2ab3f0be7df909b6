package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/pods"
)

// verdict is what a Job's failure policy says of a failed pod.
type verdict struct {
	action  batchv1.PodFailurePolicyAction // Count where no rule matches
	message string                         // for FailJob: why
}

// judge applies the failure policy to a failed pod: the first rule that matches decides (KEP-3329).
func judge(j *batchv1.Job, p *corev1.Pod) verdict {
	if j.Spec.PodFailurePolicy == nil {
		return verdict{action: batchv1.PodFailurePolicyActionCount}
	}
	for i, rule := range j.Spec.PodFailurePolicy.Rules {
		why, matches := "", false
		switch {
		case rule.OnExitCodes != nil:
			if c := exitMatching(p, rule.OnExitCodes); c != nil {
				matches = true
				why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d matching %s rule at index %d", c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
		case len(rule.OnPodConditions) > 0:
			for _, pattern := range rule.OnPodConditions {
				if c := pods.Condition(p, pattern.Type); c != nil && c.Status == pattern.Status {
					matches = true
					why = fmt.Sprintf("Pod %s/%s has condition %s matching %s rule at index %d", p.Namespace, p.Name, pattern.Type, rule.Action, i)
					break
				}
			}
		}
		if !matches || rule.Action == batchv1.PodFailurePolicyActionFailIndex && j.Spec.BackoffLimitPerIndex == nil {
			continue
		}
		return verdict{action: rule.Action, message: why}
	}
	return verdict{action: batchv1.PodFailurePolicyActionCount}
}

// exitMatching returns the first container whose exit code the rule means. Code 0 is no failure and never matches.
func exitMatching(p *corev1.Pod, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range statuses {
			s := &statuses[i]
			if s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != s.Name {
				continue
			}
			if slices.Contains(r.Values, s.State.Terminated.ExitCode) == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return s
			}
		}
	}
	return nil
}

// succeedsBy returns the message of the first rule of the success policy that is met (KEP-3998).
func succeedsBy(j *batchv1.Job, completed indexes) (string, bool) {
	if j.Spec.SuccessPolicy == nil {
		return "", false
	}
	for i, rule := range j.Spec.SuccessPolicy.Rules {
		met := false
		switch {
		case rule.SucceededIndexes != nil:
			wanted := parseIndexes(*rule.SucceededIndexes, int(ptr.Deref(j.Spec.Completions, 0)))
			n := 0
			for _, r := range wanted {
				for index := r.first; index <= r.last; index++ {
					if completed.has(index) {
						n++
					}
				}
			}
			met = n >= int(ptr.Deref(rule.SucceededCount, int32(wanted.total())))
		case rule.SucceededCount != nil:
			met = completed.total() >= int(*rule.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
