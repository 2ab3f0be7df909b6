package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/celox/celox/internal/cgroupfs"
)

// Limits are what a group may use. Zero values set nothing.
type Limits struct {
	CPUShares   uint64 // v1's unit: 1024 per core
	CPUQuotaUS  int64  // per CPUPeriodUS; -1: no limit
	CPUPeriodUS uint64
	MemoryBytes int64 // -1: no limit
	PIDs        int64
	// HugePages are bytes by page size as the kernel writes it ("2MB"); sizes that aren't named keep what they have.
	HugePages map[string]int64
}

// Tree is a mounted cgroup hierarchy. Its methods are safe for concurrent use by different groups.
type Tree struct {
	unified string            // mount point of v2 if it has controllers
	mounts  map[string]string // v1: controller -> mount point
	root    string            // "/celox-ab12cd"
	sizes   []string          // of huge pages that can be limited: "2MB"
}

// controllers are those that the node and its runtime use.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "systemd"}

// Detect reads the mount table (normally /proc/self/mounts) and binds the tree to root.
func Detect(mounts, root string) (*Tree, error) {
	f, err := os.Open(mounts)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := &Tree{mounts: map[string]string{}, root: path.Clean("/" + root)}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			continue
		}
		switch fields[2] {
		case "cgroup2":
			if data, err := os.ReadFile(filepath.Join(fields[1], "cgroup.controllers")); err == nil && strings.Contains(string(data), "memory") {
				t.unified = fields[1]
			}
		case "cgroup":
			for _, o := range strings.Split(fields[3], ",") {
				o = strings.TrimPrefix(o, "name=")
				for _, c := range controllers {
					if o == c {
						t.mounts[c] = fields[1]
					}
				}
			}
		}
	}
	if t.unified == "" && len(t.mounts) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	if t.controls("hugetlb") {
		t.sizes = hugePageSizes("/sys/kernel/mm/hugepages")
	}
	return t, lines.Err()
}

// controls tells whether the machine has a controller.
func (t *Tree) controls(controller string) bool {
	if t.unified == "" {
		return t.mounts[controller] != ""
	}
	data, err := os.ReadFile(filepath.Join(t.unified, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(data)), controller)
}

// hugePageSizes are the sizes of huge pages that the kernel knows, as the names of cgroup files have them.
func hugePageSizes(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // a kernel without
	}
	var out []string
	for _, e := range entries {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			out = append(out, PageSize(kib<<10))
		}
	}
	return out
}

// PageSize writes a size in bytes as the kernel does in the names of cgroup files: "64KB", "2MB", "1GB".
func PageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for bytes >= 1024 && bytes%1024 == 0 && i < len(units)-1 {
		bytes, i = bytes/1024, i+1
	}
	return strconv.FormatInt(bytes, 10) + units[i]
}

// PageSizes are the sizes of huge pages that can be limited on this machine.
func (t *Tree) PageSizes() []string { return t.sizes }

// LimitsSwap tells whether swap can be limited; on v2 a group that exists has to be named, as the uppermost has no such file.
func (t *Tree) LimitsSwap(group string) bool {
	name := "memory.memsw.limit_in_bytes"
	if t.unified != "" {
		name = "memory.swap.max"
	}
	p := t.file("memory", group, name)
	if p == "" {
		return false
	}
	_, err := os.Stat(p)
	return err == nil
}

// Root is the group that everything is below.
func (t *Tree) Root() string { return t.root }

// Version is 1 or 2.
func (t *Tree) Version() int {
	if t.unified != "" {
		return 2
	}
	return 1
}

// dirs are the directories of one group, one per hierarchy.
func (t *Tree) dirs(group string) []string {
	if t.unified != "" {
		return []string{filepath.Join(t.unified, group)}
	}
	var out []string
	seen := map[string]bool{}
	for _, c := range controllers {
		if m := t.mounts[c]; m != "" && !seen[m] {
			seen[m] = true
			out = append(out, filepath.Join(m, group))
		}
	}
	return out
}

func (t *Tree) file(controller, group, name string) string {
	if t.unified != "" {
		return filepath.Join(t.unified, group, name)
	}
	if m := t.mounts[controller]; m != "" {
		return filepath.Join(m, group, name)
	}
	return ""
}

// Ensure makes the group, with its parents, and sets its limits.
func (t *Tree) Ensure(group string, l Limits) error {
	if t.unified != "" {
		// Controllers have to be handed down level by level.
		dir := t.unified
		for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
			enable(dir)
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		enable(dir)
		return t.Apply(group, l)
	}
	for _, dir := range t.dirs(group) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if m := t.mounts["cpuset"]; m != "" {
		// A v1 cpuset is born empty and cannot hold a process until it is filled.
		dir := m
		for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				inherit(dir, filepath.Join(dir, part), f)
			}
			dir = filepath.Join(dir, part)
		}
	}
	return t.Apply(group, l)
}

func inherit(parent, child, file string) {
	if have, err := os.ReadFile(filepath.Join(child, file)); err != nil || len(strings.TrimSpace(string(have))) > 0 {
		return
	}
	if want, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
		_ = os.WriteFile(filepath.Join(child, file), want, 0o644)
	}
}

// vacated is the group that processes are moved to which are in the way.
const vacated = "init"

// Vacate makes room for groups at the top of a hierarchy that is not the machine's own but a part of it, as a container has it: there the
// kernel hands controllers down only from groups without processes of their own. What is there is in the same container and moves one
// group further down. Version 1, and the machine's own top, have no such rule.
func (t *Tree) Vacate() error {
	if t.unified == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(t.unified, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return nil // the machine's own top
	}
	err := os.WriteFile(filepath.Join(t.unified, "cgroup.subtree_control"), []byte("+memory"), 0o644)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	dir := filepath.Join(t.unified, vacated)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	const rounds = 10 // processes may be born meanwhile
	for range rounds {
		data, err := os.ReadFile(filepath.Join(t.unified, "cgroup.procs"))
		if err != nil {
			return err
		}
		pids := strings.Fields(string(data))
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0o644)
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("move process %s out of the way: %w", pid, err)
			}
		}
	}
	return os.WriteFile(filepath.Join(t.unified, "cgroup.subtree_control"), []byte("+memory"), 0o644)
}

func enable(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(data)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// Apply sets the limits of a group that exists.
func (t *Tree) Apply(group string, l Limits) error {
	var errs []error
	set := func(controller, file, value string) {
		p := t.file(controller, group, file)
		if p == "" {
			return
		}
		if err := os.WriteFile(p, []byte(value), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", file, value, err))
		}
	}
	for size, bytes := range l.HugePages {
		value := strconv.FormatInt(bytes, 10)
		if t.unified == "" {
			set("hugetlb", "hugetlb."+size+".limit_in_bytes", value)
			continue
		}
		set("hugetlb", "hugetlb."+size+".max", value)
		// Reservations fail at mmap(2), where a program can handle it, rather than at the first touch. Newer kernels have the file.
		if _, err := os.Stat(t.file("hugetlb", group, "hugetlb."+size+".rsvd.max")); err == nil {
			set("hugetlb", "hugetlb."+size+".rsvd.max", value)
		}
	}
	if t.unified != "" {
		if l.CPUShares > 0 {
			set("cpu", "cpu.weight", strconv.FormatUint(Weight(l.CPUShares), 10))
		}
		if l.CPUPeriodUS > 0 {
			quota := "max"
			if l.CPUQuotaUS > 0 {
				quota = strconv.FormatInt(l.CPUQuotaUS, 10)
			}
			set("cpu", "cpu.max", quota+" "+strconv.FormatUint(l.CPUPeriodUS, 10))
		}
		switch {
		case l.MemoryBytes > 0:
			set("memory", "memory.max", strconv.FormatInt(l.MemoryBytes, 10))
		case l.MemoryBytes < 0:
			set("memory", "memory.max", "max")
		}
		if l.PIDs > 0 {
			set("pids", "pids.max", strconv.FormatInt(l.PIDs, 10))
		}
		return errors.Join(errs...)
	}
	if l.CPUShares > 0 {
		set("cpu", "cpu.shares", strconv.FormatUint(l.CPUShares, 10))
	}
	if l.CPUPeriodUS > 0 {
		set("cpu", "cpu.cfs_period_us", strconv.FormatUint(l.CPUPeriodUS, 10))
		quota := l.CPUQuotaUS
		if quota <= 0 {
			quota = -1
		}
		set("cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
	}
	if l.MemoryBytes != 0 {
		set("memory", "memory.limit_in_bytes", strconv.FormatInt(l.MemoryBytes, 10))
	}
	if l.PIDs > 0 {
		set("pids", "pids.max", strconv.FormatInt(l.PIDs, 10))
	}
	return errors.Join(errs...)
}

// Weight turns v1 shares (2..262144) into a v2 weight (1..10000) such that 1024 shares, one core, are 100: the quadratic
// interpolation in the exponent that the OCI runtimes agreed on, so that all of them give the same answer.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	l := log2(float64(shares))
	exponent := (l*l+125*l)/612 - 7.0/34.0
	w := ceilPow10(exponent)
	return min(max(w, 1), 10000)
}

// Remove removes the group and everything below it. Processes that are still dying make the kernel refuse for a moment:
// it is asked again for at most patience; on v2 it says itself when the group has become empty.
func (t *Tree) Remove(group string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait *= 2 {
		var errs []error
		for _, dir := range t.dirs(group) {
			if err := removeAll(dir); err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 {
			return nil
		}
		if time.Now().Add(wait).After(deadline) {
			return errors.Join(errs...)
		}
		if t.unified != "" {
			cgroupfs.AwaitEmpty(filepath.Join(t.unified, group), time.Until(deadline))
		}
		time.Sleep(wait)
	}
}

func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// List names the groups directly below the given one.
func (t *Tree) List(group string) []string {
	seen := map[string]bool{}
	var out []string
	for _, dir := range t.dirs(group) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				out = append(out, e.Name())
			}
		}
	}
	return out
}

// PIDs lists the processes of the group and of those below it.
func (t *Tree) PIDs(group string) []int {
	dirs := t.dirs(group)
	if len(dirs) == 0 {
		return nil
	}
	var out []int
	_ = filepath.WalkDir(dirs[0], func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, s := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(s); err == nil {
				out = append(out, n)
			}
		}
		return nil
	})
	return out
}

// Usage is what a group used so far.
type Usage struct {
	CPUNanoseconds  uint64
	MemoryBytes     uint64
	WorkingSetBytes uint64
	RSSBytes        uint64
	PIDs            uint64
}

// Usage reads the counters of the group, or of the whole machine for "/".
func (t *Tree) Usage(group string) Usage {
	var u Usage
	if t.unified != "" {
		if stat := keyed(t.file("cpu", group, "cpu.stat")); stat != nil {
			u.CPUNanoseconds = stat["usage_usec"] * 1000
		}
		u.MemoryBytes = number(t.file("memory", group, "memory.current"))
		stat := keyed(t.file("memory", group, "memory.stat"))
		u.RSSBytes = stat["anon"]
		u.WorkingSetBytes = minus(u.MemoryBytes, stat["inactive_file"])
	} else {
		u.CPUNanoseconds = number(t.file("cpuacct", group, "cpuacct.usage"))
		u.MemoryBytes = number(t.file("memory", group, "memory.usage_in_bytes"))
		stat := keyed(t.file("memory", group, "memory.stat"))
		u.RSSBytes = stat["total_rss"]
		u.WorkingSetBytes = minus(u.MemoryBytes, stat["total_inactive_file"])
	}
	u.PIDs = number(t.file("pids", group, "pids.current"))
	return u
}

func minus(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func number(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

func keyed(file string) map[string]uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	out := map[string]uint64{}
	for _, line := range strings.Split(string(data), "\n") {
		if key, value, ok := strings.Cut(line, " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				out[key] = n
			}
		}
	}
	return out
}
