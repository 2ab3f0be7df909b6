package observed

import (
	"encoding/json"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// The labels on sandboxes and containers: tools such as crictl select by them.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// The annotations on containers: what the node has to know about a container after its own restart, even if the pod is
// gone from the API by then.
const (
	AnnotationHash                = "io.kubernetes.container.hash"
	AnnotationRestartCount        = "io.kubernetes.container.restartCount"
	AnnotationTerminationPath     = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationPolicy   = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPorts               = "io.kubernetes.container.ports"
	AnnotationPreStop             = "io.kubernetes.container.preStopHandler"
	AnnotationGracePeriod         = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationDeletionGracePeriod = "io.kubernetes.pod.deletionGracePeriod"
	AnnotationTerminationHostPath = "celox.io/termination-message-host-path"
	AnnotationConfigSource        = "kubernetes.io/config.source"
	AnnotationConfigSeen          = "kubernetes.io/config.seen"
	AnnotationConfigHash          = "kubernetes.io/config.hash"
)

// PodLabels are the labels that select everything of one pod.
func PodLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{
		LabelPodName:      pod.Name,
		LabelPodNamespace: pod.Namespace,
		LabelPodUID:       string(pod.UID),
	}
}

// ContainerHash changes when a running container no longer is what its specification asks for. Only the image may be
// changed in a living pod (resources are resized in place), so nothing else is part of it.
func ContainerHash(container *corev1.Container) string {
	data, _ := json.Marshal(struct{ Name, Image string }{container.Name, container.Image})
	h := fnv.New32a()
	h.Write(data)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// ContainerAnnotations are the annotations of a new container.
func ContainerAnnotations(pod *corev1.Pod, container *corev1.Container, restartCount int, terminationHostPath string) map[string]string {
	a := map[string]string{
		AnnotationHash:              ContainerHash(container),
		AnnotationRestartCount:      strconv.Itoa(restartCount),
		AnnotationTerminationPath:   container.TerminationMessagePath,
		AnnotationTerminationPolicy: string(container.TerminationMessagePolicy),
	}
	if terminationHostPath != "" {
		a[AnnotationTerminationHostPath] = terminationHostPath
	}
	if pod.DeletionGracePeriodSeconds != nil {
		a[AnnotationDeletionGracePeriod] = strconv.FormatInt(*pod.DeletionGracePeriodSeconds, 10)
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		a[AnnotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
		if data, err := json.Marshal(container.Lifecycle.PreStop); err == nil {
			a[AnnotationPreStop] = string(data)
		}
	}
	if len(container.Ports) > 0 {
		if data, err := json.Marshal(container.Ports); err == nil {
			a[AnnotationPorts] = string(data)
		}
	}
	return a
}
