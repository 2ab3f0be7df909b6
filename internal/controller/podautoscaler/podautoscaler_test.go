package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/replicaset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// load is a source that says that all pods share a load, in thousandths of a CPU.
type load struct {
	*controllertest.Env
	mu    sync.Mutex // guards all below
	total int64
	err   error
	asked int
	queue int64
}

func (l *load) set(total int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total, l.err = total, err
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *load) Resource(ctx context.Context, namespace string, pods labels.Selector, _ corev1.ResourceName, _ string) (Samples, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	list, err := l.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: pods.String()})
	if err != nil || l.err != nil {
		return nil, errors.Join(err, l.err)
	}
	out := Samples{}
	for _, p := range list.Items {
		out[p.Name] = Sample{Value: l.total / int64(len(list.Items)), At: time.Now(), Window: 15 * time.Second}
	}
	return out, nil
}

func (l *load) Pods(context.Context, string, string, labels.Selector, labels.Selector) (Samples, error) {
	return nil, errors.New("not measured")
}

func (l *load) Object(context.Context, string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, error) {
	return 0, errors.New("not measured")
}

func (l *load) External(context.Context, string, string, labels.Selector) ([]int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue < 0 {
		return nil, errors.New("not measured")
	}
	return []int64{1000 * l.queue}, nil
}

// enqueue sets how much there is to do; if it is negative nobody knows.
func (l *load) enqueue(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = n
}

func aSet(name string, replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": name}
	spec := aPod(0).Spec
	spec.Containers[0].Image = "i"
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: spec}}}
}

func anAutoscaler(name, target string) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: target}, MinReplicas: ptr.To(int32(1)), MaxReplicas: 10,
		Metrics: []autoscalingv2.MetricSpec{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To(int32(50))}}}}}}
}

// stage is an API with the controller, that of ReplicaSets, and pods that are ready at once, all in virtual time.
type stage struct {
	*controllertest.Env
	t    *testing.T
	load *load
}

func onStage(t *testing.T, play func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.Start(t)
		l := &load{Env: e}
		api := NewAPI(e.Client.Discovery().RESTClient(), func(gk schema.GroupKind) (schema.GroupVersionResource, bool) {
			return appsv1.SchemeGroupVersion.WithResource("replicasets"), gk == schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}
		})
		c, err := New(Config{Client: e.Client, Informers: e.Informers, Source: l, Scales: api, Recorder: e.Recorder, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		sets, err := replicaset.New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Run(t, c, sets)
		time.Sleep(time.Second) // who waits for caches looks at times
		play(&stage{e, t, l})
	})
}

// pass lets time pass, with new pods ready at once.
func (s *stage) pass(d time.Duration) {
	s.t.Helper()
	ctx := context.Background()
	for end := time.Now().Add(d); ; time.Sleep(min(5*time.Second, time.Until(end))) {
		synctest.Wait()
		list, err := s.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.Status.Phase != corev1.PodRunning {
				p.Status = aPod(0).Status
				start := metav1.NewTime(time.Now().Add(-time.Hour))
				p.Status.StartTime, p.Status.Conditions[0].LastTransitionTime = &start, start
				if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
					s.t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if !time.Now().Before(end) {
			return
		}
	}
}

func (s *stage) create(set *appsv1.ReplicaSet, autoscalers ...*autoscalingv2.HorizontalPodAutoscaler) {
	s.t.Helper()
	if set != nil {
		if _, err := s.Client.AppsV1().ReplicaSets("default").Create(context.Background(), set, metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
		s.pass(0)
	}
	for _, h := range autoscalers {
		if _, err := s.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(context.Background(), h, metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.pass(0)
}

// expect compares the size of a set and the conditions of its autoscaler, given as "Type=Status Reason".
func (s *stage) expect(autoscaler, set string, replicas int32, conditions ...string) *autoscalingv2.HorizontalPodAutoscaler {
	s.t.Helper()
	h, err := s.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(context.Background(), autoscaler, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var have []string
	for _, c := range h.Status.Conditions {
		have = append(have, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	for _, c := range conditions {
		if !strings.Contains(strings.Join(have, "\n"), c) {
			s.t.Errorf("no condition %q among %q", c, have)
		}
	}
	if set == "" {
		return h
	}
	rs, err := s.Client.AppsV1().ReplicaSets("default").Get(context.Background(), set, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	if *rs.Spec.Replicas != replicas {
		s.t.Errorf("%d replicas, want %d; %+v", *rs.Spec.Replicas, replicas, h.Status)
	}
	return h
}

func TestFollowsTheLoad(t *testing.T) {
	onStage(t, func(s *stage) {
		s.load.set(400, nil)
		s.create(aSet("a", 1), anAutoscaler("h", "a"))
		h := s.expect("h", "a", 1, "ScalingActive=True ValidMetricFound", "AbleToScale=True", "ScalingLimited=False DesiredWithinRange")
		if len(h.Status.CurrentMetrics) != 1 || *h.Status.CurrentMetrics[0].Resource.Current.AverageUtilization != 40 || h.Status.CurrentReplicas != 1 || h.Status.DesiredReplicas != 1 {
			t.Errorf("status %+v", h.Status)
		}
		s.load.set(2900, nil) // six pods at half
		s.pass(period)
		h = s.expect("h", "a", 4, "AbleToScale=True SucceededRescale", "ScalingLimited=True ScaleUpLimit")
		if h.Status.LastScaleTime == nil {
			t.Error("no lastScaleTime")
		}
		s.pass(period)
		s.expect("h", "a", 6, "AbleToScale=True SucceededRescale", "ScalingLimited=False DesiredWithinRange")
		s.load.set(900, nil)
		s.pass(2 * time.Minute)
		s.expect("h", "a", 6, "AbleToScale=True ScaleDownStabilized")
		s.load.set(0, errors.New("nobody measures"))
		s.pass(period)
		s.expect("h", "a", 6, "ScalingActive=False FailedGetResourceMetric")
		s.load.set(900, nil)
		s.pass(5 * time.Minute)
		s.expect("h", "a", 2, "ScalingActive=True ValidMetricFound")
		s.load.set(50_000, nil)
		s.pass(time.Minute)
		s.expect("h", "a", 10, "ScalingLimited=True TooManyReplicas")
	})
}

func TestBoundsAndSwitch(t *testing.T) {
	onStage(t, func(s *stage) {
		ctx := context.Background()
		hpas := s.Client.AutoscalingV2().HorizontalPodAutoscalers("default")
		s.load.set(2500, nil)
		s.create(aSet("a", 20), anAutoscaler("h", "a"))
		s.pass(1) // the maximum counts at once, whatever is measured
		h := s.expect("h", "a", 10, "AbleToScale=True SucceededRescale")
		h.Spec.MinReplicas, h.Spec.MaxReplicas = ptr.To(int32(12)), 15
		if _, err := hpas.Update(ctx, h, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(1) // so does a change of the specification
		s.expect("h", "a", 12)
		if _, err := s.Client.AppsV1().ReplicaSets("default").Patch(ctx, "a", "application/merge-patch+json", []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		s.expect("h", "a", 0, "ScalingActive=False ScalingDisabled")
		if err := hpas.Delete(ctx, "h", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		before := s.load.count()
		s.pass(time.Hour)
		if s.load.count() != before {
			t.Error("without autoscalers somebody asks for metrics")
		}
	})
}

func TestWhoCannotBeScaled(t *testing.T) {
	onStage(t, func(s *stage) {
		other := anAutoscaler("kind", "a")
		other.Spec.ScaleTargetRef.Kind = "Teapot"
		s.create(aSet("a", 2), anAutoscaler("gone", "nothing"), other)
		h := s.expect("gone", "", 0, "AbleToScale=False FailedGetScale")
		if m := h.Status.Conditions[0].Message; m != `the HPA controller was unable to get the target's current scale: replicasets.apps "nothing" not found` {
			t.Error(m)
		}
		h = s.expect("kind", "", 0, "AbleToScale=False FailedGetScale")
		if m := h.Status.Conditions[0].Message; m != `the HPA controller was unable to get the target's current scale: no matches for kind "Teapot" in group "apps"` {
			t.Error(m)
		}
		s.load.set(2000, nil)
		s.create(nil, anAutoscaler("one", "a"), anAutoscaler("two", "a"))
		s.pass(time.Minute)
		for _, name := range []string{"one", "two"} {
			h := s.expect(name, "", 0, "ScalingActive=False AmbiguousSelector")
			for _, c := range h.Status.Conditions {
				if c.Reason == "AmbiguousSelector" && c.Message != "pods by selector app=a are controlled by more than one HPA (e.g. [default/one default/two])" {
					t.Error(c.Message)
				}
			}
		}
		if err := s.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Delete(context.Background(), "two", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		s.expect("one", "a", 4, "ScalingActive=True ValidMetricFound")
	})
}

func TestQuietWhileNothingChanges(t *testing.T) {
	onStage(t, func(s *stage) {
		s.load.set(500, nil)
		s.create(aSet("a", 1), anAutoscaler("h", "a"))
		s.pass(10 * time.Minute)
		before := s.expect("h", "a", 1).ResourceVersion
		asked := s.load.count()
		s.pass(time.Hour)
		if after := s.expect("h", "a", 1).ResourceVersion; after != before {
			t.Errorf("written: %s, then %s", before, after)
		}
		if n := s.load.count() - asked; n != 240 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

// A workload without work has no pods, until there is some; one that somebody else has taken the pods from stays as it is (KEP-2021).
func TestToNothingAndBack(t *testing.T) {
	onStage(t, func(s *stage) {
		ctx := context.Background()
		h := anAutoscaler("h", "a")
		h.Spec.MinReplicas = ptr.To(int32(0))
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: "External", External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: resource.NewQuantity(10, resource.DecimalSI)}}}}
		h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To(int32(0))}}
		size := func(n int) {
			t.Helper()
			if _, err := s.Client.AppsV1().ReplicaSets("default").Patch(ctx, "a", "application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		s.load.enqueue(15)
		s.create(aSet("a", 1), h)
		s.pass(time.Minute)
		s.expect("h", "a", 2, "ScaledToZero=False NotScaledToZero")
		s.load.enqueue(0)
		s.pass(time.Minute)
		s.expect("h", "a", 0, "ScaledToZero=True ScaledToZero", "ScalingActive=True ValidMetricFound")
		s.load.enqueue(-1)
		s.pass(time.Minute)
		s.expect("h", "a", 0, "ScaledToZero=True ScaledToZero", "ScalingActive=False FailedGetExternalMetric")
		s.load.enqueue(21)
		s.pass(time.Minute)
		s.expect("h", "a", 3, "ScaledToZero=False NotScaledToZero", "ScalingActive=True ValidMetricFound")

		size(0)
		s.pass(time.Hour)
		s.expect("h", "a", 0, "ScaledToZero=False NotScaledToZero", "ScalingActive=False ScalingDisabled")
		size(1)
		s.pass(time.Minute)
		s.expect("h", "a", 3, "ScalingActive=True ValidMetricFound")

		// Who wants pods again gets them, whatever there is to do.
		s.load.enqueue(0)
		s.pass(time.Minute)
		now := s.expect("h", "a", 0, "ScaledToZero=True ScaledToZero")
		now.Spec.MinReplicas = ptr.To(int32(2))
		if _, err := s.Client.AutoscalingV2().HorizontalPodAutoscalers("default").Update(ctx, now, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		s.expect("h", "a", 2, "ScaledToZero=False NotScaledToZero")
	})
}
