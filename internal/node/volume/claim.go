package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// bound is a claim's volume on this node.
type bound struct {
	path     string
	readOnly bool // the volume itself may not be written
	block    bool // path is a device, not a directory
}

// claimError says that a claim is not fit to be used yet. People know its text from kubelets.
type claimError struct {
	claim string // namespace/name
	err   error
}

func (e *claimError) Error() string {
	return fmt.Sprintf("error processing PVC %s: %v", e.claim, e.err)
}

func (e *claimError) Unwrap() error { return e.err }

// volumeError says what is wrong with a volume that a claim is bound to.
type volumeError struct {
	doing, volume string
	err           error
}

func (e *volumeError) Error() string {
	return fmt.Sprintf("%s for volume %q : %v", e.doing, e.volume, e.err)
}

func (e *volumeError) Unwrap() error { return e.err }

// claimNameOf is the name of the claim behind a pod's volume; "" if it is of another kind.
func claimNameOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// started says that a container of the pod has been made before: its volumes were fit then.
func started(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool { return s.ContainerID != "" })
}

// claimed finds what is behind a claim that is bound to a local or hostPath volume, makes it ready for the pod, and remembers it until the pod's
// volumes are torn down.
func (m *Manager) claimed(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (bound, error) {
	m.mu.Lock()
	b, ok := m.claims[pod.UID][v.Name]
	m.mu.Unlock()
	if ok {
		return b, nil
	}
	name := claimNameOf(pod, v)
	pv, err := m.volumeOf(ctx, pod, v, name)
	if err != nil {
		return bound{}, &claimError{pod.Namespace + "/" + name, err}
	}
	if pv.Spec.NodeAffinity != nil {
		node, err := m.client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err == nil {
			err = volumehelpers.CheckNodeAffinity(pv, node.Labels)
		}
		if err != nil {
			return bound{}, &volumeError{"MountVolume.NodeAffinity check failed", pv.Name, err}
		}
	}
	if b, err = prepare(pod, pv); err != nil {
		return bound{}, err
	}
	b.readOnly = v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims[pod.UID] == nil {
		m.claims[pod.UID] = map[string]bound{}
	}
	m.claims[pod.UID][v.Name] = b
	return b, nil
}

// volumeOf is the volume that a claim is bound to, from both ends.
func (m *Manager) volumeOf(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, name string) (*corev1.PersistentVolume, error) {
	claim, err := m.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err
		}
	}
	switch {
	case claim.DeletionTimestamp != nil && !started(pod):
		return nil, errors.New("PVC is being deleted") // it goes when the last pod that has it does
	case claim.Status.Phase != corev1.ClaimBound:
		return nil, errors.New("PVC is not bound")
	case claim.Spec.VolumeName == "":
		return nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	pv, err := m.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil {
		return nil, fmt.Errorf("found PV object %s with nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	}
	if pv.Spec.ClaimRef.UID != claim.UID {
		return nil, fmt.Errorf("found PV object %s with a pv.Spec.ClaimRef.UID %s that does not point to claim.UID %s", pv.Name, pv.Spec.ClaimRef.UID, claim.UID)
	}
	return pv, nil
}

// prepare checks, or makes, what a volume is on this node.
func prepare(pod *corev1.Pod, pv *corev1.PersistentVolume) (bound, error) {
	b := bound{block: pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock}
	fail := func(doing string, err error) (bound, error) { return bound{}, &volumeError{doing, pv.Name, err} }
	switch {
	case pv.Spec.Local != nil:
		b.path = pv.Spec.Local.Path
		info, err := os.Stat(b.path)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("path %q does not exist", b.path)
		}
		if err != nil {
			return fail("MountVolume.NewMounter initialization failed", err)
		}
		device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
		switch {
		case b.block && !device:
			return fail("MapVolume.MapBlockVolume failed", fmt.Errorf("%s is not a block device", b.path))
		case b.block:
			return b, nil
		case device:
			return fail("MountVolume.MountDevice failed", fmt.Errorf("%s is a block device: this node does not make file systems; make and mount one, and name its directory", b.path))
		case !info.IsDir():
			return fail("MountVolume.SetUp failed", fmt.Errorf("%s is not a directory", b.path))
		}
		if err := own(b.path, pod); err != nil {
			return fail("MountVolume.SetUp failed", err)
		}
		return b, nil
	case pv.Spec.HostPath != nil && !b.block:
		b.path = pv.Spec.HostPath.Path
		if err := hostPath(pv.Spec.HostPath); err != nil {
			return fail("MountVolume.SetUp failed", err)
		}
		return b, nil
	case pv.Spec.CSI != nil:
		return fail("MountVolume.SetUp failed", fmt.Errorf("driver name %s not found in the list of registered CSI drivers: this node does not run CSI drivers yet, only local and hostPath volumes", pv.Spec.CSI.Driver))
	}
	return fail("MountVolume.SetUp failed", errors.New("no volume plugin matched: this node mounts local and hostPath volumes only"))
}

// forget drops what is remembered of a pod; m.mu is held.
func (m *Manager) forget(uid types.UID) {
	delete(m.tokens, uid)
	delete(m.claims, uid)
	delete(m.issued, uid)
}

// checkModes wants block volumes given as devices and others as directories: a claim alone does not tell which it will get.
func checkModes(pod *corev1.Pod, v *corev1.Volume, b bound) error {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			mounted := slices.ContainsFunc(list[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
			device := slices.ContainsFunc(list[i].VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == v.Name })
			switch {
			case b.block && mounted:
				return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", v.Name)
			case !b.block && device:
				return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", v.Name)
			}
		}
	}
	return nil
}

// devices are the block volumes of one container.
func (m *Manager) devices(ctx context.Context, in ContainerInput) ([]*runtimeapi.Device, error) {
	var out []*runtimeapi.Device
	for _, d := range in.Container.VolumeDevices {
		at := slices.IndexFunc(in.Pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == d.Name })
		if at < 0 || claimNameOf(in.Pod, &in.Pod.Spec.Volumes[at]) == "" {
			return nil, fmt.Errorf("cannot find block volume %q of container %q", d.Name, in.Container.Name)
		}
		b, err := m.claimed(ctx, in.Pod, &in.Pod.Spec.Volumes[at])
		if err != nil {
			return nil, err
		}
		if !b.block {
			return nil, checkModes(in.Pod, &in.Pod.Spec.Volumes[at], b)
		}
		permissions := "mrw"
		if b.readOnly {
			permissions = "r"
		}
		out = append(out, &runtimeapi.Device{ContainerPath: d.DevicePath, HostPath: b.path, Permissions: permissions})
	}
	return out, nil
}
