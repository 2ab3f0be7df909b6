package stats

import (
	"bufio"
	"cmp"
	"context"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/observed"
)

// Config is what a Provider is given.
type Config struct {
	NodeName string
	Root     string // on the node's file system
	Runtime  cri.RuntimeService
	Images   cri.ImageManagerService
	Cgroups  *cgroup.Tree // nil: the machine's own usage isn't known
	Clock    clock.Clock
	// PodStart tells when the node took a pod.
	PodStart func(uid string) (time.Time, bool)
}

// Provider measures. Its methods are safe for concurrent use.
type Provider struct {
	Config
	mu   sync.Mutex
	last map[string]sample // by what is measured
}

type sample struct {
	at   time.Time
	cpu  uint64 // nanoseconds used since the beginning
	rate uint64 // nanocores, of the last interval
}

// New makes a Provider.
func New(c Config) *Provider { return &Provider{Config: c, last: map[string]sample{}} }

// minInterval is the shortest time that a rate is computed over.
const minInterval = 500 * time.Millisecond

// rate is the CPU usage in nanocores since the last time somebody asked.
func (p *Provider) rate(key string, cpu uint64, at time.Time) *uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.last[key]
	elapsed := at.Sub(old.at)
	switch {
	case !ok || cpu < old.cpu:
		p.last[key] = sample{at: at, cpu: cpu}
		return nil
	case elapsed < minInterval:
		r := old.rate
		return &r
	}
	r := uint64(float64(cpu-old.cpu) / elapsed.Seconds())
	p.last[key] = sample{at: at, cpu: cpu, rate: r}
	return &r
}

// Summary measures the node and its pods.
func (p *Provider) Summary(ctx context.Context) (*statsapi.Summary, error) {
	pods, err := p.pods(ctx)
	if err != nil {
		return nil, err
	}
	return &statsapi.Summary{Node: p.node(ctx), Pods: pods}, nil
}

func (p *Provider) node(ctx context.Context) statsapi.NodeStats {
	now := p.Clock.Now()
	stamp := metav1.NewTime(now)
	out := statsapi.NodeStats{NodeName: p.NodeName, StartTime: metav1.NewTime(bootTime(now)), Fs: FileSystem(p.Root, stamp)}
	if p.Cgroups != nil {
		u := p.Cgroups.Usage("/")
		cpu := u.CPUNanoseconds
		if cpu == 0 {
			cpu = procStatCPU()
		}
		out.CPU = &statsapi.CPUStats{Time: stamp, UsageCoreNanoSeconds: &cpu, UsageNanoCores: p.rate("node", cpu, now)}
	}
	total, available := memory()
	working := total - available
	out.Memory = &statsapi.MemoryStats{Time: stamp, AvailableBytes: &available, WorkingSetBytes: &working, UsageBytes: &working}
	out.Memory.RSSBytes, out.Memory.PageFaults, out.Memory.MajorPageFaults = pages()
	out.Network = network(stamp)
	if info, err := p.Images.ImageFsInfo(ctx); err == nil && len(info.GetImageFilesystems()) > 0 {
		fs := info.ImageFilesystems[0]
		image := FileSystem(fs.GetFsId().GetMountpoint(), stamp)
		if image == nil {
			image = FileSystem(p.Root, stamp)
		}
		if image != nil {
			image.UsedBytes = value(fs.UsedBytes)
			image.InodesUsed = value(fs.InodesUsed)
		}
		out.Runtime = &statsapi.RuntimeStats{ImageFs: image, ContainerFs: image}
	}
	maxPID, running := pids()
	out.Rlimit = &statsapi.RlimitStats{Time: stamp, MaxPID: &maxPID, NumOfRunningProcesses: &running}
	return out
}

func (p *Provider) pods(ctx context.Context) ([]statsapi.PodStats, error) {
	list, err := p.Runtime.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return p.podsFromContainers(ctx)
	}
	created := p.created(ctx)
	now := p.Clock.Now()
	used := map[string]bool{"node": true}
	out := []statsapi.PodStats{}
	for _, s := range list {
		m := s.GetAttributes().GetMetadata()
		if m == nil || s.Linux == nil {
			continue
		}
		pod := statsapi.PodStats{
			PodRef:     statsapi.PodReference{Name: m.Name, Namespace: m.Namespace, UID: m.Uid},
			Containers: []statsapi.ContainerStats{},
			CPU:        p.cpu("pod/"+m.Uid, s.Linux.Cpu, now),
			Memory:     memoryStats(s.Linux.Memory),
			Network:    networkStats(s.Linux.Network),
			IO:         ioStats(s.Linux.Io),
		}
		used["pod/"+m.Uid] = true
		if start, ok := p.PodStart(m.Uid); ok {
			pod.StartTime = metav1.NewTime(start)
		}
		if n := s.Linux.GetProcess().GetProcessCount(); n != nil {
			pod.ProcessStats = &statsapi.ProcessStats{ProcessCount: value(n)}
		}
		for _, c := range s.Linux.Containers {
			used["c/"+c.GetAttributes().GetId()] = true
			pod.Containers = append(pod.Containers, p.container(c, created, now))
		}
		sumContainers(&pod)
		out = append(out, pod)
	}
	p.forget(used)
	sortPods(out)
	return out, nil
}

// podsFromContainers is for runtimes that count containers only.
func (p *Provider) podsFromContainers(ctx context.Context) ([]statsapi.PodStats, error) {
	list, err := p.Runtime.ListContainerStats(ctx, nil)
	if err != nil {
		return nil, err
	}
	created := p.created(ctx)
	now := p.Clock.Now()
	byUID := map[string]*statsapi.PodStats{}
	used := map[string]bool{"node": true}
	for _, c := range list {
		labels := c.GetAttributes().GetLabels()
		uid := labels[observed.LabelPodUID]
		if uid == "" {
			continue
		}
		pod := byUID[uid]
		if pod == nil {
			pod = &statsapi.PodStats{PodRef: statsapi.PodReference{Name: labels[observed.LabelPodName], Namespace: labels[observed.LabelPodNamespace], UID: uid}}
			if start, ok := p.PodStart(uid); ok {
				pod.StartTime = metav1.NewTime(start)
			}
			byUID[uid] = pod
		}
		used["c/"+c.GetAttributes().GetId()] = true
		pod.Containers = append(pod.Containers, p.container(c, created, now))
	}
	out := make([]statsapi.PodStats, 0, len(byUID))
	for _, pod := range byUID {
		sumContainers(pod)
		out = append(out, *pod)
	}
	p.forget(used)
	sortPods(out)
	return out, nil
}

func sortPods(list []statsapi.PodStats) {
	sort.Slice(list, func(i, j int) bool {
		a, b := &list[i].PodRef, &list[j].PodRef
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) < 0
	})
}

// forget drops samples of what doesn't exist any more.
func (p *Provider) forget(used map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.last {
		if !used[key] {
			delete(p.last, key)
		}
	}
}

// sumContainers fills in what the runtime doesn't tell of the whole pod.
func sumContainers(pod *statsapi.PodStats) {
	var cpu, rate, memory uint64
	var disk uint64
	at := metav1.Time{}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		if c.CPU != nil {
			at = c.CPU.Time
			cpu += deref(c.CPU.UsageCoreNanoSeconds)
			rate += deref(c.CPU.UsageNanoCores)
		}
		if c.Memory != nil {
			memory += deref(c.Memory.WorkingSetBytes)
		}
		if c.Rootfs != nil {
			disk += deref(c.Rootfs.UsedBytes)
		}
	}
	if pod.CPU == nil {
		pod.CPU = &statsapi.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu, UsageNanoCores: &rate}
	}
	if pod.Memory == nil {
		pod.Memory = &statsapi.MemoryStats{Time: at, WorkingSetBytes: &memory}
	}
	if pod.EphemeralStorage == nil {
		pod.EphemeralStorage = &statsapi.FsStats{Time: at, UsedBytes: &disk}
	}
}

func deref(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

// created tells when the containers were made, by id. That is what the API calls their start; the runtime's statistics don't say it.
func (p *Provider) created(ctx context.Context) map[string]int64 {
	list, err := p.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil // statistics without their beginning are better than none
	}
	out := make(map[string]int64, len(list))
	for _, c := range list {
		out[c.Id] = c.CreatedAt
	}
	return out
}

func (p *Provider) container(c *runtimeapi.ContainerStats, created map[string]int64, now time.Time) statsapi.ContainerStats {
	id := c.GetAttributes().GetId()
	out := statsapi.ContainerStats{
		Name: c.GetAttributes().GetMetadata().GetName(), CPU: p.cpu("c/"+id, c.Cpu, now), Memory: memoryStats(c.Memory), IO: ioStats(c.Io),
	}
	if at := created[id]; at > 0 {
		out.StartTime = metav1.NewTime(time.Unix(0, at))
	}
	if l := c.WritableLayer; l != nil {
		out.Rootfs = &statsapi.FsStats{Time: metav1.NewTime(time.Unix(0, l.Timestamp)), UsedBytes: value(l.UsedBytes), InodesUsed: value(l.InodesUsed)}
	}
	if s := c.Swap; s != nil {
		out.Swap = &statsapi.SwapStats{Time: metav1.NewTime(time.Unix(0, s.Timestamp)), SwapAvailableBytes: value(s.SwapAvailableBytes), SwapUsageBytes: value(s.SwapUsageBytes)}
	}
	return out
}

func (p *Provider) cpu(key string, c *runtimeapi.CpuUsage, now time.Time) *statsapi.CPUStats {
	if c == nil {
		return nil
	}
	at := now
	if c.Timestamp > 0 {
		at = time.Unix(0, c.Timestamp)
	}
	out := &statsapi.CPUStats{Time: metav1.NewTime(at), UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds), UsageNanoCores: value(c.UsageNanoCores), PSI: psiStats(c.Psi)}
	if out.UsageNanoCores == nil && out.UsageCoreNanoSeconds != nil {
		out.UsageNanoCores = p.rate(key, *out.UsageCoreNanoSeconds, at)
	}
	return out
}

func memoryStats(m *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if m == nil {
		return nil
	}
	return &statsapi.MemoryStats{
		Time: metav1.NewTime(time.Unix(0, m.Timestamp)), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes),
		WorkingSetBytes: value(m.WorkingSetBytes), RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults), PSI: psiStats(m.Psi),
	}
}

func ioStats(io *runtimeapi.IoUsage) *statsapi.IOStats {
	if io == nil {
		return nil
	}
	return &statsapi.IOStats{Time: metav1.NewTime(time.Unix(0, io.Timestamp)), PSI: psiStats(io.Psi)}
}

// psiStats is pressure stall information (KEP-4205), with the totals as the kernel counts them, in microseconds.
func psiStats(p *runtimeapi.PsiStats) *statsapi.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsapi.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

func networkStats(n *runtimeapi.NetworkUsage) *statsapi.NetworkStats {
	if n == nil {
		return nil
	}
	out := &statsapi.NetworkStats{Time: metav1.NewTime(time.Unix(0, n.Timestamp))}
	for _, i := range n.Interfaces {
		out.Interfaces = append(out.Interfaces, interfaceStats(i))
	}
	if d := n.DefaultInterface; d != nil {
		out.InterfaceStats = interfaceStats(d)
		// Some runtimes list it with the others, some do not.
		if !slices.ContainsFunc(n.Interfaces, func(i *runtimeapi.NetworkInterfaceUsage) bool { return i.GetName() == d.GetName() }) {
			out.Interfaces = slices.Insert(out.Interfaces, 0, out.InterfaceStats)
		}
	}
	return out
}

func interfaceStats(i *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
	return statsapi.InterfaceStats{Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

// FileSystem measures the file system that holds path, nil if it cannot be measured.
func FileSystem(path string, at metav1.Time) *statsapi.FsStats {
	var s unix.Statfs_t
	if path == "" || unix.Statfs(path, &s) != nil {
		return nil
	}
	size := uint64(s.Bsize)
	capacity, available, used := s.Blocks*size, s.Bavail*size, (s.Blocks-s.Bfree)*size
	inodes, free := s.Files, s.Ffree
	inodesUsed := inodes - free
	return &statsapi.FsStats{Time: at, AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &used, Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}
}

func memory() (total, available uint64) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	return total, min(available, total)
}

// pages says how much memory of the machine belongs to programs rather than files, and how often a page was not there; nil is not known.
func pages() (rssBytes, faults, majorFaults *uint64) {
	data, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return nil, nil, nil
	}
	for line := range strings.Lines(string(data)) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(count, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "nr_anon_pages":
			n *= uint64(os.Getpagesize())
			rssBytes = &n
		case "pgfault":
			faults = &n
		case "pgmajfault":
			majorFaults = &n
		}
	}
	return rssBytes, faults, majorFaults
}

// procStatCPU is the CPU time that the machine used, in nanoseconds; the kernel counts in hundredths of a second here.
func procStatCPU() uint64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var sum uint64
	for i, f := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 { // idle, iowait, guests
			continue
		}
		n, _ := strconv.ParseUint(f, 10, 64)
		sum += n
	}
	return sum * 10_000_000
}

func bootTime(now time.Time) time.Time {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return now
	}
	return now.Add(-time.Duration(i.Uptime) * time.Second).Truncate(time.Second)
}

func pids() (limit, running int64) {
	limit = MaxPIDs()
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) == nil {
		running = int64(i.Procs)
	}
	return limit, running
}

// MaxPIDs is how many processes the kernel lets there be.
func MaxPIDs() int64 {
	var limit int64
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && (limit == 0 || v < limit) {
			limit = v
		}
	}
	return limit
}

// network reads the interfaces of the node; the one with the default route comes first.
func network(at metav1.Time) *statsapi.NetworkStats {
	data, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return nil
	}
	main := ""
	if routes, err := os.ReadFile("/proc/self/net/route"); err == nil {
		for _, line := range strings.Split(string(routes), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[1] == "00000000" {
				main = f[0]
				break
			}
		}
	}
	out := &statsapi.NetworkStats{Time: at}
	for _, line := range strings.Split(string(data), "\n") {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 12 || name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		get := func(i int) *uint64 {
			n, _ := strconv.ParseUint(f[i], 10, 64)
			return &n
		}
		s := statsapi.InterfaceStats{Name: name, RxBytes: get(0), RxErrors: get(2), TxBytes: get(8), TxErrors: get(10)}
		if name == main {
			out.InterfaceStats = s
		}
		out.Interfaces = append(out.Interfaces, s)
	}
	return out
}

// PodPhaseRunning counts pods and containers for the kubelet's own metrics.
func PodPhaseRunning(pods []*corev1.Pod) (running int, containers map[string]int) {
	containers = map[string]int{"running": 0, "created": 0, "exited": 0}
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning {
			running++
		}
		for i := range p.Status.ContainerStatuses {
			switch s := &p.Status.ContainerStatuses[i].State; {
			case s.Running != nil:
				containers["running"]++
			case s.Terminated != nil:
				containers["exited"]++
			default:
				containers["created"]++
			}
		}
	}
	return running, containers
}
