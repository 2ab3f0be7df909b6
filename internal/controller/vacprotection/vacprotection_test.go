package vacprotection

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClassesOfClaim(t *testing.T) {
	c := &corev1.PersistentVolumeClaim{}
	c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName = ptr.To("b"), ptr.To("a")
	c.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "b"}
	if got := classesOfClaim(c); !slices.Equal(got, []string{"a", "b"}) {
		t.Error(got)
	}
	if got := classesOfClaim(&corev1.PersistentVolumeClaim{}); len(got) != 0 {
		t.Error(got)
	}
}

func TestClassOutlivesItsUsers(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	classes, claims := e.Client.StorageV1().VolumeAttributesClasses(), e.Client.CoreV1().PersistentVolumeClaims("default")
	if _, err := classes.Create(ctx, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, DriverName: "a.example", Parameters: map[string]string{"a": "b"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeAttributesClassName: ptr.To("gold"),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	protected := func() {
		t.Helper()
		controllertest.Eventually(t, func() error {
			c, err := classes.Get(ctx, "gold", metav1.GetOptions{})
			if err == nil && !slices.Contains(c.Finalizers, finalizer) {
				err = fmt.Errorf("finalizers %v", c.Finalizers)
			}
			return err
		})
	}
	protected()
	if err := classes.Delete(ctx, "gold", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		c, err := ctl.classes.Get("gold")
		if err == nil && c.DeletionTimestamp == nil {
			err = fmt.Errorf("not deleted yet")
		}
		return err
	})
	if err := ctl.Reconcile(ctx, "gold"); err != nil {
		t.Error(err)
	}
	protected()
	if err := claims.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := classes.Get(ctx, "gold", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the class is still there: %v", err)
		}
		return nil
	})
}
