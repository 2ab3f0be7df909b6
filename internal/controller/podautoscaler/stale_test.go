package podautoscaler

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/client/informers"
)

// TestBehindItsOwnWrites: an autoscaler is not looked at before what was written of it last is seen, but as soon as that is.
func TestBehindItsOwnWrites(t *testing.T) {
	f := informers.New(fake.NewClientset())
	store := f.Autoscaling().V2().HorizontalPodAutoscalers().Informer().GetStore()
	counted := prometheus.NewRegistry()
	c, err := New(Config{Informers: f, Clock: clocktesting.NewFakePassiveClock(time.Unix(0, 0)), Metrics: NewMetrics(counted)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ended, end := context.WithCancel(context.Background())
		end()
		if err := c.Run(ended); err != nil { // which ends what New began
			t.Error(err)
		}
	})
	at := func(version string) *autoscalingv2.HorizontalPodAutoscaler {
		return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "h", ResourceVersion: version}}
	}
	if err := store.Add(at("9")); err != nil {
		t.Fatal(err)
	}
	c.remember("default/h").written = 10
	if err := c.Reconcile(t.Context(), "default/h"); err != nil { // which has no client, and would fail
		t.Fatal(err)
	}
	families, err := counted.Gather()
	if err != nil {
		t.Fatal(err)
	}
	skipped := 0.0
	for _, family := range families {
		if family.GetName() == "horizontal_pod_autoscaler_controller_stale_sync_skips_total" {
			m := family.GetMetric()[0]
			skipped = m.GetCounter().GetValue()
			if l := m.GetLabel(); len(l) != 2 || l[0].GetValue() != "autoscaling" || l[1].GetValue() != "horizontalpodautoscalers" {
				t.Errorf("labels %v", l)
			}
		}
	}
	if skipped != 1 {
		t.Errorf("%v skipped", skipped)
	}
	for version, want := range map[string]bool{"9": false, "10": true, "11": true} {
		if got := c.waited(at(version)); got != want {
			t.Errorf("version %s is waited for: %v", version, got)
		}
	}
	m := c.remember("default/h")
	if c.isBehind(m, at("10")) || c.waited(at("11")) {
		t.Error("it is still waited for")
	}
}
