package scheduler

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
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	runWith(t, Config{Metrics: r}, func(b *bench) {
		b.create(newPod("p", requesting("cpu", "500m")), newPod("large", requesting("cpu", "2")), newPod("gated", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "x"}} }))
		b.create(newPod("important", requesting("cpu", "1"), priority(10)))
		b.pass(time.Second)
		got := gathered(b.T, r)
		for series, want := range map[string]float64{
			`scheduler_pending_pods gated`: 1, `scheduler_pending_pods unschedulable`: 1, `scheduler_pending_pods active`: 0, `scheduler_pending_pods backoff`: 0,
			`scheduler_preemption_evicted_pods_total`: 1, `scheduler_schedule_attempts_total default-scheduler scheduled`: 2, `scheduler_schedule_attempts_total default-scheduler unschedulable`: 2,
			`scheduler_unschedulable_pods NodeResourcesFit default-scheduler`: 1, `scheduler_cache_size assumed_pods`: 0, `scheduler_cache_size nodes`: 1, `scheduler_cache_size pods`: 1,
			`scheduler_preemption_attempts_total`: 2, `scheduler_scheduling_algorithm_duration_seconds`: 2, `scheduler_pod_scheduling_sli_duration_seconds 1`: 1, `scheduler_pod_scheduling_sli_duration_seconds 2`: 1,
			`scheduler_queued_entities gated pod`: 1, `scheduler_queued_entities unschedulable pod`: 1, `scheduler_goroutines binding`: 0, `scheduler_queue_incoming_entities_total PodAdd active pod`: 3,
			`scheduler_queue_incoming_pods_total PodAdd active`: 3, `scheduler_preemption_evaluation_duration_seconds pod Success`: 1, `scheduler_preemption_evaluation_duration_seconds pod Unschedulable`: 1,
			`scheduler_preemption_execution_duration_seconds pod success`: 1, `scheduler_preemption_goroutines_execution_total success`: 1, `scheduler_preemption_pdb_violations_total pod`: 0,
			`scheduler_preemption_victims`: 1, `scheduler_pod_scheduled_after_flush_total`: 0,
		} {
			if v, ok := got[series]; !ok || v != want {
				b.Errorf("%s: %v, want %v", series, v, want)
			}
		}
	}, newNode("a", "1", "1Gi"))
}

// TestScheduledAfterFlush: a pod that is scheduled for no other reason than its age is counted, one for which something happened isn't.
func TestScheduledAfterFlush(t *testing.T) {
	r := prometheus.NewRegistry()
	count := func(b *bench) float64 { return gathered(b.T, r)["scheduler_pod_scheduled_after_flush_total"] }
	s := newQueue(time.Second, 10*time.Second)
	begin := time.Unix(0, 0)
	pod := newPod("p")
	s.put(pod, snapshotOf().NewPod(pod), begin, true)
	for _, step := range []struct {
		after time.Duration
		wake  bool
		want  bool
	}{{0, false, false}, {leftoverAfter, false, true}, {leftoverAfter + time.Hour, true, false}, {2*leftoverAfter + time.Hour, false, true}} {
		now := begin.Add(step.after)
		if step.wake {
			s.wake(s.items[pod.UID], now)
		}
		it := s.take(now)
		if it == nil || it.flushed != step.want {
			t.Fatalf("after %s: %+v, want flushed %v", step.after, it, step.want)
		}
		s.park(it, now, []string{NameNodeResourcesFit})
	}
	runWith(t, Config{Metrics: r}, func(b *bench) {
		b.create(newPod("p", requesting("cpu", "2")))
		b.pass(time.Minute)
		b.addNode(newNode("b", "4", "4Gi"))
		b.pass(time.Minute)
		b.on("b", "p")
		if n := count(b); n != 0 {
			b.Errorf("counted %v", n)
		}
	}, newNode("a", "1", "1Gi"))
}

// gathered are the values of all series, by name and values of labels; for histograms how often they were observed.
func gathered(t *testing.T, r prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			switch {
			case m.GetHistogram() != nil:
				out[name] = float64(m.GetHistogram().GetSampleCount())
			case m.GetCounter() != nil:
				out[name] = m.GetCounter().GetValue()
			default:
				out[name] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// adviser is an extender.
type adviser struct {
	refuse, favour string
	fail, lenient  bool
	bound          []string
	bind           func(ctx context.Context, pod *v1.Pod, node string) error
	spare          bool
}

func (*adviser) Name() string                { return "adviser" }
func (*adviser) Interested(pod *v1.Pod) bool { return pod.Labels["ask"] != "" }
func (a *adviser) Ignorable() bool           { return a.lenient }
func (a *adviser) Binds() bool               { return a.bind != nil }
func (a *adviser) Filter(_ context.Context, _ *v1.Pod, nodes []string) (fit []string, refused, helpless map[string]string, err error) {
	if a.fail {
		return nil, nil, nil, errors.New("boom")
	}
	refused = map[string]string{}
	for _, n := range nodes {
		if n == a.refuse {
			refused[n] = "not this one"
		} else {
			fit = append(fit, n)
		}
	}
	return fit, refused, nil, nil
}

func (a *adviser) Prioritize(_ context.Context, _ *v1.Pod, _ []string) (map[string]int64, error) {
	return map[string]int64{a.favour: 10000}, nil
}

func (a *adviser) Bind(ctx context.Context, pod *v1.Pod, node string) error {
	a.bound = append(a.bound, pod.Name+" on "+node)
	return a.bind(ctx, pod, node)
}

func (a *adviser) Preempt(_ context.Context, _ *v1.Pod, plans []Eviction) ([]Eviction, error) {
	if a.spare {
		return nil, nil
	}
	return plans, nil
}

func TestExtenders(t *testing.T) {
	ask := podLabels("ask", "yes")
	nodes := []runtime.Object{newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"), newNode("c", "1", "1Gi")}
	a := &adviser{refuse: "a", favour: "c"}
	runWith(t, Config{Extenders: []Extender{a}}, func(b *bench) {
		a.bind = func(ctx context.Context, pod *v1.Pod, node string) error {
			return b.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: v1.ObjectReference{Name: node}}, metav1.CreateOptions{})
		}
		b.create(newPod("p", ask, requesting("cpu", "1")))
		b.on("c", "p")
		b.create(newPod("q", ask, requesting("cpu", "1")))
		b.on("b", "q")
		b.create(newPod("r", ask, requesting("cpu", "1")))
		b.on("", "r")
		if got := b.condition("r"); !strings.HasPrefix(got, "False Unschedulable 0/3 nodes are available: 1 not this one, 2 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.") {
			b.Error(got)
		}
		if len(a.bound) != 2 {
			b.Errorf("%v", a.bound)
		}
		b.create(newPod("unasked", requesting("cpu", "1")))
		b.on("a", "unasked")
		a.spare = true
		b.create(newPod("important", ask, requesting("cpu", "1"), priority(10)))
		b.pass(time.Minute)
		b.on("", "important")
		b.on("c", "p")
	}, nodes...)
	runWith(t, Config{Extenders: []Extender{&adviser{fail: true}}}, func(b *bench) {
		b.create(newPod("p", ask))
		b.pass(time.Second)
		b.on("", "p")
		if got := b.condition("p"); got != "False SchedulerError boom" {
			b.Error(got)
		}
		b.remove("p")
	}, nodes...)
	runWith(t, Config{Extenders: []Extender{&adviser{fail: true, lenient: true, favour: "b"}}}, func(b *bench) {
		b.create(newPod("p", ask))
		b.on("b", "p")
	}, nodes...)
}

// judge is an extender that says of each node, by a word, what it thinks.
type judge struct {
	name    string
	words   map[string]string // "no", "never" or "": says nothing
	lenient bool
	agrees  func([]Eviction) ([]Eviction, error)
	asked   *[]string
}

func (j *judge) Name() string                              { return j.name }
func (*judge) Interested(*v1.Pod) bool                     { return true }
func (j *judge) Ignorable() bool                           { return j.lenient }
func (*judge) Binds() bool                                 { return false }
func (*judge) Bind(context.Context, *v1.Pod, string) error { return nil }
func (j *judge) Filter(_ context.Context, _ *v1.Pod, nodes []string) (fit []string, refused, helpless map[string]string, err error) {
	*j.asked = append(*j.asked, j.name)
	refused, helpless = map[string]string{}, map[string]string{}
	for _, n := range nodes {
		switch word, said := j.words[n]; {
		case !said:
			fit = append(fit, n)
		case word == "no":
			refused[n] = "no"
		case word == "never":
			helpless[n] = "never"
		}
	}
	return fit, refused, helpless, nil
}

func (*judge) Prioritize(context.Context, *v1.Pod, []string) (map[string]int64, error) {
	return nil, nil
}

func (j *judge) Preempt(_ context.Context, _ *v1.Pod, plans []Eviction) ([]Eviction, error) {
	if j.agrees == nil {
		return plans, nil
	}
	return j.agrees(plans)
}

// TestExtendersBesidePlugins: a pod is told what plugins and extenders say of each node, and what the extenders say of evictions.
func TestExtendersBesidePlugins(t *testing.T) {
	var asked []string
	nodes := []runtime.Object{newNode("a", "4", "1Gi"), newNode("b", "4", "1Gi"), newNode("c", "4", "1Gi"), newNode("d", "4", "1Gi"), newPod("y", on("a"), requesting("cpu", "3"), priority(20))}
	ask := func(cpu, want string, extenders ...Extender) {
		t.Helper()
		runWith(t, Config{Extenders: extenders}, func(b *bench) {
			b.create(newPod("p", requesting("cpu", cpu), priority(10)))
			b.pass(time.Second)
			if got := b.condition("p"); got != "False Unschedulable 0/4 nodes are available: "+want {
				b.Error(got)
			}
			b.remove("p")
		}, append(slices.Clone(nodes), newPod("x", on("b")))...)
	}
	ask("2", "1 Insufficient cpu, 1 never, 2 no. preemption: 0/4 nodes are available: 1 Preemption is not helpful for scheduling, 3 No preemption victims found for incoming pod.",
		&judge{words: map[string]string{"b": "no", "c": "never", "d": "no"}, asked: &asked})
	ask("2", "1 Insufficient cpu. preemption: 0/4 nodes are available: 1 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling.",
		&judge{words: map[string]string{"b": "", "c": "", "d": ""}, asked: &asked})
	ask("1", "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.",
		&judge{words: map[string]string{"a": "", "b": "", "c": "", "d": ""}, asked: &asked}, &judge{words: map[string]string{}, asked: new([]string)})
	asked = nil
	ask("2", "1 Insufficient cpu, 3 no. preemption: 0/4 nodes are available: 4 No preemption victims found for incoming pod.",
		&judge{name: "first", lenient: true, asked: &asked}, &judge{name: "second", asked: &asked}, &judge{name: "third", words: map[string]string{"b": "no", "c": "no", "d": "no"}, asked: &asked})
	if got := strings.Join(asked, " "); got != "second third" { // and nobody asks the first, who can be ignored, about nothing
		t.Error(got)
	}
}

// TestExtendersChooseVictims: extenders choose among all nodes on which room can be made, not only the best one.
func TestExtendersChooseVictims(t *testing.T) {
	full := func() []runtime.Object {
		return []runtime.Object{
			newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"), newNode("c", "1", "1Gi"),
			newPod("x", on("a"), requesting("cpu", "1"), priority(1)), newPod("y", on("b"), requesting("cpu", "1"), priority(2)), newPod("z", on("c"), requesting("cpu", "1"), priority(3)),
		}
	}
	only := func(nodes ...string) func([]Eviction) ([]Eviction, error) {
		return func(plans []Eviction) ([]Eviction, error) {
			if len(plans) < len(nodes) {
				return nil, fmt.Errorf("asked about %d nodes", len(plans))
			}
			return slices.DeleteFunc(plans, func(e Eviction) bool { return !slices.Contains(nodes, e.Node) }), nil
		}
	}
	bare := func(plans []Eviction) ([]Eviction, error) {
		for i := range plans {
			plans[i].Victims = nil
		}
		return plans[:1], nil
	}
	broken := func([]Eviction) ([]Eviction, error) { return nil, errors.New("boom") }
	none := new([]string)
	for _, tt := range []struct {
		name      string
		extenders []Extender
		want      string
	}{
		{"all will do", []Extender{&judge{asked: none, agrees: only("a", "b", "c")}}, "found a potential placement for pod on node a, preempting 1 victims"},
		{"one will do", []Extender{&judge{asked: none, agrees: only("c")}}, "found a potential placement for pod on node c, preempting 1 victims"},
		{"one after the other", []Extender{&judge{asked: none, agrees: only("b", "c")}, &judge{asked: none, agrees: only("a", "b")}}, "found a potential placement for pod on node b, preempting 1 victims"},
		{"none will do", []Extender{&judge{asked: none, agrees: only()}}, "no candidate node for preemption"},
		{"it fails", []Extender{&judge{asked: none, agrees: broken}}, "boom"},
		{"it fails and is ignored", []Extender{&judge{asked: none, agrees: broken, lenient: true}}, "found a potential placement for pod on node a, preempting 1 victims"},
		{"nobody is to go", []Extender{&judge{asked: none, agrees: bare}}, "expected at least one victim pod on node "},
		{"nobody is to go, and it is ignored", []Extender{&judge{asked: none, agrees: bare, lenient: true}}, "no candidate node for preemption"},
		{"where it says never", []Extender{&judge{asked: none, words: map[string]string{"a": "never"}}}, "found a potential placement for pod on node b, preempting 1 victims"}, // once there is room on a
	} {
		t.Run(tt.name, func(t *testing.T) {
			runWith(t, Config{Extenders: tt.extenders}, func(b *bench) {
				b.create(newPod("p", requesting("cpu", "1"), priority(10)))
				b.pass(time.Second)
				if tt.want[0] == 'f' {
					b.on(strings.Fields(tt.want)[8][:1], "p")
					return
				}
				if got, want := b.condition("p"), "False Unschedulable 0/3 nodes are available: 3 Insufficient cpu. preemption: "+tt.want; !strings.HasPrefix(got, want) {
					b.Error(got)
				}
				b.remove("p")
			}, full()...)
		})
	}
}

// TestCrashIsRemembered: a pod whose program crashed has its successor go elsewhere.
func TestCrashIsRemembered(t *testing.T) {
	owned := func(p *v1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: &yes}}
	}
	runWith(t, Config{CrashHalfLife: time.Hour}, func(b *bench) {
		b.create(newPod("p", owned, requesting("cpu", "100m")))
		b.on("a", "p")
		b.update("p", func(p *v1.Pod) { p.Status.ContainerStatuses = []v1.ContainerStatus{{RestartCount: 1}} })
		b.remove("p")
		b.create(newPod("q", owned, requesting("cpu", "100m")))
		b.on("b", "q")
	}, newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi"), newPod("x", on("b"), requesting("cpu", "1", "memory", "1Gi")))
}

// TestGates: a gated pod isn't tried, whatever happens, until the last gate has gone.
func TestGates(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "x"}, {Name: "y"}} }))
		b.addNode(newNode("b", "1", "1Gi"))
		b.pass(time.Hour)
		b.on("", "p")
		b.update("p", func(p *v1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[1:] })
		b.on("", "p")
		b.update("p", func(p *v1.Pod) { p.Spec.SchedulingGates = nil })
		if b.pod("p").Spec.NodeName == "" {
			b.Error("not scheduled")
		}
		synctest.Wait()
	}, newNode("a", "1", "1Gi"))
}
