package pressure

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestJudge(t *testing.T) {
	good := Signals{MemoryTotalBytes: 1 << 30, MemoryAvailableBytes: 200 << 20, DiskTotalBytes: 100, DiskAvailableBytes: 50, Inodes: 100, InodesFree: 50}
	if got := Judge(good, Thresholds{}); got != (State{}) {
		t.Errorf("%+v", got)
	}
	low := good
	low.MemoryAvailableBytes = 50 << 20
	if got := Judge(low, Thresholds{}); !got.Memory || got.Disk {
		t.Errorf("%+v", got)
	}
	if got := Message(State{Memory: true}, low, Thresholds{}); got != "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " {
		t.Errorf("%q", got)
	}
	full := good
	full.DiskAvailableBytes = 9
	if got := Judge(full, Thresholds{}); !got.Disk {
		t.Errorf("%+v", got)
	}
	if got := Judge(full, Thresholds{Off: true}); got != (State{}) {
		t.Errorf("%+v", got)
	}
	if _, err := Read(t.TempDir()); err != nil {
		t.Error(err)
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
	modest := pod("modest", -10, "1Gi", 1<<29)
	greedy := pod("greedy", 0, "1Mi", 1<<29)
	greedier := pod("greedier", 0, "", 1<<30)
	important := pod("important", 1000, "", 1<<40)
	critical := pod("critical", systemCritical, "", 1<<50)
	for _, tt := range []struct {
		pods []Candidate
		want string
	}{
		{[]Candidate{modest, greedy, greedier, important, critical}, "greedier"},
		{[]Candidate{modest, important}, "important"},
		{[]Candidate{modest}, "modest"},
		{[]Candidate{critical}, ""},
	} {
		got := ""
		if v := Victim(State{Memory: true}, tt.pods); v != nil {
			got = v.Pod.Name
		}
		if got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if v := Victim(State{}, []Candidate{greedy}); v != nil {
		t.Error("a pod is evicted without need")
	}
}
