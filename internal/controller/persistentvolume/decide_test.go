package persistentvolume

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"pgregory.net/rapid"
)

// volume makes a volume of a class; changes are applied in turn.
func volume(name, size string, changes ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeFilesystem
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			StorageClassName: "slow", VolumeMode: &mode, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/none"}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

func claimOfClass(class, size string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	mode := corev1.PersistentVolumeFilesystem
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "uid-c"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeMode: &mode,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

// of links a volume to the claim of a name and uid.
func of(name, uid string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name, UID: types.UID(uid)}
	}
}

func annotated(keys ...string) func(metav1.Object) {
	return func(o metav1.Object) {
		a := map[string]string{}
		for _, k := range keys {
			a[k] = "yes"
		}
		o.SetAnnotations(a)
	}
}

func onVolume(f func(metav1.Object)) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) { f(v) }
}

func onClaim(f func(metav1.Object)) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { f(c) }
}

func naming(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// around is a world of some volumes and classes.
func around(volumes []*corev1.PersistentVolume, classes []*storagev1.StorageClass, pods ...string) surroundings {
	return surroundings{
		volume: func(name string) (*corev1.PersistentVolume, bool) {
			for _, v := range volumes {
				if v.Name == name {
					return v, true
				}
			}
			return nil, false
		},
		match: func(c *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
			return bestMatch(c, volumes, delayed)
		},
		class: func(name string) (*storagev1.StorageClass, error) {
			for _, c := range classes {
				if c.Name == name {
					return c, nil
				}
			}
			return nil, apierrors.NewNotFound(storagev1.Resource("storageclass"), name)
		},
		fallback: func() *storagev1.StorageClass { return newestDefault(classes) },
		waiting:  func(*corev1.PersistentVolumeClaim) []string { return pods },
	}
}

func TestDecideClaim(t *testing.T) {
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	none := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }
	block := func(v *corev1.PersistentVolume) { *v.Spec.VolumeMode = corev1.PersistentVolumeBlock }
	bound := onClaim(annotated(volumehelpers.AnnBindCompleted))
	isDefault := class("slow", "a.example/b", now)
	isDefault.Annotations = map[string]string{defaultClass: "true"}
	type volumes = []*corev1.PersistentVolume
	type classes = []*storagev1.StorageClass
	external := func(name string) string {
		return "provision " + name + " Pending Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner '" + name + "' or manually by the system administrator. " +
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered."
	}
	tests := []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		volumes volumes
		classes classes
		pods    []string
		want    string
	}{
		{"smallest that fits", claimOfClass("slow", "2Gi"), volumes{volume("a", "1Gi"), volume("b", "5Gi"), volume("c", "3Gi")}, nil, nil, "bind c"},
		{"of another class", claimOfClass("fast", "1Gi"), volumes{volume("a", "1Gi")}, classes{class("fast", "kubernetes.io/no-provisioner", now)}, nil,
			"Pending Warning ProvisioningFailed no volume plugin matched name: kubernetes.io/no-provisioner"},
		{"no such class", claimOfClass("fast", "1Gi"), nil, nil, nil, `Pending Warning ProvisioningFailed storageclass.storage.k8s.io "fast" not found`},
		{"class without an object", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi")}, nil, nil, "bind a"},
		{"no class", claimOfClass("", "1Gi"), nil, classes{isDefault}, nil, "Pending Normal FailedBinding no persistent volumes available for this claim and no storage class is set"},
		{"class to come", claimOfClass("", "1Gi", none), nil, nil, nil, "Pending Normal FailedBinding no persistent volumes available for this claim and no storage class is set"},
		{"default class", claimOfClass("", "1Gi", none), nil, classes{isDefault}, nil, "assign slow"},
		{"no class, and a volume without one", claimOfClass("", "1Gi", none), volumes{volume("a", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "" })}, classes{isDefault}, nil, "bind a"},
		{"not yet available", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumePending })}, classes{class("slow", "a.example/b", now)}, nil, external("a.example/b")},
		{"block device for files", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi", block)}, classes{class("slow", "kubernetes.io/gce-pd", now)}, nil, external("pd.csi.storage.gke.io")},
		{"selector", claimOfClass("slow", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "b"}}
		}), volumes{volume("a", "1Gi"), volume("b", "2Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"disk": "b"} })}, nil, nil, "bind b"},
		{"fewer access modes are better than less space", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadOnlyMany)
		}), volume("b", "9Gi")}, nil, nil, "bind b"},
		{"access modes", claimOfClass("slow", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}), volumes{volume("a", "1Gi")}, nil, nil, `Pending Warning ProvisioningFailed storageclass.storage.k8s.io "slow" not found`},
		{"one that is meant for it", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi"), volume("b", "9Gi", of("c", ""))}, nil, nil, "bind b"},
		{"one that is meant for a namesake", claimOfClass("slow", "1Gi"), volumes{volume("b", "1Gi", of("c", "uid-old"))}, nil, nil, `Pending Warning ProvisioningFailed storageclass.storage.k8s.io "slow" not found`},
		{"waits for a pod", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi")}, classes{class("slow", "a.example/b", wait)}, nil,
			"Pending Normal WaitForFirstConsumer waiting for first consumer to be created before binding"},
		{"waits for one pod", claimOfClass("slow", "1Gi"), nil, classes{class("slow", "a.example/b", wait)}, []string{"p"}, "Pending Normal WaitForPodScheduled waiting for pod p to be scheduled"},
		{"waits for pods", claimOfClass("slow", "1Gi"), nil, classes{class("slow", "a.example/b", wait)}, []string{"p", "q"}, "Pending Normal WaitForPodScheduled waiting for pods p,q to be scheduled"},
		{"node chosen", claimOfClass("slow", "1Gi", onClaim(annotated(volumehelpers.AnnSelectedNode))), volumes{volume("a", "1Gi")}, classes{class("slow", "a.example/b", wait)}, nil, external("a.example/b")},
		{"the scheduler chose a volume", claimOfClass("slow", "1Gi"), volumes{volume("a", "1Gi"), volume("b", "2Gi", of("c", "uid-c"))}, classes{class("slow", "a.example/b", wait)}, nil, "bind b"},
		{"by name", claimOfClass("slow", "1Gi", naming("b")), volumes{volume("a", "1Gi"), volume("b", "9Gi")}, nil, nil, "bind b"},
		{"by name, to come", claimOfClass("slow", "1Gi", naming("b")), volumes{volume("a", "1Gi")}, nil, nil, "Pending"},
		{"by name, too small", claimOfClass("slow", "2Gi", naming("a")), volumes{volume("a", "1Gi")}, nil, nil, `Pending Warning VolumeMismatch Cannot bind to requested volume "a": requested PV is too small`},
		{"by name, class", claimOfClass("fast", "1Gi", naming("a")), volumes{volume("a", "1Gi")}, nil, nil, `Pending Warning VolumeMismatch Cannot bind to requested volume "a": storageClassName does not match`},
		{"by name, mode", claimOfClass("slow", "1Gi", naming("a")), volumes{volume("a", "1Gi", block)}, nil, nil, `Pending Warning VolumeMismatch Cannot bind to requested volume "a": incompatible volumeMode`},
		{"by name, somebody else's", claimOfClass("slow", "1Gi", naming("a")), volumes{volume("a", "1Gi", of("d", "uid-d"))}, nil, nil, `Pending Warning FailedBinding volume "a" already bound to a different claim.`},
		{"by name, somebody else's, and ours", claimOfClass("slow", "1Gi", naming("a"), onClaim(annotated(volumehelpers.AnnBoundByController))), volumes{volume("a", "1Gi", of("d", "uid-d"))}, nil, nil,
			`error: invalid binding of claim "default/c" to volume "a": volume already claimed by "default/d"`},
		{"half bound", claimOfClass("slow", "1Gi", naming("a")), volumes{volume("a", "1Gi", of("c", "uid-c"))}, nil, nil, "bind a"},
		{"bound", claimOfClass("slow", "1Gi", naming("a"), bound), volumes{volume("a", "1Gi", of("c", "uid-c"))}, nil, nil, "bind a"},
		{"bound, and the volume forgot", claimOfClass("slow", "1Gi", naming("a"), bound), volumes{volume("a", "1Gi")}, nil, nil, "bind a"},
		{"lost its volume", claimOfClass("slow", "1Gi", naming("a"), bound), nil, nil, nil, "Lost Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
		{"lost its name", claimOfClass("slow", "1Gi", bound), nil, nil, nil, "Lost Warning ClaimLost Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"},
		{"bound twice", claimOfClass("slow", "1Gi", naming("a"), bound), volumes{volume("a", "1Gi", of("d", "uid-d"))}, nil, nil,
			"Lost Warning ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			step, err := decideClaim(tt.claim, around(tt.volumes, tt.classes, tt.pods...))
			got := ""
			switch {
			case err != nil:
				got = "error: " + err.Error()
			case step.action == claimBind:
				got = "bind " + step.volume.Name
			case step.action == claimAssign:
				got = "assign " + step.class
			default:
				if step.action == claimProvision {
					got = "provision " + step.provisioner + " "
				}
				got += string(step.phase)
				if step.notice != (notice{}) {
					got += fmt.Sprintf(" %s %s %s", step.notice.kind, step.notice.reason, step.notice.message)
				}
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDecideVolume(t *testing.T) {
	c := claimOfClass("slow", "1Gi")
	provisioned := func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: "a.example/b"}
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	}
	tests := []struct {
		name  string
		v     *corev1.PersistentVolume
		claim *corev1.PersistentVolumeClaim
		want  volumeStep
	}{
		{"free", volume("a", "1Gi"), nil, volumeStep{phase: corev1.VolumeAvailable}},
		{"meant for one to come", volume("a", "1Gi", of("c", "")), nil, volumeStep{phase: corev1.VolumeAvailable}},
		{"its claim is gone", volume("a", "1Gi", of("c", "uid-c")), nil, volumeStep{action: volumeReclaim}},
		{"bound", volume("a", "1Gi", of("c", "uid-c")), claimOfClass("slow", "1Gi", naming("a")), volumeStep{phase: corev1.VolumeBound}},
		{"half bound", volume("a", "1Gi", of("c", "uid-c")), c, volumeStep{action: volumeFinish}},
		{"does not fit", volume("a", "1Gi", of("c", "uid-c"), func(v *corev1.PersistentVolume) { *v.Spec.VolumeMode = corev1.PersistentVolumeBlock }), c, volumeStep{action: volumeMismatch}},
		{"the claim got another", volume("a", "1Gi", of("c", "uid-c")), claimOfClass("slow", "1Gi", naming("b")), volumeStep{action: volumeUnbind}},
		{"the claim got another, this one was made for it", volume("a", "1Gi", of("c", "uid-c"), provisioned), claimOfClass("slow", "1Gi", naming("b")), volumeStep{action: volumeReclaim}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := decideVolume(tt.v, tt.claim); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestUnbound(t *testing.T) {
	if v := unbound(volume("a", "1Gi", of("c", "uid-c"), onVolume(annotated(volumehelpers.AnnBoundByController)))); v.Spec.ClaimRef != nil || v.Annotations != nil {
		t.Errorf("our own link stays: %v, %v", v.Spec.ClaimRef, v.Annotations)
	}
	if v := unbound(volume("a", "1Gi", of("c", "uid-c"))); v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != "" {
		t.Errorf("a user's link: %v", v.Spec.ClaimRef)
	}
}

// TestBestMatchIsSmallest holds for any volumes: what is taken satisfies the claim, and nothing with as few access modes that does is smaller.
func TestBestMatchIsSmallest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany}
		var volumes []*corev1.PersistentVolume
		for i := range rapid.IntRange(0, 8).Draw(t, "volumes") {
			v := volume(fmt.Sprint("v", i), fmt.Sprintf("%dGi", rapid.IntRange(1, 9).Draw(t, "size")))
			v.Spec.AccessModes = all[:rapid.IntRange(1, 3).Draw(t, "modes")]
			v.Spec.StorageClassName = rapid.SampledFrom([]string{"slow", "fast"}).Draw(t, "class")
			if rapid.Bool().Draw(t, "taken") {
				of("d", "uid-d")(v)
			}
			volumes = append(volumes, v)
		}
		c := claimOfClass("slow", fmt.Sprintf("%dGi", rapid.IntRange(1, 9).Draw(t, "wanted")))
		c.Spec.AccessModes = all[:rapid.IntRange(1, 3).Draw(t, "wanted modes")]
		got, err := bestMatch(c, volumes, false)
		if err != nil {
			t.Fatal(err)
		}
		if got != nil && (got.Spec.ClaimRef != nil || satisfies(got, c) != nil) {
			t.Fatalf("took %s: %v", got.Name, satisfies(got, c))
		}
		for _, v := range volumes {
			if v.Spec.ClaimRef != nil || satisfies(v, c) != nil {
				continue
			}
			if got == nil {
				t.Fatalf("took none, and %s would do", v.Name)
			}
			size, least := v.Spec.Capacity[corev1.ResourceStorage], got.Spec.Capacity[corev1.ResourceStorage]
			if len(v.Spec.AccessModes) < len(got.Spec.AccessModes) || len(v.Spec.AccessModes) == len(got.Spec.AccessModes) && size.Cmp(least) < 0 {
				t.Fatalf("took %s rather than %s", got.Name, v.Name)
			}
		}
	})
}
