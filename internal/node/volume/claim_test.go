package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// blockDevice makes the file of a block device that need not exist: nobody opens it.
func blockDevice(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 250))); err != nil {
		t.Fatal(err)
	}
	return path
}

// claimWorld is a bound claim "c" and its volume "pv", which is a directory, on the node of the pod.
func claimWorld(dir string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *corev1.Pod) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", UID: "claim-uid"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "claim-uid"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"here"}}}}}}},
	}}
	pod := testPod(vol("data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}))
	pod.Spec.NodeName = "n"
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	return claim, pv, pod
}

func TestClaim(t *testing.T) {
	processing := "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: error processing PVC ns/c: "
	block := ptr.To(corev1.PersistentVolumeBlock)
	tests := []struct {
		name   string
		change func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *corev1.Pod)
		want   string
	}{
		{"local", func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *corev1.Pod) {}, ""},
		{"hostPath", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.HostPath, v.Spec.Local = &corev1.HostPathVolumeSource{Path: v.Spec.Local.Path}, nil
		}, ""},
		{"no claim", func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) { c.Name = "d" },
			processing + `failed to fetch PVC from API server: persistentvolumeclaims "c" not found`},
		{"not bound", func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			c.Status.Phase = corev1.ClaimPending
		}, processing + "PVC is not bound"},
		{"going", func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, _ *corev1.Pod) {
			c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{"f"}
		}, processing + "PVC is being deleted"},
		{"going, in use by this pod", func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, p *corev1.Pod) {
			c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{"f"}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "celox://1"}}
		}, ""},
		{"somebody else's volume", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.ClaimRef.UID = "other"
		},
			processing + "found PV object pv with a pv.Spec.ClaimRef.UID other that does not point to claim.UID claim-uid"},
		{"another node", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"there"}
		}, `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		{"no directory", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.Local.Path = "/no/such"
		},
			`MountVolume.NewMounter initialization failed for volume "pv" : path "/no/such" does not exist`},
		{"driver", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.Local, v.Spec.CSI = nil, &corev1.CSIPersistentVolumeSource{Driver: "a.example", VolumeHandle: "h"}
		}, `MountVolume.SetUp failed for volume "pv" : driver name a.example not found in the list of registered CSI drivers`},
		{"block, given as a directory", func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, _ *corev1.Pod) {
			v.Spec.VolumeMode = block
		},
			`MapVolume.MapBlockVolume failed for volume "pv" : `},
		{"files, given as a device", func(_ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume, p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts, p.Spec.Containers[0].VolumeDevices = nil, []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}
		}, `MountVolume.SetUp failed for volume "data" : volume data has volumeMode Filesystem, but is specified in volumeDevices`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _, _, client := setup(t)
			dir := t.TempDir()
			claim, pv, pod := claimWorld(dir)
			tt.change(claim, pv, pod)
			for _, err := range []error{
				client.Tracker().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "here"}}}), client.Tracker().Add(claim), client.Tracker().Add(pv),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err := m.Setup(t.Context(), pod)
			if tt.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
					t.Fatalf("got  %v\nwant %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			asked := len(client.Actions())
			got, err := m.Mounts(t.Context(), ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0]})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Mounts) != 1 || got.Mounts[0].HostPath != dir || got.Mounts[0].ContainerPath != "/data" || got.Mounts[0].Readonly {
				t.Errorf("mounts %+v", got.Mounts)
			}
			if n := len(client.Actions()); n != asked {
				t.Errorf("asked the API %d times again for what is known", n-asked)
			}
			// The data is not ours to remove.
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := m.Teardown(pod.UID); err != nil {
				t.Fatal(err)
			}
			if contentOf(t, filepath.Join(dir, "f")) != "x" {
				t.Error("the volume's data is gone")
			}
			if len(m.claims) != 0 {
				t.Errorf("remembered: %v", m.claims)
			}
		})
	}
}

func TestClaimReadOnlyAndSubPath(t *testing.T) {
	m, _, _, client := setup(t)
	dir := t.TempDir()
	claim, pv, pod := claimWorld(dir)
	pv.Spec.NodeAffinity = nil
	pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	pod.Spec.Containers[0].VolumeMounts[0].SubPath = "below"
	for _, err := range []error{client.Tracker().Add(claim), client.Tracker().Add(pv)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	got, err := m.Mounts(t.Context(), ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0]})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Mounts) != 1 || !got.Mounts[0].Readonly || got.Mounts[0].HostPath == dir {
		t.Fatalf("mounts %+v", got.Mounts)
	}
	if err := os.WriteFile(filepath.Join(dir, "below", "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if contentOf(t, filepath.Join(got.Mounts[0].HostPath, "f")) != "x" {
		t.Error("the sub path is another directory")
	}
	if err := m.Teardown(pod.UID); err != nil {
		t.Fatal(err)
	}
}

func TestBlockVolume(t *testing.T) {
	m, _, _, client := setup(t)
	claim, pv, pod := claimWorld("")
	device := blockDevice(t)
	pv.Spec.NodeAffinity, pv.Spec.Local.Path, pv.Spec.VolumeMode = nil, device, ptr.To(corev1.PersistentVolumeBlock)
	pod.Spec.Containers[0].VolumeMounts = nil
	pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}
	for _, err := range []error{client.Tracker().Add(claim), client.Tracker().Add(pv)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	got, err := m.Mounts(t.Context(), ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0]})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Devices) != 1 || got.Devices[0].HostPath != device || got.Devices[0].ContainerPath != "/dev/data" || got.Devices[0].Permissions != "mrw" {
		t.Errorf("devices %+v", got.Devices)
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	if _, err := m.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "volume data has volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("mounted: %v", err)
	}
}
