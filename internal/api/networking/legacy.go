package networking

import (
	"encoding/json"
	"fmt"

	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/celox/celox/internal/api"
)

// The old ingresses (extensions/v1beta1 and networking.k8s.io/v1beta1 are one and the same but for the name) call things
// otherwise: "backend" instead of "defaultBackend", and a backend names its service and port flatly. A path without a type is
// as its implementation sees it.

func legacyIngress() []api.Version {
	return []api.Version{
		api.Legacy[*networkingv1.Ingress, networkingv1beta1.Ingress, networkingv1beta1.IngressList]("networking.k8s.io", "v1beta1", fromBeta, toBeta),
		api.Legacy[*networkingv1.Ingress, extensionsv1beta1.Ingress, extensionsv1beta1.IngressList]("extensions", "v1beta1",
			func(in *extensionsv1beta1.Ingress) (*networkingv1.Ingress, error) {
				beta, err := through[networkingv1beta1.Ingress](in)
				if err != nil {
					return nil, err
				}
				return fromBeta(beta)
			},
			func(in *networkingv1.Ingress) (*extensionsv1beta1.Ingress, error) {
				beta, err := toBeta(in)
				if err != nil {
					return nil, err
				}
				return through[extensionsv1beta1.Ingress](beta)
			}),
	}
}

func through[T any](in any) (*T, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("converting %T: %w", in, err)
	}
	out := new(T)
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("converting %T: %w", in, err)
	}
	return out, nil
}

func fromBeta(in *networkingv1beta1.Ingress) (*networkingv1.Ingress, error) {
	out := &networkingv1.Ingress{ObjectMeta: in.ObjectMeta}
	status, err := through[networkingv1.IngressStatus](in.Status)
	if err != nil {
		return nil, err
	}
	out.Status = *status
	out.Spec.IngressClassName = in.Spec.IngressClassName
	if in.Spec.Backend != nil {
		b := backendFromBeta(*in.Spec.Backend)
		out.Spec.DefaultBackend = &b
	}
	for _, t := range in.Spec.TLS {
		out.Spec.TLS = append(out.Spec.TLS, networkingv1.IngressTLS{Hosts: t.Hosts, SecretName: t.SecretName})
	}
	for _, r := range in.Spec.Rules {
		rule := networkingv1.IngressRule{Host: r.Host}
		if r.HTTP != nil {
			rule.HTTP = &networkingv1.HTTPIngressRuleValue{}
			for _, p := range r.HTTP.Paths {
				kind := networkingv1.PathTypeImplementationSpecific
				if p.PathType != nil {
					kind = networkingv1.PathType(*p.PathType)
				}
				rule.HTTP.Paths = append(rule.HTTP.Paths, networkingv1.HTTPIngressPath{Path: p.Path, PathType: &kind, Backend: backendFromBeta(p.Backend)})
			}
		}
		out.Spec.Rules = append(out.Spec.Rules, rule)
	}
	return out, nil
}

func backendFromBeta(in networkingv1beta1.IngressBackend) networkingv1.IngressBackend {
	out := networkingv1.IngressBackend{Resource: in.Resource}
	if in.ServiceName != "" || in.ServicePort != (intstr.IntOrString{}) {
		out.Service = &networkingv1.IngressServiceBackend{Name: in.ServiceName}
		if in.ServicePort.Type == intstr.String {
			out.Service.Port.Name = in.ServicePort.StrVal
		} else {
			out.Service.Port.Number = in.ServicePort.IntVal
		}
	}
	return out
}

func toBeta(in *networkingv1.Ingress) (*networkingv1beta1.Ingress, error) {
	out := &networkingv1beta1.Ingress{ObjectMeta: in.ObjectMeta}
	status, err := through[networkingv1beta1.IngressStatus](in.Status)
	if err != nil {
		return nil, err
	}
	out.Status = *status
	out.Spec.IngressClassName = in.Spec.IngressClassName
	if in.Spec.DefaultBackend != nil {
		b := backendToBeta(*in.Spec.DefaultBackend)
		out.Spec.Backend = &b
	}
	for _, t := range in.Spec.TLS {
		out.Spec.TLS = append(out.Spec.TLS, networkingv1beta1.IngressTLS{Hosts: t.Hosts, SecretName: t.SecretName})
	}
	for _, r := range in.Spec.Rules {
		rule := networkingv1beta1.IngressRule{Host: r.Host}
		if r.HTTP != nil {
			rule.HTTP = &networkingv1beta1.HTTPIngressRuleValue{}
			for _, p := range r.HTTP.Paths {
				var kind *networkingv1beta1.PathType
				if p.PathType != nil {
					k := networkingv1beta1.PathType(*p.PathType)
					kind = &k
				}
				rule.HTTP.Paths = append(rule.HTTP.Paths, networkingv1beta1.HTTPIngressPath{Path: p.Path, PathType: kind, Backend: backendToBeta(p.Backend)})
			}
		}
		out.Spec.Rules = append(out.Spec.Rules, rule)
	}
	return out, nil
}

func backendToBeta(in networkingv1.IngressBackend) networkingv1beta1.IngressBackend {
	out := networkingv1beta1.IngressBackend{Resource: in.Resource}
	if s := in.Service; s != nil {
		out.ServiceName = s.Name
		if s.Port.Name != "" {
			out.ServicePort = intstr.FromString(s.Port.Name)
		} else {
			out.ServicePort = intstr.FromInt32(s.Port.Number)
		}
	}
	return out
}
