package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/celox/celox/internal/simulate"
)

const (
	schedulingMethod = "celox simulate, the workloads of upstream's scheduler_perf by their names: API server, etcd and scheduler in one process, nodes without kubelets, the " +
		"shapes of upstream's nodes and pods; pods created by 24 clients, from just before the first create until a watch shows the last one with a node."
	controlPlaneMethod = "celox simulate ControlPlane: the whole control plane with hollow nodes that run pods after 200 ms, 30 on each; created by users and by a Deployment, which is " +
		"rolled and scaled; the 99th percentile is the worst of all kinds of requests with 100 or more."
	growthMethod = "SchedulingBasic with a tenth of the nodes and pods, and the whole of it: what grows faster than the cluster shows here."
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
func (b *bench) simulation(ctx context.Context, name string, nodes int) (*simulate.Report, error) {
	args := []string{"simulate", "--scenario", name, "-o", "json"}
	if nodes > 0 {
		args = append(args, "--nodes", strconv.Itoa(nodes))
	}
	b.say("%s %s", name, strings.Join(args[3:], " "))
	cmd := exec.CommandContext(ctx, b.bin, args...)
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

func growth(ctx context.Context, b *bench) error {
	large := b.opt.nodes
	if large == 0 {
		large = 5000
	}
	for _, n := range []int{max(large/10, 1), large} {
		r, err := b.simulation(ctx, "SchedulingBasic", n)
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: fmt.Sprintf("%d nodes", n), Value: r.CPUSeconds * 1000 / float64(max(r.PodBinding.Count, 1)), Unit: "ms/pod", Detail: fmt.Sprintf("CPU of everything; %.0f pods/s", r.Scheduling.PodsPerSecond)})
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
