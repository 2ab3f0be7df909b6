package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/cdi"
	"github.com/celox/celox/internal/runtime/images"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// maxSeccompProfile bounds a profile file of the node's administrator.
	maxSeccompProfile = 1 << 20
)

// host is what a specification depends on besides its pod: facts about this
// machine and process, found out once.
type host struct {
	capabilities []string
	unified      bool // one cgroup hierarchy, version 2
	hugetlb      bool
	swap         bool
	appArmor     bool
	// hostname of the machine, for pods on its network.
	hostname string
	// mountOf tells on which mount a path is and how that propagates.
	mountOf func(path string) (mountInfo, error)
	// devices lists every device of the machine, for privileged containers.
	devices func() ([]specs.LinuxDevice, error)
}

// specInput is everything that a container's specification is computed from.
type specInput struct {
	id            string
	config        *cri.ContainerConfig
	sandboxConfig *cri.PodSandboxConfig
	image         images.ImageConfig
	user          user
	rootfs        string
	cgroup        string // of the container
	// Paths of what the pod's containers share; empty when they use the host's.
	netns, ipcns, utsns, pidns string
	shm                        string
	hostname, resolvConf       string // files
	hosts                      string // file; used if the pod brings none
	host                       host
}

// buildSpec computes the OCI specification of a container. defaultSeccomp says
// that the built-in filter is to be used.
func buildSpec(in specInput) (spec *specs.Spec, defaultSeccomp bool, err error) {
	sc := in.config.GetLinux().GetSecurityContext()
	args, err := command(in.config, in.image)
	if err != nil {
		return nil, false, err
	}
	caps, err := capabilities(sc, in.host.capabilities)
	if err != nil {
		return nil, false, err
	}
	cwd := in.config.GetWorkingDir()
	if cwd == "" {
		cwd = in.image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	if !filepath.IsAbs(cwd) {
		return nil, false, fmt.Errorf("working directory %q is not absolute", cwd)
	}
	score := int(in.config.GetLinux().GetResources().GetOomScoreAdj())
	spec = &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: in.rootfs, Readonly: sc.GetReadonlyRootfs()},
		Process: &specs.Process{
			Terminal:        in.config.GetTty(),
			User:            specs.User{UID: in.user.UID, GID: in.user.GID, AdditionalGids: in.user.Groups},
			Args:            args,
			Env:             environment(in),
			Cwd:             cwd,
			Capabilities:    caps,
			NoNewPrivileges: sc.GetNoNewPrivs(),
			OOMScoreAdj:     &score,
		},
		Linux: &specs.Linux{
			CgroupsPath: in.cgroup,
			Namespaces:  namespaces(in),
			Resources:   &specs.LinuxResources{},
		},
	}
	resources(spec.Linux.Resources, in.config.GetLinux().GetResources(), in.host)
	if err := addDevices(spec, in); err != nil {
		return nil, false, err
	}
	if err := addMounts(spec, in); err != nil {
		return nil, false, err
	}
	hidePaths(spec, sc)
	if defaultSeccomp, err = addSeccomp(spec, sc); err != nil {
		return nil, false, err
	}
	if err := addAppArmor(spec, sc, in.host); err != nil {
		return nil, false, err
	}
	var names []string
	for _, d := range in.config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	return spec, defaultSeccomp, cdi.Apply(spec, cdi.Dirs(), names, devicesAt)
}

// command combines what pod and image say: a command replaces the image's entry
// point and with it the image's arguments.
func command(c *cri.ContainerConfig, image images.ImageConfig) ([]string, error) {
	entry, args := c.GetCommand(), c.GetArgs()
	if len(entry) == 0 {
		if len(args) == 0 {
			args = image.Cmd
		}
		entry = image.Entrypoint
	}
	all := slices.Concat(entry, args)
	if len(all) == 0 {
		return nil, errors.New("no command specified")
	}
	return all, nil
}

// environment is the image's and the pod's variables over a few defaults; the
// last one of a name counts.
func environment(in specInput) []string {
	hostname := in.sandboxConfig.GetHostname()
	if in.utsns == "" || hostname == "" {
		hostname = in.host.hostname
	}
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname}
	if in.config.GetTty() {
		env = append(env, "TERM=xterm")
	}
	env = append(env, in.image.Env...)
	for _, e := range in.config.GetEnvs() {
		env = append(env, e.GetKey()+"="+string(e.GetValue()))
	}
	at := map[string]int{}
	var out []string
	for _, e := range env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			continue
		}
		if i, seen := at[name]; seen {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

func namespaces(in specInput) []specs.LinuxNamespace {
	all := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(t specs.LinuxNamespaceType, path string) {
		if path != "" {
			all = append(all, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	join(specs.NetworkNamespace, in.netns)
	join(specs.IPCNamespace, in.ipcns)
	join(specs.UTSNamespace, in.utsns)
	switch in.config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() {
	case cri.NamespaceMode_NODE:
	case cri.NamespaceMode_CONTAINER:
		all = append(all, specs.LinuxNamespace{Type: specs.PIDNamespace})
	default:
		join(specs.PIDNamespace, in.pidns)
	}
	if in.host.unified && !in.config.GetLinux().GetSecurityContext().GetPrivileged() {
		// A privileged container sees the machine's groups, as containerd has it.
		all = append(all, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return all
}

// resources translates limits. What this machine cannot enforce at all is left
// out, as its cgroup files do not exist.
func resources(out *specs.LinuxResources, r *cri.LinuxContainerResources, h host) {
	if r == nil {
		return
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := r.GetCpuShares(); v > 0 {
		shares := uint64(v)
		cpu.Shares = &shares
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := r.GetCpuPeriod(); v > 0 {
		period := uint64(v)
		cpu.Period = &period
	}
	out.CPU = cpu
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory = &specs.LinuxMemory{Limit: &v}
		if swap := r.GetMemorySwapLimitInBytes(); swap != 0 && h.swap {
			out.Memory.Swap = &swap
		}
	}
	if h.hugetlb {
		for _, l := range r.GetHugepageLimits() {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
		}
	}
	if h.unified {
		out.Unified = r.GetUnified()
	}
}

// maskedPaths and readonlyPaths hide what a container has no business with, if
// the pod does not say which.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func hidePaths(spec *specs.Spec, sc *cri.LinuxContainerSecurityContext) {
	if sc.GetPrivileged() {
		return
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
	// An empty list that is there means none (procMount: Unmasked).
	if spec.Linux.MaskedPaths == nil {
		spec.Linux.MaskedPaths = maskedPaths
	}
	if spec.Linux.ReadonlyPaths == nil {
		spec.Linux.ReadonlyPaths = readonlyPaths
	}
}

func addSeccomp(spec *specs.Spec, sc *cri.LinuxContainerSecurityContext) (bool, error) {
	profile := sc.GetSeccomp()
	if profile == nil || sc.GetPrivileged() {
		return false, nil
	}
	switch profile.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault:
		return true, nil
	case cri.SecurityProfile_Localhost:
		p, err := readSeccompProfile(strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/"))
		spec.Linux.Seccomp = p
		return false, err
	}
	return false, nil
}

func readSeccompProfile(path string) (*specs.LinuxSeccomp, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("seccomp profile %q is not an absolute path", path)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxSeccompProfile {
		return nil, fmt.Errorf("cannot load seccomp profile %s: not a regular file of at most %d bytes", path, maxSeccompProfile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile: %w", err)
	}
	p := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile %s: %w", path, err)
	}
	return p, nil
}

func addAppArmor(spec *specs.Spec, sc *cri.LinuxContainerSecurityContext, h host) error {
	profile := sc.GetApparmor()
	if profile.GetProfileType() != cri.SecurityProfile_Localhost || profile == nil {
		return nil // there is no default profile to load: as on a kernel without AppArmor
	}
	if !h.appArmor {
		return errors.New("AppArmor is not supported on this machine: the kernel has it not enabled")
	}
	spec.Process.ApparmorProfile = strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/")
	return nil
}

// addDevices allows and makes device files: the standard ones (which the holder
// adds), those the pod asks for, and for a privileged container all.
func addDevices(spec *specs.Spec, in specInput) error {
	if in.config.GetLinux().GetSecurityContext().GetPrivileged() {
		all, err := in.host.devices()
		if err != nil {
			return err
		}
		spec.Linux.Devices = all
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	}
	for _, d := range in.config.GetDevices() {
		found, err := devicesAt(d.GetHostPath(), d.GetContainerPath())
		if err != nil {
			return err
		}
		for _, dev := range found {
			spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == dev.Path })
			spec.Linux.Devices = append(spec.Linux.Devices, dev)
			spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: d.GetPermissions(),
			})
		}
	}
	return nil
}

// devicesAt describes the device at a path, or all in a directory, as they are
// to appear at another path.
func devicesAt(hostPath, containerPath string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(hostPath)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	st, err := os.Stat(resolved)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	if st.IsDir() {
		var all []specs.LinuxDevice
		entries, err := os.ReadDir(resolved)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			switch e.Name() {
			case "pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev":
				continue
			}
			if e.Type()&(os.ModeDevice|os.ModeDir) == 0 {
				continue
			}
			more, err := devicesAt(filepath.Join(resolved, e.Name()), filepath.Join(containerPath, e.Name()))
			if err != nil {
				continue // a device that went away
			}
			all = append(all, more...)
		}
		return all, nil
	}
	var s unix.Stat_t
	if err := unix.Stat(resolved, &s); err != nil {
		return nil, &os.PathError{Op: "stat", Path: resolved, Err: err}
	}
	var kind string
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return nil, fmt.Errorf("%s is not a device", hostPath)
	}
	mode := os.FileMode(s.Mode & 0o777)
	return []specs.LinuxDevice{{
		Path: containerPath, Type: kind,
		Major: int64(unix.Major(s.Rdev)), Minor: int64(unix.Minor(s.Rdev)),
		FileMode: &mode, UID: &s.Uid, GID: &s.Gid,
	}}, nil
}

// stopSignal is what asks a container to end: the pod's, the image's, or
// SIGTERM.
func stopSignal(c *cri.ContainerConfig, image images.ImageConfig) unix.Signal {
	if s := c.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig, ok := parseSignal(strings.TrimPrefix(s.String(), "SIGNAL_")); ok {
			return sig
		}
	}
	if sig, ok := parseSignal(image.StopSignal); ok {
		return sig
	}
	return unix.SIGTERM
}

// Real-time signals as glibc numbers them.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// parseSignal reads "SIGTERM", "TERM", "15", "SIGRTMIN+3" or "RTMAXMINUS2".
func parseSignal(text string) (unix.Signal, bool) {
	if n, err := strconv.Atoi(text); err == nil {
		return unix.Signal(n), n > 0 && n <= sigRTMax
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	name = strings.NewReplacer("MINUS", "-", "PLUS", "+").Replace(name)
	for prefix, base := range map[string]int{"SIGRTMIN": sigRTMin, "SIGRTMAX": sigRTMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil {
				return 0, false
			}
		}
		n := base + offset
		return unix.Signal(n), n >= sigRTMin && n <= sigRTMax
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}
