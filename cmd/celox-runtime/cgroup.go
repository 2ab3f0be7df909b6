package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/cgroupfs"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDir is the directory of a cgroup in the hierarchy of a controller; with
// the unified hierarchy all controllers share one.
func cgroupDir(controller, path string) string {
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join(cgroupRoot, path)
	}
	return filepath.Join(cgroupRoot, controller, path)
}

// oomKills counts the processes of a cgroup that the kernel killed for memory.
// Reading it once at the end of a task needs no watch on every container.
func oomKills(path string) int {
	file := filepath.Join(cgroupDir("memory", path), "memory.oom_control")
	if cgroups.IsCgroup2UnifiedMode() {
		file = filepath.Join(cgroupDir("", path), "memory.events")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return counter(data, "oom_kill")
}

// counter finds "name value" on a line of its own.
func counter(data []byte, name string) int {
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) == 2 && string(fields[0]) == name {
			n, err := strconv.Atoi(string(fields[1]))
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

const (
	killAllTries = 200
	killAllDelay = 2 * time.Millisecond
)

// killAll kills every process of a cgroup and below, again while new ones
// appear, and returns when none is left or it gave up.
func killAll(path string) {
	dir := cgroupDir("pids", path)
	if cgroups.IsCgroup2UnifiedMode() && cgroupfs.Kill(dir) == nil {
		cgroupfs.AwaitEmpty(dir, killAllTries*killAllDelay)
		return
	}
	for range killAllTries {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil || len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(killAllDelay)
	}
}
