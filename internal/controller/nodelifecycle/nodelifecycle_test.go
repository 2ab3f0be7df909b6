package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
)

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func lease(name string) *coordinationv1.Lease {
	now := metav1.NowMicro()
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
}

// A node whose lease runs out becomes Unknown and tainted, its pods not ready; one that lives in this process does not need a lease.
func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := fake.NewClientset(node("remote", corev1.ConditionTrue), lease("remote"), node("local", corev1.ConditionTrue),
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "remote"},
				Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}})
		f := informers.New(c)
		counted := prometheus.NewRegistry()
		ctl, err := New(Config{Client: c, Informers: f, Recorder: record.NewFakeRecorder(100), Clock: clock.RealClock{}, Local: "local", Registry: counted})
		if err != nil {
			t.Fatal(err)
		}
		f.StartWithContext(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()

		ready := func(name string) corev1.ConditionStatus {
			n, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return conditionOf(n, corev1.NodeReady).Status
		}
		for range 3 {
			time.Sleep(40 * time.Second)
			if _, err := c.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, lease("remote"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := ready("remote"); got != corev1.ConditionTrue {
				t.Fatalf("a node that renews its lease is %s", got)
			}
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := ready("remote"); got != corev1.ConditionUnknown {
			t.Errorf("a silent node is %s", got)
		}
		if got := ready("local"); got != corev1.ConditionTrue {
			t.Errorf("the node of this process is %s", got)
		}
		n, _ := c.CoreV1().Nodes().Get(ctx, "remote", metav1.GetOptions{})
		if len(n.Spec.Taints) != 2 || n.Spec.Taints[0].Key != corev1.TaintNodeUnreachable {
			t.Errorf("taints %+v", n.Spec.Taints)
		}
		families, err := counted.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range families {
			got = append(got, fmt.Sprint(f.GetName(), " ", f.GetMetric()[0].GetCounter().GetValue()+f.GetMetric()[0].GetGauge().GetValue()))
		}
		if want := []string{"node_collector_evictions_total 1", "node_collector_unhealthy_nodes_in_zone 1", "node_collector_update_node_health_duration_seconds 0", "node_collector_zone_health 50", "node_collector_zone_size 2"}; !slices.Equal(got, want) {
			t.Errorf("counted %q, want %q", got, want)
		}
		p, _ := c.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
		if p.Status.Conditions[0].Status != corev1.ConditionFalse {
			t.Errorf("the pod's conditions %+v", p.Status.Conditions)
		}
		cancel()
		f.Shutdown()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTaintsFor(t *testing.T) {
	n := node("n", corev1.ConditionFalse)
	n.Spec.Unschedulable = true
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
	var got []string
	for _, taint := range taintsFor(n) {
		got = append(got, taint.ToString())
	}
	want := []string{
		"node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/disk-pressure:NoSchedule",
		"node.kubernetes.io/unschedulable:NoSchedule",
	}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// TestRetaint: this controller's are taints of a key and an effect, of any value. What others give with another effect is theirs.
func TestRetaint(t *testing.T) {
	taint := func(s string) corev1.Taint {
		rest, effect, _ := strings.Cut(s, ":")
		key, value, _ := strings.Cut(rest, "=")
		return corev1.Taint{Key: "node.kubernetes.io/" + key, Value: value, Effect: corev1.TaintEffect(effect)}
	}
	taints := func(s string) (out []corev1.Taint) {
		for _, f := range strings.Fields(s) {
			out = append(out, taint(f))
		}
		return out
	}
	for _, tt := range []struct{ name, has, want, stay, missing string }{
		{"nothing", "", "", "", ""},
		{"none is true any more", "not-ready:NoSchedule not-ready:NoExecute unreachable:NoExecute disk-pressure:NoSchedule unschedulable:NoSchedule", "", "", ""},
		{"of a value", "disk-pressure=w:NoSchedule unreachable=v:NoExecute", "", "", ""},
		{"with another effect", "not-ready:PreferNoSchedule disk-pressure:NoExecute unschedulable:NoExecute memory-pressure:PreferNoSchedule", "", "not-ready:PreferNoSchedule disk-pressure:NoExecute unschedulable:NoExecute memory-pressure:PreferNoSchedule", ""},
		{"of others", "out-of-service=x:NoExecute a:NoSchedule", "", "out-of-service=x:NoExecute a:NoSchedule", ""},
		{"lacks", "a:NoSchedule disk-pressure:NoExecute", "disk-pressure:NoSchedule not-ready:NoExecute", "a:NoSchedule disk-pressure:NoExecute", "disk-pressure:NoSchedule not-ready:NoExecute"},
		{"has", "pid-pressure=v:NoSchedule not-ready:NoExecute", "pid-pressure:NoSchedule not-ready:NoExecute", "pid-pressure=v:NoSchedule not-ready:NoExecute", ""},
		{"another reason", "not-ready:NoSchedule not-ready:NoExecute", "unreachable:NoSchedule unreachable:NoExecute", "", "unreachable:NoSchedule unreachable:NoExecute"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stay, missing := retaint(taints(tt.has), taints(tt.want))
			if !slices.Equal(stay, taints(tt.stay)) || !slices.Equal(missing, taints(tt.missing)) {
				t.Errorf("stay %v, missing %v", stay, missing)
			}
		})
	}
}

func TestMissingLabels(t *testing.T) {
	n := node("n", corev1.ConditionTrue)
	n.Labels = map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", "beta.kubernetes.io/arch": "amd64"}
	if got := missingLabels(n); len(got) != 1 || got["beta.kubernetes.io/os"] != "linux" {
		t.Errorf("missing %v", got)
	}
}

// A node whose lease in the cache is old has not gone if the real lease is newer (KEP-5647), and none goes while nobody can say.
func TestRenewedAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, now := metav1.NewMicroTime(time.Now().Add(-time.Hour)), lease("a")
		c := fake.NewClientset(now)
		ctl, err := New(Config{Client: c, Informers: informers.New(c), Recorder: record.NewFakeRecorder(9), Clock: clock.RealClock{}, Registry: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		defer func() { _ = ctl.loop.Run(ctx) }() // ends the queue
		ctl.seen["a"], ctl.seen["none"] = heartbeat{renewed: old}, heartbeat{renewed: old}
		if alive, err := ctl.renewed(t.Context(), "a"); err != nil || !alive {
			t.Error("a renewed lease", alive, err)
		}
		ctl.seen["a"] = heartbeat{renewed: *now.Spec.RenewTime}
		if alive, err := ctl.renewed(t.Context(), "a"); err != nil || alive {
			t.Error("a lease that was seen", alive, err)
		}
		if alive, err := ctl.renewed(t.Context(), "none"); err != nil || alive {
			t.Error("no lease", alive, err)
		}
		c.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("oops") })
		n := node("a", corev1.ConditionTrue)
		if got, err := ctl.markUnknown(t.Context(), n); err == nil || conditionOf(got, corev1.NodeReady).Status != corev1.ConditionTrue {
			t.Error("nobody answers", err)
		}
	})
}
