package downward

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Node is what a pod may learn of its node.
type Node struct {
	HostIPs     []string
	PodIPs      []string // known only once the sandbox is up
	Allocatable corev1.ResourceList
}

// Field is the value at a field path such as metadata.labels['app'] or status.podIP. What a pod does not have is "".
func Field(pod *corev1.Pod, node Node, path string) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(node.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(node.HostIPs, ","), nil
	case "status.podIP":
		return first(node.PodIPs), nil
	case "status.podIPs":
		return strings.Join(node.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func subscript(path string) (name, key string, ok bool) {
	name, rest, ok := strings.Cut(path, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

// lines writes a map as key="escaped value" per line, sorted.
func lines(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k + "=" + strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource is a request or limit of a container in units of the selector's divisor, rounded up. An unset limit of CPU,
// memory or ephemeral storage is what the node can give.
func Resource(pod *corev1.Pod, container *corev1.Container, node Node, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" {
		container = find(pod, ref.ContainerName)
		if container == nil {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
	}
	if container == nil {
		return "", fmt.Errorf("resource %s: no container is named", ref.Resource)
	}
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	var q resource.Quantity
	switch kind {
	case "limits":
		q, ok = container.Resources.Limits[corev1.ResourceName(name)]
		if !ok || q.IsZero() {
			if !strings.HasPrefix(name, "hugepages-") {
				q = unlimited(pod, node, corev1.ResourceName(name))
			}
		}
	case "requests":
		q, ok = container.Resources.Requests[corev1.ResourceName(name)]
		if !ok {
			q = container.Resources.Limits[corev1.ResourceName(name)]
		}
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(ceilDiv(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceilDiv(q.Value(), divisor.Value()), 10), nil
}

func ceilDiv(a, b int64) int64 {
	if b <= 0 {
		b = 1
	}
	n := a / b
	if a%b > 0 {
		n++
	}
	return n
}

func find(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// unlimited is what a container has whose own limit is not set: as much as its pod, or else its node.
func unlimited(pod *corev1.Pod, node Node, name corev1.ResourceName) resource.Quantity {
	q := node.Allocatable[name]
	if r := pod.Spec.Resources; r != nil && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
		if all, ok := r.Limits[name]; ok && !all.IsZero() {
			q = all
		}
	}
	return q
}
