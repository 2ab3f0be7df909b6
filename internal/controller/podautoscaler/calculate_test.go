package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// measured is a source whose answers are given.
type measured struct {
	pods     Samples
	object   int64
	external []int64
	err      error
}

func (m *measured) copy() (Samples, error) {
	if m.err != nil {
		return nil, m.err
	}
	out := Samples{}
	for k, v := range m.pods {
		out[k] = v
	}
	return out, nil
}

func (m *measured) Resource(context.Context, string, labels.Selector, corev1.ResourceName, string) (Samples, error) {
	return m.copy()
}

func (m *measured) Pods(context.Context, string, string, labels.Selector, labels.Selector) (Samples, error) {
	return m.copy()
}

func (m *measured) Object(context.Context, string, string, *autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, error) {
	return m.object, m.err
}

func (m *measured) External(context.Context, string, string, labels.Selector) ([]int64, error) {
	return m.external, m.err
}

// aPod is a pod that has run for an hour, ready, and requests a CPU.
func aPod(i int, change ...func(*corev1.Pod)) *corev1.Pod {
	start := metav1.NewTime(noon.Add(-time.Hour))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "n", Labels: map[string]string{"a": "b"}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1")}}}}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &start, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: start}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
func dying(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: noon} }
func crashed(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
func bare(p *corev1.Pod)    { p.Spec.Containers[0].Resources.Requests = nil }
func nothing(p *corev1.Pod) {}
func started(p *corev1.Pod) { // a minute ago, and ready since then
	at := metav1.NewTime(noon.Add(-time.Minute))
	p.Status.StartTime, p.Status.Conditions[0].LastTransitionTime = &at, at
}
func sidecar(p *corev1.Pod) {
	p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Resources: p.Spec.Containers[0].Resources}, {Name: "once"}}
}
func whole(p *corev1.Pod) {
	bare(p)
	p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}
}

func newCalculator(s Source, pods ...*corev1.Pod) *calculator {
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, p := range pods {
		if err := store.Add(p); err != nil {
			panic(err)
		}
	}
	return &calculator{source: s, pods: corelisters.NewPodLister(store), clock: testclock.NewFakePassiveClock(noon)}
}

func TestUtilization(t *testing.T) {
	const gone = -1 // no sample
	fresh := Sample{Window: 30 * time.Second, At: noon}
	for _, c := range []struct {
		name    string
		usage   []int64
		pods    []func(*corev1.Pod)
		spec    int32
		target  int32
		res     corev1.ResourceName
		want    int32
		percent int32
		err     string
	}{
		{name: "up", usage: []int64{900, 900}, target: 50, want: 4, percent: 90},
		{name: "down", usage: []int64{100, 100, 100, 100}, target: 50, want: 1, percent: 10},
		{name: "tolerated", usage: []int64{540, 540}, target: 50, want: 2, percent: 54},
		{name: "missing on the way up counts as idle", usage: []int64{1000, gone}, target: 50, want: 2, percent: 100},
		{name: "missing on the way down counts as busy", usage: []int64{100, 100, gone}, target: 50, want: 3, percent: 10},
		{name: "missing on the way down, still down", usage: []int64{10, 10, 10, 10, 10, gone}, target: 50, want: 3, percent: 1},
		{name: "missing counts at the target if that is higher", usage: []int64{100, 100, gone}, target: 300, want: 2, percent: 10},
		{name: "pending on the way up counts as idle", usage: []int64{1000, gone, gone}, pods: []func(*corev1.Pod){nothing, pending, pending}, target: 20, want: 5, percent: 100},
		{name: "pending on the way down does not count", usage: []int64{200, gone}, pods: []func(*corev1.Pod){nothing, pending}, target: 50, want: 1, percent: 20},
		{name: "dying and failed do not count", usage: []int64{1000, 9000, 9000}, pods: []func(*corev1.Pod){nothing, dying, crashed}, target: 50, want: 2, spec: 1, percent: 100},
		{name: "never ready", usage: []int64{1000, 5000}, pods: []func(*corev1.Pod){nothing, unready}, target: 50, want: 2, percent: 100},
		{name: "unready, but memory is memory", usage: []int64{1000, 5000}, pods: []func(*corev1.Pod){nothing, unready}, res: "memory", target: 50, want: 12, percent: 300},
		{name: "just started, measured over a window since", usage: []int64{1000, 1000}, pods: []func(*corev1.Pod){nothing, started}, target: 50, want: 4, percent: 100},
		{name: "all unready", usage: []int64{100}, pods: []func(*corev1.Pod){unready}, target: 50, err: "did not receive metrics for targeted pods (pods might be unready)"},
		{name: "no request", usage: []int64{100}, pods: []func(*corev1.Pod){bare}, target: 50, err: "missing request for cpu in container c of Pod p0"},
		{name: "sidecars request too", usage: []int64{1000}, pods: []func(*corev1.Pod){sidecar}, target: 25, want: 2, percent: 50},
		{name: "the pod's own request", usage: []int64{1000}, pods: []func(*corev1.Pod){whole}, target: 25, want: 2, percent: 50},
		{name: "no pods", target: 50, err: "no pods returned by selector while calculating replica count"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &measured{pods: Samples{}}
			var pods []*corev1.Pod
			for i, u := range c.usage {
				p := aPod(i)
				if c.pods != nil {
					c.pods[i](p)
				}
				pods = append(pods, p)
				if u != gone {
					s := fresh
					s.Value = u
					m.pods[p.Name] = s
				}
			}
			if c.spec == 0 {
				c.spec = int32(len(pods))
			}
			if c.res == "" {
				c.res = corev1.ResourceCPU
			}
			w := workload{namespace: "n", selector: labels.Everything(), spec: c.spec, tolerance: tolerance{.1, .1}}
			got, err := newCalculator(m, pods...).utilization(context.Background(), w, c.res, "", c.target)
			if fmt.Sprint(err) != c.err && (err != nil || c.err != "") {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && (got.replicas != c.want || got.utilization != c.percent) {
				t.Errorf("%d replicas at %d %%, want %d at %d %%", got.replicas, got.utilization, c.want, c.percent)
			}
		})
	}
}

func TestStarting(t *testing.T) {
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }
	for _, c := range []struct {
		name             string
		start, since, at time.Duration // before noon
		ready            bool
		want             bool
	}{
		{"ready for long", time.Hour, time.Hour, 0, true, false},
		{"fresh, not ready", time.Minute, time.Minute, 0, false, true},
		{"fresh, measured before it was ready", 2 * time.Minute, 10 * time.Second, 0, true, true},
		{"fresh, measured since it is ready", 2 * time.Minute, 40 * time.Second, 0, true, false},
		{"old, has been ready", time.Hour, time.Minute, 0, false, false},
		{"old, never ready", time.Hour, time.Hour - 10*time.Second, 0, false, true},
	} {
		start := ago(c.start)
		p := aPod(0)
		p.Status.StartTime, p.Status.Conditions[0].LastTransitionTime = &start, ago(c.since)
		if !c.ready {
			unready(p)
		}
		if got := starting(p, Sample{At: noon.Add(-c.at), Window: 30 * time.Second}, noon); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	p := aPod(0)
	p.Status.StartTime = nil
	if !starting(p, Sample{}, noon) {
		t.Error("a pod that has not started is not starting")
	}
}

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

func TestEvaluate(t *testing.T) {
	two := []*corev1.Pod{aPod(0), aPod(1)}
	busy := &measured{pods: Samples{"p0": {Value: 3000}, "p1": {Value: 5000}}, object: 60_000, external: []int64{10_000, 20_000}}
	id := autoscalingv2.MetricIdentifier{Name: "m"}
	object := autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "s", APIVersion: "v1"}
	for _, c := range []struct {
		name   string
		metric autoscalingv2.MetricSpec
		source *measured
		spec   int32
		want   int32
		says   string
		err    string // of all
		event  string // what the event and the condition say
	}{
		{name: "pods", metric: autoscalingv2.MetricSpec{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("1")}}}, want: 8, says: "pods metric m"},
		{name: "object, total", metric: autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: object, Target: autoscalingv2.MetricTarget{Type: "Value", Value: quantity("20")}}}, want: 6, says: "Service metric m"},
		{name: "object, total, from none", spec: -1, metric: autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: object, Target: autoscalingv2.MetricTarget{Type: "Value", Value: quantity("20")}}}, want: 3, says: "Service metric m"},
		{name: "object, share", metric: autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: object, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("7")}}}, want: 9, says: "external metric m(nil)"},
		{name: "external, total", metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "Value", Value: quantity("10")}}}, want: 6, says: "external metric m(nil)"},
		{name: "external, share", metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("14")}}}, want: 2, says: "external metric m(nil)"},
		{name: "average of a resource", metric: autoscalingv2.MetricSpec{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("2")}}}, want: 4, says: "memory resource"},
		{name: "utilization of a container", metric: autoscalingv2.MetricSpec{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "memory", Container: "c", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To(int32(100))}}}, want: 8, says: "memory container resource utilization (percentage of request)"},
		{name: "nothing answers", source: &measured{err: errors.New("oops")}, metric: autoscalingv2.MetricSpec{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To(int32(50))}}},
			err: "failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: oops", event: "failed to get cpu utilization: unable to get metrics for resource cpu: oops"},
		{name: "no object", source: &measured{err: errors.New("oops")}, metric: autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: object, Target: autoscalingv2.MetricTarget{Type: "Value", Value: quantity("20")}}},
			err: "failed to get object metric value: unable to get metric m on Service n/s: oops", event: "unable to get metric m on Service n/s: oops"},
		{name: "no share of an object", source: &measured{err: errors.New("oops")}, metric: autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: id, DescribedObject: object, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("20")}}},
			err: "failed to get object metric value: failed to get m object metric: unable to get metric m on Service n/s: oops", event: "unable to get metric m on Service n/s: oops"},
		{name: "no external total", source: &measured{err: errors.New("oops")}, metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "Value", Value: quantity("10")}}},
			err: "failed to get m external metric value: failed to get external metric m: unable to get external metric n/m/nil: oops", event: "unable to get external metric n/m/nil: oops"},
		{name: "no external share", source: &measured{err: errors.New("oops")}, metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("10")}}},
			err: "failed to get m external metric value: failed to get m external metric: unable to get external metric n/m/nil: oops", event: "unable to get external metric n/m/nil: oops"},
		{name: "more than can be counted", source: &measured{external: []int64{math.MaxInt64, 5}}, want: math.MaxInt32, says: "external metric m(nil)",
			metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: quantity("10")}}}},
		{name: "no target", metric: autoscalingv2.MetricSpec{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: id}}, err: "failed to get m external metric value: invalid external metric source: neither a value target nor an average value target was set",
			event: "invalid external metric source: neither a value target nor an average value target was set"},
		{name: "no type", metric: autoscalingv2.MetricSpec{Type: "Magic"}, err: `unknown metric source type "Magic"`, event: `unknown metric source type "Magic"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := busy
			if c.source != nil {
				source = c.source
			}
			spec := c.spec
			if spec == 0 {
				spec = 2
			}
			w := workload{namespace: "n", selector: labels.Everything(), spec: max(spec, 0), status: max(spec, 0), tolerance: tolerance{.1, .1}}
			e := newCalculator(source, two...).evaluate(context.Background(), w, &c.metric)
			if c.err != "" {
				if e.err == nil || e.all().Error() != c.err || e.err.Error() != c.event {
					t.Errorf("error %v, in the event %v, want %q and %q", e.all(), e.err, c.err, c.event)
				}
				if label := failure(e.all()); (label == "spec") != (c.metric.Type == "Magic") {
					t.Errorf("counted as %s", label)
				}
				return
			}
			if e.err != nil || e.replicas != c.want || e.name != c.says || e.status.Type != c.metric.Type {
				t.Errorf("%d %q %+v %v, want %d %q", e.replicas, e.name, e.status, e.err, c.want, c.says)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	of := func(name, cpu string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}
	}
	beside := of("beside", "200m")
	beside.RestartPolicy = &always
	pod := func(change func(*corev1.PodSpec)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{of("c", "100m")}, InitContainers: []corev1.Container{of("first", "5"), beside}}}
		change(&p.Spec)
		return p
	}
	whole := func(r corev1.ResourceName) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			s.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{r: resource.MustParse("3")}}
		}
	}
	for _, c := range []struct {
		name, container string
		change          func(*corev1.PodSpec)
		want            int64
		err             string
	}{
		{name: "containers that stay", change: func(*corev1.PodSpec) {}, want: 300},
		{name: "one container", container: "beside", change: func(*corev1.PodSpec) {}, want: 200},
		{name: "no such container", container: "z", change: func(*corev1.PodSpec) {}, err: "container z not found in Pod p"},
		{name: "of the pod", change: whole("cpu"), want: 3000},
		{name: "of the pod, but not of a container", container: "c", change: whole("cpu"), want: 100},
		{name: "of the pod, another resource", change: whole("memory"), want: 5000}, // as the scheduler sums: "first" runs before all others
		{name: "of none", change: func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests = nil }, err: "missing request for cpu in container c of Pod p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := requests([]*corev1.Pod{pod(c.change)}, c.container, "cpu")
			if fmt.Sprint(err) != c.err && (err != nil || c.err != "") || err == nil && got["p"] != c.want {
				t.Errorf("%v %v, want %d %q", got, err, c.want, c.err)
			}
		})
	}
}

func TestAmounts(t *testing.T) {
	if m, c := amount("memory", 1<<40), amount("cpu", 1500); m.Format != resource.BinarySI || c.String() != "1500m" {
		t.Error(m, c)
	}
}
