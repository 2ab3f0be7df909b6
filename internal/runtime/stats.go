package runtime

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const cgroupMount = "/sys/fs/cgroup"

// unifiedCgroups tells whether the machine has the one hierarchy of version 2.
func unifiedCgroups() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// usage is what the kernel counts for a cgroup.
type usage struct {
	at                       time.Time
	cpuNanos                 uint64
	memory, workingSet, rss  uint64
	faults, majorFaults      uint64
	memoryLimit              uint64 // 0: none
	swap                     uint64
	hasSwap                  bool
	processes                uint64
	cpuPSI, memoryPSI, ioPSI *cri.PsiStats
}

// noLimit is where version 1 shows that memory is not limited: the largest
// multiple of a page.
const noLimit = 1 << 60

// readUsage reads the counters of a cgroup. A cgroup that is gone has none.
func (s *Service) readUsage(path string) (usage, bool) {
	u := usage{at: time.Now()}
	if s.host.unified {
		dir := filepath.Join(cgroupMount, path)
		cpu, err := readCounters(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			return u, false
		}
		u.cpuNanos = cpu["usage_usec"] * 1000
		u.memory, _ = readCounter(filepath.Join(dir, "memory.current"))
		mem, _ := readCounters(filepath.Join(dir, "memory.stat"))
		u.workingSet = less(u.memory, mem["inactive_file"])
		u.rss, u.faults, u.majorFaults = mem["anon"], mem["pgfault"], mem["pgmajfault"]
		u.memoryLimit, _ = readCounter(filepath.Join(dir, "memory.max"))
		var serr error
		u.swap, serr = readCounter(filepath.Join(dir, "memory.swap.current"))
		u.hasSwap = serr == nil
		u.processes, _ = readCounter(filepath.Join(dir, "pids.current"))
		u.cpuPSI, u.memoryPSI, u.ioPSI = readPSI(dir, "cpu"), readPSI(dir, "memory"), readPSI(dir, "io")
		return u, true
	}
	at := func(controller, file string) string { return filepath.Join(cgroupMount, controller, path, file) }
	var err error
	if u.cpuNanos, err = readCounter(at("cpuacct", "cpuacct.usage")); err != nil {
		return u, false
	}
	u.memory, _ = readCounter(at("memory", "memory.usage_in_bytes"))
	mem, _ := readCounters(at("memory", "memory.stat"))
	u.workingSet = less(u.memory, mem["total_inactive_file"])
	u.rss, u.faults, u.majorFaults = mem["total_rss"], mem["total_pgfault"], mem["total_pgmajfault"]
	if u.memoryLimit, _ = readCounter(at("memory", "memory.limit_in_bytes")); u.memoryLimit >= noLimit {
		u.memoryLimit = 0
	}
	u.swap, u.hasSwap = mem["total_swap"], s.host.swap
	u.processes, _ = readCounter(at("pids", "pids.current"))
	return u, true
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func readCounter(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
}

// readCounters reads lines of "name value".
func readCounters(path string) (map[string]uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			all[name] = n
		}
	}
	return all, nil
}

// readPSI reads pressure stall information; nil if the kernel has none.
func readPSI(dir, resource string) *cri.PsiStats {
	data, err := os.ReadFile(filepath.Join(dir, resource+".pressure"))
	if err != nil {
		return nil
	}
	return parsePSI(string(data))
}

// parsePSI reads lines such as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
func parsePSI(text string) *cri.PsiStats {
	stats := &cri.PsiStats{Full: &cri.PsiData{}, Some: &cri.PsiData{}}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		data := stats.Some
		if fields[0] == "full" {
			data = stats.Full
		}
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, "=")
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch name {
			case "avg10":
				data.Avg10 = number
			case "avg60":
				data.Avg60 = number
			case "avg300":
				data.Avg300 = number
			case "total":
				data.Total, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return stats
}

func count(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }

func (u usage) cpu() *cri.CpuUsage {
	return &cri.CpuUsage{Timestamp: u.at.UnixNano(), UsageCoreNanoSeconds: count(u.cpuNanos), Psi: u.cpuPSI}
}

func (u usage) mem() *cri.MemoryUsage {
	m := &cri.MemoryUsage{
		Timestamp: u.at.UnixNano(), WorkingSetBytes: count(u.workingSet), UsageBytes: count(u.memory), RssBytes: count(u.rss),
		PageFaults: count(u.faults), MajorPageFaults: count(u.majorFaults), Psi: u.memoryPSI,
	}
	if u.memoryLimit > 0 {
		m.AvailableBytes = count(less(u.memoryLimit, u.workingSet))
	}
	return m
}

func (s *Service) containerStats(k *container) *cri.ContainerStats {
	rec := k.record()
	st := &cri.ContainerStats{
		Attributes: &cri.ContainerAttributes{Id: k.id, Metadata: k.config.GetMetadata(), Labels: k.config.GetLabels(), Annotations: k.config.GetAnnotations()},
	}
	now := time.Now().UnixNano()
	if rec.Phase == phaseCreated {
		if u, ok := s.readUsage(s.cgroupOf(k)); ok {
			st.Cpu, st.Memory = u.cpu(), u.mem()
			st.Io = &cri.IoUsage{Timestamp: now, Psi: u.ioPSI}
			if u.hasSwap {
				st.Swap = &cri.SwapUsage{Timestamp: now, SwapUsageBytes: count(u.swap)}
			}
		}
	}
	if upper := upperDir(s.dir.rootfs(k.id)); upper != "" {
		bytes, inodes := diskUsage(upper)
		st.WritableLayer = &cri.FilesystemUsage{
			Timestamp: now, FsId: &cri.FilesystemIdentifier{Mountpoint: s.cfg.Root}, UsedBytes: count(bytes), InodesUsed: count(inodes),
		}
	}
	return st
}

// upperDir finds the writable layer of a mounted root file system.
func upperDir(rootfs string) string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, rootfs+" ") {
			continue
		}
		_, rest, ok := strings.Cut(line, "upperdir=")
		if !ok {
			continue
		}
		dir, _, _ := strings.Cut(strings.TrimSpace(rest), ",")
		return unescapeMount(dir)
	}
	return ""
}

// diskUsage counts what a directory takes on the disk.
func diskUsage(dir string) (bytes, inodes uint64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // files come and go
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			bytes += uint64(st.Blocks) * 512
			inodes++
		}
		return nil
	})
	return bytes, inodes
}

// ContainerStats counts what a container uses.
func (s *Service) ContainerStats(_ context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: s.containerStats(k)}, nil
}

// ListContainerStats counts what the running containers use.
func (s *Service) ListContainerStats(_ context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	resp := &cri.ListContainerStatsResponse{}
	for _, k := range s.snapshotContainers() {
		if !k.isRunning() ||
			f.GetId() != "" && !strings.HasPrefix(k.id, f.GetId()) ||
			f.GetPodSandboxId() != "" && !strings.HasPrefix(k.sandbox.id, f.GetPodSandboxId()) ||
			!matches(f.GetLabelSelector(), k.config.GetLabels()) {
			continue
		}
		resp.Stats = append(resp.Stats, s.containerStats(k))
	}
	return resp, nil
}

func (s *Service) snapshotContainers() []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*container, 0, len(s.containers))
	for _, k := range s.containers {
		all = append(all, k)
	}
	return all
}

func (s *Service) snapshotSandboxes() []*sandbox {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*sandbox, 0, len(s.sandboxes))
	for _, b := range s.sandboxes {
		all = append(all, b)
	}
	return all
}

// PodSandboxStats counts what a pod uses.
func (s *Service) PodSandboxStats(_ context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &cri.PodSandboxStatsResponse{Stats: s.sandboxStats(b)}, nil
}

// ListPodSandboxStats counts what the ready pods use.
func (s *Service) ListPodSandboxStats(_ context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	f := req.GetFilter()
	resp := &cri.ListPodSandboxStatsResponse{}
	for _, b := range s.snapshotSandboxes() {
		if s.sandboxState(b) != cri.PodSandboxState_SANDBOX_READY ||
			f.GetId() != "" && !strings.HasPrefix(b.id, f.GetId()) ||
			!matches(f.GetLabelSelector(), b.config.GetLabels()) {
			continue
		}
		resp.Stats = append(resp.Stats, s.sandboxStats(b))
	}
	return resp, nil
}

func (s *Service) sandboxStats(b *sandbox) *cri.PodSandboxStats {
	now := time.Now().UnixNano()
	linux := &cri.LinuxPodSandboxStats{}
	if u, ok := s.readUsage(b.record().Cgroup); ok {
		linux.Cpu, linux.Memory = u.cpu(), u.mem()
		linux.Io = &cri.IoUsage{Timestamp: now, Psi: u.ioPSI}
		if u.processes > 0 {
			linux.Process = &cri.ProcessUsage{Timestamp: now, ProcessCount: count(u.processes)}
		}
	}
	if b.pinned().net && s.sandboxState(b) == cri.PodSandboxState_SANDBOX_READY {
		linux.Network = s.networkUsage(b)
	}
	for _, k := range s.containersOf(b) {
		if k.isRunning() {
			linux.Containers = append(linux.Containers, s.containerStats(k))
		}
	}
	return &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{Id: b.id, Metadata: b.config.GetMetadata(), Labels: b.config.GetLabels(), Annotations: b.config.GetAnnotations()},
		Linux:      linux,
	}
}

// networkUsage reads the interfaces' counters of a pod; nil if that fails.
func (s *Service) networkUsage(b *sandbox) *cri.NetworkUsage {
	var data []byte
	err := insideNamespace(s.dir.namespace(b.id, "net"), func() (err error) {
		data, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Debug("reading network statistics", "sandbox", b.id, "error", err)
		}
		return nil
	}
	n := &cri.NetworkUsage{Timestamp: time.Now().UnixNano(), Interfaces: parseNetDev(string(data))}
	for i, in := range n.Interfaces {
		if in.GetName() == "eth0" || n.DefaultInterface == nil && i == len(n.Interfaces)-1 {
			n.DefaultInterface = in
		}
	}
	return n
}

// parseNetDev reads /proc/net/dev, leaving out the loopback interface.
func parseNetDev(text string) []*cri.NetworkInterfaceUsage {
	const rxBytes, rxErrors, txBytes, txErrors, columns = 0, 2, 8, 10, 16
	var all []*cri.NetworkInterfaceUsage
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		fields := strings.Fields(rest)
		if !ok || name == "lo" || len(fields) < columns {
			continue
		}
		number := func(i int) *cri.UInt64Value {
			n, err := strconv.ParseUint(fields[i], 10, 64)
			if err != nil {
				return nil
			}
			return count(n)
		}
		all = append(all, &cri.NetworkInterfaceUsage{
			Name: name, RxBytes: number(rxBytes), RxErrors: number(rxErrors), TxBytes: number(txBytes), TxErrors: number(txErrors),
		})
	}
	return all
}

// ListMetricDescriptors: this runtime has no metrics of its own beside the
// statistics above.
func (s *Service) ListMetricDescriptors(context.Context, *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	return &cri.ListMetricDescriptorsResponse{}, nil
}

// ListPodSandboxMetrics answers as ListMetricDescriptors promises.
func (s *Service) ListPodSandboxMetrics(context.Context, *cri.ListPodSandboxMetricsRequest) (*cri.ListPodSandboxMetricsResponse, error) {
	return &cri.ListPodSandboxMetricsResponse{}, nil
}

// CheckpointContainer is not supported.
func (s *Service) CheckpointContainer(context.Context, *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	return nil, status.Error(codes.Unimplemented, "checkpointing containers is not supported by this runtime")
}

// CheckpointPod is not supported.
func (s *Service) CheckpointPod(context.Context, *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "checkpointing pods is not supported by this runtime")
}

// RestorePod is not supported.
func (s *Service) RestorePod(context.Context, *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "restoring pods is not supported by this runtime")
}
