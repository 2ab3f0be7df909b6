package bootstrap

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const (
	dnsService = "kube-dns"
	// proxyLabel and ownProxy say that no service proxy is to take care of the service: each node answers on its address by itself.
	proxyLabel = "service.kubernetes.io/service-proxy-name"
	ownProxy   = "celox-dns"
)

// EnsureDNSService makes the service by whose address pods know the cluster's DNS. One that somebody else made, to put another DNS in the place of
// ours, stays as it is.
func EnsureDNSService(ctx context.Context, client kubernetes.Interface, ip string) error {
	api := client.CoreV1().Services(kubeSystem)
	got, err := api.Get(ctx, dnsService, metav1.GetOptions{})
	switch {
	case err == nil && (got.Spec.ClusterIP == ip || got.Labels[proxyLabel] != ownProxy):
		return nil
	case err == nil: // the address of a service cannot be changed
		if err := api.Delete(ctx, dnsService, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("make the DNS service: %w", err)
		}
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("make the DNS service: %w", err)
	}
	_, err = api.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: kubeSystem, Name: dnsService, Labels: map[string]string{
			"k8s-app": dnsService, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CeloxDNS", proxyLabel: ownProxy,
		}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}, metav1.CreateOptions{})
	if err := tolerate(err); err != nil {
		return fmt.Errorf("make the DNS service: %w", err)
	}
	return nil
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
