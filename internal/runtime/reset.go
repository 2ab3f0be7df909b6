package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
)

// Destroy stops and removes everything that this runtime ever made: containers,
// addresses, mounts, namespaces, cgroups and the holder. Images stay. The
// service must not be used afterwards.
func (s *Service) Destroy(ctx context.Context) error {
	var err error
	for _, b := range s.snapshotSandboxes() {
		if _, rerr := s.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: b.id}); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	err = errors.Join(err, s.Close())
	for _, id := range s.cfg.Images.Containers() {
		err = errors.Join(err, s.cfg.Images.Release(id))
	}
	return errors.Join(err, Reset(ctx, s.cfg.Root, s.log))
}

// Reset is Destroy for a runtime directory that no Service has open, also when
// its holder is dead. It cannot give addresses back to a Network nor snapshots
// to an image store; those are reset on their own.
func Reset(ctx context.Context, root string, log *slog.Logger) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("the runtime directory %q is not an absolute path", root)
	}
	dir := layout(root)
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	log.Debug("removing all containers", "root", root)
	err := holder.Destroy(ctx, dir.holder())

	cgroup := DefaultCgroupRoot(root)
	if data, rerr := os.ReadFile(dir.settings()); rerr == nil {
		var st settings
		if json.Unmarshal(data, &st) == nil && st.CgroupRoot != "" {
			cgroup = st.CgroupRoot
		}
	}
	// A process that was started but not written down yet is still in its cgroup.
	if kerr := holder.KillCgroup(ctx, cgroup); kerr != nil {
		err = errors.Join(err, kerr)
	}
	err = errors.Join(err, holder.RemoveCgroup(ctx, cgroup), unmountBelow(dir.run()))
	for _, path := range []string{dir.run(), dir.sandboxes(), dir.containers(), dir.settings()} {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// unmountBelow unmounts everything at a directory and below, the deepest first.
func unmountBelow(dir string) error {
	resolved, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := readMountInfo()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b mountInfo) int { return cmp.Compare(len(b.point), len(a.point)) })
	var failed error
	for _, m := range all {
		if m.point == resolved || strings.HasPrefix(m.point, resolved+"/") {
			failed = errors.Join(failed, unmount(m.point))
		}
	}
	return failed
}
