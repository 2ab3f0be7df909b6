package scheduler

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestHint(t *testing.T) {
	small, large := newNode("a", "1", "1Gi"), newNode("b", "4", "8Gi")
	for name, tt := range map[string]struct {
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		"the one that lacks least": {snapshotOf(small, large).with(newPod("x", on("b"), requesting("cpu", "3"))), newPod("p", requesting("cpu", "1500m", "memory", "512Mi")),
			"node b lacks 500m cpu (the pod asks for 1500m, 1 of 4 is free)"},
		"too large for any":    {snapshotOf(small, large), newPod("p", requesting("cpu", "1", "memory", "10Gi")), "node b has 8Gi memory in all (the pod asks for 10Gi)"},
		"two things":           {snapshotOf(small), newPod("p", requesting("cpu", "2", "memory", "1536Mi")), "node a has 1 cpu in all (the pod asks for 2) and has 1Gi memory in all (the pod asks for 1.5Gi)"},
		"of which there is no": {snapshotOf(small), newPod("p", requesting("example.com/gpu", "1")), ""},
		"cordoned":             {snapshotOf(newNode("a", "1", "1Gi", cordoned)), newPod("p"), "node a is cordoned"},
		"tainted":              {snapshotOf(newNode("a", "1", "1Gi", tainted("k", "v", v1.TaintEffectNoSchedule), tainted("only", "", v1.TaintEffectNoExecute))), newPod("p"), "node a has the taint k=v:NoSchedule, only:NoExecute, which the pod doesn't tolerate"},
		"a taint is nearer than room": {snapshotOf(newNode("t", "4", "1Gi", tainted("k", "", v1.TaintEffectNoSchedule)), small), newPod("p", requesting("cpu", "2")),
			"node t has the taint k:NoSchedule, which the pod doesn't tolerate"},
		"not if there is no room behind": {snapshotOf(newNode("t", "1", "1Gi", tainted("k", "", v1.TaintEffectNoSchedule)), newNode("a", "2", "1Gi")), newPod("p", requesting("cpu", "3")),
			"node a has 2 cpu in all (the pod asks for 3)"},
		"labels":           {snapshotOf(small), newPod("p", selecting("disk", "fast")), "node a lacks labels that the pod's node selector or affinity wants"},
		"it is for others": {snapshotOf(small), newPod("p", near(term(v1.LabelHostname, "app", "db"))), ""},
		"no nodes":         {snapshotOf(), newPod("p"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := tt.s.NewPod(tt.pod)
			if d := tt.s.Decide(p); d.Failure == nil {
				t.Fatal("it fits")
			}
			want := tt.want
			if want != "" {
				want = " Nearest fit: " + want + "."
			}
			for range 2 { // the second time it is remembered
				if got := tt.s.hint(p); got != want {
					t.Errorf("got  %q\nwant %q", got, want)
				}
			}
		})
	}
}

// TestHintFollows: what is remembered is of things as they were.
func TestHintFollows(t *testing.T) {
	s := snapshotOf(newNode("a", "1", "1Gi"))
	p := s.NewPod(newPod("p", requesting("cpu", "2")))
	s.Decide(p)
	before := s.hint(p)
	s.SetNode(newNode("a", "1500m", "1Gi"))
	s.Decide(p)
	if after := s.hint(p); after == before || after != " Nearest fit: node a has 1500m cpu in all (the pod asks for 2)." {
		t.Errorf("%q, then %q", before, after)
	}
}
