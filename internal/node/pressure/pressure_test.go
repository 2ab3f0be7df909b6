package pressure

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func healthy() Signals {
	half := Level{100 << 20, 50 << 20}
	return Signals{
		Memory: Level{1 << 30, 200 << 20}, PIDs: Level{1000, 500}, NodeDisk: half, NodeInodes: half, ImageDisk: half, ImageInodes: half, OneDisk: true,
	}
}

func TestJudge(t *testing.T) {
	short := func(edit func(*Signals)) Signals {
		s := healthy()
		edit(&s)
		return s
	}
	for name, tt := range map[string]struct {
		signals Signals
		t       Thresholds
		want    State
		reclaim bool
		message string
	}{
		"all is well": {signals: healthy()},
		"memory": {
			signals: short(func(s *Signals) { s.Memory.Available = 50 << 20; s.NodeDisk.Available = 0 }), want: State{Memory: true, Disk: true},
			message: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ",
		},
		"disk": {
			signals: short(func(s *Signals) { s.NodeDisk.Available = 9 << 20 }), want: State{Disk: true}, reclaim: true,
			message: "The node was low on resource: ephemeral-storage. Threshold quantity: 10Mi, available: 9Mi. ",
		},
		"disk of the images": {
			signals: short(func(s *Signals) { s.ImageDisk.Available = 14 << 20; s.OneDisk = false }), want: State{Disk: true}, reclaim: true,
			message: "The node was low on resource: ephemeral-storage. Threshold quantity: 15Mi, available: 14Mi. ",
		},
		"disk without images": {
			signals: short(func(s *Signals) { s.NodeDisk.Available = 9 << 20; s.OneDisk = false }), want: State{Disk: true},
			message: "The node was low on resource: ephemeral-storage. Threshold quantity: 10Mi, available: 9Mi. ",
		},
		"inodes": {
			signals: short(func(s *Signals) { s.NodeInodes = Level{1000, 49} }), want: State{Disk: true}, reclaim: true,
			message: "The node was low on resource: inodes. Threshold quantity: 50, available: 49. ",
		},
		"processes": {
			signals: short(func(s *Signals) { s.PIDs.Available = 9 }), t: Thresholds{PIDs: Amount{Quantity: 10}}, want: State{PID: true},
			message: "The node was low on resource: pids. Threshold quantity: 10, available: 9. ",
		},
		"off":                {signals: Signals{Memory: Level{100, 0}}, t: Thresholds{Off: true}},
		"not measurable":     {signals: Signals{}},
		"only what is named": {signals: short(func(s *Signals) { s.NodeDisk.Available = 0 }), t: Thresholds{Memory: Amount{Quantity: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Judge(tt.signals, tt.t); got != tt.want || got.Any() != (tt.want != State{}) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if got := Reclaim(tt.signals, tt.t); got != tt.reclaim {
				t.Errorf("reclaim is %v", got)
			}
			if got := Message(tt.signals, tt.t); got != tt.message {
				t.Errorf("%q, want %q", got, tt.message)
			}
		})
	}
}

func TestRead(t *testing.T) {
	s, err := Read(t.TempDir(), "")
	if err != nil || s.Memory.Total == 0 || s.NodeDisk.Total == 0 || s.PIDs.Total == 0 || !s.OneDisk || s.ImageDisk != s.NodeDisk {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := Read(t.TempDir(), "/proc"); err != nil || s.OneDisk {
		t.Errorf("/proc is on the same disk: %+v, %v", s, err)
	}
	if _, err := Read("/does/not/exist", ""); err == nil {
		t.Error("measured what isn't there")
	}
}

func TestVictim(t *testing.T) {
	pod := func(name string, priority int32, request string, used int64) Candidate {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{}}}}
		if request != "" {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
		}
		return Candidate{Pod: p, MemoryBytes: used}
	}
	noMemory := healthy()
	noMemory.Memory.Available = 0
	modest := pod("modest", -10, "1Gi", 1<<29)
	greedy := pod("greedy", 0, "1Mi", 1<<29)
	greedier := pod("greedier", 0, "", 1<<30)
	important := pod("important", 1000, "", 1<<40)
	critical := pod("critical", systemCritical, "", 1<<50)
	name := func(c *Candidate) string {
		if c == nil {
			return ""
		}
		return c.Pod.Name
	}
	for _, tt := range []struct {
		pods []Candidate
		want string
	}{
		{[]Candidate{modest, greedy, greedier, important, critical}, "greedier"},
		{[]Candidate{modest, important}, "important"},
		{[]Candidate{modest}, "modest"},
		{[]Candidate{critical}, ""},
	} {
		if got := name(Victim(noMemory, Thresholds{}, tt.pods)); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if v := Victim(healthy(), Thresholds{}, []Candidate{greedy}); v != nil {
		t.Error("a pod is evicted without need")
	}

	// Which files count depends on which disk is short.
	files, root := pod("files", 0, "", 0), pod("root", 0, "", 0)
	files.FilesBytes, root.RootBytes, root.FilesBytes = 3<<20, 5<<20, 1
	for want, edit := range map[string]func(*Signals){
		"files": func(s *Signals) { s.OneDisk = false; s.NodeDisk.Available = 0 },
		"root":  func(s *Signals) { s.NodeDisk.Available = 0 },
	} {
		s := healthy()
		edit(&s)
		if got := name(Victim(s, Thresholds{}, []Candidate{files, root})); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	s := healthy()
	s.OneDisk, s.ImageDisk.Available = false, 0
	if got := name(Victim(s, Thresholds{}, []Candidate{files, root})); got != "root" {
		t.Errorf("on the images' disk: %q", got)
	}
}

func TestParse(t *testing.T) {
	got, err := Parse("memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%")
	if err != nil || got != Defaults() {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Parse(" "); err != nil || got != (Thresholds{}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Parse("memory.available<0"); err != nil || !got.Off {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Parse("pid.available<1k"); err != nil || got != (Thresholds{PIDs: Amount{Quantity: 1000}}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"memory.available", "memory<1", "memory.available<x", "nodefs.available<101%", "nodefs.available<-1", "nodefs.available<x%", "memory.available<1,memory.available<2", ","} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("memory.available<100Mi,nodefs.available<10%")
	f.Add("pid.available<NaN%")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse(text)
		if err != nil {
			return
		}
		for _, a := range []Amount{got.Memory, got.NodeDisk, got.NodeInodes, got.ImageDisk, got.ImageInodes, got.PIDs} {
			if n := a.Of(1000); n < 0 || a.Share > 0 && n > 1000 {
				t.Errorf("%q asks for %d of 1000", text, n)
			}
		}
	})
}
