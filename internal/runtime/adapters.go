package runtime

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	utilexec "k8s.io/utils/exec"
)

// Runtime returns the service as the kubelet's interface: the same calls as over
// the socket, with the same errors, without gRPC.
func (s *Service) Runtime() internalapi.RuntimeService { return direct{s} }

// ImageManager returns the image calls as the kubelet's interface.
func (s *Service) ImageManager() internalapi.ImageManagerService { return directImages{s} }

type direct struct{ s *Service }

func (d direct) Version(ctx context.Context, version string) (*cri.VersionResponse, error) {
	return d.s.Version(ctx, &cri.VersionRequest{Version: version})
}

func (d direct) CreateContainer(ctx context.Context, sandboxID string, config *cri.ContainerConfig, sandbox *cri.PodSandboxConfig) (string, error) {
	resp, err := d.s.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox})
	return resp.GetContainerId(), rpcError(err)
}

func (d direct) StartContainer(ctx context.Context, id string) error {
	_, err := d.s.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return rpcError(err)
}

func (d direct) StopContainer(ctx context.Context, id string, timeout int64) error {
	_, err := d.s.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: timeout})
	return rpcError(err)
}

func (d direct) RemoveContainer(ctx context.Context, id string) error {
	_, err := d.s.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
	return rpcError(err)
}

func (d direct) ListContainers(ctx context.Context, filter *cri.ContainerFilter) ([]*cri.Container, error) {
	resp, err := d.s.ListContainers(ctx, &cri.ListContainersRequest{Filter: filter})
	return resp.GetContainers(), rpcError(err)
}

func (d direct) ContainerStatus(ctx context.Context, id string, verbose bool) (*cri.ContainerStatusResponse, error) {
	resp, err := d.s.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	return resp, rpcError(err)
}

func (d direct) UpdateContainerResources(ctx context.Context, id string, r *cri.ContainerResources) error {
	_, err := d.s.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r.GetLinux()})
	return rpcError(err)
}

// ExecSync returns a utilexec.CodeExitError for a command that fails and an
// error that is ErrCommandTimedOut for one that takes too long, as the client of
// a remote runtime does.
func (d direct) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	resp, err := d.s.execSync(ctx, id, cmd, timeout)
	if status.Code(rpcError(err)) == codes.DeadlineExceeded && err != nil {
		return nil, nil, fmt.Errorf("%w: %q timed out after %s", criclient.ErrCommandTimedOut, strings.Join(cmd, " "), timeout)
	}
	if err != nil {
		return nil, nil, rpcError(err)
	}
	if resp.GetExitCode() != 0 {
		err = utilexec.CodeExitError{
			Err:  fmt.Errorf("command '%s' exited with %d: %s", strings.Join(cmd, " "), resp.GetExitCode(), resp.GetStderr()),
			Code: int(resp.GetExitCode()),
		}
	}
	return resp.GetStdout(), resp.GetStderr(), err
}

func (d direct) Exec(ctx context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	resp, err := d.s.Exec(ctx, req)
	return resp, rpcError(err)
}

func (d direct) Attach(ctx context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	resp, err := d.s.Attach(ctx, req)
	return resp, rpcError(err)
}

func (d direct) ReopenContainerLog(ctx context.Context, id string) error {
	_, err := d.s.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
	return rpcError(err)
}

func (d direct) CheckpointContainer(ctx context.Context, req *cri.CheckpointContainerRequest) error {
	_, err := d.s.CheckpointContainer(ctx, req)
	return err
}

// GetContainerEvents sends events until ctx ends or events are lost.
func (d direct) GetContainerEvents(ctx context.Context, events chan *cri.ContainerEventResponse, connected func(cri.RuntimeService_GetContainerEventsClient)) error {
	ch := d.s.events.subscribe()
	defer d.s.events.unsubscribe(ch)
	if connected != nil {
		connected(nil)
	}
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return errEventsLost
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d direct) RunPodSandbox(ctx context.Context, config *cri.PodSandboxConfig, handler string) (string, error) {
	resp, err := d.s.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return resp.GetPodSandboxId(), rpcError(err)
}

func (d direct) StopPodSandbox(ctx context.Context, id string) error {
	_, err := d.s.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	return rpcError(err)
}

func (d direct) RemovePodSandbox(ctx context.Context, id string) error {
	_, err := d.s.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return rpcError(err)
}

func (d direct) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*cri.PodSandboxStatusResponse, error) {
	resp, err := d.s.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	return resp, rpcError(err)
}

func (d direct) ListPodSandbox(ctx context.Context, filter *cri.PodSandboxFilter) ([]*cri.PodSandbox, error) {
	resp, err := d.s.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: filter})
	return resp.GetItems(), rpcError(err)
}

func (d direct) PortForward(ctx context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	resp, err := d.s.PortForward(ctx, req)
	return resp, rpcError(err)
}

func (d direct) UpdatePodSandboxResources(ctx context.Context, req *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	resp, err := d.s.UpdatePodSandboxResources(ctx, req)
	return resp, rpcError(err)
}

func (d direct) CheckpointPod(ctx context.Context, req *cri.CheckpointPodRequest) error {
	_, err := d.s.CheckpointPod(ctx, req)
	return err
}

func (d direct) RestorePod(ctx context.Context, req *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return d.s.RestorePod(ctx, req)
}

func (d direct) ContainerStats(ctx context.Context, id string) (*cri.ContainerStats, error) {
	resp, err := d.s.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
	return resp.GetStats(), rpcError(err)
}

func (d direct) ListContainerStats(ctx context.Context, filter *cri.ContainerStatsFilter) ([]*cri.ContainerStats, error) {
	resp, err := d.s.ListContainerStats(ctx, &cri.ListContainerStatsRequest{Filter: filter})
	return resp.GetStats(), rpcError(err)
}

func (d direct) PodSandboxStats(ctx context.Context, id string) (*cri.PodSandboxStats, error) {
	resp, err := d.s.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: id})
	return resp.GetStats(), rpcError(err)
}

func (d direct) ListPodSandboxStats(ctx context.Context, filter *cri.PodSandboxStatsFilter) ([]*cri.PodSandboxStats, error) {
	resp, err := d.s.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{Filter: filter})
	return resp.GetStats(), rpcError(err)
}

func (d direct) ListMetricDescriptors(ctx context.Context) ([]*cri.MetricDescriptor, error) {
	resp, err := d.s.ListMetricDescriptors(ctx, &cri.ListMetricDescriptorsRequest{})
	return resp.GetDescriptors(), err
}

func (d direct) ListPodSandboxMetrics(ctx context.Context) ([]*cri.PodSandboxMetrics, error) {
	resp, err := d.s.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
	return resp.GetPodMetrics(), err
}

func (d direct) UpdateRuntimeConfig(ctx context.Context, config *cri.RuntimeConfig) error {
	_, err := d.s.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{RuntimeConfig: config})
	return err
}

func (d direct) Status(ctx context.Context, verbose bool) (*cri.StatusResponse, error) {
	return d.s.Status(ctx, &cri.StatusRequest{Verbose: verbose})
}

func (d direct) RuntimeConfig(ctx context.Context) (*cri.RuntimeConfigResponse, error) {
	return d.s.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
}

// Close does nothing: the service belongs to whoever made it.
func (d direct) Close(context.Context) error { return nil }

type directImages struct{ s *Service }

func (d directImages) ListImages(ctx context.Context, filter *cri.ImageFilter) ([]*cri.Image, error) {
	resp, err := d.s.ListImages(ctx, &cri.ListImagesRequest{Filter: filter})
	return resp.GetImages(), rpcError(err)
}

func (d directImages) ImageStatus(ctx context.Context, image *cri.ImageSpec, verbose bool) (*cri.ImageStatusResponse, error) {
	resp, err := d.s.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image, Verbose: verbose})
	return resp, rpcError(err)
}

func (d directImages) PullImage(ctx context.Context, image *cri.ImageSpec, auth *cri.AuthConfig, sandbox *cri.PodSandboxConfig) (string, error) {
	resp, err := d.s.PullImage(ctx, &cri.PullImageRequest{Image: image, Auth: auth, SandboxConfig: sandbox})
	return resp.GetImageRef(), rpcError(err)
}

func (d directImages) RemoveImage(ctx context.Context, image *cri.ImageSpec) error {
	_, err := d.s.RemoveImage(ctx, &cri.RemoveImageRequest{Image: image})
	return rpcError(err)
}

func (d directImages) ImageFsInfo(ctx context.Context) (*cri.ImageFsInfoResponse, error) {
	resp, err := d.s.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	return resp, rpcError(err)
}

func (d directImages) Close(context.Context) error { return nil }
