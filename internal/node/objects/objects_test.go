package objects

import (
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFollowsOneObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewSimpleClientset()
		var mu sync.Mutex
		woken := map[types.UID]int{}
		s := New(client, clock.RealClock{}, func(uid types.UID) { mu.Lock(); woken[uid]++; mu.Unlock() })
		defer s.Close()
		ref := Ref{ConfigMap, "ns", "cm"}
		s.Use("a", []Ref{ref})
		s.Use("b", []Ref{ref, {Secret, "ns", "s"}})
		if _, err := s.ConfigMap(t.Context(), "ns", "cm"); !apierrors.IsNotFound(err) {
			t.Fatalf("error %v", err)
		}
		synctest.Wait()
		write := func(version, value string) {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cm", ResourceVersion: version}, Data: map[string]string{"k": value}}
			if _, err := client.CoreV1().ConfigMaps("ns").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
				if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		write("1", "one")
		if cm, err := s.ConfigMap(t.Context(), "ns", "cm"); err != nil || cm.Data["k"] != "one" {
			t.Fatalf("%v, %v", cm, err)
		}
		if woken["a"] != 1 || woken["b"] != 1 {
			t.Errorf("woken %v", woken)
		}
		s.Use("a", nil)
		write("2", "two")
		if woken["a"] != 1 || woken["b"] != 2 {
			t.Errorf("woken %v after one pod left", woken)
		}
		s.Use("b", nil)
		synctest.Wait()
		if len(s.entries) != 0 || len(s.pods) != 0 {
			t.Errorf("left: %v, %v", s.entries, s.pods)
		}
		// What nobody uses is fetched.
		if cm, err := s.ConfigMap(t.Context(), "ns", "cm"); err != nil || cm.Data["k"] != "two" {
			t.Errorf("%v, %v", cm, err)
		}
	})
}

func TestRefs(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: corev1.PodSpec{
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}}}},
		},
		Containers: []corev1.Container{{
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			Env:     []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}}}},
		}},
	}}
	got := Refs(pod)
	want := []Ref{{Secret, "ns", "pull"}, {ConfigMap, "ns", "cm"}, {Secret, "ns", "s"}, {Secret, "ns", "key"}}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}
