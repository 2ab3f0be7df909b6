package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// DropDisabled removes from spec the fields of features that are off by default in the release that Celox follows, unless
// old (nil on create) uses them: ClusterTrustBundleProjection, PodCertificateRequest, ContainerStopSignals, GangScheduling.
func DropDisabled(spec, old *corev1.PodSpec) {
	if old == nil {
		old = &corev1.PodSpec{}
	}
	if old.SchedulingGroup == nil {
		spec.SchedulingGroup = nil
	}
	bundles, certificates := false, false
	eachProjection(old, func(p *corev1.VolumeProjection) {
		bundles = bundles || p.ClusterTrustBundle != nil
		certificates = certificates || p.PodCertificate != nil
	})
	eachProjection(spec, func(p *corev1.VolumeProjection) {
		if !bundles {
			p.ClusterTrustBundle = nil
		}
		if !certificates {
			p.PodCertificate = nil
		}
	})
	signals := false
	eachLifecycle(old, func(l **corev1.Lifecycle) { signals = signals || (*l).StopSignal != nil })
	if signals {
		return
	}
	eachLifecycle(spec, func(l **corev1.Lifecycle) {
		if (*l).StopSignal == nil {
			return
		}
		(*l).StopSignal = nil
		if **l == (corev1.Lifecycle{}) {
			*l = nil
		}
	})
}

// DropDisabledTemplate is DropDisabled for a template; either may be nil.
func DropDisabledTemplate(t, old *corev1.PodTemplateSpec) {
	if t == nil {
		return
	}
	var before *corev1.PodSpec
	if old != nil {
		before = &old.Spec
	}
	DropDisabled(&t.Spec, before)
}

func eachProjection(s *corev1.PodSpec, f func(*corev1.VolumeProjection)) {
	for i := range s.Volumes {
		if p := s.Volumes[i].Projected; p != nil {
			for j := range p.Sources {
				f(&p.Sources[j])
			}
		}
	}
}

func eachLifecycle(s *corev1.PodSpec, f func(**corev1.Lifecycle)) {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if list[i].Lifecycle != nil {
				f(&list[i].Lifecycle)
			}
		}
	}
	for i := range s.EphemeralContainers {
		if l := &s.EphemeralContainers[i].Lifecycle; *l != nil {
			f(l)
		}
	}
}
