package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func node() *api.Kind {
	return &api.Kind{
		Kind: "Node", Resource: "nodes", Singular: "node", ShortNames: []string{"no"}, Prefix: "minions",
		Versions: []api.Version{api.NewVersion[corev1.Node, corev1.NodeList]("v1")}, Hub: "v1",
		Subresources:     []api.Subresource{options("proxy", "NodeProxyOptions", proxyVerbs()...), api.Status()},
		PrepareForCreate: api.On(func(n *corev1.Node) { dropDisabledNode(n, &corev1.Node{}) }),
		PrepareForUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
			dropDisabledNode(n, old)
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Spec = old.Spec
			dropDisabledNode(n, old)
		}),
		Default:  api.On(defaultNode),
		Validate: api.Check(validateNode),
		ValidateUpdate: api.CheckUpdate(func(n, old *corev1.Node) field.ErrorList {
			return append(validateNode(n), validateNodeUpdate(n, old)...) // what both check, upstream says twice
		}),
		ValidateStatusUpdate:     api.CheckUpdate(validateNodeUpdate),
		Warnings:                 api.Warn(warnNode),
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
	if len(n.Status.Allocatable) == 0 && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	podspec.RoundResources(n.Status.Capacity)
	podspec.RoundResources(n.Status.Allocatable)
	// podCIDR and podCIDRs[0] are the same thing under an old and a new name.
	if n.Spec.PodCIDR != "" && (len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR) {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	} else if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

// dropDisabledNode drops what the API server once told kubelets about their own configuration, which is gone since v1.24, and the policy
// for making room for pods that grow, whose feature (InPlacePodVerticalScalingSchedulerPreemption) is off by default.
func dropDisabledNode(n, old *corev1.Node) {
	if old.Spec.PodPreemptionPolicy == nil {
		n.Spec.PodPreemptionPolicy = nil
	}
	if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
	if old.Status.Config == nil {
		n.Status.Config = nil
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateNodeAnnotations(n)
	errs = append(errs, validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))...)
	errs = append(errs, validateNodeResources(n)...)
	if s := n.Status.NodeInfo.Swap; s != nil && s.Capacity != nil {
		errs = append(errs, check.Positive(*s.Capacity, field.NewPath("metadata", "nodeSwapStatus", "capacity"))...) // upstream's name for it
	}
	errs = append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	return append(errs, validatePodCIDRs(n.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
}

func warnNode(n, _ *corev1.Node) []string {
	var out []string
	spec := field.NewPath("spec")
	if n.Spec.ConfigSource != nil {
		out = append(out, spec.Child("configSource").String()+": the feature is no longer available")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, spec.Child("externalID").String()+": this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(spec.Child("podCIDRs").Index(i), c)...)
	}
	return out
}

func validatePodCIDRs(cidrs []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, check.CIDR(c, p.Index(i))...)
	}
	if len(cidrs) > 1 {
		dual, err := netutils.IsDualStackCIDRStrings(cidrs)
		if err != nil {
			errs = append(errs, field.InternalError(p, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !dual || len(cidrs) > 2 {
			errs = append(errs, field.Invalid(p, cidrs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

// taintsAnnotation held a node's taints before spec did.
const taintsAnnotation = "scheduler.alpha.kubernetes.io/taints"

func validateNodeAnnotations(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("metadata", "annotations")
	if text := n.Annotations[taintsAnnotation]; text != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(text), &taints); err != nil {
			errs = append(errs, field.Invalid(p, taintsAnnotation, err.Error()))
		} else {
			errs = append(errs, validateTaints(taints, p.Child(taintsAnnotation))...)
		}
	}
	if text := n.Annotations[corev1.PreferAvoidPodsAnnotationKey]; text != "" {
		var avoid corev1.AvoidPods
		if err := json.Unmarshal([]byte(text), &avoid); err != nil {
			return append(errs, field.Invalid(p.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error()))
		}
		for i := range avoid.PreferAvoidPods {
			at := p.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
			switch c := avoid.PreferAvoidPods[i].PodSignature.PodController; {
			case c == nil:
				errs = append(errs, field.Required(at, ""))
			case c.Controller == nil || !*c.Controller:
				errs = append(errs, field.Invalid(at.Child("PodController", "Controller"), c.Controller, "must point to a controller"))
			}
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
		if texts := check.IsValidLabelValue(t.Value); len(texts) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(texts, ";")))
		}
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
			e := field.Duplicate(at, check.Rendered(&t))
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen[k] = true
	}
	return errs
}

// featureName is UpperCamelCase, with further parts after slashes.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// validateDeclaredFeatures wants names in order, each once.
func validateDeclaredFeatures(names []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		switch {
		case len(name) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(p.Index(i), name, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", name, validation.DNS1123SubdomainMaxLength)))
		case !featureName.MatchString(name):
			errs = append(errs, field.Invalid(p.Index(i), name, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name)))
		}
		if i+1 == len(names) {
			break
		}
		switch next := names[i+1]; {
		case name == next:
			errs = append(errs, field.Duplicate(p.Index(i+1), next))
		case name > next:
			errs = append(errs, field.Invalid(p.Index(i+1), next, "list must be sorted alphabetically"))
		}
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range check.Sorted(list.of) {
			errs = append(errs, check.ResourceQuantity(name, list.of[name], field.NewPath("status", list.name, string(name)))...)
		}
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeAnnotations(n)
	errs = append(errs, validateNodeResources(n)...)
	errs = append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	spec, seen := field.NewPath("spec"), sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), check.Rendered(&a)))
		}
		seen.Insert(a)
	}
	for i := range old.Spec.PodCIDRs {
		same := len(old.Spec.PodCIDRs) == len(n.Spec.PodCIDRs)
		if !same || n.Spec.PodCIDRs[i] != old.Spec.PodCIDRs[i] {
			errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
		}
		if !same {
			break
		}
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		text := check.OnceText
		if n.Spec.ProviderID == "" {
			text = "field cannot be cleared once set"
		}
		errs = append(errs, check.Declared(field.ErrorList{field.Invalid(spec.Child("providerID"), nil, text)})...)
	}
	errs = append(errs, validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))...)
	if old.Spec.DoNotUseExternalID != n.Spec.DoNotUseExternalID {
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
	kernel := orUnknown(info.KernelVersion)
	if info.KernelVersion != "" && info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, status, table.OrNone(strings.Join(roles(n), ",")), table.Age(n, now), info.KubeletVersion, address(corev1.NodeInternalIP),
		address(corev1.NodeExternalIP), orUnknown(info.OSImage), kernel, orUnknown(info.ContainerRuntimeVersion),
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
