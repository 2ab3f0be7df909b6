package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
)

const (
	// maxMessageBytes is what kubelet and crictl accept.
	maxMessageBytes = 16 << 20
	// listChunk is how many items a message of a streamed list carries.
	listChunk = 100
)

// Serve answers CRI on a unix socket at path, which may be of any length, until
// ctx ends.
func (s *Service) Serve(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	l, err := holder.Listen(path)
	if err != nil {
		return fmt.Errorf("CRI socket: %w", err)
	}
	return s.ServeListener(ctx, l)
}

// ServeListener is Serve for a listener that is open already; it closes it.
func (s *Service) ServeListener(ctx context.Context, l net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.UnaryInterceptor(unaryStatus),
	)
	cri.RegisterRuntimeServiceServer(server, s)
	cri.RegisterImageServiceServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(l)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

func unaryStatus(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	return resp, rpcError(err)
}

// rpcError gives an error the code that its cause asks for, wherever in the
// chain that is.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var inner interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &inner):
		return status.Error(inner.GRPCStatus().Code(), err.Error())
	case holder.HasCode(err, holder.CodeNotFound):
		return status.Error(codes.NotFound, err.Error())
	case holder.HasCode(err, holder.CodeNotRunning):
		return status.Error(codes.FailedPrecondition, err.Error())
	case holder.HasCode(err, holder.CodeInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

// chunks calls send with the items in portions (KEP-5825).
func chunks[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(listChunk, len(items))
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// StreamPodSandboxes is ListPodSandbox in portions.
func (s *Service) StreamPodSandboxes(req *cri.StreamPodSandboxesRequest, stream cri.RuntimeService_StreamPodSandboxesServer) error {
	all, err := s.ListPodSandbox(stream.Context(), &cri.ListPodSandboxRequest{Filter: req.GetFilter()})
	if err != nil {
		return rpcError(err)
	}
	return chunks(all.GetItems(), func(part []*cri.PodSandbox) error {
		return stream.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// StreamContainers is ListContainers in portions.
func (s *Service) StreamContainers(req *cri.StreamContainersRequest, stream cri.RuntimeService_StreamContainersServer) error {
	all, err := s.ListContainers(stream.Context(), &cri.ListContainersRequest{Filter: req.GetFilter()})
	if err != nil {
		return rpcError(err)
	}
	return chunks(all.GetContainers(), func(part []*cri.Container) error {
		return stream.Send(&cri.StreamContainersResponse{Containers: part})
	})
}

// StreamContainerStats is ListContainerStats in portions.
func (s *Service) StreamContainerStats(req *cri.StreamContainerStatsRequest, stream cri.RuntimeService_StreamContainerStatsServer) error {
	all, err := s.ListContainerStats(stream.Context(), &cri.ListContainerStatsRequest{Filter: req.GetFilter()})
	if err != nil {
		return rpcError(err)
	}
	return chunks(all.GetStats(), func(part []*cri.ContainerStats) error {
		return stream.Send(&cri.StreamContainerStatsResponse{ContainerStats: part})
	})
}

// StreamPodSandboxStats is ListPodSandboxStats in portions.
func (s *Service) StreamPodSandboxStats(req *cri.StreamPodSandboxStatsRequest, stream cri.RuntimeService_StreamPodSandboxStatsServer) error {
	all, err := s.ListPodSandboxStats(stream.Context(), &cri.ListPodSandboxStatsRequest{Filter: req.GetFilter()})
	if err != nil {
		return rpcError(err)
	}
	return chunks(all.GetStats(), func(part []*cri.PodSandboxStats) error {
		return stream.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

// StreamPodSandboxMetrics has nothing to stream, see ListMetricDescriptors.
func (s *Service) StreamPodSandboxMetrics(*cri.StreamPodSandboxMetricsRequest, cri.RuntimeService_StreamPodSandboxMetricsServer) error {
	return nil
}

// StreamImages is ListImages in portions.
func (s *Service) StreamImages(req *cri.StreamImagesRequest, stream cri.ImageService_StreamImagesServer) error {
	all, err := s.ListImages(stream.Context(), &cri.ListImagesRequest{Filter: req.GetFilter()})
	if err != nil {
		return rpcError(err)
	}
	return chunks(all.GetImages(), func(part []*cri.Image) error {
		return stream.Send(&cri.StreamImagesResponse{Images: part})
	})
}
