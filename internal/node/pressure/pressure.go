package pressure

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Thresholds are the limits below which pods are evicted (hard eviction).
type Thresholds struct {
	MemoryAvailableBytes int64   // default 100 MiB
	DiskAvailable        float64 // share of the node's file system; default 0.10
	InodesFree           float64 // default 0.05
	PIDsAvailable        float64 // default: off
	Off                  bool
}

// Complete fills in the defaults.
func (t Thresholds) Complete() Thresholds {
	if t.MemoryAvailableBytes == 0 {
		t.MemoryAvailableBytes = 100 << 20
	}
	if t.DiskAvailable == 0 {
		t.DiskAvailable = 0.10
	}
	if t.InodesFree == 0 {
		t.InodesFree = 0.05
	}
	return t
}

// Signals are the measurements.
type Signals struct {
	MemoryTotalBytes, MemoryAvailableBytes int64
	DiskTotalBytes, DiskAvailableBytes     int64
	Inodes, InodesFree                     int64
	PIDsMax, PIDs                          int64
}

// Read measures the machine and the file system that holds dir.
func Read(dir string) (Signals, error) {
	var s Signals
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return s, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			s.MemoryTotalBytes = kib << 10
		case "MemAvailable:":
			s.MemoryAvailableBytes = kib << 10
		}
	}
	if err := lines.Err(); err != nil {
		return s, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return s, fmt.Errorf("statfs %s: %w", dir, err)
	}
	s.DiskTotalBytes = int64(fs.Blocks) * fs.Bsize
	s.DiskAvailableBytes = int64(fs.Bavail) * fs.Bsize
	s.Inodes, s.InodesFree = int64(fs.Files), int64(fs.Ffree)
	s.PIDsMax = readInt("/proc/sys/kernel/pid_max")
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(data)); len(fields) > 3 {
			if _, total, ok := strings.Cut(fields[3], "/"); ok {
				s.PIDs, _ = strconv.ParseInt(total, 10, 64)
			}
		}
	}
	return s, nil
}

func readInt(file string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// State is which conditions hold.
type State struct {
	Memory, Disk, PID bool
}

// Judge compares the measurements to the thresholds.
func Judge(s Signals, t Thresholds) State {
	if t.Off {
		return State{}
	}
	t = t.Complete()
	return State{
		Memory: s.MemoryTotalBytes > 0 && s.MemoryAvailableBytes < t.MemoryAvailableBytes,
		Disk: s.DiskTotalBytes > 0 && float64(s.DiskAvailableBytes) < t.DiskAvailable*float64(s.DiskTotalBytes) ||
			s.Inodes > 0 && float64(s.InodesFree) < t.InodesFree*float64(s.Inodes),
		PID: t.PIDsAvailable > 0 && s.PIDsMax > 0 && float64(s.PIDsMax-s.PIDs) < t.PIDsAvailable*float64(s.PIDsMax),
	}
}

// Candidate is a pod and what it uses.
type Candidate struct {
	Pod         *corev1.Pod
	MemoryBytes int64
	DiskBytes   int64
}

// systemCritical pods and static pods are never evicted.
const systemCritical = 2_000_000_000

// Victim chooses the pod to evict, or nil: of those that use more than they asked for the one with the lowest priority,
// and of equals the one that exceeds its request most.
func Victim(state State, pods []Candidate) *Candidate {
	if !state.Memory && !state.Disk && !state.PID {
		return nil
	}
	over := func(c *Candidate) int64 {
		requests := resourcehelper.PodRequests(c.Pod, resourcehelper.PodResourcesOptions{})
		if state.Memory {
			return c.MemoryBytes - requests.Memory().Value()
		}
		return c.DiskBytes - requests.StorageEphemeral().Value()
	}
	var list []*Candidate
	for i := range pods {
		p := pods[i].Pod
		if p.Spec.Priority != nil && *p.Spec.Priority >= systemCritical || p.Annotations["kubernetes.io/config.source"] != "" && p.Annotations["kubernetes.io/config.source"] != "api" {
			continue
		}
		list = append(list, &pods[i])
	}
	if len(list) == 0 {
		return nil
	}
	return slices.MinFunc(list, func(a, b *Candidate) int {
		ao, bo := over(a), over(b)
		if (ao > 0) != (bo > 0) {
			if ao > 0 {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(priority(a.Pod), priority(b.Pod)), cmp.Compare(bo, ao))
	})
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// Message tells why a pod was evicted.
func Message(state State, s Signals, t Thresholds) string {
	t = t.Complete()
	switch {
	case state.Memory:
		return fmt.Sprintf("The node was low on resource: memory. Threshold quantity: %s, available: %s. ",
			resource.NewQuantity(t.MemoryAvailableBytes, resource.BinarySI), resource.NewQuantity(s.MemoryAvailableBytes>>10<<10, resource.BinarySI))
	case state.PID:
		return "The node was low on resource: pids. "
	}
	return fmt.Sprintf("The node was low on resource: ephemeral-storage. Threshold quantity: %s, available: %s. ",
		resource.NewQuantity(int64(t.DiskAvailable*float64(s.DiskTotalBytes)), resource.BinarySI), resource.NewQuantity(s.DiskAvailableBytes>>10<<10, resource.BinarySI))
}
