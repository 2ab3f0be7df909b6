package scheduler

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// restartsAll is the one feature of nodes that matters for where a pod may run: that they know how to start all containers of a pod again when one of
// them ends. Nodes say so themselves (KEP-5328).
const restartsAll = "RestartAllContainersOnContainerExits"

// wantsRestartOfAll says whether a rule of a container has all of them started again.
func wantsRestartOfAll(spec *v1.PodSpec) bool {
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if slices.ContainsFunc(list[i].RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
				return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
			}) {
				return true
			}
		}
	}
	return false
}

type declaredFeatures struct{}

func (declaredFeatures) Name() string { return NameDeclaredFeatures }

func (declaredFeatures) Filter(_ *Snapshot, c *class, n *node) rejection {
	if c.pod.restartsAll && !n.restartsAll {
		return rejectedForGood | 1<<rejectedDetail
	}
	return 0
}

func (declaredFeatures) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) didn't match Pod's required features"}
}
