package controller

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestStale(t *testing.T) {
	r := prometheus.NewRegistry()
	s := NewMetrics(r).Stale("things_controller")
	if !s.Look(true) || s.Look(false) || s.Look(false) {
		t.Error("a look was taken for another")
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "things_controller_stale_sync_skips_total" {
			continue
		}
		m := f.GetMetric()
		if len(m) != 1 || m[0].GetCounter().GetValue() != 2 || len(m[0].GetLabel()) != 2 || m[0].GetLabel()[1].GetName() != "resource" || m[0].GetLabel()[1].GetValue() != "pods" {
			t.Errorf("counted %v", m)
		}
		return
	}
	t.Error("not counted")
}

// TestNothingIsShown: what has no labels is there before anything happened, what has some is not.
func TestNothingIsShown(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r)
	m.Counter("things_total", "Things.")
	m.Gauge("things", "Things.")
	m.Histogram("thing_seconds", "Things.", []float64{1})
	m.Counter("kinds_total", "Things.", "kind")
	m.Gauge("kinds", "Things.", "kind")
	m.Histogram("kind_seconds", "Things.", []float64{1}, "kind")
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		got[f.GetName()] = len(f.GetMetric())
	}
	if want := map[string]int{"things_total": 1, "things": 1, "thing_seconds": 1}; !maps.Equal(got, want) {
		t.Errorf("shown: %v", got)
	}
}

func TestStaleOfNobody(t *testing.T) {
	var m *Metrics
	if s := m.Stale("x"); s.Look(false) || !s.Look(true) {
		t.Error("what nobody counts is another")
	}
}

func TestSyncs(t *testing.T) {
	r := prometheus.NewRegistry()
	s := NewMetrics(r).Syncs("a_publisher")
	for _, err := range []error{nil, nil, errors.New("x"), fmt.Errorf("publish: %w", apierrors.NewConflict(schema.GroupResource{}, "a", nil))} {
		s.Done(time.Second, err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "a_publisher_sync_total":
				got["n"+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			case "a_publisher_sync_duration_seconds":
				got["s"+m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleSum()
			}
		}
	}
	if want := map[string]float64{"n200": 2, "s200": 2, "n409": 1, "s409": 1, "n500": 1, "s500": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
