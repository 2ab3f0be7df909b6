package ephemeralvolume

import (
	"context"
	"fmt"
	"strings"
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

func TestClaims(t *testing.T) {
	e := controllertest.Start(t)
	events := record.NewFakeRecorder(1000)
	ctl, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: events})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	spec := corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
	claims := e.Client.CoreV1().PersistentVolumeClaims("default")
	foreign, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "q-scratch", Namespace: "default"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string) *corev1.Pod {
		t.Helper()
		p, err := e.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: spec}}}}},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := pod("p")
	made := func(not *corev1.PersistentVolumeClaim) (c *corev1.PersistentVolumeClaim) {
		t.Helper()
		controllertest.Eventually(t, func() (err error) {
			if c, err = claims.Get(ctx, "p-scratch", metav1.GetOptions{}); err == nil && not != nil && c.UID == not.UID {
				err = fmt.Errorf("still the old one")
			}
			return err
		})
		if !metav1.IsControlledBy(c, p) || c.Labels["a"] != "b" || !*c.OwnerReferences[0].BlockOwnerDeletion {
			t.Errorf("claim %+v", c.ObjectMeta)
		}
		return c
	}
	first := made(nil)
	if err := claims.Delete(ctx, first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	made(first)
	// A claim that is somebody else's is not taken.
	q := pod("q")
	want := fmt.Sprintf("Warning FailedBinding ephemeral volume scratch: PVC default/q-scratch was not created for pod default/%s (pod is not owner)", q.Name)
	select {
	case got := <-events.Events:
		if !strings.Contains(got, want) {
			t.Errorf("event %q, want %q", got, want)
		}
	case <-time.After(controllertest.Patience):
		t.Errorf("no event %q", want)
	}
	if got, err := claims.Get(ctx, "q-scratch", metav1.GetOptions{}); err != nil || got.UID != foreign.UID || len(got.OwnerReferences) != 0 {
		t.Errorf("claim %+v, %v", got, err)
	}
}
