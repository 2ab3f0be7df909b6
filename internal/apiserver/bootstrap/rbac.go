package bootstrap

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"
	controllerRun  = "system:controller:"
	kubeSystem     = metav1.NamespaceSystem
	kubePublic     = metav1.NamespacePublic
)

// defaultsMeta marks an object as one that Ensure looks after.
func defaultsMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func clusterRole(name string, rules ...rule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: defaultsMeta("", name), Rules: policies(rules)}
}

func controllerRole(name string, rules ...rule) *rbacv1.ClusterRole {
	return clusterRole(controllerRun+name, rules...)
}

// aggregate is a role that consists of the roles that are marked with addTo.
func aggregate(name string) *rbacv1.ClusterRole {
	r := clusterRole(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateLabel + name: "true"}}}}
	return r
}

func addTo(aggregated string, r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r.Labels[aggregateLabel+aggregated] = "true"
	return r
}

// rule is a policy rule in few words; its parts are separated by spaces. Hundreds of complete rules as literals would be 100 KB of instructions.
type rule struct {
	verbs, groups, resources string
	names                    []string
	urls                     string // of what is no resource
}

// allow is a rule for resources; "core" is the group without a name.
func allow(verbs, groups, resources string, names ...string) rule {
	return rule{verbs: verbs, groups: groups, resources: resources, names: names}
}

// paths is a rule for what is no resource.
func paths(verbs, urls string) rule { return rule{verbs: verbs, urls: urls} }

// policies spells rules out. With none the answer is nil.
func policies(rules []rule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		p := rbacv1.PolicyRule{Verbs: strings.Fields(r.verbs), ResourceNames: slices.Clone(r.names)}
		if r.urls != "" {
			p.NonResourceURLs = strings.Fields(r.urls)
		} else {
			p.APIGroups, p.Resources = strings.Fields(r.groups), strings.Fields(r.resources)
			for i, g := range p.APIGroups {
				if g == "core" {
					p.APIGroups[i] = ""
				}
			}
		}
		out = append(out, p)
	}
	return out
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func account(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: kubeSystem, Name: name}
}

// bound is a cluster role binding that has the name of its role.
func bound(name string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: defaultsMeta("", name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}
}

// clusterRoleBindings are the cluster role bindings of a fresh cluster.
func clusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	out := []*rbacv1.ClusterRoleBinding{
		bound("cluster-admin", group("system:masters")),
		bound("system:cluster-trust-bundle-discovery", group("system:serviceaccounts")),
		bound("system:basic-user", group("system:authenticated")),
		bound("system:discovery", group("system:authenticated")),
		bound("system:kube-controller-manager", user("system:kube-controller-manager")),
		bound("system:kube-dns", account("kube-dns")),
		bound("system:kube-scheduler", user("system:kube-scheduler")),
		bound("system:monitoring", group("system:monitoring")),
		bound("system:node"), // the node authorizer does its work; this is for those who turn it off
		bound("system:node-proxier", user("system:kube-proxy")),
		bound("system:public-info-viewer", group("system:authenticated"), group("system:unauthenticated")),
		bound("system:service-account-issuer-discovery", group("system:serviceaccounts")),
		bound("system:volume-scheduler", user("system:kube-scheduler")),
	}
	for _, r := range controllerRoles() {
		out = append(out, bound(r.Name, account(strings.TrimPrefix(r.Name, controllerRun))))
	}
	return out
}

func role(namespace, name string, rules ...rule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: defaultsMeta(namespace, name), Rules: policies(rules)}
}

func binding(namespace, name, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: defaultsMeta(namespace, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
	}
}

// roles are the roles of a fresh cluster.
func roles() []*rbacv1.Role {
	leases := func(name string) *rbacv1.Role {
		return role(kubeSystem, name,
			allow("create get list update watch", "coordination.k8s.io", "leases"),
			allow("create get list update watch", "coordination.k8s.io", "leasecandidates"))
	}
	return []*rbacv1.Role{
		role(kubePublic, "system:controller:bootstrap-signer",
			allow("get list watch", "core", "configmaps"),
			allow("update", "core", "configmaps", "cluster-info"),
			allow("create patch update", "core events.k8s.io", "events")),
		role(kubeSystem, "extension-apiserver-authentication-reader",
			allow("get list watch", "core", "configmaps", "extension-apiserver-authentication")),
		leases("system::leader-locking-kube-controller-manager"),
		leases("system::leader-locking-kube-scheduler"),
		role(kubeSystem, "system:controller:bootstrap-signer", allow("get list watch", "core", "secrets")),
		role(kubeSystem, "system:controller:cloud-provider", allow("create get list watch", "core", "configmaps")),
		role(kubeSystem, "system:controller:token-cleaner",
			allow("delete get list watch", "core", "secrets"),
			allow("create patch update", "core events.k8s.io", "events")),
	}
}

// roleBindings are the role bindings of a fresh cluster.
func roleBindings() []*rbacv1.RoleBinding {
	const signer, reader = "system:controller:bootstrap-signer", "extension-apiserver-authentication-reader"
	const manager, scheduler = "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-scheduler"
	const cloud, cleaner = "system:controller:cloud-provider", "system:controller:token-cleaner"
	return []*rbacv1.RoleBinding{
		binding(kubePublic, signer, signer, account("bootstrap-signer")),
		binding(kubeSystem, "system::"+reader, reader, user("system:kube-controller-manager"), user("system:kube-scheduler")),
		binding(kubeSystem, manager, manager, user("system:kube-controller-manager"), account("kube-controller-manager"), account("leader-election-controller")),
		binding(kubeSystem, scheduler, scheduler, user("system:kube-scheduler"), account("kube-scheduler")),
		binding(kubeSystem, signer, signer, account("bootstrap-signer")),
		binding(kubeSystem, cloud, cloud, account("cloud-provider")),
		binding(kubeSystem, cleaner, cleaner, account("token-cleaner")),
	}
}

// NodeRules are the rules of the cluster role system:node, which the node authorizer applies to nodes.
func NodeRules() []rbacv1.PolicyRule {
	for _, r := range clusterRoles() {
		if r.Name == "system:node" {
			return r.Rules
		}
	}
	return nil
}

// fillAggregated gives the aggregated roles their rules as the aggregation controller would, so that they are good from the
// first moment on. It goes on until nothing changes, because roles are made of roles that are made of roles.
func fillAggregated(all []*rbacv1.ClusterRole) {
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for changed := true; changed; {
		changed = false
		for _, r := range all {
			if r.AggregationRule == nil {
				continue
			}
			var rules []rbacv1.PolicyRule
			for i := range r.AggregationRule.ClusterRoleSelectors {
				selector := labels.SelectorFromSet(r.AggregationRule.ClusterRoleSelectors[i].MatchLabels)
				for _, part := range all {
					if part == r || !selector.Matches(labels.Set(part.Labels)) {
						continue
					}
					for _, rule := range part.Rules {
						if !slices.ContainsFunc(rules, func(x rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(x, rule) }) {
							rules = append(rules, rule)
						}
					}
				}
			}
			if !apiequality.Semantic.DeepEqual(r.Rules, rules) {
				r.Rules, changed = rules, true
			}
		}
	}
}
