package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	// 52 fields as proc_pid_stat(5) numbers them; the name holds what it may.
	tail := " S 7 3 3 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 5 0 1000 4096 10"
	for _, tc := range []struct {
		line string
		want process
		ok   bool
	}{
		{"42 (celox)" + tail, process{pid: 42, parent: 7, cpu: 1100 * time.Millisecond}, true},
		{"42 (a ) (b)" + tail, process{pid: 42, parent: 7, cpu: 1100 * time.Millisecond}, true},
		{"42 (celox) S 7 3", process{}, false},
		{"x (celox)" + tail, process{}, false},
		{")42(", process{}, false},
		{"", process{}, false},
	} {
		got, err := parseStat(tc.line)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%q: %+v, %v", tc.line, got, err)
		}
	}
}

func TestRatios(t *testing.T) {
	for _, c := range []struct {
		a, b            []float64
		mean, deviation float64
	}{
		{[]float64{1, 2, 3}, []float64{2, 4, 6}, .5, 0},
		{[]float64{1, 4}, []float64{2, 2}, 1, math.Ln2},
		{[]float64{3}, []float64{4}, .75, 0},
	} {
		if mean, deviation := ratios(c.a, c.b); math.Abs(mean-c.mean) > 1e-9 || math.Abs(deviation-c.deviation) > 1e-9 {
			t.Errorf("%v and %v: %v ± %v, want %v ± %v", c.a, c.b, mean, deviation, c.mean, c.deviation)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (celox) S 7 3 3 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 5 0 1000 4096 10")
	f.Add("1 () 1 ) R")
	f.Fuzz(func(_ *testing.T, line string) { _, _ = parseStat(line) })
}

func TestKeyed(t *testing.T) {
	n, err := keyed("Rss:   5 kB\nPss:    4 kB\nPss_Anon: 3 kB\n", "Pss:")
	if n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "Pss:", "Pss: x kB"} {
		if _, err := keyed(bad, "Pss:"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestClusterFindsThisProcess(t *testing.T) {
	c := cluster{pid: os.Getpid(), dataDir: "\x00none\x00"}
	list, err := c.processes()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 || list[0].pid != os.Getpid() || list[0].contained {
		t.Fatalf("%+v", list)
	}
	pss, err := c.pss()
	if err != nil || sum(pss) <= 0 {
		t.Errorf("pss %v, %v", pss, err)
	}
	if _, err := c.written(); err != nil {
		t.Error(err)
	}
	if _, err := (cluster{pid: 1 << 30}).cpu(); err == nil {
		t.Error("a server that is not there has CPU time")
	}
}

func TestQuantile(t *testing.T) {
	values := []time.Duration{5, 1, 4, 2, 3}
	for _, tc := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 3}, {0.8, 4}, {0.99, 5}, {1, 5}} {
		if got := quantile(values, tc.q); got != tc.want {
			t.Errorf("quantile %v: %d, not %d", tc.q, got, tc.want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}

func TestFigureLine(t *testing.T) {
	for _, tc := range []struct {
		f         figure
		want, not string
	}{
		{figure{Name: "get", Value: 0.05, Unit: "ms CPU", Target: 0.06, Upstream: 0.72, Detail: "n"}, "met", "missed"},
		{figure{Name: "get", Value: 0.07, Unit: "ms CPU", Target: 0.06}, "missed", "upstream"},
		{figure{Name: "written", Value: 0, Unit: bytesUnit}, "met", "missed"},
		{figure{Name: "written", Value: 1, Unit: bytesUnit}, "missed", "met"},
		{figure{Name: "other", Value: 1, Unit: "ms"}, "1.00", "target"},
	} {
		line := tc.f.line()
		if !strings.Contains(line, tc.want) || strings.Contains(line, tc.not) {
			t.Errorf("%+v: %s", tc.f, line)
		}
	}
}

func TestReportJSON(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, true)
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	r.scenario(scenario{name: "a", method: "m"})
	r.figure(figure{Name: "f", Value: 1, Unit: "ms"})
	r.noise(7)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Environment environment
		Scenarios   []measured
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if len(doc.Scenarios) != 1 || len(doc.Scenarios[0].Figures) != 1 || doc.Scenarios[0].Figures[0].Scenario != "a" || doc.Environment.CPUs == 0 {
		t.Errorf("%+v", doc)
	}
}

func TestParallelStopsAtAnError(t *testing.T) {
	var calls atomic.Int64
	want := errors.New("third")
	err := parallel(context.Background(), 2, 1000, func(_ context.Context, _, i int) error {
		calls.Add(1)
		if i == 2 {
			return want
		}
		return nil
	})
	if !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
	if err := parallel(context.Background(), 3, 10, func(context.Context, int, int) error { calls.Add(1); return nil }); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-run", "nothing-like-it"}, "there are cold-start, idle"},
		{[]string{"-o", "xml"}, "text or json"},
		{[]string{"-run", "("}, "-run"},
		{[]string{"idle"}, "unexpected argument"},
		{[]string{"-against", "/nonexistent/celox"}, "-against: "},
		{[]string{"-turns", "0"}, "-turns"},
		{[]string{"-runs", "0"}, "positive"},
	} {
		err := run(tc.args, &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
}

func TestListGo(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-list-go"}, &out, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "./internal/store\n") || !strings.Contains(out.String(), "BenchmarkFanOut") {
		t.Errorf("the store's benchmarks are not in\n%s", out.String())
	}
}
