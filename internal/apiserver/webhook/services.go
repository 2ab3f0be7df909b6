package webhook

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Objects finds services and where they run; what it returns is only read.
type Objects interface {
	Service(ctx context.Context, namespace, name string) (*corev1.Service, error)
	EndpointSlices(ctx context.Context, namespace, service string) ([]*discoveryv1.EndpointSlice, error)
}

// Services is the Resolver over the objects of a cluster: a ready endpoint of the service at random, of its first address family
// if there is one. Services of type ExternalName are reached by that name.
type Services struct{ objects Objects }

// NewServices returns the Resolver.
func NewServices(objects Objects) Services { return Services{objects: objects} }

// ResolveEndpoint implements Resolver.
func (s Services) ResolveEndpoint(ctx context.Context, namespace, name string, port int32) (string, error) {
	svc, err := s.objects.Service(ctx, namespace, name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			err = apierrors.NewNotFound(schema.GroupResource{Resource: "service"}, name) // upstream's singular
		}
		return "", err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	portName, found := "", false
	for i := range svc.Spec.Ports {
		if svc.Spec.Ports[i].Port == port {
			portName, found = svc.Spec.Ports[i].Name, true
			break
		}
	}
	if !found {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
	}
	slices, err := s.objects.EndpointSlices(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	preferred := discoveryv1.AddressTypeIPv4
	if len(svc.Spec.IPFamilies) > 0 {
		preferred = discoveryv1.AddressType(svc.Spec.IPFamilies[0])
	}
	if a := pick(slices, portName, func(t discoveryv1.AddressType) bool { return t == preferred }); a != "" {
		return a, nil
	}
	if a := pick(slices, portName, func(t discoveryv1.AddressType) bool { return t != preferred }); a != "" {
		return a, nil
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
}

// pick takes one of the ready endpoints at random, each with the same chance; "" if there is none.
func pick(slices []*discoveryv1.EndpointSlice, portName string, family func(discoveryv1.AddressType) bool) string {
	var chosen string
	seen := 0
	for _, s := range slices {
		if !family(s.AddressType) {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Port == nil || p.Name == nil && portName != "" || p.Name != nil && *p.Name != portName {
				continue
			}
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				if seen++; rand.IntN(seen) == 0 {
					chosen = net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))
				}
			}
			break
		}
	}
	return chosen
}
