package persistentvolume

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// TestMarked: drivers are told of what they took over, and of what they no longer have.
func TestMarked(t *testing.T) {
	const by, to = volumehelpers.AnnDynamicallyProvisioned, volumehelpers.AnnMigratedTo
	held := []string{"kubernetes.io/pv-protection", volumehelpers.PVDeletionInTreeProtectionFinalizer}
	for _, tt := range []struct {
		name             string
		has, want        map[string]string
		finalizers, left []string
	}{
		{"made by hand", nil, nil, held, held},
		{"made by hand, whatever it says", map[string]string{to: "x"}, map[string]string{to: "x"}, nil, nil},
		{"of a driver", map[string]string{by: "d.example.com"}, map[string]string{by: "d.example.com"}, held, held},
		{"of a plugin that there was once", map[string]string{by: "kubernetes.io/aws-ebs", "a": "b"}, map[string]string{by: "kubernetes.io/aws-ebs", to: "ebs.csi.aws.com", "a": "b"}, held, held[:1]},
		{"marked already, held", map[string]string{by: "kubernetes.io/cinder", to: "cinder.csi.openstack.org"}, map[string]string{by: "kubernetes.io/cinder", to: "cinder.csi.openstack.org"}, held, held[:1]},
		{"marked with another driver", map[string]string{by: "kubernetes.io/cinder", to: "x"}, map[string]string{by: "kubernetes.io/cinder", to: "cinder.csi.openstack.org"}, nil, nil},
		{"not migrated any more", map[string]string{by: "kubernetes.io/host-path", to: "x"}, map[string]string{by: "kubernetes.io/host-path"}, held, held},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := volume("v", "1Gi")
			v.Annotations, v.Finalizers = tt.has, tt.finalizers
			before := v.DeepCopy()
			got := marked(v)
			if !maps.Equal(got.Annotations, tt.want) || !slices.Equal(got.Finalizers, tt.left) {
				t.Error(got.Annotations, got.Finalizers)
			}
			if !maps.Equal(v.Annotations, before.Annotations) || !slices.Equal(v.Finalizers, before.Finalizers) {
				t.Error("changed what it was given")
			}
			if again := marked(got); again != got {
				t.Error("is not done")
			}
		})
	}
}

func TestMarkedClaim(t *testing.T) {
	const ga, beta, to = volumehelpers.AnnStorageProvisioner, volumehelpers.AnnBetaStorageProvisioner, volumehelpers.AnnMigratedTo
	for _, tt := range []struct {
		name      string
		has, want map[string]string
	}{
		{"nobody's", nil, nil},
		{"a driver's", map[string]string{ga: "d.example.com"}, map[string]string{ga: "d.example.com"}},
		{"by the old key", map[string]string{beta: "kubernetes.io/gce-pd"}, map[string]string{beta: "kubernetes.io/gce-pd", to: "pd.csi.storage.gke.io"}},
		{"the new key counts", map[string]string{ga: "d.example.com", beta: "kubernetes.io/gce-pd", to: "x"}, map[string]string{ga: "d.example.com", beta: "kubernetes.io/gce-pd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := claimOfClass("slow", "1Gi")
			c.Annotations = tt.has
			got := markedClaim(c)
			if !maps.Equal(got.Annotations, tt.want) {
				t.Error(got.Annotations)
			}
			if again := markedClaim(got); again != got {
				t.Error("is not done")
			}
		})
	}
}

func TestNoDeleter(t *testing.T) {
	host := func(v *corev1.PersistentVolume) {
		v.Spec.Local, v.Spec.HostPath = nil, &corev1.HostPathVolumeSource{Path: "/tmp/x"}
	}
	nfs := func(v *corev1.PersistentVolume) {
		v.Spec.Local, v.Spec.NFS = nil, &corev1.NFSVolumeSource{Server: "s", Path: "/x"}
	}
	by := func(name string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: name}
		}
	}
	for _, tt := range []struct {
		name string
		with []func(*corev1.PersistentVolume)
		want string
	}{
		{"of a disk", nil, `error getting deleter volume plugin for volume "v": no volume plugin matched`},
		{"of an NFS server", []func(*corev1.PersistentVolume){nfs}, `error getting deleter volume plugin for volume "v": no deletable volume plugin matched`},
		{"of a host", []func(*corev1.PersistentVolume){host}, ""},
		{"of a host, made by nobody", []func(*corev1.PersistentVolume){host, by("")}, ""},
		{"of a host, made for it", []func(*corev1.PersistentVolume){host, by("kubernetes.io/host-path")}, ""},
		{"made for a host, of a disk", []func(*corev1.PersistentVolume){by("kubernetes.io/host-path")}, "no volume plugin matched"},
		{"of a host, made by another", []func(*corev1.PersistentVolume){host, by("kubernetes.io/nope")}, "no volume plugin matched name: kubernetes.io/nope"},
		{"made for NFS", []func(*corev1.PersistentVolume){by("kubernetes.io/nfs")}, "no deletable volume plugin matched"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := noDeleter(volume("v", "1Gi", tt.with...)); got != tt.want {
				t.Error(got)
			}
		})
	}
}
