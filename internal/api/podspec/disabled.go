package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// feature is one that is off by default in the release that Celox follows. each calls visit for every place in a spec where its field
// may stand, with whether it does and how to take it away.
type feature struct {
	name string
	each func(s *corev1.PodSpec, visit func(set bool, clear func()))
}

// DropDisabled removes from spec the fields of features that are off by default, unless old (nil on create) uses the same feature.
func DropDisabled(spec, old *corev1.PodSpec) {
	for _, f := range disabledFeatures() {
		used := false
		if old != nil {
			f.each(old, func(set bool, _ func()) { used = used || set })
		}
		if used {
			continue
		}
		f.each(spec, func(set bool, clear func()) {
			if set {
				clear()
			}
		})
	}
}

func disabledFeatures() []feature {
	return []feature{
		{"GenericWorkload", func(s *corev1.PodSpec, visit func(bool, func())) {
			visit(s.SchedulingGroup != nil, func() { s.SchedulingGroup = nil })
		}},
		{"EvictionRequestAPI", func(s *corev1.PodSpec, visit func(bool, func())) {
			visit(s.EvictionResponders != nil, func() { s.EvictionResponders = nil })
		}},
		{"ContainerStopSignals", func(s *corev1.PodSpec, visit func(bool, func())) {
			eachLifecycle(s, func(l **corev1.Lifecycle) {
				visit((*l).StopSignal != nil, func() {
					(*l).StopSignal = nil
					if **l == (corev1.Lifecycle{}) {
						*l = nil
					}
				})
			})
		}},
		{"EmptyDirVolumeMode", func(s *corev1.PodSpec, visit func(bool, func())) {
			for i := range s.Volumes {
				if e := s.Volumes[i].EmptyDir; e != nil {
					visitPointer(&e.Mode, visit)
				}
			}
		}},
		{"AtomicWriteVolumeUserFields", func(s *corev1.PodSpec, visit func(bool, func())) {
			eachFileOwner(s, func(user **int64) { visitPointer(user, visit) })
		}},
		{"VolumeBindMountOptions", func(s *corev1.PodSpec, visit func(bool, func())) {
			eachContainer(s, func(c *corev1.Container) {
				for i := range c.VolumeMounts {
					m := &c.VolumeMounts[i]
					visit(m.BindMountOptions != nil, func() { m.BindMountOptions = nil })
				}
			})
		}},
		{"H2CContainerProbe", func(s *corev1.PodSpec, visit func(bool, func())) {
			eachContainer(s, func(c *corev1.Container) {
				eachHTTPGet(c, func(h *corev1.HTTPGetAction) { visitPointer(&h.Protocol, visit) })
			})
		}},
		{"GRPCContainerProbeTLS", func(s *corev1.PodSpec, visit func(bool, func())) {
			eachContainer(s, func(c *corev1.Container) {
				for _, p := range probes(c) {
					if p.GRPC != nil {
						visitPointer(&p.GRPC.Mode, visit)
					}
				}
			})
		}},
	}
}

func visitPointer[T any](p **T, visit func(bool, func())) {
	visit(*p != nil, func() { *p = nil })
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

// eachContainer calls f for every container of s.
func eachContainer(s *corev1.PodSpec, f func(*corev1.Container)) {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			f(&list[i])
		}
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func probes(c *corev1.Container) []*corev1.Probe {
	var out []*corev1.Probe
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// eachHTTPGet calls f for every request that the node makes of c, for probes and for hooks.
func eachHTTPGet(c *corev1.Container, f func(*corev1.HTTPGetAction)) {
	for _, p := range probes(c) {
		if p.HTTPGet != nil {
			f(p.HTTPGet)
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if h != nil && h.HTTPGet != nil {
			f(h.HTTPGet)
		}
	}
}

// eachFileOwner calls f for everything that says who owns the files which the node writes into volumes.
func eachFileOwner(s *corev1.PodSpec, f func(**int64)) {
	items := func(list []corev1.KeyToPath) {
		for i := range list {
			f(&list[i].User)
		}
	}
	downward := func(list []corev1.DownwardAPIVolumeFile) {
		for i := range list {
			f(&list[i].User)
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		switch {
		case v.Secret != nil:
			f(&v.Secret.DefaultUser)
			items(v.Secret.Items)
		case v.ConfigMap != nil:
			f(&v.ConfigMap.DefaultUser)
			items(v.ConfigMap.Items)
		case v.DownwardAPI != nil:
			f(&v.DownwardAPI.DefaultUser)
			downward(v.DownwardAPI.Items)
		case v.Projected != nil:
			f(&v.Projected.DefaultUser)
		}
	}
	eachProjection(s, func(p *corev1.VolumeProjection) {
		switch {
		case p.Secret != nil:
			items(p.Secret.Items)
		case p.ConfigMap != nil:
			items(p.ConfigMap.Items)
		case p.DownwardAPI != nil:
			downward(p.DownwardAPI.Items)
		case p.ServiceAccountToken != nil:
			f(&p.ServiceAccountToken.User)
		case p.ClusterTrustBundle != nil:
			f(&p.ClusterTrustBundle.User)
		case p.PodCertificate != nil:
			f(&p.PodCertificate.User)
		}
	})
}
