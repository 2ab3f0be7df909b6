package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/images/overlay"
)

// Image volumes: read-only views of images, mounted beside the root file
// system (KEP-4639).

// imageMounts are a container's mounts of images.
func imageMounts(c *cri.ContainerConfig) []*cri.Mount {
	var all []*cri.Mount
	for _, m := range c.GetMounts() {
		if m.GetImage().GetImage() != "" {
			all = append(all, m)
		}
	}
	return all
}

func (s *Service) imageMountPoint(id string, i int) string {
	return filepath.Join(s.dir.containerRun(id), "image-"+strconv.Itoa(i))
}

// snapshotName names what is prepared in the image store for the i-th image
// volume of a container; containerOfSnapshot is its inverse.
func snapshotName(id string, i int) string { return id + "-image-" + strconv.Itoa(i) }

func containerOfSnapshot(name string) string {
	id, _, _ := strings.Cut(name, "-")
	return id
}

func (s *Service) imageVolumes(ctx context.Context, k *container) error {
	for i, m := range imageMounts(k.config) {
		image, ok := s.cfg.Images.Get(m.GetImage().GetImage())
		if !ok {
			return status.Errorf(codes.NotFound, "ImageVolumeMountFailed: failed to resolve image %q: not found", m.GetImage().GetImage())
		}
		layers, err := s.cfg.Images.Prepare(ctx, image.ID, snapshotName(k.id, i))
		if err != nil {
			return fmt.Errorf("ImageVolumeMountFailed: %w", err)
		}
		point := s.imageMountPoint(k.id, i)
		if err := os.MkdirAll(point, 0o711); err != nil {
			return err
		}
		if err := overlay.Mount(point, layers.Lower, "", "", unix.MS_RDONLY); err != nil {
			return fmt.Errorf("ImageVolumeMountFailed: %w", err)
		}
		sub := m.GetImageSubPath()
		if sub == "" {
			continue
		}
		if !filepath.IsLocal(sub) {
			return status.Errorf(codes.InvalidArgument, "ImageVolumeMountFailed: sub path %q leads out of the image", sub)
		}
		if _, err := os.Lstat(filepath.Join(point, sub)); err != nil {
			return fmt.Errorf("ImageVolumeMountFailed: %w", err)
		}
	}
	return nil
}
