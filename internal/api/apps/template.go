package apps

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// workload is what the kinds of this group have in common: they make pods from a template and find them by a selector.
type workload struct {
	owner    string // as messages name it: "ReplicaSet"
	selector *metav1.LabelSelector
	template *corev1.PodTemplateSpec
	options  podspec.Options
	// kept says that the template may be as bad as the stored one was.
	kept bool
}

// validateSelector wants a selector that is there, well formed and not empty; owner in the message is lower case.
func validateSelector(s *metav1.LabelSelector, owner string, p *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	errs := check.Selector(s, p, false)
	if isEmpty(s) {
		errs = append(errs, field.Invalid(p, s, "empty selector is invalid for "+owner))
	}
	return errs
}

func isEmpty(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// validateTemplate checks the template against the selector and that its pods run forever.
func (w workload) validateTemplate(spec *field.Path, badSelector string) field.ErrorList {
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return field.ErrorList{field.Invalid(spec.Child("selector"), w.selector, badSelector)}
	}
	p := spec.Child("template")
	var errs field.ErrorList
	if !selector.Empty() && !selector.Matches(labels.Set(w.template.Labels)) {
		errs = append(errs, field.Invalid(p.Child("metadata", "labels"), w.template.Labels, check.LabelsMismatchText))
	}
	if !w.kept {
		errs = append(errs, podspec.ValidatePodTemplateSpec(w.template, p, w.options)...)
	}
	return append(errs, w.validateForever(p)...)
}

// validateForever wants pods that are restarted and have no deadline.
func (w workload) validateForever(template *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := template.Child("spec")
	if w.template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("restartPolicy"), w.template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if w.template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+w.owner+" is not Supported"))
	}
	return errs
}

// intOrZero is the number that v stands for, taking percentages as they are: what "is zero" is asked of.
func intOrZero(v *intstr.IntOrString) int {
	if v == nil {
		return 0
	}
	if n, ok := check.Percent(*v); ok {
		return n
	}
	return v.IntValue()
}

// validateStep checks one of maxSurge, maxUnavailable. Whether percentages may exceed 100 the caller says.
func validateStep(v *intstr.IntOrString, p *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	return check.IntOrPercent(*v, p)
}

func validateStepAtMostAll(v *intstr.IntOrString, p *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	return check.PercentAtMost100(*v, p)
}

// count is a field of a status that must not be negative.
type count struct {
	name  string
	value int64
}

func validateCounts(p *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, check.NonNegative(c.value, p.Child(c.name))...)
	}
	return errs
}

// atMost wants the counts not to exceed limit, which is called name.
func atMost(limit int32, name string, p *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		if c.value > int64(limit) {
			errs = append(errs, field.Invalid(p.Child(c.name), c.value, "cannot be greater than "+name))
		}
	}
	return errs
}

// validateCollisions wants the number of hash collisions to be valid and never to go down.
func validateCollisions(now, before *int32, p *field.Path) field.ErrorList {
	if before == nil || (now != nil && *now >= *before) {
		return nil
	}
	var v int32
	if now != nil {
		v = *now
	}
	return field.ErrorList{field.Invalid(p, v, "cannot be decremented")}
}

// nameWarnings are for kinds whose name becomes a part of the names of pods.
func nameWarnings(name string) []string {
	if texts := validation.IsDNS1123Label(name); len(texts) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", texts)}
	}
	return nil
}

var templatePath = field.NewPath("spec", "template") // read-only

// setReplicas defaults a number of replicas to one.
func setReplicas(r **int32) { setInt32(r, 1) }

func setInt32(v **int32, to int32) {
	if *v == nil {
		*v = &to
	}
}

// ratio is the "Ready" cell: how many of how many.
func ratio(have int32, want *int32) string {
	var n int32
	if want != nil {
		n = *want
	}
	return fmt.Sprintf("%d/%d", have, n)
}

// wideColumns are the last columns of every workload; selector is the description of the third, "" for kinds that have none.
func wideColumns(selector string) []metav1.TableColumnDefinition {
	c := []metav1.TableColumnDefinition{
		table.Wide("Containers", table.String, "Names of each container in the template."),
		table.Wide("Images", table.String, "Images referenced by each container in the template."),
	}
	if selector != "" {
		c = append(c, table.Wide("Selector", table.String, selector))
	}
	return c
}

// readyDescription describes the column made by ratio.
const readyDescription = "Number of the pod with ready state"
