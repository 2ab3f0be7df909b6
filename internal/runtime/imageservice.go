package runtime

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/images"
)

// criImage describes an image. Its user tells the kubelet whether it would run
// as root.
func criImage(i images.Image) *cri.Image {
	out := &cri.Image{
		Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests, Size: uint64(max(i.Size, 0)),
		Spec: &cri.ImageSpec{Image: i.ID},
	}
	name, _, _ := strings.Cut(i.Config.User, ":")
	switch uid, err := strconv.ParseInt(name, 10, 64); {
	case name == "":
		out.Uid = &cri.Int64Value{Value: 0}
	case err == nil:
		out.Uid = &cri.Int64Value{Value: uid}
	default:
		out.Username = name
	}
	return out
}

// ListImages lists the images of the store.
func (s *Service) ListImages(_ context.Context, req *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	resp := &cri.ListImagesResponse{}
	if ref := req.GetFilter().GetImage().GetImage(); ref != "" {
		if i, ok := s.cfg.Images.Get(ref); ok {
			resp.Images = append(resp.Images, criImage(i))
		}
		return resp, nil
	}
	for _, i := range s.cfg.Images.List() {
		resp.Images = append(resp.Images, criImage(i))
	}
	return resp, nil
}

// ImageStatus describes an image; one that is not there is no error.
func (s *Service) ImageStatus(_ context.Context, req *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	i, ok := s.cfg.Images.Get(req.GetImage().GetImage())
	if !ok {
		return &cri.ImageStatusResponse{}, nil
	}
	resp := &cri.ImageStatusResponse{Image: criImage(i)}
	if req.GetVerbose() {
		resp.Info = verboseInfo(map[string]any{"config": i.Config, "created": i.Created, "pulled": i.Pulled, "platform": i.Platform})
	}
	return resp, nil
}

// PullImage fetches an image from its registry.
func (s *Service) PullImage(ctx context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, status.Error(codes.InvalidArgument, "no image is named")
	}
	var auth *images.Auth
	if a := req.GetAuth(); a != nil {
		auth = &images.Auth{
			Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
			IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(), ServerAddress: a.GetServerAddress(),
		}
	}
	i, err := s.cfg.Images.Pull(ctx, ref, auth, func(images.Progress) {})
	if err != nil {
		return nil, imageError(err)
	}
	return &cri.PullImageResponse{ImageRef: i.ID}, nil
}

// imageError gives an error of the image store the code that the kubelet acts
// on.
func imageError(err error) error {
	code := codes.Unknown
	switch images.KindOf(err) {
	case images.KindNotFound:
		code = codes.NotFound
	case images.KindUnauthorized:
		code = codes.PermissionDenied
	case images.KindUnavailable:
		// The word is what the kubelet looks for.
		return status.Error(codes.Unavailable, fmt.Sprintf("RegistryUnavailable: %v", err))
	case images.KindCorrupt:
		code = codes.DataLoss
	case images.KindInvalid:
		code = codes.InvalidArgument
	case images.KindNoSpace:
		code = codes.ResourceExhausted
	}
	return status.Error(code, err.Error())
}

// RemoveImage removes an image with all its names.
func (s *Service) RemoveImage(ctx context.Context, req *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	ref := req.GetImage().GetImage()
	if i, ok := s.cfg.Images.Get(ref); ok {
		ref = i.ID
	}
	if err := s.cfg.Images.Remove(ctx, ref); err != nil && !images.IsNotFound(err) {
		return nil, imageError(err)
	}
	return &cri.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what images take on the disk.
func (s *Service) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	info, err := s.cfg.Images.FSInfo()
	if err != nil {
		return nil, err
	}
	use := &cri.FilesystemUsage{
		Timestamp: time.Now().UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: info.Root},
		UsedBytes: count(info.UsedBytes), InodesUsed: count(info.UsedInodes),
	}
	return &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{use}, ContainerFilesystems: []*cri.FilesystemUsage{use}}, nil
}
