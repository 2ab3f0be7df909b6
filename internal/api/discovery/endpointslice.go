package discovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Limits of one slice.
const (
	maxEndpoints = 1000
	maxAddresses = 100 // of one endpoint
	maxPorts     = 20000
	maxHints     = 8  // of one endpoint, for zones and for nodes
	maxTopology  = 16 // labels of one endpoint
)

func endpointSlice() *api.Kind {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return &api.Kind{
		Group:         "discovery.k8s.io",
		Kind:          "EndpointSlice",
		Resource:      "endpointslices",
		Singular:      "endpointslice",
		Namespaced:    true,
		Prefix:        "endpointslices",
		Versions:      []api.Version{api.NewVersion[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		// Labels count: they say which service a slice belongs to.
		GenerationChanged: api.Changed(func(s, old *discoveryv1.EndpointSlice) bool {
			a, b := *s, *old
			a.ObjectMeta, b.ObjectMeta = metav1.ObjectMeta{Labels: s.Labels}, metav1.ObjectMeta{Labels: old.Labels}
			a.TypeMeta, b.TypeMeta = metav1.TypeMeta{}, metav1.TypeMeta{}
			return !apiequality.Semantic.DeepEqual(a, b)
		}),
		PrepareForCreate: api.On(dropTopology),
		PrepareForUpdate: api.OnUpdate(func(s, old *discoveryv1.EndpointSlice) {
			// What is dropped counts as a change all the same.
			if !apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
				s.Generation = old.Generation + 1
			}
			if !slices.ContainsFunc(old.Endpoints, func(e discoveryv1.Endpoint) bool { return len(e.DeprecatedTopology) > 0 }) {
				dropTopology(s)
			}
		}),
		Default:                  api.On(defaultEndpointSlice),
		Validate:                 api.Check(func(s *discoveryv1.EndpointSlice) field.ErrorList { return validateEndpointSlice(s, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateEndpointSlice),
		Warnings:                 api.Warn(warnEndpointSlice),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("AddressType", table.String, doc["addressType"]),
			table.Column("Ports", table.String, doc["ports"]),
			table.Column("Endpoints", table.String, doc["endpoints"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(s *discoveryv1.EndpointSlice, now time.Time) []any {
			var ports, addresses []string
			for _, p := range s.Ports {
				switch {
				case p.Port != nil:
					ports = append(ports, strconv.Itoa(int(*p.Port)))
				case p.Name != nil:
					ports = append(ports, *p.Name)
				default:
					ports = append(ports, "*")
				}
			}
			for _, e := range s.Endpoints {
				addresses = append(addresses, e.Addresses...)
			}
			return []any{s.Name, string(s.AddressType), firstFew(ports), firstFew(addresses), table.Age(s, now)}
		}),
	}
}

// firstFew shows three of a list and how many more there are.
func firstFew(list []string) string {
	const few = 3
	if len(list) > few {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:few], ","), len(list)-few)
	}
	if s := strings.Join(list, ","); s != "" {
		return s
	}
	return table.Unset
}

// dropTopology removes the labels that v1beta1 kept in a field of their own; nodeName and zone took their place.
func dropTopology(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}

// validateEndpointSlice checks a slice; old is nil on create.
func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	p := field.NewPath("addressType")
	errs := check.Enum(s.AddressType, p, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if old == nil || s.AddressType == "" {
		check.Declared(errs) // of another one than before what types declare says that it may not change, and no more
	}
	if old != nil {
		errs = append(errs, check.Unchanged(s.AddressType, old.AddressType, p)...)
	}
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	bad := validateEndpoints(s.Endpoints, s.AddressType, field.NewPath("endpoints"))
	if len(bad) > 0 && old != nil && apiequality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		bad = nil // an older server took them: whoever changes something else need not mend them
	}
	return append(errs, bad...)
}

func validateEndpoints(endpoints []discoveryv1.Endpoint, kind discoveryv1.AddressType, p *field.Path) field.ErrorList {
	if len(endpoints) > maxEndpoints {
		return field.ErrorList{field.TooMany(p, len(endpoints), maxEndpoints)}
	}
	var errs field.ErrorList
	for i := range endpoints {
		e, at := &endpoints[i], p.Index(i)
		addresses := at.Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			errs = append(errs, check.Missing(addresses)...)
		case n > maxAddresses:
			errs = append(errs, check.Declared(field.ErrorList{field.TooMany(addresses, n, maxAddresses)})...)
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateAddress(a, kind, addresses, j)...)
		}
		if e.NodeName != nil {
			errs = append(errs, check.Each(check.NameIsDNSSubdomain(*e.NodeName, false), at.Child("nodeName"), *e.NodeName)...)
		}
		topology := at.Child("deprecatedTopology")
		if n := len(e.DeprecatedTopology); n > maxTopology {
			errs = append(errs, field.TooMany(topology, n, maxTopology))
		}
		errs = append(errs, check.Labels(e.DeprecatedTopology, topology)...)
		if e.Hostname != nil {
			errs = append(errs, check.DNSLabel(*e.Hostname, at.Child("hostname"))...)
		}
		if e.Hints != nil {
			errs = append(errs, validateHints(e.Hints, at.Child("hints"))...)
		}
	}
	return errs
}

func validateAddress(a string, kind discoveryv1.AddressType, p *field.Path, i int) field.ErrorList {
	at := p.Index(i)
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(at, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		return nil
	}
	valid := func(p *field.Path, a string) field.ErrorList { return check.IP(a, p) }
	if kind == discoveryv1.AddressTypeIPv6 {
		valid = validation.IsValidIP // in the one form that is canonical
	}
	if errs := valid(at, a); len(errs) > 0 {
		return errs
	}
	ip := netutils.ParseIPSloppy(a)
	var errs field.ErrorList
	if isV4 := ip.To4() != nil; isV4 != (kind == discoveryv1.AddressTypeIPv4) {
		errs = append(errs, field.Invalid(p, a, "must be an "+string(kind)+" address"))
	}
	switch {
	case ip.IsUnspecified():
		errs = append(errs, field.Invalid(at, a, "may not be unspecified ("+a+")"))
	case ip.IsLoopback():
		errs = append(errs, field.Invalid(at, a, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	case ip.IsLinkLocalUnicast():
		errs = append(errs, field.Invalid(at, a, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	case ip.IsLinkLocalMulticast():
		errs = append(errs, field.Invalid(at, a, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}

func validateHints(h *discoveryv1.EndpointHints, p *field.Path) field.ErrorList {
	zones := make([]string, len(h.ForZones))
	for i, z := range h.ForZones {
		zones[i] = z.Name
	}
	nodes := make([]string, len(h.ForNodes))
	for i, n := range h.ForNodes {
		nodes[i] = n.Name
	}
	if len(zones) > maxHints {
		return field.ErrorList{field.TooMany(p.Child("forZones"), len(zones), maxHints)}
	}
	errs := validateHintNames(zones, p.Child("forZones"), validation.IsValidLabelValue)
	return append(errs, validateHintNames(nodes, p.Child("forNodes"), func(s string) []string { return check.NameIsDNSSubdomain(s, false) })...)
}

func validateHintNames(names []string, p *field.Path, valid func(string) []string) field.ErrorList {
	if len(names) > maxHints {
		return field.ErrorList{field.TooMany(p, len(names), maxHints)}
	}
	var errs field.ErrorList
	for i, n := range names {
		at := p.Index(i).Child("name")
		if slices.Contains(names[:i], n) {
			errs = append(errs, field.Duplicate(at, n))
		}
		errs = append(errs, check.Each(valid(n), at, n)...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, p *field.Path) field.ErrorList {
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(p, len(ports), maxPorts)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, port := range ports {
		at := p.Index(i)
		var name string
		if port.Name != nil {
			name = *port.Name
		}
		if name != "" {
			errs = append(errs, check.DNSLabel(name, at.Child("name"))...)
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		seen[name] = true
		if port.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(*port.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if port.AppProtocol != nil {
			errs = append(errs, check.QualifiedName(*port.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}

func warnEndpointSlice(s, old *discoveryv1.EndpointSlice) []string {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		if old != nil {
			return nil // said when it was made
		}
		return []string{"spec.addressType: FQDN endpoints are deprecated"}
	}
	var out []string
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			out = append(out, validation.GetWarningsForIP(field.NewPath("spec").Child("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return out
}
