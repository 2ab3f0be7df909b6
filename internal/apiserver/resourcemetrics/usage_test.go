package resourcemetrics

import (
	"testing"
	"time"
)

func TestBetween(t *testing.T) {
	origin := time.Unix(1700000000, 0)
	sec := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	// at is a reading n seconds after the origin, of a container that began at start and used cpu seconds; NaN-free and complete.
	at := func(n, start, cpu float64) *counted {
		return &counted{at: origin.Add(sec(n)), started: origin.Add(sec(start)), cpu: sec(cpu), memory: 1 << 20, hasCPU: true, hasMemory: true}
	}
	undated := func(c *counted) *counted {
		c.started = time.Time{}
		return c
	}
	tests := []struct {
		name           string
		earlier, later *counted
		want           int64 // nanocores, -1: nothing can be said
		window         time.Duration
	}{
		{"two readings", at(0, -100, 50), at(15, -100, 57.5), 500_000_000, sec(15)},
		{"nothing used", at(0, -100, 50), at(15, -100, 50), 0, sec(15)},
		{"one reading of an old one", nil, at(15, -100, 57.5), -1, 0},
		{"one reading of one that began since", nil, at(15, 3, 6), 500_000_000, sec(12)},
		{"it has just begun", nil, at(15, 6, 6), -1, 0},
		{"it has just begun, but two readings", at(8, 6, 1), at(15, 6, 6), -1, 0},
		{"it began again", at(0, -100, 1), at(15, 3, 6), 500_000_000, sec(12)},
		{"it began again, just now", at(0, -100, 50), at(15, 10, 1), -1, 0},
		{"nobody knows when it began", undated(at(0, 0, 50)), undated(at(10, 0, 51)), 100_000_000, sec(10)},
		{"nobody knows that it began again", undated(at(0, 0, 50)), undated(at(10, 0, 1)), -1, 0},
		{"nobody knows, one reading", nil, undated(at(10, 0, 1)), -1, 0},
		{"the same reading", at(15, -100, 50), at(15, -100, 50), -1, 0},
		{"none", at(0, -100, 50), nil, -1, 0},
		{"without memory", at(0, -100, 50), &counted{at: origin.Add(sec(15)), cpu: sec(60), hasCPU: true}, -1, 0},
		{"without CPU before", &counted{hasMemory: true}, at(15, -100, 50), -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, ok := between(tt.earlier, tt.later)
			if ok != (tt.want >= 0) || ok && (u.nanocores != tt.want || u.window != tt.window || u.bytes != 1<<20 || !u.at.Equal(tt.later.at)) {
				t.Errorf("got %+v, %t", u, ok)
			}
		})
	}
}

func TestPodIsWholeOrAbsent(t *testing.T) {
	now := time.Unix(1700000000, 0)
	key := podKey{"ns", "p"}
	old := func(at time.Time, cpu time.Duration) *counted {
		return &counted{at: at, started: now.Add(-time.Hour), cpu: cpu, hasCPU: true, hasMemory: true}
	}
	p := &pair{
		earlier: &reading{pods: map[podKey]map[string]*counted{key: {"a": old(now, 0)}}},
		later:   &reading{pods: map[podKey]map[string]*counted{key: {"a": old(now.Add(10*time.Second), time.Second)}}},
	}
	if all, ok := p.pod(key); !ok || len(all) != 1 || all[0].nanocores != 100_000_000 {
		t.Errorf("got %v, %t", all, ok)
	}
	p.later.pods[key]["b"] = &counted{at: now.Add(10 * time.Second), started: now.Add(9 * time.Second), hasCPU: true, hasMemory: true}
	if all, ok := p.pod(key); ok {
		t.Errorf("with a container that has just begun: %v", all)
	}
	if all, ok := p.pod(podKey{"ns", "other"}); ok {
		t.Errorf("a pod that nobody has: %v", all)
	}
	if _, ok := (*pair)(nil).pod(key); ok {
		t.Error("a node that nobody has read has pods")
	}
	if _, ok := (&pair{later: p.later}).node(); ok {
		t.Error("one reading of a node is enough")
	}
}
