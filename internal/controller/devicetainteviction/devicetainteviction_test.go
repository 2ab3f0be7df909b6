package devicetainteviction

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPatience(t *testing.T) {
	added := time.Unix(1000, 0)
	now := added.Add(time.Hour)
	taint := func(key string) resourcev1.DeviceTaint {
		return resourcev1.DeviceTaint{Key: key, Value: "v", Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &metav1.Time{Time: added}}
	}
	tests := []struct {
		name        string
		tolerations []resourcev1.DeviceToleration
		taints      []resourcev1.DeviceTaint
		want        time.Duration // after the taint was added; negative: forever
	}{
		{"none", nil, nil, -1},
		{"not tolerated", nil, []resourcev1.DeviceTaint{taint("a")}, 0},
		{"by key and value", []resourcev1.DeviceToleration{{Key: "a", Value: "v"}}, []resourcev1.DeviceTaint{taint("a")}, -1},
		{"another value", []resourcev1.DeviceToleration{{Key: "a", Value: "w"}}, []resourcev1.DeviceTaint{taint("a")}, 0},
		{"by key", []resourcev1.DeviceToleration{{Key: "a", Operator: resourcev1.DeviceTolerationOpExists}}, []resourcev1.DeviceTaint{taint("a")}, -1},
		{"all", []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists}}, []resourcev1.DeviceTaint{taint("a"), taint("b")}, -1},
		{"another effect", []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoSchedule}}, []resourcev1.DeviceTaint{taint("a")}, 0},
		{"for a while", []resourcev1.DeviceToleration{{Key: "a", Value: "v", TolerationSeconds: ptr.To[int64](30)}}, []resourcev1.DeviceTaint{taint("a")}, 30 * time.Second},
		{"for several whiles", []resourcev1.DeviceToleration{{Key: "a", Value: "v", TolerationSeconds: ptr.To[int64](30)}, {Operator: resourcev1.DeviceTolerationOpExists, TolerationSeconds: ptr.To[int64](20)}}, []resourcev1.DeviceTaint{taint("a")}, 20 * time.Second},
		{"for a while and for ever", []resourcev1.DeviceToleration{{Key: "a", Value: "v", TolerationSeconds: ptr.To[int64](30)}, {Operator: resourcev1.DeviceTolerationOpExists}}, []resourcev1.DeviceTaint{taint("a")}, -1},
		{"for less than nothing", []resourcev1.DeviceToleration{{Key: "a", Value: "v", TolerationSeconds: ptr.To[int64](-5)}}, []resourcev1.DeviceTaint{taint("a")}, 0},
		{"one for a while, one not at all", []resourcev1.DeviceToleration{{Key: "a", Value: "v", TolerationSeconds: ptr.To[int64](30)}}, []resourcev1.DeviceTaint{taint("a"), taint("b")}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var causes []cause
			for _, taint := range tt.taints {
				causes = append(causes, cause{DeviceTaint: taint})
			}
			end := patience(tt.tolerations, causes, now)
			if (end != nil) != (tt.want >= 0) || end != nil && end.at != added.Add(tt.want) {
				t.Errorf("%+v", end)
			}
		})
	}
}

func TestTaintsOf(t *testing.T) {
	slice := func(generation int64, key string, effect resourcev1.DeviceTaintEffect) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: generation},
			Devices: []resourcev1.Device{{Name: "dev", Taints: []resourcev1.DeviceTaint{{Key: key, Effect: effect}}}}}}
	}
	rule := func(s *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
		return &resourcev1.DeviceTaintRule{Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: s, Taint: resourcev1.DeviceTaint{Key: "rule", Effect: resourcev1.DeviceTaintEffectNoExecute}}}
	}
	tests := []struct {
		name   string
		slices []*resourcev1.ResourceSlice
		rules  []*resourcev1.DeviceTaintRule
		want   string
	}{
		{"newest generation", []*resourcev1.ResourceSlice{slice(1, "old", resourcev1.DeviceTaintEffectNoExecute), slice(2, "new", resourcev1.DeviceTaintEffectNoExecute)}, nil, "[new]"},
		{"harmless", []*resourcev1.ResourceSlice{slice(1, "a", resourcev1.DeviceTaintEffectNoSchedule)}, nil, "[]"},
		{"rule for nothing", nil, []*resourcev1.DeviceTaintRule{rule(nil)}, "[]"},
		{"rule for all", nil, []*resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{})}, "[rule]"},
		{"rule for another", nil, []*resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{Driver: ptr.To("d"), Device: ptr.To("other")})}, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			keys := []string{}
			for _, taint := range taintsOf(device{"d", "p", "dev"}, tt.slices, tt.rules) {
				keys = append(keys, taint.Key)
			}
			if got := fmt.Sprint(keys); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestEviction(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	pods, claims := e.Client.CoreV1().Pods("default"), e.Client.ResourceV1().ResourceClaims("default")
	for _, name := range []string{"one", "two"} {
		p, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{Name: "c", Image: "i"}}, ResourceClaims: []corev1.PodResourceClaim{{Name: "g", ResourceClaimName: &name}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		request := resourcev1.DeviceRequest{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}
		c, err := claims.Create(ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.example", Pool: "pool", Device: "dev-" + name}}}}
		c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: p.UID}}
		if _, err := claims.UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Client.ResourceV1().DeviceTaintRules().Create(ctx, &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "broken"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To("d.example"), Device: ptr.To("dev-one")},
		Taint:          resourcev1.DeviceTaint{Key: "a.example/broken", Effect: resourcev1.DeviceTaintEffectNoExecute},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := pods.Get(ctx, "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the pod is still there: %v", err)
		}
		return nil
	})
	controllertest.Eventually(t, func() error { // the pod was there when the rule came, or has gone already
		r, err := e.Client.ResourceV1().DeviceTaintRules().Get(ctx, "broken", metav1.GetOptions{})
		if err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != "EvictionInProgress" || r.Status.Conditions[0].ObservedGeneration != r.Generation {
			return fmt.Errorf("status of the rule: %+v %w", r.Status, err)
		}
		return nil
	})
	if err := ctl.Reconcile(ctx, "default/two"); err != nil {
		t.Error(err)
	}
	if p, err := pods.Get(ctx, "two", metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("the pod with another device: %v", err)
	}
}

func TestConditionOfRules(t *testing.T) {
	rule := func(e resourcev1.DeviceTaintEffect) *resourcev1.DeviceTaintRule {
		return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Effect: e}}}
	}
	for _, c := range []struct {
		effect  resourcev1.DeviceTaintEffect
		effects effects
		want    string
	}{
		{"NoExecute", effects{}, "False NotStarted: "},
		{"NoExecute", effects{pods: 1, namespaces: 1}, "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace."},
		{"NoExecute", effects{pods: 3, namespaces: 2, evicted: 1}, "True PodsPendingEviction: 3 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller."},
		{"NoExecute", effects{evicted: 4}, "False Completed: 4 pods evicted since starting the controller."},
		{"NoSchedule", effects{}, "False OtherEffect: Eviction only happens for the NoExecute effect."},
		{"None", effects{published: 1, allocated: 2, pods: 1, namespaces: 1}, "False NoEffect: 1 published device selected. 2 allocated devices selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. " +
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."},
	} {
		got := conditionOf(rule(c.effect), c.effects)
		if text := fmt.Sprintf("%s %s: %s", got.Status, got.Reason, got.Message); text != c.want || got.ObservedGeneration != 3 || !got.LastTransitionTime.IsZero() {
			t.Errorf("%q %+v, want %q", text, got, c.want)
		}
	}
}

func TestWhatARuleWouldDo(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	defer func() { _ = ctl.loop.Run(ended) }() // ends the queue
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: node, ResourceClaims: []corev1.PodResourceClaim{{Name: "g", ResourceClaimName: &name}}}}
	}
	claim := func(name, device string) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Status: resourcev1.ResourceClaimStatus{
			ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: types.UID(name)}},
			Allocation:  &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: device}}}}}}
	}
	for _, obj := range []any{pod("one", "n"), pod("two", "n"), pod("waits", "")} {
		if err := e.Informers.Core().V1().Pods().Informer().GetIndexer().Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	for _, obj := range []any{claim("one", "a"), claim("two", "b"), claim("waits", "a")} {
		if err := ctl.claims.Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: 1}, Devices: []resourcev1.Device{{Name: "a"}, {Name: "b"}}}}
	if err := e.Informers.Resource().V1().ResourceSlices().Informer().GetIndexer().Add(slice); err != nil {
		t.Fatal(err)
	}
	rule := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "r"}, Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: &resourcev1.DeviceTaintSelector{Device: ptr.To("a")}, Taint: resourcev1.DeviceTaint{Key: "k", Effect: resourcev1.DeviceTaintEffectNone}}}
	got, err := ctl.effectsOf(rule, time.Now())
	if want := (effects{published: 1, allocated: 2, pods: 1, namespaces: 1}); err != nil || got != want {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if end, err := ctl.end(pod("one", "n"), nil, []*resourcev1.DeviceTaintRule{rule}, time.Now()); err != nil || end != nil {
		t.Error("a rule without effect ends a pod", end, err)
	}
	// A deletion that is announced and then not wanted any more is told.
	ctl.wait("default/one", pod("one", "n"))
	if err := ctl.Reconcile(ctx, "default/one"); err != nil || ctl.wait("default/one", nil) != "" {
		t.Error(err)
	}
}
