// Package podspec defaults and validates what describes a pod: PodSpec and PodTemplateSpec with their containers, probes,
// volumes, resources, affinities and security contexts. Pods, pod templates and every workload kind use it.
//
// It knows nothing of the objects that carry the specs, beyond the Options with which they ask for leniency on updates.
package podspec
