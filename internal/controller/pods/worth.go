package pods

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Restarts returns the most restarts of a regular container and of a sidecar.
func Restarts(p *corev1.Pod) (regular, sidecar int32) {
	for i := range p.Status.ContainerStatuses {
		regular = max(regular, p.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for j := range p.Status.InitContainerStatuses {
			if s := &p.Status.InitContainerStatuses[j]; s.Name == c.Name {
				sidecar = max(sidecar, s.RestartCount)
			}
		}
	}
	return regular, sidecar
}

// CompareWorth sorts first the pods whose end costs least: those without a node, then by how far they have come, how short they have been ready,
// how often they began again, how young they are.
func CompareWorth(a, b *corev1.Pod) int {
	phase := func(p *corev1.Pod) int {
		switch p.Status.Phase {
		case corev1.PodPending:
			return 0
		case corev1.PodUnknown:
			return 1
		}
		return 2
	}
	one := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	aSince, aReady := ReadySince(a)
	bSince, bReady := ReadySince(b)
	if c := cmp.Or(
		cmp.Compare(one(a.Spec.NodeName != ""), one(b.Spec.NodeName != "")),
		cmp.Compare(phase(a), phase(b)),
		cmp.Compare(one(aReady), one(bReady)),
	); c != 0 {
		return c
	}
	if aReady {
		if c := youngerFirst(aSince, bSince); c != 0 {
			return c
		}
	}
	aRestarts, aSidecars := Restarts(a)
	bRestarts, bSidecars := Restarts(b)
	return cmp.Or(
		cmp.Compare(bRestarts, aRestarts),
		cmp.Compare(bSidecars, aSidecars),
		youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

// youngerFirst compares times; one that is not known is the youngest.
func youngerFirst(a, b time.Time) int {
	switch {
	case a.Equal(b):
		return 0
	case a.IsZero() || !b.IsZero() && a.After(b):
		return -1
	default:
		return 1
	}
}
