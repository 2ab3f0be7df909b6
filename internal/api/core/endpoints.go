package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// shownEndpoints is how many addresses a table shows before it counts.
const shownEndpoints = 3

func endpoints() *api.Kind {
	return &api.Kind{
		Kind: "Endpoints", Resource: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"}, Namespaced: true, Prefix: "services/endpoints",
		Versions: []api.Version{api.NewVersion[corev1.Endpoints, corev1.EndpointsList]("v1")}, Hub: "v1",
		Default: api.On(func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
						p.Protocol = corev1.ProtocolTCP
					}
				}
			}
		}),
		Validate:                 api.Check(validateEndpoints),
		ValidateUpdate:           api.CheckUpdate(validateEndpointsUpdate),
		Warnings:                 api.Warn(warnEndpoints),
		AllowUnconditionalUpdate: true,
		AllowCreateOnUpdate:      true,
		Columns: api.Columns(table.Name(),
			table.Column("Endpoints", table.String, corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			table.AgeColumn()),
		Row: api.Row(func(e *corev1.Endpoints, now time.Time) []any {
			return []any{e.Name, endpointsCell(e), table.Age(e, now)}
		}),
	}
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i := range e.Subsets {
		s, p := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(p, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(&s.Addresses[j], p.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&s.NotReadyAddresses[j], p.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, validateEndpointPort(&s.Ports[j], len(s.Ports) > 1, p.Child("ports").Index(j))...)
		}
	}
	return errs
}

// validateEndpointsUpdate leaves alone what was accepted once and is the same now.
func validateEndpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	if equality.Semantic.DeepEqual(e.Subsets, old.Subsets) {
		return nil
	}
	return validateEndpoints(e)
}

// warnEndpoints tells of addresses that are written in an uncommon way.
func warnEndpoints(e, _ *corev1.Endpoints) []string {
	var out []string
	for i := range e.Subsets {
		s, p := &e.Subsets[i], field.NewPath("subsets").Index(i)
		for j := range s.Addresses {
			out = append(out, validation.GetWarningsForIP(p.Child("addresses").Index(j).Child("ip"), s.Addresses[j].IP)...)
		}
		for j := range s.NotReadyAddresses {
			out = append(out, validation.GetWarningsForIP(p.Child("notReadyAddresses").Index(j).Child("ip"), s.NotReadyAddresses[j].IP)...)
		}
	}
	return out
}

func validateEndpointAddress(a *corev1.EndpointAddress, p *field.Path) field.ErrorList {
	errs := check.IP(a.IP, p.Child("ip"))
	if a.Hostname != "" {
		errs = append(errs, check.DNSLabel(a.Hostname, p.Child("hostname"))...)
	}
	if a.NodeName != nil {
		errs = append(errs, check.DNSSubdomain(*a.NodeName, p.Child("nodeName"))...)
	}
	return append(errs, notSpecialIP(a.IP, p.Child("ip"))...)
}

func validateEndpointPort(ep *corev1.EndpointPort, named bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if named && ep.Name == "" {
		errs = append(errs, field.Required(p.Child("name"), ""))
	} else if ep.Name != "" {
		errs = append(errs, check.DNSLabel(ep.Name, p.Child("name"))...)
	}
	errs = append(errs, check.Port(ep.Port, p.Child("port"))...)
	errs = append(errs, check.Enum(ep.Protocol, p.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	if ep.AppProtocol != nil {
		errs = append(errs, check.QualifiedName(*ep.AppProtocol, p.Child("appProtocol"))...)
	}
	return errs
}

func endpointsCell(e *corev1.Endpoints) string {
	var shown []string
	more := 0
	add := func(s string) {
		if len(shown) < shownEndpoints {
			shown = append(shown, s)
		} else {
			more++
		}
	}
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	cell := table.OrNone(strings.Join(shown, ","))
	if more > 0 {
		cell += fmt.Sprintf(" + %d more...", more)
	}
	return cell
}
