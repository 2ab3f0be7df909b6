package scheduler

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The workloads of upstream's scheduler_perf, by their names, on 5,000 nodes, without an API: a pod is read, decided and booked.
const benchNodes = 5000

// benchNode is upstream's default node: 4 CPUs, 32 GiB, 110 pods.
func benchNode(i int) *v1.Node {
	return newNode(nodeNumber(i), "4", "32Gi", labelled(v1.LabelTopologyZone, fmt.Sprint("zone", i%3)))
}

// benchPod is upstream's default pod: 100m and 500 MB.
func benchPod(i int, opts ...podOption) *v1.Pod {
	return newPod(fmt.Sprint("p", i), append([]podOption{requesting("cpu", "100m", "memory", "500Mi"), tolerating(v1.Toleration{Key: "node.kubernetes.io/not-ready", Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})}, opts...)...)
}

// schedule measures how pods are decided, on nodes that others have come to already. After wave pods those of the wave before leave.
func schedule(b *testing.B, node func(int) *v1.Node, before []*v1.Pod, wave int, pod func(i int) *v1.Pod) {
	s := NewSnapshot(1)
	for i := range benchNodes {
		s.SetNode(node(i))
	}
	for _, p := range before {
		q := s.NewPod(p)
		d := s.Decide(q)
		if d.Failure != nil {
			b.Fatal(d.Failure)
		}
		s.Place(q, d.Node, false)
	}
	pods := make([]*v1.Pod, wave)
	for i := range pods {
		pods[i] = pod(i)
	}
	b.ReportAllocs()
	start := processor(b)
	for i := 0; b.Loop(); i++ {
		if i > 0 && i%wave == 0 {
			b.StopTimer()
			for _, p := range pods {
				s.Remove(p.UID)
			}
			b.StartTimer()
		}
		p := s.NewPod(pods[i%wave])
		d := s.Decide(p)
		if d.Failure != nil {
			b.Fatal(d.Failure)
		}
		s.Place(p, d.Node, true)
	}
	perSecond(b, start)
}

// processor is the processor time that this process has used: on a machine that others use too it says more than the time that passed.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func perSecond(b *testing.B, start time.Duration) {
	b.Helper()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(float64(b.N)/(processor(b)-start).Seconds(), "pods/cpu-s")
}

func many(n int, from int, opts ...podOption) []*v1.Pod {
	out := make([]*v1.Pod, n)
	for i := range out {
		out[i] = benchPod(from+i, opts...)
	}
	return out
}

func BenchmarkPerf(b *testing.B) {
	blue := podLabels("color", "blue")
	preferred := func(anti bool) podOption {
		return func(p *v1.Pod) {
			w := []v1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: term(v1.LabelHostname, "color", "red")}}
			if anti {
				affinity(p).PodAntiAffinity = &v1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: w}
			} else {
				affinity(p).PodAffinity = &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: w}
			}
		}
	}
	red := podLabels("color", "red")
	b.Run("SchedulingBasic", func(b *testing.B) {
		schedule(b, benchNode, many(1000, 1e6), 10000, func(i int) *v1.Pod { return benchPod(i) })
	})
	b.Run("SchedulingPodAntiAffinity", func(b *testing.B) {
		green := []podOption{podLabels("color", "green"), apart(term(v1.LabelHostname, "color", "green"))}
		schedule(b, benchNode, many(1000, 1e6, green...), 2000, func(i int) *v1.Pod { return benchPod(i, green...) })
	})
	b.Run("SchedulingPodAffinity", func(b *testing.B) {
		node := func(i int) *v1.Node {
			return newNode(nodeNumber(i), "4", "32Gi", labelled(v1.LabelTopologyZone, "zone1"))
		}
		opts := []podOption{blue, near(term(v1.LabelTopologyZone, "color", "blue"))}
		schedule(b, node, many(5000, 1e6, opts...), 5000, func(i int) *v1.Pod { return benchPod(i, opts...) })
	})
	b.Run("SchedulingPreferredPodAffinity", func(b *testing.B) {
		schedule(b, benchNode, many(5000, 1e6, red, preferred(false)), 5000, func(i int) *v1.Pod { return benchPod(i, red, preferred(false)) })
	})
	b.Run("SchedulingPreferredPodAntiAffinity", func(b *testing.B) {
		schedule(b, benchNode, many(5000, 1e6, red, preferred(true)), 5000, func(i int) *v1.Pod { return benchPod(i, red, preferred(true)) })
	})
	b.Run("SchedulingNodeAffinity", func(b *testing.B) {
		opts := requiring(expression(v1.LabelTopologyZone, v1.NodeSelectorOpIn, "zone1", "zone2"))
		schedule(b, benchNode, many(5000, 1e6, opts), 10000, func(i int) *v1.Pod { return benchPod(i, opts) })
	})
	b.Run("TopologySpreading", func(b *testing.B) {
		opts := []podOption{blue, spreading(5, v1.LabelTopologyZone, v1.DoNotSchedule, "color", "blue")}
		schedule(b, benchNode, many(5000, 1e6), 5000, func(i int) *v1.Pod { return benchPod(i, opts...) })
	})
	b.Run("PreferredTopologySpreading", func(b *testing.B) {
		opts := []podOption{blue, spreading(5, v1.LabelTopologyZone, v1.ScheduleAnyway, "color", "blue")}
		schedule(b, benchNode, many(5000, 1e6), 5000, func(i int) *v1.Pod { return benchPod(i, opts...) })
	})
	b.Run("Unschedulable", func(b *testing.B) {
		s := NewSnapshot(1)
		for i := range benchNodes {
			s.SetNode(benchNode(i))
		}
		// Every second pod fits nowhere, as upstream's churn of unschedulable pods has it.
		large := newPod("large", requesting("cpu", "9", "memory", "500Mi"), priority(10))
		pods := many(20000, 0)
		b.ReportAllocs()
		start := processor(b)
		for i := 0; b.Loop(); i++ {
			if i > 0 && i%len(pods) == 0 {
				b.StopTimer()
				for _, p := range pods {
					s.Remove(p.UID)
				}
				b.StartTimer()
			}
			q := s.NewPod(large)
			d := s.Decide(q)
			if _, ok := s.Preempt(q, d.Failure); ok || d.Failure.Error() == "" {
				b.Fatal("room for a pod that is larger than a node")
			}
			p := s.NewPod(pods[i%len(pods)])
			d = s.Decide(p)
			s.Place(p, d.Node, true)
		}
		perSecond(b, start)
	})
	b.Run("PreemptionBasic", func(b *testing.B) { preemption(b, 0) })
	b.Run("PreemptionBasic/waiting", func(b *testing.B) { preemption(b, 300) })
}

// preemption measures how room is made for pods. So many of them always wait for their nodes, which are free already and nominated.
func preemption(b *testing.B, waiting int) {
	var s *Snapshot
	var round int
	var free []*Pod
	fill := func() {
		round++
		s, free = NewSnapshot(1), nil
		for i := range benchNodes {
			s.SetNode(benchNode(i))
			for k := range 4 {
				p := newPod(fmt.Sprint("low", i, "-", k), on(nodeNumber(i)), requesting("cpu", "900m", "memory", "500Mi"), priority(0))
				s.Place(s.NewPod(p), p.Spec.NodeName, false)
			}
		}
	}
	fill()
	b.ReportAllocs()
	start := processor(b)
	for i := 0; b.Loop(); i++ {
		if i > 0 && i%benchNodes == 0 {
			b.StopTimer()
			fill()
			b.StartTimer()
		}
		pod := newPod("high", requesting("cpu", "3", "memory", "500Mi"), priority(10))
		pod.UID = types.UID(fmt.Sprint("high", round, "-", i))
		pod.ObjectMeta.CreationTimestamp = metav1.Time{}
		p := s.NewPod(pod)
		d := s.Decide(p)
		if d.Failure == nil {
			b.Fatal("fits ", d.Node)
		}
		e, ok := s.Preempt(p, d.Failure)
		if !ok || len(e.Victims) != 3 {
			b.Fatalf("%+v %v", e, d.Failure)
		}
		s.Nominate(p, e.Node)
		for _, v := range e.Victims {
			s.Remove(v.UID)
		}
		if free = append(free, p); len(free) <= waiting {
			continue
		}
		p, free = free[0], free[1:]
		want := s.NominatedFor(p.uid())
		if d = s.Decide(p); d.Node != want || want == "" {
			b.Fatalf("on %q instead of %q", d.Node, want)
		}
		s.Place(p, d.Node, true)
	}
	perSecond(b, start)
}

// BenchmarkBorg measures what is taken from Borg against plain evaluation: the same decisions with it and without. "plain" looks at every node for every pod; "classes" keeps
// what was found for equal pods; "sampled" ends a search, which begins anywhere, when enough nodes fit; "all" ends none.
func BenchmarkBorg(b *testing.B) {
	blue := podLabels("color", "blue")
	zones := []podOption{blue, spreading(1, v1.LabelTopologyZone, v1.DoNotSchedule, "color", "blue")}
	red := []podOption{podLabels("color", "red"), wishing(term(v1.LabelHostname, "color", "red"))}
	for name, opts := range map[string][]podOption{"SchedulingBasic": nil, "TopologySpreading": zones, "PreferredPodAffinity": red} {
		for _, classes := range []bool{true, false} {
			for _, sampled := range []bool{true, false} {
				how := map[bool]string{true: "classes", false: "plain"}[classes] + "," + map[bool]string{true: "sampled", false: "all"}[sampled]
				b.Run(name+"/"+how, func(b *testing.B) {
					s := NewSnapshot(1)
					if !sampled {
						for _, p := range s.profiles {
							p.percentage = 100
						}
					}
					for i := range benchNodes {
						s.SetNode(benchNode(i))
					}
					b.ReportAllocs()
					start := processor(b)
					const wave = 5000
					for i := 0; b.Loop(); i++ {
						if i > 0 && i%wave == 0 {
							b.StopTimer()
							for k := range wave {
								s.Remove(benchPod(k).UID)
							}
							b.StartTimer()
						}
						if !classes {
							clear(s.classes)
						}
						p := s.NewPod(benchPod(i%wave, opts...))
						d := s.Decide(p)
						if d.Failure != nil {
							b.Fatal(d.Failure)
						}
						s.Place(p, d.Node, true)
					}
					perSecond(b, start)
				})
			}
		}
	}
}

// wishing is a wish to be near pods.
func wishing(t v1.PodAffinityTerm) podOption {
	return func(p *v1.Pod) {
		affinity(p).PodAffinity = &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: t}}}
	}
}
