package runtime

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainerResources changes the limits of a container.
func (s *Service) UpdateContainerResources(ctx context.Context, req *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	k.op.Lock()
	defer k.op.Unlock()
	state := k.state()
	if state == cri.ContainerState_CONTAINER_EXITED {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is in %s state", k.id, state)
	}
	k.mu.Lock()
	merged, _ := proto.Clone(k.resources).(*cri.LinuxContainerResources)
	k.mu.Unlock()
	if merged == nil {
		merged = &cri.LinuxContainerResources{}
	}
	mergeResources(merged, req.GetLinux())
	if state == cri.ContainerState_CONTAINER_RUNNING {
		changed := &specs.LinuxResources{}
		resources(changed, req.GetLinux(), s.host)
		if err := s.client.Update(ctx, k.id, changed); err != nil {
			return nil, fmt.Errorf("failed to update resources: %w", err)
		}
	} else if k.spec != nil {
		devices := k.spec.Linux.Resources.Devices
		k.spec.Linux.Resources = &specs.LinuxResources{Devices: devices}
		resources(k.spec.Linux.Resources, merged, s.host)
	}
	config, _ := proto.Clone(k.config).(*cri.ContainerConfig)
	if config.Linux == nil {
		config.Linux = &cri.LinuxContainerConfig{}
	}
	config.Linux.Resources = merged
	raw, err := marshalConfig(config)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.resources, k.rec.Config = merged, raw
	return &cri.UpdateContainerResourcesResponse{}, writeRecord(s.dir.container(k.id), &k.rec)
}

// mergeResources puts what is set in r over what is in force.
func mergeResources(have, r *cri.LinuxContainerResources) {
	if v := r.GetCpuPeriod(); v != 0 {
		have.CpuPeriod = v
	}
	if v := r.GetCpuQuota(); v != 0 {
		have.CpuQuota = v
	}
	if v := r.GetCpuShares(); v != 0 {
		have.CpuShares = v
	}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		have.MemoryLimitInBytes = v
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 {
		have.MemorySwapLimitInBytes = v
	}
	if v := r.GetOomScoreAdj(); v != 0 {
		have.OomScoreAdj = v
	}
	if v := r.GetCpusetCpus(); v != "" {
		have.CpusetCpus = v
	}
	if v := r.GetCpusetMems(); v != "" {
		have.CpusetMems = v
	}
	if v := r.GetUnified(); len(v) > 0 {
		have.Unified = v
	}
	if v := r.GetHugepageLimits(); len(v) > 0 {
		have.HugepageLimits = v
	}
}
