package podspec

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/celox/celox/internal/api/check"
)

// Options say which rules an object may still break because its stored form already does. The zero value is what a new
// object is held to.
type Options struct {
	// Template says that the spec is a template's: pods made from it don't exist yet.
	Template bool
	// AllowBadAffinityValues keeps node affinities whose values are no label values.
	AllowBadAffinityValues bool
	// AllowBadSelectors keeps label selectors of affinities and spread constraints that have values which are no label values.
	AllowBadSelectors bool
	// AllowIndivisibleHugePages keeps amounts of huge pages that are no whole number of pages.
	AllowIndivisibleHugePages bool
	// AllowHostSysctls keeps namespaced sysctls in pods that use the host's namespaces.
	AllowHostSysctls bool
	// AllowInitRestartOnResize keeps resize policies that restart containers which only prepare the pod.
	AllowInitRestartOnResize bool
	// AllowBadDeletionCost keeps an annotation about the cost of a deletion that is no number.
	AllowBadDeletionCost bool
	// AllowDevicesOfOwnUsers keeps block devices of pods whose users are not the host's.
	AllowDevicesOfOwnUsers bool
	// OldIPs are the addresses of the stored form, which may be written as they are no longer accepted.
	OldIPs []string
}

// OptionsForTemplate returns how to validate t, given the stored old (nil on create).
func OptionsForTemplate(t, old *corev1.PodTemplateSpec) Options {
	var before *corev1.PodSpec
	if old != nil {
		before = &old.Spec
	}
	o := OptionsForSpec(before)
	o.Template = true
	o.AllowBadDeletionCost = old != nil && !validDeletionCost(old.Annotations)
	return o
}

// OptionsForPod returns how to validate a pod whose stored form is old.
func OptionsForPod(old *corev1.Pod) Options {
	o := OptionsForSpec(&old.Spec)
	o.AllowBadDeletionCost = !validDeletionCost(old.Annotations)
	return o
}

// OptionsForSpec returns how to validate a spec whose stored form is old (nil on create).
func OptionsForSpec(old *corev1.PodSpec) Options {
	if old == nil {
		return Options{}
	}
	return Options{
		AllowBadAffinityValues:    hasBadAffinityValues(old.Affinity),
		AllowBadSelectors:         hasBadSelectors(old),
		AllowIndivisibleHugePages: hasIndivisibleHugePages(old),
		AllowHostSysctls:          hasHostSysctls(old),
		AllowInitRestartOnResize:  restartsInitOnResize(old),
		AllowDevicesOfOwnUsers:    hasDevicesOfOwnUsers(old),
		OldIPs:                    addresses(old),
	}
}

func hasDevicesOfOwnUsers(old *corev1.PodSpec) bool {
	return old.HostUsers != nil && !*old.HostUsers && slices.ContainsFunc(containersOf(old), func(c located) bool { return len(c.VolumeDevices) > 0 })
}

func restartsInitOnResize(old *corev1.PodSpec) bool {
	return slices.ContainsFunc(old.InitContainers, func(c corev1.Container) bool {
		return !IsSidecar(&c) && slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool { return p.RestartPolicy == corev1.RestartContainer })
	})
}

func hasBadAffinityValues(a *corev1.Affinity) bool {
	return a != nil && a.NodeAffinity != nil && HasBadValues(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
}

// HasBadValues says whether a selector of nodes asks for values that no label can have. Objects that always did are left alone.
func HasBadValues(s *corev1.NodeSelector) bool {
	if s == nil {
		return false
	}
	for _, term := range s.NodeSelectorTerms {
		for _, r := range term.MatchExpressions {
			if slices.ContainsFunc(r.Values, func(v string) bool { return len(validation.IsValidLabelValue(v)) > 0 }) {
				return true
			}
		}
	}
	return false
}

func hasBadSelectors(s *corev1.PodSpec) bool {
	for _, t := range affinityTerms(s.Affinity) {
		if len(check.Selector(t.LabelSelector, nil, false))+len(check.Selector(t.NamespaceSelector, nil, false)) > 0 {
			return true
		}
	}
	for i := range s.TopologySpreadConstraints {
		if len(check.Selector(s.TopologySpreadConstraints[i].LabelSelector, nil, false)) > 0 {
			return true
		}
	}
	return false
}

// affinityTerms are all terms of an affinity that speak of other pods.
func affinityTerms(a *corev1.Affinity) []*corev1.PodAffinityTerm {
	var out []*corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			out = append(out, &required[i])
		}
		for i := range preferred {
			out = append(out, &preferred[i].PodAffinityTerm)
		}
	}
	if a != nil && a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a != nil && a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return out
}

func hasIndivisibleHugePages(s *corev1.PodSpec) bool {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if indivisible(list[i].Resources.Limits) || indivisible(list[i].Resources.Requests) {
				return true
			}
		}
	}
	return false
}

func hasHostSysctls(s *corev1.PodSpec) bool {
	if s.SecurityContext == nil {
		return false
	}
	for _, c := range s.SecurityContext.Sysctls {
		if hostNamespaceOf(c.Name, s) != "" {
			return true
		}
	}
	return false
}

func addresses(s *corev1.PodSpec) []string {
	all := sets.New[string]()
	for _, h := range s.HostAliases {
		all.Insert(h.IP)
	}
	if s.DNSConfig != nil {
		all.Insert(s.DNSConfig.Nameservers...)
	}
	return sets.List(all)
}
