package cluster

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestProcessors(t *testing.T) {
	now, used := time.Unix(1000, 0), time.Duration(0)
	var set []int
	var slack time.Duration
	p := &processors{slack: func(d time.Duration) { slack = d }, cores: 4, running: 4, born: now, now: func() time.Time { return now }, cpu: func() time.Duration { return used }, set: func(n int) { set = append(set, n) }}
	p.begin()
	// pass lets time pass, of which a part is used, with a look at each step.
	pass := func(d, step time.Duration, part float64) {
		for ; d > 0; d -= step {
			now = now.Add(step)
			used += time.Duration(part * float64(step))
			p.look()
		}
	}
	expect := func(when string, want ...int) {
		t.Helper()
		if !slices.Equal(set, want) {
			t.Errorf("%s: set %v, want %v", when, set, want)
		}
		set = nil
	}
	pass(startTime-slowInterval, slowInterval, 0.01)
	expect("at the start")
	pass(slowInterval, slowInterval, 0.01)
	expect("when it is quiet", 1)
	if slack != quietSlack {
		t.Errorf("the watchdog may sleep %s longer", slack)
	}
	if d := p.interval(); d != idleInterval {
		t.Errorf("looks every %s when it is idle", d)
	}
	pass(time.Minute, slowInterval, 0.3)
	if d := p.interval(); d != slowInterval {
		t.Errorf("looks every %s when it is not", d)
	}
	expect("when it is nearly quiet")
	pass(lookInterval, lookInterval, 1)
	expect("when it is busy", 4)
	if slack != busySlack {
		t.Errorf("the watchdog may sleep %s longer in a busy program", slack)
	}
	p.crowded(true)
	expect("in a crowd", 5)
	pass(time.Minute, lookInterval, 0.3)
	expect("when it is nearly busy")
	pass(3*quietTime, lookInterval, 0.1)
	expect("when it is quiet in a crowd", 2)
	p.crowded(false)
	expect("alone", 1)
	p.more(3)
	expect("with loops", 4)
	for range 10 { // closer together than it looks
		pass(lookInterval/20, lookInterval/20, 2)
	}
	expect("for half an interval")
	pass(lookInterval, lookInterval/20, 2)
	expect("for a whole one", 7)
	p.more(-3)
	expect("without", 4)
	p.fixed = true
	p.crowded(true)
	pass(time.Minute, slowInterval, 0)
	expect("when the environment says how many there are")
}

// TestProcessorsFollow: a program that ends has all processors.
func TestProcessorsFollow(t *testing.T) {
	p := newProcessors()
	set := 0
	p.cores, p.running, p.quiet, p.set = 3, 1, true, func(n int) { set = n }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.follow(ctx); err != nil {
		t.Fatal(err)
	}
	if set != 3 {
		t.Errorf("it runs on %d at the end", set)
	}
	if a := cpuTime(); a <= 0 || cpuTime() < a {
		t.Error("CPU time does not grow")
	}
}
