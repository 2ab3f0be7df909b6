package expand

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func size(s string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
}

func TestBelong(t *testing.T) {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", UID: "u"}}
	v := &corev1.PersistentVolume{}
	if err := belong(c, v); err == nil {
		t.Error("a volume of nobody is enlarged")
	}
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "u"}
	if err := belong(c, v); err != nil {
		t.Error(err)
	}
}

func TestGrows(t *testing.T) {
	tests := []struct {
		name       string
		phase      corev1.PersistentVolumeClaimPhase
		want, have string
		grows      bool
	}{
		{"larger", corev1.ClaimBound, "2Gi", "1Gi", true},
		{"as it is", corev1.ClaimBound, "1Gi", "1Gi", false},
		{"smaller", corev1.ClaimBound, "1Gi", "2Gi", false},
		{"without a volume", corev1.ClaimPending, "2Gi", "0", false},
	}
	for _, tt := range tests {
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: size(tt.want)}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: tt.phase, Capacity: size(tt.have)}}
		if grows(c) != tt.grows {
			t.Errorf("%s: %v", tt.name, !tt.grows)
		}
	}
}

func TestEvent(t *testing.T) {
	e := controllertest.Start(t)
	events := record.NewFakeRecorder(100)
	ctl, err := New(e.Informers, events, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	claims := e.Client.CoreV1().PersistentVolumeClaims("default")
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: size("2Gi")}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size("1Gi"), AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "c", UID: c.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "a.example", VolumeHandle: "h"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Status.Phase, c.Status.Capacity, c.Status.AccessModes = corev1.ClaimBound, size("1Gi"), modes
	if _, err := claims.UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	select {
	case got := <-events.Events:
		if got != "Normal ExternalExpanding waiting for an external controller to expand this PVC" {
			t.Error(got)
		}
	case <-time.After(controllertest.Patience):
		t.Error("no event")
	}
}
