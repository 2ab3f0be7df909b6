package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/downward"
	"github.com/celox/celox/internal/node/hook"
	"github.com/celox/celox/internal/node/objects"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/podlog"
	"github.com/celox/celox/internal/node/volume"
)

// The limits of a container's last words.
const (
	maxLastWordsBytes    = 4096
	maxFallbackBytes     = 2048
	maxFallbackLines     = 80
	terminationReasonOOM = "OOMKilled"
)

func describe(pod *corev1.Pod) string { return criconfig.Describe(pod) }

func objectRefs(pod *corev1.Pod) []objects.Ref { return objects.Refs(pod) }

// findContainer looks a container of any sort up by name.
func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

// eventScheme knows the one kind that events are made about besides references.
func eventScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	_ = corev1.AddToScheme(s)
	return s
}

// event records an event about a pod, or about one of its containers.
func (n *Node) event(pod *corev1.Pod, container, eventType, reason, message string) {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	const maxMessage = 1024
	if len(message) > maxMessage {
		message = message[:maxMessage-3] + "..."
	}
	n.recorder.Event(ref, eventType, reason, message)
}

func fieldPath(pod *corev1.Pod, container string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return "spec.containers{" + container + "}"
}

// podAndContainer reads the labels of a container.
func podAndContainer(labels map[string]string) (types.UID, string) {
	return types.UID(labels[observed.LabelPodUID]), labels[observed.LabelContainerName]
}

// logBytes is what the logs of a container take on the disk; "" means all of the pod's.
func (n *Node) logBytes(pod *corev1.Pod, container string) int64 {
	return volume.DiskUsage(filepath.Join(criconfig.PodLogDir(n.cfg.LogDir, pod.Namespace, pod.Name, pod.UID), container))
}

// hooks runs the hooks of a pod's containers.
func (n *Node) hooks(pod *corev1.Pod) *hook.Runner {
	return &hook.Runner{Executor: n.cfg.Runtime, Clock: n.clock, FellBack: func(host string) {
		n.counters.hookFallbacks.Inc()
		n.event(pod, "", corev1.EventTypeWarning, "LifecycleHTTPFallback",
			fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", host))
	}}
}

func (n *Node) nodeEvent(eventType, reason, message string) {
	n.recorder.Event(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.cfg.NodeName, UID: types.UID(n.cfg.NodeName)}, eventType, reason, message)
}

// downwardFor is what a container's variables may say of the node.
func (n *Node) downwardFor(f facts) downward.Node {
	return downward.Node{HostIPs: n.cfg.NodeIPs, PodIPs: f.ips, Allocatable: n.allocatable()}
}

func (n *Node) cpus() int64 { return n.registrar.Capacity.Cpu().Value() }

// downwardOf is what a pod's volumes may say of the node.
func (n *Node) downwardOf(pod *corev1.Pod) downward.Node {
	out := downward.Node{HostIPs: n.cfg.NodeIPs, Allocatable: n.allocatable()}
	for _, ip := range pod.Status.PodIPs {
		out.PodIPs = append(out.PodIPs, ip.IP)
	}
	return out
}

// logFile is the file that a container logs to.
func (w *worker) logFile(c *observed.Container) string {
	return w.logFileOf(w.pod, c)
}

// lastWords is the termination message of a container that has ended.
func (w *worker) lastWords(c *observed.Container) string {
	if p := c.Annotations[observed.AnnotationTerminationHostPath]; p != "" && strings.HasPrefix(p, w.n.volumes.PodDir(w.uid)+"/") {
		if text := readTail(p, maxLastWordsBytes); text != "" {
			return text
		}
	}
	if c.TerminationPolicy() == corev1.TerminationMessageFallbackToLogsOnError && c.ExitCode != 0 && c.Reason != terminationReasonOOM {
		if c.Message != "" {
			return c.Message
		}
		return podlog.LastWords(w.logFile(c), maxFallbackLines, maxFallbackBytes)
	}
	return ""
}

// readTail reads at most limit bytes from the end of a file that a container could write; links aren't followed.
func readTail(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	size := min(info.Size(), limit)
	buf := make([]byte, size)
	n, _ := f.ReadAt(buf, info.Size()-size)
	return strings.ToValidUTF8(string(buf[:n]), "�")
}

// remembered adds to an orphan what its containers remember of it: how long they may take to end, and their hooks.
func remembered(pod *corev1.Pod, o *observed.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	for i := range o.Containers {
		c := &o.Containers[i]
		if g, ok := c.GracePeriod(); ok && pod.Spec.TerminationGracePeriodSeconds == nil {
			seconds := int64(g.Seconds())
			pod.Spec.TerminationGracePeriodSeconds = &seconds
		}
		if findContainer(pod, c.Name) != nil {
			continue
		}
		container := corev1.Container{Name: c.Name}
		if text := c.Annotations[observed.AnnotationPreStop]; text != "" {
			h := &corev1.LifecycleHandler{}
			if json.Unmarshal([]byte(text), h) == nil {
				container.Lifecycle = &corev1.Lifecycle{PreStop: h}
			}
		}
		if text := c.Annotations[observed.AnnotationPorts]; text != "" {
			if json.Unmarshal([]byte(text), &container.Ports) != nil {
				container.Ports = nil
			}
		}
		pod.Spec.Containers = append(pod.Spec.Containers, container)
	}
	return pod
}

// orphanPod is a pod as far as its sandbox remembers it.
func orphanPod(s *runtimeapi.PodSandbox) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: s.Labels[observed.LabelPodNamespace],
		Name:      s.Labels[observed.LabelPodName],
		UID:       types.UID(s.Labels[observed.LabelPodUID]),
	}}
}
