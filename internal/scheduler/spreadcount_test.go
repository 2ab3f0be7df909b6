package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// TestLeastOfMany: the least of counts that are ranked is that of all of them.
func TestLeastOfMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const hosts = 6
		ranked := &spreadCount{levels: make([]int32, 1)}
		plain := &spreadCount{}
		for _, k := range []*spreadCount{ranked, plain} {
			k.counts, k.nodes = make([]int64, hosts), make([]int32, hosts)
			for range hosts {
				k.of, k.n = append(k.of, -1), append(k.n, 0)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			host, domain, n := rapid.IntRange(0, hosts-1).Draw(t, "host"), rapid.Int32Range(-1, hosts-1).Draw(t, "domain"), rapid.Int32Range(0, 5).Draw(t, "n")
			for _, k := range []*spreadCount{ranked, plain} {
				k.set(host, domain, n)
			}
			if a, b := ranked.least(1), plain.least(1); a != b || ranked.known != plain.known {
				t.Fatalf("least is %d of %d, ranked %d of %d: %v", b, plain.known, a, ranked.known, plain.counts)
			}
		}
	})
}

// TestSpreadCountIsKept: after any history of nodes and pods, filters and scores of topology spread are what they are when everything is counted from nothing, with and
// without a pod that is put somewhere on trial.
func TestSpreadCountIsKept(t *testing.T) {
	const zone, rack = v1.LabelTopologyZone, "rack"
	honor := v1.NodeInclusionPolicyHonor
	three := int32(3)
	kinds := []podOption{
		spreading(1, zone, v1.DoNotSchedule, "app", "a"),
		spreading(2, zone, v1.ScheduleAnyway, "app", "a"),
		spreading(1, v1.LabelHostname, v1.DoNotSchedule, "app", "a"),
		func(p *v1.Pod) {
			spreading(1, rack, v1.DoNotSchedule, "app", "a")(p)
			spreading(2, zone, v1.DoNotSchedule, "app", "b")(p)
			spreading(1, v1.LabelHostname, v1.ScheduleAnyway, "app", "a")(p)
			spreading(3, rack, v1.ScheduleAnyway, "app", "b")(p)
		},
		func(p *v1.Pod) {
			spreading(1, zone, v1.DoNotSchedule, "app", "a")(p)
			p.Spec.TopologySpreadConstraints[0].MinDomains = &three
			p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = &honor
		},
		func(p *v1.Pod) {
			spreading(1, zone, v1.DoNotSchedule, "app", "a")(p)
			spreading(9, rack, v1.DoNotSchedule, "app", "a")(p)
		},
		func(p *v1.Pod) {
			selecting("disk", "ssd")(p)
			spreading(1, v1.LabelHostname, v1.DoNotSchedule, "app", "b")(p)
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot(1)
		nodes, pods := map[string]*v1.Node{}, map[string]*v1.Pod{}
		host := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("n", rapid.IntRange(0, fewDomains+4).Draw(t, "node")) })
		set := func(n *v1.Node) {
			nodes[n.Name] = n
			s.SetNode(n)
		}
		// In half of the runs there are so many domains that counts are ranked.
		if rapid.Bool().Draw(t, "many") {
			for i := range fewDomains {
				set(newNode(fmt.Sprint("n", i), "4", "4Gi", labelled(zone, fmt.Sprint("z", i%2))))
			}
		}
		app := rapid.SampledFrom([]string{"a", "b"})
		asking := func(k int) *Pod {
			return s.NewPod(newPod("new", podLabels("app", "a"), kinds[k]))
		}
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				n := newNode(host.Draw(t, "name"), "4", "4Gi")
				for key, values := range map[string][]string{zone: {"", "x", "y", "z"}, rack: {"", "1", "2"}, "disk": {"", "ssd"}} {
					if v := rapid.SampledFrom(values).Draw(t, key); v != "" {
						n.Labels[key] = v
					}
				}
				if rapid.Bool().Draw(t, "taint") {
					tainted("k", "", v1.TaintEffectNoSchedule)(n)
				}
				set(n)
			},
			"no node": func(t *rapid.T) {
				n := host.Draw(t, "name")
				delete(nodes, n)
				s.RemoveNode(n)
			},
			"place": func(t *rapid.T) {
				p := newPod(fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod")), podLabels("app", app.Draw(t, "app")), on(host.Draw(t, "name")))
				if rapid.Bool().Draw(t, "terminating") {
					p.DeletionTimestamp = &metav1.Time{}
				}
				pods[p.Name] = p
				s.Place(s.NewPod(p), p.Spec.NodeName, false)
			},
			"remove": func(t *rapid.T) {
				n := fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod"))
				delete(pods, n)
				s.Remove(newPod(n).UID)
			},
			"ask": func(t *rapid.T) {
				p := asking(rapid.IntRange(0, len(kinds)-1).Draw(t, "kind"))
				s.newSpread(p, s.classOf(p), p.others.spread, true)
			},
			"": func(t *rapid.T) {
				fresh := NewSnapshot(1)
				for _, n := range nodes {
					fresh.SetNode(n)
				}
				for _, p := range pods {
					fresh.Place(fresh.NewPod(p), p.Spec.NodeName, false)
				}
				k := rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")
				p := asking(k)
				kept := s.newSpread(p, s.classOf(p), p.others.spread, true)
				q := fresh.NewPod(newPod("new", podLabels("app", "a"), kinds[k]))
				plain := fresh.newSpread(q, newClass(q), q.others.spread, true)
				same := func(when string) {
					for name := range nodes {
						i, j := int32(s.byName[name]), int32(fresh.byName[name])
						if a, b := kept.filter(i), plain.filter(j); a != b {
							t.Fatalf("%s, kind %d, %s: filter says %x from what is kept, %x is true", when, k, name, a, b)
						}
					}
				}
				same("as it is")
				var these, those []int32
				for name := range nodes {
					these, those = append(these, int32(s.byName[name])), append(those, int32(fresh.byName[name]))
				}
				a, b := kept.score(s, these, nil), plain.score(fresh, those, nil)
				if fmt.Sprint(a) != fmt.Sprint(b) {
					t.Fatalf("kind %d: scores are %v from what is kept, %v are true", k, a, b)
				}
				tried := newPod("tried", podLabels("app", "a"))
				for name := range nodes {
					x, y := &placed{Pod: s.NewPod(tried), node: s.byName[name]}, &placed{Pod: fresh.NewPod(tried), node: fresh.byName[name]}
					kept.adjust(s, x, 1)
					plain.adjust(fresh, y, 1)
					same("with one on " + name)
					kept.adjust(s, x, -1)
					plain.adjust(fresh, y, -1)
					same("without it")
					break
				}
			},
		})
	})
}
