package bootstrap

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	dnsService = "kube-dns"
	// proxyLabel and ownProxy say that no service proxy is to take care of the service: each node answers on its address by itself.
	proxyLabel = "service.kubernetes.io/service-proxy-name"
	ownProxy   = "celox-dns"
)

// EnsureDNSService makes the service by whose addresses, one of each family that services have, pods know the cluster's DNS. One that somebody else made, to
// put another DNS in the place of ours, stays as it is.
func EnsureDNSService(ctx context.Context, client kubernetes.Interface, ips []string) error {
	if err := ensureDNSService(ctx, client.CoreV1().Services(kubeSystem), ips); err != nil {
		return fmt.Errorf("make the DNS service: %w", err)
	}
	return nil
}

func ensureDNSService(ctx context.Context, api typedcorev1.ServiceInterface, ips []string) error {
	want := dnsServiceOf(ips)
	got, err := api.Get(ctx, dnsService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case got.Labels[proxyLabel] != ownProxy || slices.Equal(got.Spec.ClusterIPs, ips):
		return nil
	case got.Spec.ClusterIP == ips[0] && len(got.Spec.ClusterIPs) <= 1:
		next := got.DeepCopy() // the cluster has got a second family
		next.Spec.ClusterIPs, next.Spec.IPFamilyPolicy, next.Spec.IPFamilies = ips, want.Spec.IPFamilyPolicy, nil
		if _, err := api.Update(ctx, next, metav1.UpdateOptions{}); err == nil || apierrors.IsConflict(err) {
			return nil // of several servers one is enough
		} else if !apierrors.IsInvalid(err) {
			return err
		}
		fallthrough
	default: // an address of a service cannot be changed
		if err := api.Delete(ctx, dnsService, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err = api.Create(ctx, want, metav1.CreateOptions{})
	return tolerate(err)
}

func dnsServiceOf(ips []string) *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	if len(ips) > 1 {
		policy = corev1.IPFamilyPolicyPreferDualStack
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: kubeSystem, Name: dnsService, Labels: map[string]string{
			"k8s-app": dnsService, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CeloxDNS", proxyLabel: ownProxy,
		}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, IPFamilyPolicy: &policy, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

// RemoveDNSService removes the service that EnsureDNSService made.
func RemoveDNSService(ctx context.Context, client kubernetes.Interface) error {
	api := client.CoreV1().Services(kubeSystem)
	got, err := api.Get(ctx, dnsService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && got.Labels[proxyLabel] != ownProxy) {
		return nil
	}
	if err == nil {
		err = api.Delete(ctx, dnsService, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(got.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the DNS service: %w", err)
	}
	return nil
}
