package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePodOnly checks what is asked of pods though templates once got away without it.
func ValidatePodOnly(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.ServiceAccountName == "" {
		for i := range s.Volumes {
			if s.Volumes[i].Projected == nil {
				continue
			}
			for j := range s.Volumes[i].Projected.Sources {
				if s.Volumes[i].Projected.Sources[j].ServiceAccountToken != nil {
					at := p.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken")
					errs = append(errs, field.Forbidden(at, "must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	image := func(v string, p *field.Path) {
		if strings.TrimSpace(v) != v {
			errs = append(errs, field.Invalid(p.Child("image"), v, "must not have leading or trailing whitespace"))
		}
	}
	for i := range s.Containers {
		image(s.Containers[i].Image, p.Child("containers").Index(i))
	}
	for i := range s.InitContainers {
		image(s.InitContainers[i].Image, p.Child("initContainers").Index(i))
	}
	for i := range s.EphemeralContainers {
		image(s.EphemeralContainers[i].Image, p.Child("ephemeralContainers").Index(i))
	}
	return errs
}

// ApplyLabelKeys writes into the selectors of affinities and spread constraints what their label keys mean for a pod with
// these labels (KEP-3633, KEP-3243).
func ApplyLabelKeys(s *corev1.PodSpec, labels map[string]string) {
	for _, t := range affinityTerms(s.Affinity) {
		applyKeys(t.LabelSelector, t.MatchLabelKeys, labels, metav1.LabelSelectorOpIn)
		applyKeys(t.LabelSelector, t.MismatchLabelKeys, labels, metav1.LabelSelectorOpNotIn)
	}
	for i := range s.TopologySpreadConstraints {
		c := &s.TopologySpreadConstraints[i]
		applyKeys(c.LabelSelector, c.MatchLabelKeys, labels, metav1.LabelSelectorOpIn)
	}
}

func applyKeys(s *metav1.LabelSelector, keys []string, labels map[string]string, op metav1.LabelSelectorOperator) {
	if s == nil {
		return
	}
	for _, key := range keys {
		if v, ok := labels[key]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{v}})
		}
	}
}

// ApplyAppArmorAnnotations gives containers the profile that an old annotation names, unless they or the pod say the same in
// the field (KEP-24). Windows has no AppArmor.
func ApplyAppArmorAnnotations(pod *corev1.Pod) {
	if pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return
	}
	var own *corev1.AppArmorProfile
	if s := pod.Spec.SecurityContext; s != nil {
		own = s.AppArmorProfile
	}
	apply := func(name string, s **corev1.SecurityContext) {
		if *s != nil && (*s).AppArmorProfile != nil {
			return
		}
		profile := annotatedProfile(pod.Annotations, name)
		if profile == nil || len(validateAppArmor(profile, nil)) > 0 || equality.Semantic.DeepEqual(profile, own) {
			return
		}
		if *s == nil {
			*s = &corev1.SecurityContext{}
		}
		(*s).AppArmorProfile = profile
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			apply(list[i].Name, &list[i].SecurityContext)
		}
	}
}

// ValidateAppArmorMatch wants the annotations of a new pod that name AppArmor profiles to say what the fields do. Windows has no AppArmor.
func ValidateAppArmorMatch(pod *corev1.Pod, p *field.Path) field.ErrorList {
	named := false
	for key := range pod.Annotations {
		named = named || strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
	}
	if !named || pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows {
		return nil
	}
	var own *corev1.AppArmorProfile
	if s := pod.Spec.SecurityContext; s != nil {
		own = s.AppArmorProfile
	}
	var errs field.ErrorList
	for _, c := range containersOf(&pod.Spec) {
		profile := own
		if s := c.SecurityContext; s != nil && s.AppArmorProfile != nil {
			profile = s.AppArmorProfile
		}
		text, ok := pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !ok || profile == nil {
			continue
		}
		at, same := c.path(p).Child("securityContext", "appArmorProfile"), true
		switch profile.Type {
		case corev1.AppArmorProfileTypeUnconfined:
			same = text == corev1.DeprecatedAppArmorBetaProfileNameUnconfined
		case corev1.AppArmorProfileTypeRuntimeDefault:
			same = text == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
		case corev1.AppArmorProfileTypeLocalhost:
			name, local := strings.CutPrefix(text, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
			if same = local; local && (profile.LocalhostProfile == nil || *profile.LocalhostProfile != name) {
				errs = append(errs, field.Forbidden(at.Child("localhostProfile"), "apparmor profile in annotation and field must match"))
			}
		}
		if !same {
			errs = append(errs, field.Forbidden(at.Child("type"), "apparmor type in annotation and field must match"))
		}
	}
	return errs
}

// annotatedProfile is the profile that the annotation of a container names, nil if it names none.
func annotatedProfile(annotations map[string]string, container string) *corev1.AppArmorProfile {
	v, ok := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+container]
	if !ok {
		return nil
	}
	switch v {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	if name, ok := strings.CutPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix); ok && name != "" {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}
