package persistentvolume

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller"
)

func TestOperations(t *testing.T) {
	r, c := prometheus.NewRegistry(), clocktesting.NewFakePassiveClock(time.Unix(0, 0))
	o := newOperations(controller.NewMetrics(r), c)
	o.failed(deleteOperation, "a") // nothing has begun
	o.end(deleteOperation, "a")
	o.begin(provisionOperation, "a", "x.example")
	c.SetTime(time.Unix(4, 0))
	o.begin(provisionOperation, "a", "y.example") // again: it goes on
	o.begin(deleteOperation, "a", "z.example")    // another of the same name
	o.failed(provisionOperation, "a")
	o.failed(provisionOperation, "a")
	c.SetTime(time.Unix(9, 0))
	o.end(provisionOperation, "a")
	o.end(provisionOperation, "a")
	o.end(deleteOperation, "a")
	o.begin(provisionOperation, "b", "x.example")
	o.forget(provisionOperation, "b")
	o.end(provisionOperation, "b")
	want := []string{"volume_operation_errors_total{provision,x.example}=2", "volume_operation_total_seconds{delete,z.example}=5", "volume_operation_total_seconds{provision,x.example}=9"}
	if got := measured(t, r); !slices.Equal(got, want) {
		t.Errorf("measured %q, want %q", got, want)
	}
	if len(o.begun) != 0 {
		t.Errorf("remembers %v", o.begun)
	}
}

// measured is what the registry has of operations, as name{labels}=value; of a histogram the sum in whole seconds.
func measured(t *testing.T, r *prometheus.Registry) []string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "volume_operation_") {
			continue
		}
		for _, m := range f.GetMetric() {
			value := m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = h.GetSampleSum()
			}
			got = append(got, fmt.Sprintf("%s{%s,%s}=%.0f", f.GetName(), m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue(), value))
		}
	}
	return got
}

// TestDeletedElsewhere: what a driver made, or has, is left to it.
func TestDeletedElsewhere(t *testing.T) {
	by := func(name string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: name}
		}
	}
	csi := func(v *corev1.PersistentVolume) {
		v.Spec.Local, v.Spec.CSI = nil, &corev1.CSIPersistentVolumeSource{Driver: "d.example.com"}
	}
	for _, tt := range []struct {
		name string
		with []func(*corev1.PersistentVolume)
		want bool
	}{
		{"by hand", nil, false},
		{"by a driver", []func(*corev1.PersistentVolume){by("d.example.com")}, true},
		{"by a plugin that there was once", []func(*corev1.PersistentVolume){by("kubernetes.io/gce-pd")}, true},
		{"by a plugin", []func(*corev1.PersistentVolume){by("kubernetes.io/host-path")}, false},
		{"by nobody", []func(*corev1.PersistentVolume){by("")}, false},
		{"by hand, of a driver", []func(*corev1.PersistentVolume){csi}, true},
		{"by nobody, of a driver", []func(*corev1.PersistentVolume){csi, by("")}, true},
		{"by a plugin, of a driver", []func(*corev1.PersistentVolume){csi, by("kubernetes.io/host-path")}, false},
		{"moved to a driver", []func(*corev1.PersistentVolume){func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{volumehelpers.AnnMigratedTo: "d.example.com"}
		}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := volume("v", "1Gi")
			for _, f := range tt.with {
				f(v)
			}
			if got := deletedElsewhere(v); got != tt.want {
				t.Error(got)
			}
		})
	}
}

func TestDeleterOf(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	by := func(name, class string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Annotations, v.Spec.StorageClassName = map[string]string{volumehelpers.AnnDynamicallyProvisioned: name}, class
		}
	}
	for _, tt := range []struct {
		name string
		with func(*corev1.PersistentVolume)
		want string
	}{
		{"nobody can", func(*corev1.PersistentVolume) {}, unknownPlugin},
		{"this process", func(v *corev1.PersistentVolume) {
			v.Spec.Local, v.Spec.HostPath = nil, &corev1.HostPathVolumeSource{Path: "/tmp/x"}
		}, "kubernetes.io/host-path"},
		{"a provisioner whose class is gone", by("a.example/1234", "gone"), unknownPlugin},
	} {
		if got := s.ctl.deleterOf(volume("v", "1Gi", tt.with)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
