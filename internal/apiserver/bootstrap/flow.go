package bootstrap

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func flowMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}
}

// level is a priority level that queues, or, without queues, rejects.
func level(name string, shares, lendable, handSize, queues int32) *flowcontrolv1.PriorityLevelConfiguration {
	limit := flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	if queues > 0 {
		limit = flowcontrolv1.LimitResponse{
			Type:    flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: handSize, QueueLengthLimit: 50},
		}
	}
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: flowMeta(name), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type:    flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lendable, LimitResponse: limit},
	}}
}

// priorityLevels are those of a fresh cluster (KEP-1040).
func priorityLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	return []*flowcontrolv1.PriorityLevelConfiguration{
		level("catch-all", 5, 0, 0, 0),
		{ObjectMeta: flowMeta("exempt"), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:   flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(0)), LendablePercent: new(int32(0))},
		}},
		level("global-default", 20, 50, 6, 128),
		level("leader-election", 10, 0, 4, 16),
		level("node-high", 40, 25, 6, 64),
		level("system", 30, 33, 6, 64),
		level("workload-high", 40, 50, 6, 128),
		level("workload-low", 100, 90, 6, 128),
	}
}

func schema(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, rules flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: flowMeta(name), Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
		MatchingPrecedence:         precedence,
		Rules:                      []flowcontrolv1.PolicyRulesWithSubjects{rules},
	}}
	if by != "" {
		s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
	}
	return s
}

func flowGroup(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
}

func flowUser(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}
}

func flowAccounts(namespace string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindServiceAccount,
		ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: flowcontrolv1.NameAll}}
}

func resources(verbs, group, names string, clusterScope bool) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{
		Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(names),
		ClusterScope: clusterScope, Namespaces: []string{flowcontrolv1.NamespaceEvery},
	}
}

func anything(subjects ...flowcontrolv1.Subject) flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{
		Subjects:         subjects,
		ResourceRules:    []flowcontrolv1.ResourcePolicyRule{resources("*", "*", "*", true)},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
	}
}

// flowSchemas are those of a fresh cluster (KEP-1040).
func flowSchemas() []*flowcontrolv1.FlowSchema {
	const byUser, byNamespace = flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
	const manager, scheduler = "system:kube-controller-manager", "system:kube-scheduler"
	unknown, known, nodes := flowGroup("system:unauthenticated"), flowGroup("system:authenticated"), flowGroup("system:nodes")
	system := flowAccounts(kubeSystem)
	return []*flowcontrolv1.FlowSchema{
		schema("catch-all", "catch-all", 10000, byUser, anything(unknown, known)),
		schema("exempt", "exempt", 1, "", anything(flowGroup("system:masters"))),
		schema("global-default", "global-default", 9900, byUser, anything(unknown, known)),
		schema("kube-controller-manager", "workload-high", 800, byNamespace, anything(flowUser(manager))),
		schema("kube-scheduler", "workload-high", 800, byNamespace, anything(flowUser(scheduler))),
		schema("kube-system-service-accounts", "workload-high", 900, byNamespace, anything(system)),
		schema("probes", "exempt", 2, "", flowcontrolv1.PolicyRulesWithSubjects{
			Subjects:         []flowcontrolv1.Subject{unknown, known},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}}},
		}),
		schema("service-accounts", "workload-low", 9000, byUser, anything(flowGroup("system:serviceaccounts"))),
		schema("system-leader-election", "leader-election", 100, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects:      []flowcontrolv1.Subject{flowUser(manager), flowUser(scheduler), system},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{resources("get create update", "coordination.k8s.io", "leases", false)},
		}),
		schema("system-node-high", "node-high", 400, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: []flowcontrolv1.Subject{nodes},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				resources("*", "", "nodes nodes/status", true), resources("*", "coordination.k8s.io", "leases", false)},
		}),
		schema("system-nodes", "system", 500, byUser, anything(nodes)),
	}
}

// priorityClasses are those of a fresh cluster.
func priorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description,
			PreemptionPolicy: new(corev1.PreemptLowerPriority),
		}
	}
	return []*schedulingv1.PriorityClass{
		class("system-cluster-critical", 2_000_000_000,
			"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
		class("system-node-critical", 2_000_001_000,
			"Used for system critical pods that must not be moved from their current node."),
	}
}
