package core

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

// changeable lists for messages what an update of a pod may change.
const changeable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks an update through the main door, which leaves a pod's spec nearly as it is.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePod(p, podspec.OptionsForPod(old))
	errs = append(errs, validatePodAnnotationsUpdate(p, old)...)
	for _, l := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		at := spec.Child(l.name)
		if len(l.now) != len(l.was) {
			return append(errs, field.Forbidden(at, "pod updates may not add or remove containers"))
		}
		errs = append(errs, validateImages(l.now, at)...)
	}
	deadline, stop := validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, spec.Child("activeDeadlineSeconds"))
	errs = append(errs, deadline...)
	if stop {
		return errs
	}
	errs = append(errs, validateTolerationsUpdate(p.Spec.Tolerations, old.Spec.Tolerations, spec.Child("tolerations"))...)
	errs = append(errs, validateGatesUpdate(p.Spec.SchedulingGates, old.Spec.SchedulingGates, spec.Child("schedulingGates"))...)
	if equality.Semantic.DeepEqual(p.Spec, old.Spec) {
		return errs
	}
	// What may change is put back; then nothing else may differ.
	may := p.Spec.DeepCopy()
	for i := range may.Containers {
		may.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range may.InitContainers {
		may.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	may.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	may.SchedulingGates = old.Spec.SchedulingGates
	may.Tolerations = old.Spec.Tolerations
	if g, was := may.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; g != nil && was != nil && *was < 0 && *g == 1 {
		may.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(may, &old.Spec, spec)...)
	}
	if !equality.Semantic.DeepEqual(*may, old.Spec) {
		errs = append(errs, field.Forbidden(spec, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable,
			diff.Diff(check.Rendered(&old.Spec), check.Rendered(may)))))
	}
	return errs
}

func podQOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	return podspec.QOSClass(&p.Spec)
}

// validatePodAnnotationsUpdate wants the annotations to stay by which a node recognizes its own pods, and the profiles.
func validatePodAnnotationsUpdate(p, old *corev1.Pod) field.ErrorList {
	at := field.NewPath("metadata", "annotations")
	var errs field.ErrorList
	forbid := func(key, verb string) {
		switch {
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			errs = append(errs, field.Forbidden(at.Key(key), "may not "+verb+" AppArmor annotations"))
		case key == corev1.MirrorPodAnnotationKey:
			errs = append(errs, field.Forbidden(at.Key(key), "may not "+verb+" mirror pod annotation"))
		}
	}
	for _, key := range check.Keys(old.Annotations) {
		if v, ok := p.Annotations[key]; !ok || v != old.Annotations[key] {
			forbid(key, "remove or update")
		}
	}
	for _, key := range check.Keys(p.Annotations) {
		if _, ok := old.Annotations[key]; !ok {
			forbid(key, "add")
		}
	}
	return errs
}

func validateImages(list []corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		at := p.Index(i).Child("image")
		if list[i].Image == "" {
			errs = append(errs, field.Required(at, ""))
		}
		if strings.TrimSpace(list[i].Image) != list[i].Image {
			errs = append(errs, field.Invalid(at, list[i].Image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

// validateDeadlineUpdate wants a deadline only to come closer. A wrong one is all that is told then.
func validateDeadlineUpdate(now, was *int64, p *field.Path) (errs field.ErrorList, stop bool) {
	switch {
	case now == nil && was == nil:
		return nil, false
	case now == nil:
		return field.ErrorList{field.Invalid(p, now, "must not update from a positive integer to nil value")}, false
	case *now < 0 || *now > math.MaxInt32:
		return field.ErrorList{field.Invalid(p, *now, validation.InclusiveRangeError(0, math.MaxInt32))}, true
	case was != nil && *was < *now:
		return field.ErrorList{field.Invalid(p, *now, "must be less than or equal to previous value")}, true
	}
	return nil, false
}

// validateTolerationsUpdate wants tolerations to stay but for their time.
func validateTolerationsUpdate(now, was []corev1.Toleration, p *field.Path) field.ErrorList {
	for _, o := range was {
		found := false
		for _, n := range now {
			n.TolerationSeconds, o.TolerationSeconds = nil, nil
			if equality.Semantic.DeepEqual(n, o) {
				found = true
				break
			}
		}
		if !found {
			return field.ErrorList{field.Forbidden(p, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return podspec.ValidateTolerations(now, p)
}

// validateGatesUpdate wants gates only to be opened.
func validateGatesUpdate(now, was []corev1.PodSchedulingGate, p *field.Path) field.ErrorList {
	before := sets.New[string]()
	for _, g := range was {
		before.Insert(g.Name)
	}
	last := map[string]int{} // of gates with one name, the last is told of
	for i, g := range now {
		last[g.Name] = i
	}
	var errs field.ErrorList
	for i, g := range now {
		if !before.Has(g.Name) && last[g.Name] == i {
			errs = append(errs, field.Forbidden(p.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// validateGatedUpdate lets a pod that waits at a gate be held to fewer nodes than before (KEP-3838). What it judges it puts
// back in may.
func validateGatedUpdate(may, old *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(may.NodeSelector, old.NodeSelector) {
		for key, v := range old.NodeSelector {
			if now, ok := may.NodeSelector[key]; !ok || now != v {
				errs = append(errs, field.Invalid(p.Child("nodeSelector"), may.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
				break
			}
		}
		may.NodeSelector = old.NodeSelector
	}
	now, was := nodeAffinity(may), nodeAffinity(old)
	if equality.Semantic.DeepEqual(now, was) {
		return errs
	}
	errs = append(errs, validateNodeAffinityUpdate(now, was, p.Child("affinity", "nodeAffinity"))...)
	switch {
	case was == nil && old.Affinity == nil && may.Affinity.PodAffinity == nil && may.Affinity.PodAntiAffinity == nil:
		may.Affinity = nil
	case may.Affinity == nil:
		if old.Affinity.PodAffinity == nil && old.Affinity.PodAntiAffinity == nil {
			may.Affinity = old.Affinity
		}
	default:
		may.Affinity = &corev1.Affinity{NodeAffinity: was, PodAffinity: may.Affinity.PodAffinity, PodAntiAffinity: may.Affinity.PodAntiAffinity}
	}
	return errs
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

// validateNodeAffinityUpdate wants every required term to ask for what it did, and maybe for more.
func validateNodeAffinityUpdate(now, was *corev1.NodeAffinity, p *field.Path) field.ErrorList {
	if was == nil || was.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	at := p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	var terms []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	before := was.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(before) > 0 && len(before) != len(terms) {
		return field.ErrorList{field.Invalid(at, check.Rendered(terms), "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range before {
		fresh := len(before[i].MatchExpressions)+len(before[i].MatchFields) == 0 && len(terms[i].MatchExpressions)+len(terms[i].MatchFields) > 0
		// An empty term selects nothing; with anything in it, it would select more.
		if fresh || !begins(terms[i].MatchExpressions, before[i].MatchExpressions) || !begins(terms[i].MatchFields, before[i].MatchFields) {
			errs = append(errs, field.Invalid(at.Index(i), check.Rendered(terms[i]), "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func begins(list, with []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(with) && equality.Semantic.DeepEqual(append([]corev1.NodeSelectorRequirement{}, list[:len(with)]...), append([]corev1.NodeSelectorRequirement{}, with...))
}
