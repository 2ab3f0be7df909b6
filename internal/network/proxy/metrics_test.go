package proxy

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	at := func(t time.Time) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: t.Format(time.RFC3339Nano)}}}
	}
	value := func(name string) float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				x := f.GetMetric()[0]
				return x.GetCounter().GetValue() + x.GetGauge().GetValue() + float64(x.GetHistogram().GetSampleCount())
			}
		}
		t.Fatalf("no %s", name)
		return 0
	}
	are := func(when string, want map[string]float64) {
		t.Helper()
		for name, v := range want {
			if got := value(name); got != v {
				t.Errorf("%s: %s is %v, want %v", when, name, got, v)
			}
		}
	}
	m.seen(&corev1.Service{}, false)
	m.seen(at(m.start.Add(-time.Hour)), false) // before this process
	m.seen(at(m.start.Add(time.Millisecond)), false)
	m.seen(at(m.start.Add(time.Millisecond)), true)
	m.seen(&corev1.Node{}, false)
	m.begin()
	m.seen(at(m.start.Add(time.Millisecond)), false) // while it runs
	m.end(time.Now(), true, errors.New("no"))
	are("a failure", map[string]float64{
		"kubeproxy_sync_proxy_rules_duration_seconds": 1, "kubeproxy_sync_full_proxy_rules_duration_seconds": 1, "kubeproxy_sync_partial_proxy_rules_duration_seconds": 0,
		"kubeproxy_sync_proxy_rules_nftables_sync_failures_total": 1, "kubeproxy_network_programming_duration_seconds": 0,
		"kubeproxy_sync_proxy_rules_endpoint_changes_total": 4, "kubeproxy_sync_proxy_rules_endpoint_changes_pending": 4,
		"kubeproxy_sync_proxy_rules_service_changes_total": 1, "kubeproxy_sync_proxy_rules_service_changes_pending": 1, "kubeproxy_sync_proxy_rules_last_timestamp_seconds": 0,
	})
	m.begin()
	m.seen(at(m.start.Add(time.Millisecond)), false)
	m.end(time.Now(), false, nil)
	are("a sync", map[string]float64{
		"kubeproxy_sync_proxy_rules_duration_seconds": 2, "kubeproxy_sync_partial_proxy_rules_duration_seconds": 1, "kubeproxy_network_programming_duration_seconds": 2,
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending": 1, "kubeproxy_sync_proxy_rules_service_changes_pending": 0,
	})
	if value("kubeproxy_sync_proxy_rules_last_timestamp_seconds") == 0 || value("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds") == 0 {
		t.Error("no times")
	}
	var none *Metrics
	none.seen(&corev1.Service{}, false)
	none.begin()
	none.end(time.Now(), true, nil)
}
