package endpoints

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is there without a service when the controller starts goes, unless it is somebody's lock; what comes later stays.
func TestLeftovers(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	api := e.Client.CoreV1().Endpoints("default")
	make := func(name string, annotations map[string]string) {
		t.Helper()
		_, err := api.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	make("left", nil)
	make("lock", map[string]string{leaderAnnotation: "{}"})
	ctl, err := New(e.Client, e.Informers, e.Recorder, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	controllertest.Eventually(t, func() error {
		if _, err := api.Get(ctx, "left", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%v)", err)
		}
		return nil
	})
	make("later", nil)
	controllertest.Eventually(t, func() error { _, err := ctl.endpoints.Endpoints("default").Get("later"); return err })
	for _, name := range []string{"lock", "later"} {
		if _, err := api.Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestOverCapacity(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	ctl, err := New(e.Client, e.Informers, e.Recorder, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	api := e.Client.CoreV1().Endpoints("default")
	_, err = e.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"a": "b"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// What an earlier one said of capacity is taken back.
	_, err = api.Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.EndpointsOverCapacity: "truncated", "mine": "too"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	controllertest.Eventually(t, func() error {
		have, err := api.Get(ctx, "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, marked := have.Annotations[corev1.EndpointsOverCapacity]; marked || have.Annotations["mine"] != "too" || have.Labels[managedByLabel] != managedBy {
			return fmt.Errorf("annotations %v, labels %v", have.Annotations, have.Labels)
		}
		return nil
	})
}

func TestLabels(t *testing.T) {
	for _, tt := range []struct {
		name       string
		cluster    string
		have, want map[string]string
	}{
		{"none", "10.43.0.1", nil, map[string]string{managedByLabel: managedBy}},
		{"headless", corev1.ClusterIPNone, map[string]string{"a": "b"}, map[string]string{"a": "b", managedByLabel: managedBy, corev1.IsHeadlessService: ""}},
		{"says what it is not", "10.43.0.1", map[string]string{corev1.IsHeadlessService: "", managedByLabel: "me", managedByLabel + "-too": "me"},
			map[string]string{managedByLabel: managedBy, managedByLabel + "-too": "me"}},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: tt.have}, Spec: corev1.ServiceSpec{ClusterIP: tt.cluster}}
		if got := wantLabels(s); !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
