package pvprotection

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDecide(t *testing.T) {
	now := metav1.Now()
	tests := []struct {
		name   string
		volume corev1.PersistentVolume
		want   []string
		change bool
	}{
		{"new", corev1.PersistentVolume{}, []string{finalizer}, true},
		{"known", corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{finalizer}}}, []string{finalizer}, false},
		{"going, bound", corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now, Finalizers: []string{finalizer}}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}, []string{finalizer}, false},
		{"going, released", corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now, Finalizers: []string{"a", finalizer}}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeReleased}}, []string{"a"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, change := decide(&tt.volume); !slices.Equal(got, tt.want) || change != tt.change {
				t.Errorf("got %v, %v", got, change)
			}
		})
	}
}

func TestVolumeOutlivesItsClaim(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	volumes := e.Client.CoreV1().PersistentVolumes()
	if _, err := volumes.Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/none"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	phase := func(p corev1.PersistentVolumePhase) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			v, err := volumes.Get(ctx, "v", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(v.Finalizers) != 1 {
				return fmt.Errorf("finalizers %v", v.Finalizers)
			}
			v.Status.Phase = p
			_, err = volumes.UpdateStatus(ctx, v, metav1.UpdateOptions{})
			return err
		})
	}
	phase(corev1.VolumeBound)
	if err := volumes.Delete(ctx, "v", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	phase(corev1.VolumeReleased)
	controllertest.Eventually(t, func() error {
		if _, err := volumes.Get(ctx, "v", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the volume is still there: %v", err)
		}
		return nil
	})
}
