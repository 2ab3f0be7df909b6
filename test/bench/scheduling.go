package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/celox/celox/internal/simulate"
)

const (
	schedulingMethod = "celox simulate, the workloads of upstream's scheduler_perf by their names: API server, etcd and scheduler in one process, nodes without kubelets, the " +
		"shapes of upstream's nodes and pods; pods created by 30 clients, as upstream does, from just before the first create until a watch shows the last one with a node."
	controlPlaneMethod = "celox simulate ControlPlane: the whole control plane with hollow nodes that run pods after 200 ms, 30 on each; created by users and by a Deployment, which is " +
		"rolled and scaled; the 99th percentile is the worst of all kinds of requests with 100 or more."
	growthMethod = "all workloads of scheduling and ControlPlane with a tenth, a fifth, two fifths and the whole of the nodes and pods; the exponent is the slope of a figure " +
		"against the nodes where both are logarithmic: 0 doesn't grow, 1 grows as the cluster does. -svg draws all curves."
	rollMethod = "celox simulate DeploymentRoll: 3,000 replicas on 1,000 hollow nodes that run a pod after 200 ms; made, rolled (25 % of them at a time), scaled to nothing. " +
		"Controllers' CPU is that of their goroutines by the CPU profile, with and without the requests that they make."
)

// workload is one of upstream's scheduler_perf workloads.
type workload struct {
	name string
	// target is ours on two cores; floor is what upstream asks of its own CI, on bigger machines. In pods a second.
	target, floor float64
}

func workloads() []workload {
	return []workload{
		{"SchedulingBasic", 6000, 680}, {"SchedulingBasicLarge", 6000, 810}, {"TopologySpreading", 4000, 460}, {"PreferredTopologySpreading", 4000, 340},
		{"SchedulingPodAntiAffinity", 3000, 60}, {"SchedulingPodAffinity", 3000, 35}, {"PreferredPodAffinity", 3000, 90}, {"RequiredPodAntiAffinityWithNSSelector", 2000, 24},
		{"SchedulingNodeAffinity", 4000, 220}, {"Unschedulable", 5000, 600}, {"PreemptionAsync", 3000, 570}, {"PreemptionBasic", 1500, 0},
	}
}

// simulation runs celox simulate in a process of its own, so that its memory is its own.
func (b *bench) simulation(ctx context.Context, name string, nodes int, more ...string) (*simulate.Report, error) {
	return b.simulationOf(ctx, b.bin, name, nodes, more...)
}

// simulationOf is simulation with another binary.
func (b *bench) simulationOf(ctx context.Context, bin, name string, nodes int, more ...string) (*simulate.Report, error) {
	args := []string{"simulate", "--scenario", name, "-o", "json"}
	if nodes > 0 {
		args = append(args, "--nodes", strconv.Itoa(nodes))
	}
	args = append(args, more...)
	b.say("%s %s", name, strings.Join(args[3:], " "))
	cmd := exec.CommandContext(ctx, bin, args...)
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("celox %s: %w\n%s", strings.Join(args, " "), err, progress.String())
	}
	var r simulate.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return nil, fmt.Errorf("report of %s: %w", name, err)
	}
	return &r, nil
}

func scheduling(ctx context.Context, b *bench) error {
	for _, w := range workloads() {
		r, err := b.simulation(ctx, w.name, b.opt.nodes)
		if err != nil {
			return err
		}
		f := figure{
			Name: w.name, Value: r.Scheduling.PodsPerSecond, Unit: podsUnit, Upstream: w.floor,
			Detail: fmt.Sprintf("%d nodes, %d pods, %.2f ms of CPU per measured pod (%.0f pods/s if the CPUs had nothing else to do), %.0f MB", r.Nodes, r.PodBinding.Count,
				r.Scheduling.CPUPerPod, r.Scheduling.IdlePodsPerSecond, float64(r.PeakResident)/1e6),
		}
		if b.opt.nodes == 0 {
			f.Target = w.target // it is for the full size
		}
		b.out.figure(f)
	}
	return nil
}

func controlPlane(ctx context.Context, b *bench) error {
	sizes := []int{1000, 5000}
	if b.opt.nodes > 0 {
		sizes = []int{b.opt.nodes}
	}
	for _, n := range sizes {
		r, err := b.simulation(ctx, "ControlPlane", n)
		if err != nil {
			return err
		}
		worst, which := 0.0, ""
		for _, q := range r.Requests {
			if q.Count >= 100 && q.P99 > worst {
				worst, which = q.P99, q.Verb+" "+q.Resource
			}
		}
		size := fmt.Sprintf("%d nodes: ", n)
		b.out.figure(figure{Name: size + "requests p99", Value: worst, Unit: "ms", Target: 1000, Detail: which})
		b.out.figure(figure{Name: size + "pod ready p50", Value: r.PodStartup.P50, Unit: "ms", Detail: "200 ms of it is the hollow node's delay"})
		b.out.figure(figure{Name: size + "pod ready p99", Value: r.PodStartup.P99, Unit: "ms", Target: 5000, Detail: fmt.Sprintf("%d pods", r.PodStartup.Count)})
		b.out.figure(figure{Name: size + "memory", Value: float64(r.PeakResident) / 1e6, Unit: "MB", Target: 4000, Detail: "at most, the hollow nodes included"})
		for _, p := range r.Phases {
			if p.Operation == "scaleDeployment" && strings.Contains(p.What, "all of them new") {
				f := figure{Name: size + "Deployment rolled", Value: p.Seconds, Unit: "s", Detail: p.What}
				if n == 1000 {
					f.Target = 20 // for 3,000 replicas
				}
				b.out.figure(f)
			}
		}
	}
	return nil
}

// roll rolls a Deployment, and sees by the profile what its controllers cost.
func roll(ctx context.Context, b *bench) error {
	nodes := cmp.Or(b.opt.nodes, 1000)
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	profile := filepath.Join(dir, "cpu.out")
	r, err := b.simulation(ctx, "DeploymentRoll", nodes, "--cpu-profile", profile)
	if err != nil {
		return err
	}
	for _, p := range r.Phases {
		if p.Operation == "createNodes" {
			continue
		}
		f := figure{Name: p.Operation + " " + p.What, Value: p.Seconds, Unit: "s", Detail: fmt.Sprintf("%.1f s of CPU", p.CPUSeconds)}
		if strings.Contains(p.What, "all of them new") && nodes == 1000 {
			f.Target = 20
		}
		b.out.figure(f)
	}
	pods := float64(2 * 3 * nodes)
	for _, c := range []struct {
		name, ignore string
		target       float64
	}{
		{"controllers per pod, requests included", "^$", 0}, {"controllers per pod, without requests", `internal/client\.`, .3},
	} {
		byName, err := taggedCPU(ctx, profile, c.ignore)
		if err != nil {
			return err
		}
		var total time.Duration
		var words []string
		for _, name := range slices.SortedFunc(maps.Keys(byName), func(a, b string) int { return cmp.Compare(byName[b], byName[a]) }) {
			total += byName[name]
			if len(words) < 6 {
				words = append(words, fmt.Sprintf("%s %.3f", name, byName[name].Seconds()*1000/pods))
			}
		}
		b.out.figure(figure{Name: c.name, Value: total.Seconds() * 1000 / pods, Unit: "ms", Target: c.target, Detail: strings.Join(words, ", ")})
	}
	return nil
}

// taggedCPU is the CPU time of each controller in a profile, without what is below functions that match.
func taggedCPU(ctx context.Context, profile, ignore string) (map[string]time.Duration, error) {
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-unit=ns", "-ignore="+ignore, "-tags", profile).Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	return parseTags(string(out))
}

// parseTags reads what go tool pprof -tags prints of the label controller: a heading with the total, and a line for each value.
func parseTags(text string) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	inside := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 2 && strings.HasSuffix(fields[0], ":") && fields[1] == "Total":
			inside = fields[0] == "controller:"
		case inside && len(fields) >= 3:
			ns, err := strconv.ParseFloat(strings.TrimSuffix(fields[0], "ns"), 64)
			if err != nil {
				return nil, fmt.Errorf("line %q of the profile's labels: %w", strings.TrimSpace(line), err)
			}
			out[fields[len(fields)-1]] += time.Duration(ns)
		}
	}
	return out, nil
}
