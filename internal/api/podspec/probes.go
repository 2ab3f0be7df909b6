package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// handler is what probes and hooks have in common: one of these ways to do it.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

// validateHandler wants exactly one handler, and that to be valid.
func validateHandler(h handler, graceSeconds int64, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	some := false
	one := func(set bool, name string, validate func(*field.Path) field.ErrorList) {
		switch {
		case !set:
		case some:
			errs = append(errs, field.Forbidden(p.Child(name), "may not specify more than 1 handler type"))
		default:
			some = true
			errs = append(errs, validate(p.Child(name))...)
		}
	}
	one(h.exec != nil, "exec", func(p *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(p.Child("command"), "")}
		}
		return nil
	})
	one(h.http != nil, "httpGet", func(p *field.Path) field.ErrorList { return validateHTTPGet(h.http, p) })
	one(h.tcp != nil, "tcpSocket", func(p *field.Path) field.ErrorList { return check.PortOrName(h.tcp.Port, p.Child("port")) })
	one(h.grpc != nil, "grpc", func(p *field.Path) field.ErrorList { return check.Port(h.grpc.Port, p.Child("port")) })
	one(h.sleep != nil, "sleep", func(p *field.Path) field.ErrorList {
		if s := h.sleep.Seconds; s < 0 || s > graceSeconds {
			return field.ErrorList{field.Invalid(p, s, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", graceSeconds))}
		}
		return nil
	})
	if !some {
		errs = append(errs, field.Required(p, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(h *corev1.HTTPGetAction, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if h.Path == "" {
		errs = append(errs, field.Required(p.Child("path"), ""))
	}
	errs = append(errs, check.PortOrName(h.Port, p.Child("port"))...)
	errs = append(errs, check.OneOf(h.Scheme, p.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for i := range h.HTTPHeaders {
		errs = append(errs, check.Each(validation.IsHTTPHeaderName(h.HTTPHeaders[i].Name), p.Child("httpHeaders"), h.HTTPHeaders[i].Name)...)
	}
	return errs
}

func validateProbe(b *corev1.Probe, p *field.Path) field.ErrorList {
	errs := validateHandler(handler{exec: b.Exec, http: b.HTTPGet, tcp: b.TCPSocket, grpc: b.GRPC}, 0, p)
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", b.InitialDelaySeconds},
		{"timeoutSeconds", b.TimeoutSeconds},
		{"periodSeconds", b.PeriodSeconds},
		{"successThreshold", b.SuccessThreshold},
		{"failureThreshold", b.FailureThreshold},
	} {
		errs = append(errs, check.NonNegative(int64(f.value), p.Child(f.name))...)
	}
	if g := b.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(p.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

// validateLiveness checks a liveness or a startup probe: one success is enough.
func validateLiveness(b *corev1.Probe, p *field.Path) field.ErrorList {
	errs := validateProbe(b, p)
	if b.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(p.Child("successThreshold"), b.SuccessThreshold, "must be 1"))
	}
	return errs
}

// validateReadiness checks a readiness probe: its failure kills nothing, so it has no grace period.
func validateReadiness(b *corev1.Probe, p *field.Path) field.ErrorList {
	errs := validateProbe(b, p)
	if b.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(p.Child("terminationGracePeriodSeconds"), b.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	return errs
}

func (v *specValidation) validateLifecycle(l *corev1.Lifecycle, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	hook := func(h *corev1.LifecycleHandler, p *field.Path) {
		if h != nil {
			errs = append(errs, validateHandler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, v.grace(), p)...)
		}
	}
	hook(l.PostStart, p.Child("postStart"))
	hook(l.PreStop, p.Child("preStop"))
	return errs
}
