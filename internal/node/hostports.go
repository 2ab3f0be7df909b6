package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hostPort is a port of the machine that a pod wants for itself.
type hostPort struct {
	protocol corev1.Protocol
	ip       string // "" is every address
	port     int32
}

// hostPorts are the ports of the machine that a pod wants.
func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(containers []corev1.Container, which func(*corev1.Container) bool) {
		for i := range containers {
			if c := &containers[i]; which(c) {
				for _, p := range c.Ports {
					if p.HostPort == 0 {
						continue
					}
					h := hostPort{p.Protocol, p.HostIP, p.HostPort}
					if h.protocol == "" {
						h.protocol = corev1.ProtocolTCP
					}
					if h.ip == "0.0.0.0" || h.ip == "::" {
						h.ip = ""
					}
					out = append(out, h)
				}
			}
		}
	}
	add(pod.Spec.InitContainers, func(c *corev1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
	add(pod.Spec.Containers, func(*corev1.Container) bool { return true })
	return out
}

// portsTaken refuses a pod that wants a port of the machine which another has.
func portsTaken(wanted []hostPort, others map[types.UID][]hostPort) *rejection {
	for _, theirs := range others {
		for _, h := range wanted {
			if slices.ContainsFunc(theirs, func(o hostPort) bool {
				return o.port == h.port && o.protocol == h.protocol && (o.ip == h.ip || o.ip == "" || h.ip == "")
			}) {
				return &rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}
