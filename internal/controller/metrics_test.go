package controller

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
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

func TestStaleOfNobody(t *testing.T) {
	var m *Metrics
	if s := m.Stale("x"); s.Look(false) || !s.Look(true) {
		t.Error("what nobody counts is another")
	}
}
