package bootstrap

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// JoiningGroup is the group that the tokens of nodes that join put their bearers into. It is kubeadm's, whose names all of this has.
	JoiningGroup = "system:bootstrappers:kubeadm:default-node-token"
	// ServingApprover is the service account in kube-system of the controller that approves the serving certificates of nodes.
	ServingApprover = "kubelet-serving-approver"
	// PolicyController is the service account in kube-system of the controller that writes the statuses of ClusterNetworkPolicies.
	PolicyController = "celox-network-policy-controller"
	// IngressController is the service account in kube-system of the controller that writes the status of Ingresses.
	IngressController = "celox-ingress-controller"
	// ClusterConfigMap is the ConfigMap in kube-system that tells agents what they need to know of the cluster.
	ClusterConfigMap = "celox-cluster"
)

// withName gives a binding another name than that of its role.
func withName(name string, b *rbacv1.ClusterRoleBinding) *rbacv1.ClusterRoleBinding {
	b.Name = name
	return b
}

func joiningClusterRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		clusterRole("kubeadm:get-nodes", allow("get", "core", "nodes")),
		// What a node's part of services, DNS, routes and policies follows, which look at the pods of all nodes. The node authorizer knows nothing of it.
		clusterRole("celox:node-network",
			allow("get list watch", "core", "nodes services namespaces pods"),
			allow("get list watch", "discovery.k8s.io", "endpointslices"),
			allow("get list watch", "networking.k8s.io", "servicecidrs networkpolicies ingresses ingressclasses"),
			allow("get list watch", "policy.networking.k8s.io", "clusternetworkpolicies"),
			allow("get list watch", "apiextensions.k8s.io", "customresourcedefinitions", "clusternetworkpolicies.policy.networking.k8s.io"),
			allow("get", "core", "configmaps", ClusterConfigMap)),
		clusterRole("celox:"+ServingApprover,
			allow("get list watch", "certificates.k8s.io", "certificatesigningrequests"),
			allow("update", "certificates.k8s.io", "certificatesigningrequests/approval"),
			allow("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving"),
			allow("get list watch", "core", "nodes")),
		clusterRole("celox:"+PolicyController,
			allow("get list watch", "policy.networking.k8s.io", "clusternetworkpolicies"),
			allow("patch", "policy.networking.k8s.io", "clusternetworkpolicies/status"),
			allow("get list watch", "apiextensions.k8s.io", "customresourcedefinitions", "clusternetworkpolicies.policy.networking.k8s.io")),
		clusterRole("celox:"+IngressController,
			allow("get list watch", "networking.k8s.io", "ingresses ingressclasses"),
			allow("update", "networking.k8s.io", "ingresses/status"),
			allow("get list watch", "core", "nodes services"),
			allow("create patch update", "core events.k8s.io", "events")),
	}
}

func joiningClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	const requests = "system:certificates.k8s.io:certificatesigningrequests:"
	return []*rbacv1.ClusterRoleBinding{
		withName("kubeadm:kubelet-bootstrap", bound("system:node-bootstrapper", group(JoiningGroup))),
		withName("kubeadm:node-autoapprove-bootstrap", bound(requests+"nodeclient", group(JoiningGroup))),
		withName("kubeadm:node-autoapprove-certificate-rotation", bound(requests+"selfnodeclient", group("system:nodes"))),
		bound("kubeadm:get-nodes", group(JoiningGroup)),
		bound("celox:node-network", group("system:nodes")),
		bound("celox:"+ServingApprover, account(ServingApprover)),
		bound("celox:"+PolicyController, account(PolicyController)),
		bound("celox:"+IngressController, account(IngressController)),
	}
}

// EnsureJoining makes what lets nodes join by a bootstrap token and get their certificates renewed, and tells them what config says of the
// cluster. Where all is there it only looks.
func EnsureJoining(ctx context.Context, client kubernetes.Interface, config map[string]string) error {
	roles, err := planClusterRolesOf(ctx, client, joiningClusterRoles())
	if err != nil {
		return fmt.Errorf("make the roles of joining nodes: %w", err)
	}
	bindings, err := planClusterRoleBindingsOf(ctx, client, joiningClusterRoleBindings())
	if err != nil {
		return fmt.Errorf("make the roles of joining nodes: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, write := range append(roles, bindings...) {
		g.Go(write)
	}
	g.Go(func() error { return ensureClusterConfig(ctx, client, config) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make what joining nodes need: %w", err)
	}
	return nil
}

func ensureClusterConfig(ctx context.Context, client kubernetes.Interface, config map[string]string) error {
	api := client.CoreV1().ConfigMaps(kubeSystem)
	got, err := api.Get(ctx, ClusterConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: kubeSystem, Name: ClusterConfigMap}, Data: config}, metav1.CreateOptions{})
	case err == nil && !apiequality.Semantic.DeepEqual(got.Data, config):
		out := got.DeepCopy()
		out.Data = config
		_, err = api.Update(ctx, out, metav1.UpdateOptions{})
	}
	return tolerate(err)
}
