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

// Level is how much of something is left.
type Level struct{ Total, Available int64 }

// below tells whether less than the amount is left. What cannot be measured is not short.
func (l Level) below(a Amount) bool { return l.Total > 0 && l.Available < a.Of(l.Total) }

// Signals are the measurements.
type Signals struct {
	Memory, PIDs           Level
	NodeDisk, NodeInodes   Level
	ImageDisk, ImageInodes Level
	// OneDisk: images and everything else are on the same file system.
	OneDisk bool
}

// Read measures the machine, the file system that holds dir, and the one that holds the images (imageDir; "" if it isn't known).
func Read(dir, imageDir string) (Signals, error) {
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
			s.Memory.Total = kib << 10
		case "MemAvailable:":
			s.Memory.Available = kib << 10
		}
	}
	if err := lines.Err(); err != nil {
		return s, err
	}
	node, err := readDisk(dir)
	if err != nil {
		return s, err
	}
	s.NodeDisk, s.NodeInodes, s.OneDisk = node.bytes, node.inodes, true
	image := node
	if imageDir != "" {
		if image, err = readDisk(imageDir); err != nil {
			return s, err
		}
		s.OneDisk = image.id == node.id
	}
	s.ImageDisk, s.ImageInodes = image.bytes, image.inodes
	s.PIDs.Total = readInt("/proc/sys/kernel/pid_max")
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(data)); len(fields) > 3 {
			if _, total, ok := strings.Cut(fields[3], "/"); ok {
				n, _ := strconv.ParseInt(total, 10, 64)
				s.PIDs.Available = s.PIDs.Total - n
			}
		}
	}
	return s, nil
}

type disk struct {
	id            uint64
	bytes, inodes Level
}

func readDisk(dir string) (disk, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return disk{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return disk{}, fmt.Errorf("stat %s: %w", dir, err)
	}
	return disk{
		id: st.Dev, bytes: Level{int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize}, inodes: Level{int64(fs.Files), int64(fs.Ffree)},
	}, nil
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

// Any tells whether any does.
func (s State) Any() bool { return s != State{} }

// shortage is something of which too little is left.
type shortage struct {
	resource string // as messages call it
	level    Level
	amount   Amount
	image    bool // it is the images' disk that is short
}

// shortages lists what is short, the most urgent first: without memory nothing else can be put right.
func shortages(s Signals, t Thresholds) []shortage {
	if t.Off {
		return nil
	}
	t = t.Complete()
	var out []shortage
	for _, c := range []shortage{
		{resourceMemory, s.Memory, t.Memory, false},
		{resourceDisk, s.NodeDisk, t.NodeDisk, false}, {resourceDisk, s.ImageDisk, t.ImageDisk, true},
		{resourceInodes, s.NodeInodes, t.NodeInodes, false}, {resourceInodes, s.ImageInodes, t.ImageInodes, true},
		{resourcePIDs, s.PIDs, t.PIDs, false},
	} {
		if c.level.below(c.amount) {
			out = append(out, c)
		}
	}
	return out
}

const (
	resourceMemory = "memory"
	resourceDisk   = "ephemeral-storage"
	resourceInodes = "inodes"
	resourcePIDs   = "pids"
)

// Judge compares the measurements to the thresholds.
func Judge(s Signals, t Thresholds) State {
	var out State
	for _, c := range shortages(s, t) {
		switch c.resource {
		case resourceMemory:
			out.Memory = true
		case resourcePIDs:
			out.PID = true
		default:
			out.Disk = true
		}
	}
	return out
}

// Reclaim tells whether removing images can help with what is most urgent.
func Reclaim(s Signals, t Thresholds) bool {
	all := shortages(s, t)
	return len(all) > 0 && (all[0].resource == resourceDisk || all[0].resource == resourceInodes) && (s.OneDisk || all[0].image)
}

// Candidate is a pod and what it uses.
type Candidate struct {
	Pod         *corev1.Pod
	MemoryBytes int64
	// FilesBytes are its volumes and logs, RootBytes what its containers wrote into their own file systems, beside the images.
	FilesBytes, RootBytes int64
}

// systemCritical pods and static pods are never evicted.
const systemCritical = 2_000_000_000

// Victim chooses the pod to evict, or nil: of those that use more than they asked for, of what is most urgent, the one with the lowest
// priority, and of equals the one that exceeds its request most.
func Victim(s Signals, t Thresholds, pods []Candidate) *Candidate {
	all := shortages(s, t)
	if len(all) == 0 {
		return nil
	}
	short := all[0]
	over := func(c *Candidate) int64 {
		requests := resourcehelper.PodRequests(c.Pod, resourcehelper.PodResourcesOptions{})
		switch {
		case short.resource == resourceMemory:
			return c.MemoryBytes - requests.Memory().Value()
		case short.resource == resourcePIDs:
			return 0
		case s.OneDisk:
			return c.FilesBytes + c.RootBytes - requests.StorageEphemeral().Value()
		case short.image:
			return c.RootBytes - requests.StorageEphemeral().Value()
		}
		return c.FilesBytes - requests.StorageEphemeral().Value()
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
func Message(s Signals, t Thresholds) string {
	all := shortages(s, t)
	if len(all) == 0 {
		return ""
	}
	short := all[0]
	format, round := resource.BinarySI, int64(1024)
	if short.resource == resourceInodes || short.resource == resourcePIDs {
		format, round = resource.DecimalSI, 1
	}
	return fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", short.resource,
		resource.NewQuantity(short.amount.Of(short.level.Total), format), resource.NewQuantity(short.level.Available/round*round, format))
}
