package dra

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// use is a claim of a pod, by its own name, that a container uses, or one request of it.
type use struct{ claim, request string }

func usesOf(pod *corev1.Pod, container *corev1.Container) (out []use) {
	for _, want := range container.Resources.Claims {
		if name, made := nameOf(pod, want.Name); !made || name != "" {
			out = append(out, use{name, want.Request})
		}
	}
	if st := pod.Status.ExtendedResourceClaimStatus; st != nil {
		for _, r := range st.RequestMappings {
			if r.ContainerName == container.Name {
				out = append(out, use{st.ResourceClaimName, r.RequestName})
			}
		}
	}
	return out
}

// InUse is a device that a container has.
type InUse struct {
	Namespace, Claim   string
	Driver, Pool, Name string
	CDI                []string
}

// Devices are the names of the CDI devices that a container of a pod whose claims are prepared gets.
func (m *Manager) Devices(pod *corev1.Pod, container *corev1.Container) ([]string, error) {
	list, err := m.InUse(pod, container)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list {
		for _, id := range list[i].CDI {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out, nil
}

// InUse are the devices that a container of a pod has by its claims, claim by claim. An error is about one claim; what the others have is told.
func (m *Manager) InUse(pod *corev1.Pod, container *corev1.Container) (out []InUse, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range usesOf(pod, container) {
		c := m.find(pod, u.claim)
		if c == nil || !c.Prepared {
			err = fmt.Errorf("claim %q of the pod isn't prepared", u.claim)
			continue
		}
		for _, driver := range slices.Sorted(maps.Keys(c.Drivers)) {
			for i := range c.Drivers[driver] {
				d := &c.Drivers[driver][i]
				known := slices.ContainsFunc(out, func(o InUse) bool {
					return o.Claim == c.Name && o.Driver == driver && o.Pool == d.Pool && o.Name == d.Name
				})
				if d.serves(u.request) && !known { // it may serve several requests of the container
					out = append(out, InUse{c.Namespace, c.Name, driver, d.Pool, d.Name, d.CDI})
				}
			}
		}
	}
	return out, err
}
