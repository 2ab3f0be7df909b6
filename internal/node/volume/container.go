package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/env"
)

// ContainerInput is what a container's mounts depend on.
type ContainerInput struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	// Lookup gives the container's variables, for subPathExpr.
	Lookup func(string) (string, bool)
	// Images are the references of the images behind image volumes, by volume.
	Images map[string]string
	// Hosts is the content of /etc/hosts; nil: the image's own.
	Hosts []byte
	// RecursiveReadOnly tells whether the runtime can mount whole trees read-only.
	RecursiveReadOnly bool
}

// ContainerMounts are the mounts of one container.
type ContainerMounts struct {
	Mounts []*runtimeapi.Mount
	// Devices are its block volumes.
	Devices []*runtimeapi.Device
	// TerminationFile is the host's side of terminationMessagePath.
	TerminationFile string
}

// Mounts makes what a container mounts: sub paths are bound, its termination message file and /etc/hosts written.
func (m *Manager) Mounts(ctx context.Context, in ContainerInput) (ContainerMounts, error) {
	var out ContainerMounts
	hostsMounted := false
	for i := range in.Container.VolumeMounts {
		vm := &in.Container.VolumeMounts[i]
		mount, err := m.mount(ctx, in, i, vm)
		if err != nil {
			return out, err
		}
		hostsMounted = hostsMounted || filepath.Clean(vm.MountPath) == "/etc/hosts"
		out.Mounts = append(out.Mounts, mount)
	}
	var err error
	if out.Devices, err = m.devices(ctx, in); err != nil {
		return out, err
	}
	if in.Hosts != nil && !hostsMounted {
		file := filepath.Join(m.PodDir(in.Pod.UID), "etc-hosts")
		if err := writeIfChanged(file, in.Hosts); err != nil {
			return out, err
		}
		out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: file})
	}
	if p := in.Container.TerminationMessagePath; p != "" {
		file, err := m.terminationFile(in.Pod.UID, in.Container.Name)
		if err != nil {
			return out, err
		}
		out.TerminationFile = file
		out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: p, HostPath: file})
	}
	return out, nil
}

// writeIfChanged keeps the inode: running containers have it mounted.
func writeIfChanged(file string, data []byte) error {
	if have, err := os.ReadFile(file); err == nil && string(have) == string(data) {
		return nil
	}
	return os.WriteFile(file, data, 0o644)
}

// WriteHosts refreshes the /etc/hosts of the pod's containers, if it has been made.
func (m *Manager) WriteHosts(uid types.UID, data []byte) error {
	file := filepath.Join(m.PodDir(uid), "etc-hosts")
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	return writeIfChanged(file, data)
}

// terminationFile makes a new empty file for a container's last words.
func (m *Manager) terminationFile(uid types.UID, container string) (string, error) {
	dir := filepath.Join(m.PodDir(uid), "containers", container)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	var id [4]byte
	_, _ = rand.Read(id[:])
	file := filepath.Join(dir, hex.EncodeToString(id[:]))
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return "", err
	}
	return file, os.Chmod(file, 0o666)
}

func (m *Manager) mount(ctx context.Context, in ContainerInput, index int, vm *corev1.VolumeMount) (*runtimeapi.Mount, error) {
	var v *corev1.Volume
	for i := range in.Pod.Spec.Volumes {
		if in.Pod.Spec.Volumes[i].Name == vm.Name {
			v = &in.Pod.Spec.Volumes[i]
		}
	}
	if v == nil {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, in.Container.Name)
	}
	out := &runtimeapi.Mount{ContainerPath: vm.MountPath, Readonly: vm.ReadOnly}
	if !filepath.IsAbs(out.ContainerPath) {
		out.ContainerPath = "/" + out.ContainerPath
	}
	if vm.ReadOnly && vm.RecursiveReadOnly != nil {
		switch *vm.RecursiveReadOnly {
		case corev1.RecursiveReadOnlyEnabled:
			if !in.RecursiveReadOnly {
				return nil, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
			}
			out.RecursiveReadOnly = true
		case corev1.RecursiveReadOnlyIfPossible:
			out.RecursiveReadOnly = in.RecursiveReadOnly
		}
	}
	if vm.MountPropagation != nil {
		switch *vm.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			out.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	sub, err := subPath(in, vm)
	if err != nil {
		return nil, err
	}
	if v.Image != nil {
		out.Image = &runtimeapi.ImageSpec{Image: in.Images[v.Name], UserSpecifiedImage: v.Image.Reference, ImageRef: in.Images[v.Name]}
		out.ImageSubPath = sub
		out.Readonly = true
		return out, nil
	}
	host, err := m.hostPathOf(ctx, in.Pod, v)
	if err != nil {
		return nil, err
	}
	out.HostPath = host
	switch {
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		out.Readonly = true
	case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly:
		out.Readonly = true
	}
	if sub != "" {
		out.HostPath, err = m.bindSubPath(in, index, vm.Name, host, sub)
		if err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, in.Container.Name, err)
		}
	}
	return out, nil
}

func subPath(in ContainerInput, vm *corev1.VolumeMount) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var missing string
		sub, missing = env.Unresolved(vm.SubPathExpr, in.Lookup)
		if missing != "" {
			return "", fmt.Errorf("failed to expand subPathExpr %q: variable %q is not set", vm.SubPathExpr, missing)
		}
	}
	if sub == "" {
		return "", nil
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for _, part := range strings.Split(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	return sub, nil
}

// hostPathOf is where a volume is on the node.
func (m *Manager) hostPathOf(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, nil
	case claimNameOf(pod, v) != "":
		b, err := m.claimed(ctx, pod, v)
		return b.path, err
	}
	if dir := m.dir(pod, v); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("this node has no way to mount a volume of type %s", typeName(v))
}

// bindSubPath resolves the sub path inside the volume and binds exactly the file that was found, so that a container
// which swaps a symbolic link meanwhile gains nothing.
func (m *Manager) bindSubPath(in ContainerInput, index int, volume, host, sub string) (string, error) {
	info, err := os.Stat(host)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("volume %q is not a directory", volume)
	}
	f, err := openBelow(host, sub)
	if err != nil {
		return "", err
	}
	defer f.Close()
	found, err := f.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(m.PodDir(in.Pod.UID), "volume-subpaths", volume, in.Container.Name, strconv.Itoa(index))
	if err := unmountBelow(m.mounter, target); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if found.IsDir() {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	return target, m.mounter.Bind("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), target, false)
}
