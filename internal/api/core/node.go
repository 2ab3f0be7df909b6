package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func node() *api.Kind {
	return &api.Kind{
		Kind: "Node", Resource: "nodes", Singular: "node", ShortNames: []string{"no"}, Prefix: "minions",
		Versions: []api.Version{api.NewVersion[corev1.Node, corev1.NodeList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{options("proxy", "NodeProxyOptions", proxyVerbs()...), api.Status()},
		PrepareForUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Spec = old.Spec
		}),
		Default:                  api.On(defaultNode),
		Validate:                 api.Check(validateNode),
		ValidateUpdate:           api.CheckUpdate(validateNodeUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(func(n, _ *corev1.Node) field.ErrorList { return validateNodeResources(n) }),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"spec.unschedulable"},
		Fields: func(obj api.Object) fields.Set {
			return fields.Set{"spec.unschedulable": fmt.Sprint(obj.(*corev1.Node).Spec.Unschedulable)}
		},
		Columns: api.Columns(table.Name(),
			table.Column("Status", table.String, "The status of the node"),
			table.Column("Roles", table.String, "The roles of the node"),
			table.AgeColumn(),
			table.Column("Version", table.String, corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
			table.Wide("Internal-IP", table.String, corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			table.Wide("External-IP", table.String, corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			table.Wide("OS-Image", table.String, corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"]),
			table.Wide("Kernel-Version", table.String, corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"]),
			table.Wide("Container-Runtime", table.String, corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"])),
		Row: api.Row(nodeRow),
	}
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	// podCIDR and podCIDRs[0] are the same thing under an old and a new name.
	if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	} else if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, validateNodeResources(n)...)
	return append(errs, validatePodCIDRs(n.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
}

func validatePodCIDRs(cidrs []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, check.CIDR(c, p.Index(i))...)
	}
	if len(cidrs) > 1 {
		dual, err := netutils.IsDualStackCIDRStrings(cidrs)
		switch {
		case err != nil:
			errs = append(errs, field.InternalError(p, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		case !dual || len(cidrs) > 2:
			errs = append(errs, field.Invalid(p, cidrs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

func validateTaints(taints []corev1.Taint, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[pair]bool{}
	for i, t := range taints {
		at := p.Index(i)
		errs = append(errs, check.QualifiedName(t.Key, at.Child("key"))...)
		errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), at.Child("value"), t.Value)...)
		switch t.Effect {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		case "":
			errs = append(errs, field.Required(at.Child("effect"), ""))
		default:
			errs = append(errs, field.NotSupported(at.Child("effect"), t.Effect,
				[]string{string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute)}))
		}
		k := pair{t.Key, t.Effect}
		if seen[k] {
			e := field.Duplicate(at, renderedTaint(t))
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen[k] = true
	}
	return errs
}

// renderedTaint is how a taint shows in a complaint: with the server's internal names.
func renderedTaint(t corev1.Taint) any {
	return struct {
		Key       string
		Value     string
		Effect    corev1.TaintEffect
		TimeAdded any
	}{t.Key, t.Value, t.Effect, nil}
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range check.Sorted(list.of) {
			errs = append(errs, check.ResourceQuantity(name, list.of[name], field.NewPath("status", list.name).Key(string(name)))...)
		}
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	spec := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(old.Spec.PodCIDRs, n.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	} else if len(old.Spec.PodCIDRs) == 0 {
		errs = append(errs, validatePodCIDRs(n.Spec.PodCIDRs, spec.Child("podCIDRs"))...)
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if !equality.Semantic.DeepEqual(old.Spec.DoNotUseExternalID, n.Spec.DoNotUseExternalID) {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

const (
	roleLabelPrefix = "node-role.kubernetes.io/"
	roleLabel       = "kubernetes.io/role"
)

func nodeRow(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	address := func(t corev1.NodeAddressType) string {
		for _, a := range n.Status.Addresses {
			if a.Type == t {
				return a.Address
			}
		}
		return "<none>"
	}
	orUnknown := func(s string) string {
		if s == "" {
			return "<unknown>"
		}
		return s
	}
	info := n.Status.NodeInfo
	return []any{
		n.Name, status, table.OrNone(strings.Join(roles(n), ",")), table.Age(n, now), info.KubeletVersion, address(corev1.NodeInternalIP),
		address(corev1.NodeExternalIP), orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion),
	}
}

// roles are what a node's labels say that it is for.
func roles(n *corev1.Node) []string {
	var out []string
	for k, v := range n.Labels {
		role, ok := strings.CutPrefix(k, roleLabelPrefix)
		switch {
		case ok && role != "" && !slices.Contains(out, role):
			out = append(out, role)
		case k == roleLabel && v != "" && !slices.Contains(out, v):
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}
