package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/celox/celox/internal/runtime/holder"
)

// limits are the things that this process may not do here, found out once and
// said once.
type limits struct {
	minOOMScoreAdj int
	seccomp        bool
}

func findLimits() limits {
	l := limits{minOOMScoreAdj: -1000, seccomp: seccomp.Enabled}
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err == nil && !caps.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		// Without the capability a process may only raise its score.
		l.minOOMScoreAdj = ownOOMScoreAdj()
	}
	return l
}

func ownOOMScoreAdj() int {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}

// containerConfig turns a task into what libcontainer wants.
func (s *server) containerConfig(task *holder.Task) (*configs.Config, error) {
	spec := task.Spec
	if spec == nil || spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		return nil, holder.Errorf(holder.CodeInvalid, "task %s has no complete specification", task.ID)
	}
	if len(spec.Process.Args) == 0 {
		return nil, holder.Errorf(holder.CodeInvalid, "no command specified")
	}
	if !filepath.IsAbs(spec.Linux.CgroupsPath) {
		return nil, holder.Errorf(holder.CodeInvalid, "cgroup path %q is not absolute", spec.Linux.CgroupsPath)
	}
	if score := spec.Process.OOMScoreAdj; score != nil && *score < s.limits.minOOMScoreAdj {
		if s.saidOOM.CompareAndSwap(false, true) {
			s.log.Warn("this process may not lower the OOM score of containers (CAP_SYS_RESOURCE is missing); they keep its own",
				"wanted", *score, "used", s.limits.minOOMScoreAdj)
		}
		lowest := s.limits.minOOMScoreAdj
		spec.Process.OOMScoreAdj = &lowest
	}
	if task.DefaultSeccomp {
		if s.limits.seccomp {
			spec.Linux.Seccomp = defaultSeccomp(spec)
		} else if s.saidSeccomp.CompareAndSwap(false, true) {
			s.log.Warn("celox-runtime was built without libseccomp: containers run without the RuntimeDefault filter")
		}
	} else if spec.Linux.Seccomp != nil && !s.limits.seccomp {
		return nil, holder.Errorf(holder.CodeInvalid, "seccomp profiles are not supported: celox-runtime was built without libseccomp")
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: task.ID, Spec: spec})
	if err != nil {
		return nil, err
	}
	config.ParentDeathSignal = 0
	return config, nil
}

// bundle makes a directory the container's bundle: hooks are told of it, and read there what the container is (OCI runtime specification, state).
func bundle(config *configs.Config, spec *specs.Spec, dir string) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return err
	}
	config.Labels = append(slices.DeleteFunc(config.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") }), "bundle="+dir)
	return nil
}

func initProcess(p *specs.Process) *libcontainer.Process {
	process := &libcontainer.Process{
		Args: p.Args,
		Env:  p.Env,
		UID:  int(p.User.UID),
		GID:  int(p.User.GID),
		Cwd:  p.Cwd,
		Init: true,
	}
	for _, g := range p.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(g))
	}
	if p.ConsoleSize != nil {
		process.ConsoleWidth = uint16(p.ConsoleSize.Width)
		process.ConsoleHeight = uint16(p.ConsoleSize.Height)
	}
	return process
}

func execProcess(e *holder.ExecSpec) *libcontainer.Process {
	process := &libcontainer.Process{
		Args:          e.Args,
		Env:           e.Env,
		UID:           int(e.UID),
		GID:           int(e.GID),
		Cwd:           e.Cwd,
		ConsoleWidth:  e.Width,
		ConsoleHeight: e.Height,
	}
	for _, g := range e.Groups {
		process.AdditionalGroups = append(process.AdditionalGroups, int(g))
	}
	return process
}

// updateResources puts the limits that are set in r over those in force.
func updateResources(have *cgroups.Resources, r *specs.LinuxResources) {
	if c := r.CPU; c != nil {
		if c.Shares != nil {
			have.CpuShares = *c.Shares
			have.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		if c.Quota != nil {
			have.CpuQuota = *c.Quota
		}
		if c.Period != nil {
			have.CpuPeriod = *c.Period
		}
		if c.Cpus != "" {
			have.CpusetCpus = c.Cpus
		}
		if c.Mems != "" {
			have.CpusetMems = c.Mems
		}
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			have.Memory = *m.Limit
		}
		if m.Swap != nil {
			have.MemorySwap = *m.Swap
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		have.PidsLimit = p.Limit
	}
	if len(r.Unified) > 0 {
		if have.Unified == nil {
			have.Unified = map[string]string{}
		}
		for k, v := range r.Unified {
			have.Unified[k] = v
		}
	}
}

// startError removes what the container library wraps around the cause, so
// that people read `exec: "foo": executable file not found in $PATH`.
func startError(err error) error {
	text := err.Error()
	for _, prefix := range []string{
		"unable to start container process: ",
		"error during container init: ",
		"error executing setns process: ",
	} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New(text)
}
