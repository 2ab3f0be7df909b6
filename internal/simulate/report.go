package simulate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Report is what was measured. Times are in seconds since the beginning, latencies in milliseconds, memory in bytes.
type Report struct {
	Scenario    string `json:"scenario"`
	Description string `json:"description,omitempty"`
	Nodes       int    `json:"nodes"`
	CPUs        int    `json:"cpus"`
	// LoadBefore is the machine's load average when the simulation began: what others were doing.
	LoadBefore float64 `json:"loadBefore"`
	Seconds    float64 `json:"seconds"`
	// CPUSeconds is what this process used: server, scheduler, controllers, hollow nodes and the measuring itself.
	CPUSeconds float64    `json:"cpuSeconds"`
	Phases     []Phase    `json:"phases"`
	Scheduling Scheduling `json:"scheduling"`
	// PodBinding is from just before the create is sent until the watch shows the pod's node, PodStartup until it shows it ready. Of pods that controllers made, the
	// beginning is when the watch showed them.
	PodBinding Latency `json:"podBinding"`
	PodStartup Latency `json:"podStartup"`
	// Requests are those of the simulation: of its users and of the hollow nodes. Those of scheduler and controllers aren't among them.
	Requests []Requests `json:"requests"`
	// PeakResident is the most memory that the process had.
	PeakResident uint64   `json:"peakResident"`
	Series       []Sample `json:"series"`

	begin    time.Time
	beginCPU time.Duration
}

// Phase is one operation.
type Phase struct {
	Operation string  `json:"operation"`
	What      string  `json:"what"`
	Start     float64 `json:"start"`
	Seconds   float64 `json:"seconds"`
	// CPUSeconds is what the process used meanwhile.
	CPUSeconds float64 `json:"cpuSeconds"`
}

// Scheduling is about the pods that the scenario measures.
type Scheduling struct {
	Pods      int `json:"pods"`
	Scheduled int `json:"scheduled"`
	// Seconds is from just before the first of them was created until the last had a node.
	Seconds       float64 `json:"seconds"`
	PodsPerSecond float64 `json:"podsPerSecond"`
	// CPUPerPod is the CPU time of the whole process in these seconds, in milliseconds per pod, and IdlePodsPerSecond how many pods that would be in a second if all CPUs
	// had nothing else to do: PodsPerSecond without the load of others, if nothing else is in the way.
	CPUPerPod         float64 `json:"cpuPerPod"`
	IdlePodsPerSecond float64 `json:"idlePodsPerSecond"`
}

// Latency is how long something took.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Requests are those of one kind.
type Requests struct {
	Verb     string `json:"verb"`
	Resource string `json:"resource"`
	Errors   int    `json:"errors,omitempty"`
	Latency
}

// Sample is one second.
type Sample struct {
	At        float64 `json:"at"`
	Scheduled int     `json:"scheduled"` // pods that got a node in it
	Running   int     `json:"running"`   // pods that were running at its end
	Pods      int     `json:"pods"`      // pods that were there at its end
	Requests  uint64  `json:"requests"`
	P99       float64 `json:"requestP99"`
	Resident  uint64  `json:"resident"`
	Anonymous uint64  `json:"anonymous"` // what of it is no file: without the program and etcd's database
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

func (h *histogram) latency() Latency {
	return Latency{h.n, milliseconds(h.quantile(.5)), milliseconds(h.quantile(.9)), milliseconds(h.quantile(.99)), milliseconds(h.most)}
}

func newReport(s *Scenario, nodes int) *Report {
	return &Report{
		Scenario: s.Name, Description: s.Description, Nodes: nodes, CPUs: runtime.NumCPU(), LoadBefore: load(), begin: time.Now(), beginCPU: cpuTime(),
	}
}

func (r *Report) phase(operation, what string, begin time.Time, took, cpu time.Duration) {
	r.Phases = append(r.Phases, Phase{operation, what, begin.Sub(r.begin).Seconds(), took.Seconds(), cpu.Seconds()})
}

// finish fills in what is known at the end. Nothing runs any more.
func (r *Report) finish(s *simulation) {
	r.Seconds = time.Since(r.begin).Seconds()
	r.CPUSeconds = (cpuTime() - r.beginCPU).Seconds()
	p := s.pods
	p.now(func() {
		r.Scheduling = Scheduling{Pods: p.measured, Scheduled: p.measuredScheduled}
		if d := p.last.Sub(p.first).Seconds(); p.measuredScheduled > 0 && d > 0 {
			r.Scheduling.Seconds, r.Scheduling.PodsPerSecond = d, float64(p.measuredScheduled)/d
			if cpu := (p.lastCPU - p.firstCPU).Seconds(); cpu > 0 {
				r.Scheduling.CPUPerPod = 1e3 * cpu / float64(p.measuredScheduled)
				r.Scheduling.IdlePodsPerSecond = float64(r.CPUs) * float64(p.measuredScheduled) / cpu
			}
		}
		r.PodBinding, r.PodStartup = p.binding.latency(), p.startup.latency()
	})
	s.requests.mu.Lock()
	for c, k := range s.requests.kinds {
		r.Requests = append(r.Requests, Requests{c.verb, c.resource, k.errors, k.latency()})
	}
	s.requests.mu.Unlock()
	sort.Slice(r.Requests, func(i, j int) bool {
		a, b := &r.Requests[i], &r.Requests[j]
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Verb+a.Resource, b.Verb+b.Resource)) < 0
	})
	r.Series = s.sampler.samples
	r.PeakResident = statusBytes("VmHWM")
}

// JSON writes the report.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d nodes, %.1f s, %.1f s of CPU, %.0f MB at most", r.Scenario, r.Nodes, r.Seconds, r.CPUSeconds, float64(r.PeakResident)/1e6)
	if r.LoadBefore >= float64(r.CPUs)/2 {
		fmt.Fprintf(&b, " (the machine was busy before: load %.1f on %d CPUs; figures are too bad)", r.LoadBefore, r.CPUs)
	}
	b.WriteString("\n")
	if sc := r.Scheduling; sc.Pods > 0 {
		fmt.Fprintf(&b, "scheduled %d of %d pods in %.1f s: %.0f pods/s, %.2f ms of CPU per pod (%d CPUs with nothing else to do: %.0f pods/s)\n",
			sc.Scheduled, sc.Pods, sc.Seconds, sc.PodsPerSecond, sc.CPUPerPod, r.CPUs, sc.IdlePodsPerSecond)
	}
	row := func(name string, l Latency) {
		fmt.Fprintf(&b, "%-36s %9d %10.1f %10.1f %10.1f %10.1f\n", name, l.Count, l.P50, l.P90, l.P99, l.Max)
	}
	fmt.Fprintf(&b, "\n%-36s %9s %10s %10s %10s %10s\n", "milliseconds", "count", "p50", "p90", "p99", "max")
	row("pod created -> has a node", r.PodBinding)
	if r.PodStartup.Count > 0 {
		row("pod created -> ready", r.PodStartup)
	}
	for _, q := range r.Requests {
		name := q.Verb + " " + q.Resource
		if q.Errors > 0 {
			name += fmt.Sprintf(" (%d errors)", q.Errors)
		}
		row(name, q.Latency)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// sampler looks once a second.
type sampler struct {
	pods     *pods
	requests *requests
	samples  []Sample // owned by run until it has ended
}

func newSampler(p *pods, r *requests) *sampler { return &sampler{pods: p, requests: r} }

func (s *sampler) run(ctx context.Context) {
	begin := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	scheduled := 0
	take := func() {
		h := s.requests.sample()
		out := Sample{At: time.Since(begin).Seconds(), Requests: h.n, P99: milliseconds(h.quantile(.99)), Resident: statusBytes("VmRSS"), Anonymous: statusBytes("RssAnon")}
		s.pods.now(func() {
			out.Scheduled, out.Running, out.Pods = s.pods.everScheduled-scheduled, s.pods.running, len(s.pods.known)
			scheduled = s.pods.everScheduled
		})
		s.samples = append(s.samples, out)
	}
	for {
		select {
		case <-ctx.Done():
			take()
			return
		case <-tick.C:
			take()
		}
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it fails only for bad arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// statusBytes is a value of /proc/self/status; 0 where there is none.
func statusBytes(key string) uint64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// load is the machine's load average of the last minute; 0 where it isn't known.
func load() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	f, _ := strconv.ParseFloat(first, 64)
	return f
}
