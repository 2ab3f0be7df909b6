package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figure is one measured number.
type figure struct {
	Scenario string  `json:"scenario"`
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Target   float64 `json:"target,omitempty"`   // at most this, or at least, if Unit is "pods/s", "names/s" or "of it"; 0 is wanted if Unit is "bytes"; else 0 means none
	Upstream float64 `json:"upstream,omitempty"` // the best set-up of upstream v1.36 on the same kind of machine
	Detail   string  `json:"detail,omitempty"`
}

// bytesUnit is the one unit of which the target is zero.
const bytesUnit = "bytes"

// Units of which more is better.
const (
	podsUnit  = "pods/s"
	namesUnit = "names/s"
	shareUnit = "of it"
)

func moreIsBetter(unit string) bool {
	return unit == podsUnit || unit == namesUnit || unit == shareUnit
}

func (f figure) hasTarget() bool { return f.Target > 0 || f.Unit == bytesUnit }

// line is the figure for people.
func (f figure) line() string {
	s := fmt.Sprintf("  %-30s %10s %-10s", f.Name, number(f.Value), f.Unit)
	if f.hasTarget() {
		got := "met"
		if f.Value != f.Target && (f.Value < f.Target) == moreIsBetter(f.Unit) {
			got = "missed"
		}
		s += fmt.Sprintf(" target %6s  %-6s", number(f.Target), got)
	} else {
		s += strings.Repeat(" ", len(" target 123456  missed"))
	}
	if f.Upstream > 0 {
		s += fmt.Sprintf("  upstream %6s", number(f.Upstream))
	} else {
		s += strings.Repeat(" ", len("  upstream 123456"))
	}
	return strings.TrimRight(s+"  "+f.Detail, " ")
}

// number writes three significant digits, and no less than the whole part.
func number(v float64) string {
	digits := 2
	switch {
	case v == 0 || v >= 100:
		digits = 0
	case v >= 10:
		digits = 1
	case v < 1:
		digits = 3
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// environment is what the figures were taken on.
type environment struct {
	Time   time.Time `json:"time"`
	CPUs   int       `json:"cpus"`
	CPU    string    `json:"cpu"`
	Kernel string    `json:"kernel"`
	Load1  float64   `json:"load1"` // load average over the last minute, before anything was measured
}

func readEnvironment() (environment, error) {
	env := environment{Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), CPU: runtime.GOARCH}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return env, err
	}
	env.Kernel = strings.TrimSpace(string(kernel))
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return env, err
	}
	if _, err := fmt.Sscan(string(load), &env.Load1); err != nil {
		return env, fmt.Errorf("/proc/loadavg: %w", err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return env, err
	}
	for line := range strings.Lines(string(info)) {
		if key, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			env.CPU = strings.TrimSpace(model)
			break
		}
	}
	return env, nil
}

// measured is a scenario in the JSON output.
type measured struct {
	Name    string   `json:"name"`
	Method  string   `json:"method"`
	Noise   float64  `json:"othersPercent"` // of the machine's CPU time went to others than the cluster and this program
	Figures []figure `json:"figures"`
}

// report prints figures as they come, or at the end as one JSON document.
type report struct {
	w    io.Writer
	json bool
	doc  struct {
		Environment environment `json:"environment"`
		Scenarios   []measured  `json:"scenarios"`
	}
}

func newReport(w io.Writer, asJSON bool) *report { return &report{w: w, json: asJSON} }

func (r *report) begin() error {
	env, err := readEnvironment()
	r.doc.Environment = env
	r.text("%d x %s, Linux %s, load %.2f, %s\n", env.CPUs, env.CPU, env.Kernel, env.Load1, env.Time.Format(time.RFC3339))
	return err
}

func (r *report) text(format string, args ...any) {
	if !r.json {
		fmt.Fprintf(r.w, format, args...)
	}
}

func (r *report) scenario(s scenario) {
	r.doc.Scenarios = append(r.doc.Scenarios, measured{Name: s.name, Method: s.method})
	r.text("\n%s: %s\n", s.name, s.method)
}

func (r *report) figure(f figure) {
	m := &r.doc.Scenarios[len(r.doc.Scenarios)-1]
	f.Scenario = m.Name
	m.Figures = append(m.Figures, f)
	r.text("%s\n", f.line())
}

// noise notes how busy the machine was with other things. A scenario with several stages keeps the worst.
func (r *report) noise(percent float64) {
	m := &r.doc.Scenarios[len(r.doc.Scenarios)-1]
	m.Noise = max(m.Noise, percent)
	if percent >= noisyPercent {
		r.text("  ! others used %.0f %% of this machine's CPU time meanwhile: times are too long, CPU figures hardly\n", percent)
	}
}

func (r *report) end() error {
	if !r.json {
		return nil
	}
	enc := json.NewEncoder(r.w)
	enc.SetIndent("", "  ")
	return enc.Encode(r.doc)
}

// quantile is the smallest value that at least the share q of all values does not exceed.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
