package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// SetPodSpecDefaults fills in what spec leaves out.
func SetPodSpecDefaults(spec *corev1.PodSpec) {}

// SetPodTemplateDefaults fills in what t leaves out.
func SetPodTemplateDefaults(t *corev1.PodTemplateSpec) { SetPodSpecDefaults(&t.Spec) }

// ValidatePodSpec checks spec; meta is that of the pod or template which has it.
func ValidatePodSpec(spec *corev1.PodSpec, meta *metav1.ObjectMeta, p *field.Path, opts Options) field.ErrorList {
	return nil
}

// ValidatePodTemplateSpec checks t.
func ValidatePodTemplateSpec(t *corev1.PodTemplateSpec, p *field.Path, opts Options) field.ErrorList {
	return nil
}

// Warnings tells of what a template says that works but shouldn't be relied on; old is nil on create.
func Warnings(t, old *corev1.PodTemplateSpec, p *field.Path) []string { return nil }
