package observed

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is the runtime's side of one pod. Sandboxes and containers are ordered newest first. It is read-only once made.
type Pod struct {
	UID        types.UID
	Namespace  string
	Name       string
	Sandboxes  []Sandbox
	Containers []Container
}

// Sandbox is one sandbox of a pod.
type Sandbox struct {
	ID        string
	Ready     bool
	Attempt   uint32
	CreatedAt time.Time
	IPs       []string
	HostNet   bool
}

// Container is one incarnation of a container.
type Container struct {
	ID           string
	SandboxID    string
	Name         string
	State        runtimeapi.ContainerState
	CreatedAt    time.Time
	StartedAt    time.Time // zero: never started
	FinishedAt   time.Time
	ExitCode     int32
	Reason       string
	Message      string
	Image        string
	ImageRef     string
	RestartCount int
	Hash         string
	LogPath      string
	Resources    *runtimeapi.ContainerResources
	User         *runtimeapi.ContainerUser
	StopSignal   runtimeapi.Signal
	Annotations  map[string]string
}

// Running tells whether the container's process lives.
func (c *Container) Running() bool { return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING }

// Exited tells whether the container is over.
func (c *Container) Exited() bool { return c.State == runtimeapi.ContainerState_CONTAINER_EXITED }

// GracePeriod is the pod's termination grace period as it was when the container was made.
func (c *Container) GracePeriod() (time.Duration, bool) {
	for _, key := range []string{AnnotationDeletionGracePeriod, AnnotationGracePeriod} {
		if s, ok := c.Annotations[key]; ok {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
				return time.Duration(n) * time.Second, true
			}
		}
	}
	return 0, false
}

// TerminationPolicy is the container's terminationMessagePolicy.
func (c *Container) TerminationPolicy() corev1.TerminationMessagePolicy {
	return corev1.TerminationMessagePolicy(c.Annotations[AnnotationTerminationPolicy])
}

// Sandbox is the newest sandbox, nil if there is none.
func (p *Pod) Sandbox() *Sandbox {
	if p == nil || len(p.Sandboxes) == 0 {
		return nil
	}
	return &p.Sandboxes[0]
}

// ReadySandbox is the newest sandbox if it is ready, else nil.
func (p *Pod) ReadySandbox() *Sandbox {
	if s := p.Sandbox(); s != nil && s.Ready {
		return s
	}
	return nil
}

// Latest is the newest incarnation of the named container, nil if there is none.
func (p *Pod) Latest(name string) *Container {
	return p.nth(name, 0)
}

// Previous is the incarnation before the newest one, nil if there is none.
func (p *Pod) Previous(name string) *Container {
	return p.nth(name, 1)
}

func (p *Pod) nth(name string, n int) *Container {
	if p == nil {
		return nil
	}
	for i := range p.Containers {
		if p.Containers[i].Name != name {
			continue
		}
		if n == 0 {
			return &p.Containers[i]
		}
		n--
	}
	return nil
}

// AnyRunning tells whether any container of the pod runs.
func (p *Pod) AnyRunning() bool {
	if p == nil {
		return false
	}
	for i := range p.Containers {
		if p.Containers[i].Running() {
			return true
		}
	}
	return false
}

// Reader reads pods from a runtime and remembers what cannot change any more (exited containers), so that looking again
// costs little. It belongs to one goroutine.
type Reader struct {
	runtime cri.RuntimeService
	exited  map[string]Container
}

// NewReader makes a Reader.
func NewReader(runtime cri.RuntimeService) *Reader {
	return &Reader{runtime: runtime, exited: map[string]Container{}}
}

// Read asks the runtime for everything of the pod. A sandbox or container that vanishes meanwhile is left out.
func (r *Reader) Read(ctx context.Context, uid types.UID) (*Pod, error) {
	selector := map[string]string{LabelPodUID: string(uid)}
	sandboxes, err := r.runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	pod := &Pod{UID: uid}
	for _, s := range sandboxes {
		resp, err := r.runtime.PodSandboxStatus(ctx, s.Id, false)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", s.Id, err)
		}
		pod.Sandboxes = append(pod.Sandboxes, sandboxOf(resp.Status))
		if m := resp.Status.Metadata; m != nil {
			pod.Namespace, pod.Name = m.Namespace, m.Name
		}
	}
	slices.SortStableFunc(pod.Sandboxes, func(a, b Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })

	containers, err := r.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	seen := make(map[string]Container, len(containers))
	for _, c := range containers {
		if old, ok := r.exited[c.Id]; ok {
			seen[c.Id] = old
			pod.Containers = append(pod.Containers, old)
			continue
		}
		resp, err := r.runtime.ContainerStatus(ctx, c.Id, false)
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Id, err)
		}
		container := FromStatus(resp.Status)
		container.SandboxID = c.PodSandboxId
		if container.Exited() {
			seen[c.Id] = container
		}
		pod.Containers = append(pod.Containers, container)
	}
	r.exited = seen
	slices.SortStableFunc(pod.Containers, func(a, b Container) int {
		if a.Name == b.Name && a.RestartCount != b.RestartCount {
			return b.RestartCount - a.RestartCount
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	return pod, nil
}

// notFound recognises the runtime's answer for what does not exist, also through wrapping.
func notFound(err error) bool {
	return err != nil && grpcstatus.Code(err) == codes.NotFound
}

// IsNotFound tells whether a runtime's error says that the thing does not exist.
func IsNotFound(err error) bool { return notFound(err) }

func sandboxOf(s *runtimeapi.PodSandboxStatus) Sandbox {
	out := Sandbox{
		ID:        s.Id,
		Ready:     s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Unix(0, s.CreatedAt),
	}
	if s.Metadata != nil {
		out.Attempt = s.Metadata.Attempt
	}
	if o := s.GetLinux().GetNamespaces().GetOptions(); o != nil {
		out.HostNet = o.Network == runtimeapi.NamespaceMode_NODE
	}
	if s.Network != nil && s.Network.Ip != "" {
		out.IPs = append(out.IPs, s.Network.Ip)
		for _, ip := range s.Network.AdditionalIps {
			if ip.Ip != "" {
				out.IPs = append(out.IPs, ip.Ip)
			}
		}
	}
	return out
}

// FromStatus reads one container's status; the sandbox isn't known from it.
func FromStatus(s *runtimeapi.ContainerStatus) Container {
	out := Container{
		ID:          s.Id,
		State:       s.State,
		CreatedAt:   time.Unix(0, s.CreatedAt),
		ExitCode:    s.ExitCode,
		Reason:      s.Reason,
		Message:     s.Message,
		ImageRef:    s.ImageRef,
		LogPath:     s.LogPath,
		Resources:   s.Resources,
		User:        s.User,
		StopSignal:  s.StopSignal,
		Annotations: s.Annotations,
		Hash:        s.Annotations[AnnotationHash],
	}
	if s.Metadata != nil {
		out.Name = s.Metadata.Name
		out.RestartCount = int(s.Metadata.Attempt)
	}
	if s.Image != nil {
		out.Image = s.Image.Image
		if s.Image.UserSpecifiedImage != "" {
			out.Image = s.Image.UserSpecifiedImage
		}
	}
	if s.StartedAt > 0 {
		out.StartedAt = time.Unix(0, s.StartedAt)
	}
	if s.FinishedAt > 0 {
		out.FinishedAt = time.Unix(0, s.FinishedAt)
	}
	if n, err := strconv.Atoi(s.Annotations[AnnotationRestartCount]); err == nil {
		out.RestartCount = n
	}
	return out
}
