package lookup_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"go.uber.org/goleak"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadYourWrites(t *testing.T) {
	s := lookuptest.New(t)
	ctx := t.Context()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n"}}
	if _, err := s.Objects.Pod(ctx, "a", "p"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	s.Put(pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "q"}})
	if got, err := s.Objects.Pod(ctx, "a", "p"); err != nil || got.Name != "p" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := s.Objects.Pod(ctx, "a", ""); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	if got, err := s.Objects.PodsOnNode(ctx, "n"); err != nil || len(got) != 1 || got[0].Name != "p" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := s.Objects.Pods(ctx, "a"); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	s.Delete(pod)
	if _, err := s.Objects.Pod(ctx, "a", "p"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	s.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "y"}})
	if got, err := s.Objects.Namespace(ctx, "a"); err != nil || got.Name != "a" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := s.Objects.EndpointSlices(ctx, "a", "svc"); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}
