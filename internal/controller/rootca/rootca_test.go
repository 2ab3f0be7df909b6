package rootca

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The bundle is in every namespace and says what it is to; it is put right when it says another, and a description in other words stays.
func TestPublishes(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, []byte("bundle"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	api := e.Client.CoreV1().ConfigMaps("default")
	says := func(data map[string]string, annotation string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			m, err := api.Get(ctx, Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !maps.Equal(m.Data, data) || m.Annotations[descriptionKey] != annotation {
				return fmt.Errorf("%v, %q", m.Data, m.Annotations[descriptionKey])
			}
			return nil
		})
	}
	want := map[string]string{"ca.crt": "bundle"}
	says(want, description)
	change := func(f func(*corev1.ConfigMap)) {
		t.Helper()
		if err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			m, err := api.Get(ctx, Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			f(m)
			_, err = api.Update(ctx, m, metav1.UpdateOptions{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	change(func(m *corev1.ConfigMap) { m.Data["other"] = "x" })
	says(want, description)
	change(func(m *corev1.ConfigMap) { m.Annotations = nil })
	says(want, description)
	change(func(m *corev1.ConfigMap) { m.Annotations[descriptionKey] = "what pods check the server by" })
	controllertest.Eventually(t, func() error {
		m, err := ctl.configMaps.ConfigMaps("default").Get(Name)
		if err != nil || m.Annotations[descriptionKey] != "what pods check the server by" {
			return fmt.Errorf("the cache is behind (%v)", err)
		}
		return nil
	})
	if err := ctl.publish(ctx, "default"); err != nil {
		t.Fatal(err)
	}
	says(want, "what pods check the server by")
	if err := api.Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says(want, description)
	if err := ctl.publish(ctx, "nowhere"); err != nil {
		t.Error(err)
	}
}
