package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// Options say which rules an object may still break because its stored form already does. The zero value is what a new
// object is held to.
type Options struct {
	// Template says that the spec is a template's: pods made from it don't exist yet.
	Template bool
}

// OptionsForTemplate returns how to validate t, given the stored old (nil on create).
func OptionsForTemplate(t, old *corev1.PodTemplateSpec) Options {
	return Options{Template: true}
}
