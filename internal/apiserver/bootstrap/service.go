package bootstrap

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const (
	serviceName = "kubernetes"
	httpsPort   = 443
)

// EnsureKubernetesService makes the service that pods find the API server by, and its endpoints: serviceIP is the address of
// the service, advertiseIP and port are where this server is reached from pods. It is for clusters with one server: the
// endpoints are this one and no other.
func EnsureKubernetesService(ctx context.Context, client kubernetes.Interface, serviceIP, advertiseIP string, port int) error {
	ip, err := netip.ParseAddr(advertiseIP)
	if err != nil {
		return fmt.Errorf("make the kubernetes service: the address of this server: %w", err)
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("make the kubernetes service: port %d is none", port)
	}
	for _, ensure := range []func() error{
		func() error { return ensureService(ctx, client, serviceIP, port) },
		func() error { return ensureEndpoints(ctx, client, advertiseIP, int32(port)) },
		func() error { return ensureEndpointSlice(ctx, client, ip, int32(port)) },
	} {
		if err := ensure(); err != nil {
			return fmt.Errorf("make the kubernetes service: %w", err)
		}
	}
	return nil
}

// EnsureServiceCIDR makes the ServiceCIDR of the networks that the server is configured with. One that is there stays as it is, because
// networks cannot be changed; but a second one may come besides the first.
func EnsureServiceCIDR(ctx context.Context, client kubernetes.Interface, networks []netip.Prefix) error {
	var cidrs []string
	for _, n := range networks {
		cidrs = append(cidrs, n.String())
	}
	api := client.NetworkingV1().ServiceCIDRs()
	have, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs},
		}, metav1.CreateOptions{})
	case err == nil && len(have.Spec.CIDRs) == 1 && len(cidrs) == 2 && have.Spec.CIDRs[0] == cidrs[0]:
		have = have.DeepCopy()
		have.Spec.CIDRs = cidrs
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err := tolerate(err); err != nil {
		return fmt.Errorf("make the default ServiceCIDR: %w", err)
	}
	return nil
}

func serviceMeta(labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: serviceName, Labels: labels}
}

func ensureService(ctx context.Context, client kubernetes.Interface, ip string, port int) error {
	api := client.CoreV1().Services(metav1.NamespaceDefault)
	got, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case err == nil && got.Spec.ClusterIP == ip:
		return nil
	case err == nil:
		// The address of a service cannot be changed.
		if err := api.Delete(ctx, serviceName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	case !apierrors.IsNotFound(err):
		return err
	}
	_, err = api.Create(ctx, &corev1.Service{
		ObjectMeta: serviceMeta(map[string]string{"component": "apiserver", "provider": "kubernetes"}),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Port: httpsPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(port))}},
		},
	}, metav1.CreateOptions{})
	return tolerate(err)
}

//nolint:staticcheck // Endpoints are deprecated, but older clients read these.
func ensureEndpoints(ctx context.Context, client kubernetes.Interface, ip string, port int32) error {
	api := client.CoreV1().Endpoints(metav1.NamespaceDefault)
	// The slice is made here as well, so the mirroring controller must not make another.
	labels := map[string]string{discoveryv1.LabelSkipMirror: "true"}
	want := &corev1.Endpoints{
		ObjectMeta: serviceMeta(labels),
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: ip}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	got, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		return tolerate(err)
	}
	if err != nil {
		return err
	}
	if apiequality.Semantic.DeepEqual(got.Subsets, want.Subsets) && got.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return nil
	}
	out := got.DeepCopy()
	mergeMeta(want, out)
	out.Subsets = want.Subsets
	_, err = api.Update(ctx, out, metav1.UpdateOptions{})
	return tolerate(err)
}

func ensureEndpointSlice(ctx context.Context, client kubernetes.Interface, ip netip.Addr, port int32) error {
	api := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  serviceMeta(map[string]string{discoveryv1.LabelServiceName: serviceName}),
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: &port, Protocol: new(corev1.ProtocolTCP)}},
	}
	if ip.Is6() && !ip.Is4In6() {
		want.AddressType = discoveryv1.AddressTypeIPv6
	}
	got, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case got.AddressType != want.AddressType:
		// The family of a slice cannot be changed.
		if err := api.Delete(ctx, serviceName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	default:
		if apiequality.Semantic.DeepEqual(got.Endpoints, want.Endpoints) && apiequality.Semantic.DeepEqual(got.Ports, want.Ports) {
			return nil
		}
		out := got.DeepCopy()
		out.Endpoints, out.Ports = want.Endpoints, want.Ports
		_, err = api.Update(ctx, out, metav1.UpdateOptions{})
		return tolerate(err)
	}
	_, err = api.Create(ctx, want, metav1.CreateOptions{})
	return tolerate(err)
}

// EnsureAuthenticationConfig publishes how this server finds out who asks, for aggregated API servers, which must believe the
// same authorities. Both are PEM.
func EnsureAuthenticationConfig(ctx context.Context, client kubernetes.Interface, clientCA, frontProxyCA []byte, frontProxyNames []string) error {
	const name = "extension-apiserver-authentication"
	names := "["
	for i, n := range frontProxyNames {
		if i > 0 {
			names += ","
		}
		names += strconv.Quote(n)
	}
	names += "]"
	want := map[string]string{
		"client-ca-file":                     string(clientCA),
		"requestheader-client-ca-file":       string(frontProxyCA),
		"requestheader-allowed-names":        names,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	api := client.CoreV1().ConfigMaps(kubeSystem)
	got, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: kubeSystem, Name: name}, Data: want}, metav1.CreateOptions{})
	case err == nil && !apiequality.Semantic.DeepEqual(got.Data, want):
		out := got.DeepCopy()
		out.Data = want
		_, err = api.Update(ctx, out, metav1.UpdateOptions{})
	}
	if err := tolerate(err); err != nil {
		return fmt.Errorf("publish the authentication configuration: %w", err)
	}
	return nil
}
