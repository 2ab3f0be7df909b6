package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// tick is the unit of times in /proc: USER_HZ is 100 on every Linux that Go runs on.
	tick = 10 * time.Millisecond
	// noisyPercent of the machine's CPU time used by others is worth a remark.
	noisyPercent = 5
)

// cluster finds the processes of one cluster: the server, whatever names its data directory (the process that holds the containers, which
// outlives servers), and the descendants of both.
type cluster struct {
	pid     int
	dataDir string
}

// process is one process as /proc shows it.
type process struct {
	pid, parent int
	cpu         time.Duration // its own and that of the children it has waited for
	contained   bool          // in a pid namespace of its own: a pod's process, not the cluster's
}

// processes lists the cluster's processes and those of its pods.
func (c cluster) processes() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.pid))
	if err != nil {
		return nil, fmt.Errorf("the server has gone: %w", err)
	}
	all := map[int]process{}
	children := map[int][]int{}
	next := []int{c.pid}
	for _, dir := range dirs {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has just ended
		}
		p, err := parseStat(string(stat))
		if err != nil {
			return nil, err
		}
		all[p.pid] = p
		children[p.parent] = append(children[p.parent], p.pid)
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err == nil && bytes.Contains(cmdline, []byte(c.dataDir)) {
			next = append(next, p.pid)
		}
	}
	var found []process
	for len(next) > 0 {
		p, ok := all[next[0]]
		next = append(next[1:], children[next[0]]...)
		if !ok {
			continue
		}
		delete(all, p.pid) // each once
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
		p.contained = err == nil && ns != home
		found = append(found, p)
	}
	return found, nil
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)).
func parseStat(line string) (process, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')') // the name between may hold anything
	bad := fmt.Errorf("not a line of /proc/PID/stat: %.80q", line)
	if open < 0 || end < open {
		return process{}, bad
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	if err != nil {
		return process{}, bad
	}
	fields := strings.Fields(line[end+1:])
	const state = 3 // the number of the first field after the name
	if len(fields) <= 17-state {
		return process{}, bad
	}
	p := process{pid: pid}
	if p.parent, err = strconv.Atoi(fields[4-state]); err != nil {
		return process{}, bad
	}
	for _, f := range fields[14-state : 18-state] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return process{}, bad
		}
		p.cpu += time.Duration(n) * tick
	}
	return p, nil
}

// cpu is the CPU time of the cluster and its pods since its start.
func (c cluster) cpu() (time.Duration, error) {
	list, err := c.processes()
	var sum time.Duration
	for _, p := range list {
		sum += p.cpu
	}
	return sum, err
}

// pss is the memory of each of the cluster's own processes in bytes: what is shared with others counts in proportion.
func (c cluster) pss() ([]int64, error) { return c.each("smaps_rollup", "Pss:", 1<<10) }

// written is what each of the cluster's own processes has caused to be written to disks, in bytes.
func (c cluster) written() ([]int64, error) { return c.each("io", "write_bytes:", 1) }

// each reads a number from a file of each of the cluster's own processes.
func (c cluster) each(file, key string, unit int64) ([]int64, error) {
	list, err := c.processes()
	if err != nil {
		return nil, err
	}
	var numbers []int64
	for _, p := range list {
		if p.contained {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.pid, file))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		n, err := keyed(string(data), key)
		if err != nil {
			return nil, fmt.Errorf("/proc/%d/%s: %w", p.pid, file, err)
		}
		numbers = append(numbers, n*unit)
	}
	return numbers, nil
}

func sum(numbers []int64) int64 {
	var s int64
	for _, n := range numbers {
		s += n
	}
	return s
}

// keyed finds the number behind a key at the start of a line.
func keyed(text, key string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return strconv.ParseInt(f[0], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("no %s", key)
}

// noise tells what share of the machine others use over a while.
type noise struct {
	start time.Time
	other time.Duration
}

func beginNoise(c cluster) (noise, error) {
	other, err := otherCPU(c)
	return noise{time.Now(), other}, err
}

func (n noise) percent(c cluster) (float64, error) {
	other, err := otherCPU(c)
	whole := time.Since(n.start) * time.Duration(runtime.NumCPU())
	return max(0, 100*float64(other-n.other)/float64(whole)), err
}

// otherCPU is the CPU time of everything on this machine but the cluster, this program and what this program has waited for.
func otherCPU(c cluster) (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %.80q", line)
	}
	var sum time.Duration
	for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			sum += time.Duration(n) * tick
		}
	}
	own, err := c.cpu()
	if err != nil {
		return 0, err
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 0, err
		}
		own += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum - own, nil
}
