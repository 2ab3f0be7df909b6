package fakecri

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errUnimplemented = grpcstatus.Error(codes.Unimplemented, "not part of this fake")

// Version says who it is.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "celox", RuntimeVersion: "0.0.0", RuntimeApiVersion: "v1"}, nil
}

// Status is ready, but for the network if somebody said so.
func (r *Runtime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: "NetworkReady", Status: true}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.network != "" {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", r.network
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, network,
	}}}, nil
}

// SetNetwork says what is wrong with the network, "" if nothing is.
func (r *Runtime) SetNetwork(problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.network = problem
}

// Exec isn't offered: streams are tested with a streaming.Runtime.
func (r *Runtime) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return nil, errUnimplemented
}

// Attach isn't offered.
func (r *Runtime) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return nil, errUnimplemented
}

// PortForward isn't offered.
func (r *Runtime) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return nil, errUnimplemented
}

// CheckpointContainer isn't offered.
func (r *Runtime) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return errUnimplemented
}

// CheckpointPod isn't offered.
func (r *Runtime) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) error {
	return errUnimplemented
}

// RestorePod isn't offered.
func (r *Runtime) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, errUnimplemented
}

// UpdatePodSandboxResources does nothing.
func (r *Runtime) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// ContainerStats measures nothing.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.ContainerStats{Memory: &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: r.memory[id]}}}, nil
}

// Use sets how much memory a container uses.
func (r *Runtime) Use(id string, bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.memory == nil {
		r.memory = map[string]uint64{}
	}
	r.memory[id] = bytes
}

// ListContainerStats gives each running container a second of CPU time and a MiB.
func (r *Runtime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.ContainerStats
	for id, c := range r.containers {
		if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		out = append(out, stats(id, c))
	}
	return out, nil
}

func stats(id string, c *container) *runtimeapi.ContainerStats {
	now := time.Now().UnixNano()
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: id, Metadata: c.status.Metadata, Labels: c.status.Labels, Annotations: c.status.Annotations},
		Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: 1e9}},
		Memory:     &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{Value: 1 << 20}},
	}
}

// PodSandboxStats isn't offered.
func (r *Runtime) PodSandboxStats(context.Context, string) (*runtimeapi.PodSandboxStats, error) {
	return nil, errUnimplemented
}

// ListPodSandboxStats measures as ListContainerStats does.
func (r *Runtime) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandboxStats
	for id, s := range r.sandboxes {
		p := &runtimeapi.PodSandboxStats{
			Attributes: &runtimeapi.PodSandboxAttributes{Id: id, Metadata: s.status.Metadata, Labels: s.status.Labels},
			Linux:      &runtimeapi.LinuxPodSandboxStats{},
		}
		for cid, c := range r.containers {
			if c.sandbox == s && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				p.Linux.Containers = append(p.Linux.Containers, stats(cid, c))
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// ListMetricDescriptors lists none.
func (r *Runtime) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, nil
}

// ListPodSandboxMetrics lists none.
func (r *Runtime) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, nil
}

// UpdateRuntimeConfig does nothing.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }

// RuntimeConfig says cgroupfs.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// Close does nothing.
func (r *Runtime) Close(context.Context) error { return nil }

// Images is the image service of a Runtime.
type Images struct{ *Runtime }

// AddImage makes an image be there.
func (r *Runtime) AddImage(name string) {
	r.imagesMu.Lock()
	defer r.imagesMu.Unlock()
	r.images[name] = &runtimeapi.Image{Id: "sha256:" + name, RepoTags: []string{name}, Size: 1000}
}

// ListImages lists the images that are there.
func (i *Images) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	i.imagesMu.Lock()
	defer i.imagesMu.Unlock()
	var out []*runtimeapi.Image
	for _, image := range i.images {
		out = append(out, image)
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Image) int { return len(a.Id) - len(b.Id) })
	return out, nil
}

// ImageStatus finds an image by name or id.
func (i *Images) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	i.imagesMu.Lock()
	defer i.imagesMu.Unlock()
	for name, image := range i.images {
		if name == spec.Image || image.Id == spec.Image {
			return &runtimeapi.ImageStatusResponse{Image: image}, nil
		}
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

// PullImage asks Pull and adds the image.
func (i *Images) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if i.Pull != nil {
		if err := i.Pull(ctx, spec.Image, auth); err != nil {
			return "", err
		}
	}
	i.AddImage(spec.Image)
	return "sha256:" + spec.Image, nil
}

// RemoveImage forgets an image.
func (i *Images) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	i.imagesMu.Lock()
	defer i.imagesMu.Unlock()
	for name, image := range i.images {
		if name == spec.Image || image.Id == spec.Image {
			delete(i.images, name)
		}
	}
	return nil
}

// ImageFsInfo knows nothing.
func (i *Images) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}
