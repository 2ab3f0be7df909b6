package registration

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the machine has.
type Machine struct {
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	HugePages   map[string]int64 // bytes by page size, e.g. "2Mi"
	SwapBytes   int64

	MachineID, SystemUUID, BootID string
	Kernel, OSImage               string
}

// ReadMachine looks at the machine; dir is on the file system whose size counts as ephemeral storage.
func ReadMachine(dir string) (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), HugePages: map[string]int64{}}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return m, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			m.MemoryBytes = n << 10
		case "SwapTotal:":
			m.SwapBytes = n << 10
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	m.DiskBytes = int64(fs.Blocks) * fs.Bsize
	pages, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, p := range pages {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, _ := strconv.ParseInt(read(filepath.Join(p, "nr_hugepages")), 10, 64)
		m.HugePages[resource.NewQuantity(kib<<10, resource.BinarySI).String()] = n * kib << 10
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.MachineID = read("/etc/machine-id")
	m.SystemUUID = read("/sys/class/dmi/id/product_uuid")
	if m.SystemUUID == "" {
		m.SystemUUID = m.MachineID
	}
	m.BootID = read("/proc/sys/kernel/random/boot_id")
	m.OSImage = osImage(read("/etc/os-release"))
	return m, lines.Err()
}

func read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func osImage(release string) string {
	for _, line := range strings.Split(release, "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// Capacity is the machine as resources.
func (m Machine) Capacity(maxPods int) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.MemoryBytes>>10<<10, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.DiskBytes>>10<<10, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for size, bytes := range m.HugePages {
		out[corev1.ResourceName(corev1.ResourceHugePagesPrefix+size)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

// Allocatable is the capacity without what is reserved, huge pages and the eviction threshold for memory.
func Allocatable(capacity, reserved corev1.ResourceList, evictionMemoryBytes int64) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range capacity {
		q = q.DeepCopy()
		if r, ok := reserved[name]; ok {
			q.Sub(r)
		}
		if name == corev1.ResourceMemory {
			q.Sub(*resource.NewQuantity(evictionMemoryBytes, resource.BinarySI))
			for other, pages := range capacity {
				if strings.HasPrefix(string(other), corev1.ResourceHugePagesPrefix) {
					q.Sub(pages)
				}
			}
		}
		if q.Sign() < 0 {
			q = *resource.NewQuantity(0, q.Format)
		}
		out[name] = q
	}
	return out
}
