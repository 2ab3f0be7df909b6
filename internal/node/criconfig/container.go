package criconfig

import (
	"fmt"
	"maps"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/env"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/status"
)

// ContainerInput is what a container is made of besides its pod.
type ContainerInput struct {
	Pod          *corev1.Pod
	Container    *corev1.Container
	RestartCount int
	ImageRef     string // as the image service returned it
	ImageUID     *int64
	ImageUser    string
	Env          []env.Var
	Mounts       []*runtimeapi.Mount
	Devices      []*runtimeapi.Device // block volumes
	CDIDevices   []string             // of claims and device plugins
	Annotations  map[string]string    // that device plugins want; the node's own go first
	Groups       []int64              // extra groups that volumes ask for
	TargetID     string               // the container whose processes an ephemeral container sees
	MemoryBytes  int64                // of the node
	Kernel       Kernel
	Options      Options
	// TerminationHostPath is the file behind terminationMessagePath.
	TerminationHostPath string
}

// Kernel is what the machine can limit besides CPU time and memory.
type Kernel struct {
	CgroupV2  bool
	Swap      bool
	PageSizes []string // of huge pages, as cgroup.PageSize writes them
}

// LogPath is a container's log below the pod's log directory.
func LogPath(container string, restartCount int) string {
	return path.Join(container, strconv.Itoa(restartCount)+".log")
}

// Container makes the container's configuration.
func Container(in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	c := in.Container
	security := SecurityOf(in.Pod, c)
	if err := security.VerifyNonRoot(in.Pod, c.Name, in.ImageUID, in.ImageUser); err != nil {
		return nil, err
	}
	values := make(map[string]string, len(in.Env))
	out := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(in.RestartCount)},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		WorkingDir:  c.WorkingDir,
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		Labels:      observed.PodLabels(in.Pod),
		Annotations: observed.ContainerAnnotations(in.Pod, c, in.RestartCount, in.TerminationHostPath),
		LogPath:     LogPath(c.Name, in.RestartCount),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
	}
	out.Labels[observed.LabelContainerName] = c.Name
	for k, v := range in.Annotations {
		if _, ok := out.Annotations[k]; !ok {
			out.Annotations[k] = v
		}
	}
	for _, name := range in.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
	for _, v := range in.Env {
		values[v.Name] = v.Value
		out.Envs = append(out.Envs, &runtimeapi.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	lookup := env.Lookup(values)
	for _, s := range c.Command {
		out.Command = append(out.Command, env.Expand(s, lookup))
	}
	for _, s := range c.Args {
		out.Args = append(out.Args, env.Expand(s, lookup))
	}
	if l := c.Lifecycle; l != nil && l.StopSignal != nil {
		n, ok := runtimeapi.Signal_value["SIGNAL_"+string(*l.StopSignal)]
		if !ok {
			return nil, fmt.Errorf("unknown stop signal %q", *l.StopSignal)
		}
		out.StopSignal = runtimeapi.Signal(n)
	}
	out.Linux = &runtimeapi.LinuxContainerConfig{
		Resources:       Resources(in.Pod, c, in.MemoryBytes, in.Kernel),
		SecurityContext: security.linux(in.Pod, in.Options, namespaces(in.Pod, in.TargetID), in.ImageUID, in.ImageUser, in.Groups),
	}
	return out, nil
}

// Resources are the kernel's limits for the container.
func Resources(pod *corev1.Pod, c *corev1.Container, nodeMemoryBytes int64, kernel Kernel) *runtimeapi.LinuxContainerResources {
	requests := maps.Clone(c.Resources.Requests)
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if _, ok := requests[n]; !ok {
			if q, ok := c.Resources.Limits[n]; ok {
				requests[n] = q
			}
		}
	}
	limits := c.Resources.Limits
	if pod.Spec.Resources != nil {
		// A container without a limit of its own is bounded by its pod's (KEP-2837).
		limits = maps.Clone(limits)
		if limits == nil {
			limits = corev1.ResourceList{}
		}
		for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if _, ok := limits[n]; !ok {
				if q, ok := pod.Spec.Resources.Limits[n]; ok {
					limits[n] = q
				}
			}
		}
	}
	out := linuxResources(requests, limits)
	out.OomScoreAdj = OOMScore(pod, c, nodeMemoryBytes)
	if kernel.CgroupV2 {
		// A container ends as a whole when memory runs out, instead of going on without one of its processes.
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	// Containers do not swap (the kubelet's NoSwap, its default).
	switch {
	case kernel.Swap && kernel.CgroupV2:
		out.Unified["memory.swap.max"] = "0"
	case kernel.Swap:
		out.MemorySwapLimitInBytes = out.MemoryLimitInBytes // v1 counts both together
	}
	pages := cgroup.HugePages(c.Resources.Limits, kernel.PageSizes)
	for _, size := range kernel.PageSizes {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size, Limit: uint64(pages[size])})
	}
	return out
}

func linuxResources(requests, limits corev1.ResourceList) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuShares: int64(shares(requests.Cpu().MilliValue())),
	}
	if q := limits.Memory(); !q.IsZero() {
		out.MemoryLimitInBytes = q.Value()
	}
	const periodUS = 100000
	out.CpuPeriod = periodUS
	if q := limits.Cpu(); !q.IsZero() {
		out.CpuQuota = max(q.MilliValue()*periodUS/1000, 1000)
	}
	return out
}

func shares(milli int64) uint64 {
	if milli <= 0 {
		return 2
	}
	return uint64(min(max(milli*1024/1000, 2), 262144))
}

// systemCritical is the priority from which a pod is protected like a guaranteed one.
const systemCritical = 2_000_000_000

// OOMScore is the container's oom_score_adj: the kernel ends best-effort containers first, guaranteed ones last, and
// burstable ones by how much of the node's memory they asked for.
func OOMScore(pod *corev1.Pod, c *corev1.Container, nodeMemoryBytes int64) int64 {
	const guaranteed, bestEffort = -997, 1000
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return guaranteed
	}
	switch status.QOSClass(pod) {
	case corev1.PodQOSGuaranteed:
		return guaranteed
	case corev1.PodQOSBestEffort:
		return bestEffort
	}
	if nodeMemoryBytes <= 0 {
		return bestEffort - 1
	}
	score := int64(1000) - 1000*c.Resources.Requests.Memory().Value()/nodeMemoryBytes
	if score < 1000+guaranteed {
		return 1000 + guaranteed
	}
	return min(score, bestEffort-1)
}
