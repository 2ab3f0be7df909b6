package runtime

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/images"
)

func testInput(change func(*cri.ContainerConfig)) specInput {
	in := specInput{
		id: "c1", config: &cri.ContainerConfig{Command: []string{"serve"}, Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}}},
		sandboxConfig: &cri.PodSandboxConfig{Hostname: "pod"},
		rootfs:        "/rootfs", cgroup: "/k/pod/c1", netns: "/ns/net", ipcns: "/ns/ipc", utsns: "/ns/uts", shm: "/shm",
		hostname: "/f/hostname", resolvConf: "/f/resolv.conf",
		host: host{
			capabilities: capabilitySet(1<<41 - 1), hostname: "node", hugetlb: true, swap: true,
			mountOf: func(string) (mountInfo, error) { return mountInfo{point: "/"}, nil },
			devices: func() ([]specs.LinuxDevice, error) { return []specs.LinuxDevice{{Path: "/dev/sda", Type: "b"}}, nil },
		},
	}
	if change != nil {
		change(in.config)
	}
	return in
}

func mustSpec(t *testing.T, in specInput) *specs.Spec {
	t.Helper()
	spec, _, err := buildSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestCommand(t *testing.T) {
	image := images.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}}
	tests := []struct {
		command, args []string
		image         images.ImageConfig
		want          string
	}{
		{nil, nil, image, "/entry cmd"},
		{nil, []string{"arg"}, image, "/entry arg"},
		{[]string{"run"}, nil, image, "run"},
		{[]string{"run"}, []string{"arg"}, image, "run arg"},
		{nil, nil, images.ImageConfig{Cmd: []string{"cmd"}}, "cmd"},
		{nil, nil, images.ImageConfig{}, ""},
	}
	for _, tt := range tests {
		got, err := command(&cri.ContainerConfig{Command: tt.command, Args: tt.args}, tt.image)
		if strings.Join(got, " ") != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%v %v: %v, %v", tt.command, tt.args, got, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	in := testInput(func(c *cri.ContainerConfig) {
		c.Tty = true
		c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("pod")}, {Key: "B", Value: []byte("x=y")}}
	})
	in.image.Env = []string{"A=image", "PATH=/image", "malformed"}
	want := []string{"PATH=/image", "HOSTNAME=pod", "TERM=xterm", "A=pod", "B=x=y"}
	if got := environment(in); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCapabilities(t *testing.T) {
	all := capabilitySet(1<<41 - 1)
	without := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == "CAP_SYS_RESOURCE" })
	tests := []struct {
		name        string
		add, drop   []string
		privileged  bool
		host        []string
		has, hasNot []string
		count       int
	}{
		{name: "default", host: all, has: []string{"CAP_CHOWN", "CAP_NET_RAW"}, hasNot: []string{"CAP_SYS_ADMIN"}, count: 14},
		{name: "add", host: all, add: []string{"net_admin", "CAP_SYS_TIME"}, has: []string{"CAP_NET_ADMIN", "CAP_SYS_TIME"}, count: 16},
		{name: "drop", host: all, drop: []string{"KILL"}, hasNot: []string{"CAP_KILL"}, count: 13},
		{name: "drop all add one", host: all, drop: []string{"ALL"}, add: []string{"CHOWN"}, has: []string{"CAP_CHOWN"}, count: 1},
		{name: "add all drop one", host: all, add: []string{"all"}, drop: []string{"CHOWN"}, hasNot: []string{"CAP_CHOWN"}, count: 40},
		{name: "privileged", host: without, privileged: true, hasNot: []string{"CAP_SYS_RESOURCE"}, count: 40},
		{name: "what this machine lacks", host: without, add: []string{"SYS_RESOURCE"}, hasNot: []string{"CAP_SYS_RESOURCE"}, count: 14},
	}
	for _, tt := range tests {
		got, err := capabilities(&cri.LinuxContainerSecurityContext{Privileged: tt.privileged, Capabilities: &cri.Capability{AddCapabilities: tt.add, DropCapabilities: tt.drop}}, tt.host)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if len(got.Bounding) != tt.count {
			t.Errorf("%s: %d capabilities, want %d", tt.name, len(got.Bounding), tt.count)
		}
		for _, n := range tt.has {
			if !slices.Contains(got.Bounding, n) {
				t.Errorf("%s: lacks %s", tt.name, n)
			}
		}
		for _, n := range tt.hasNot {
			if slices.Contains(got.Bounding, n) {
				t.Errorf("%s: has %s", tt.name, n)
			}
		}
	}
	if _, err := capabilities(&cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"FLY"}}}, all); err == nil {
		t.Error("an unknown capability was accepted")
	}
}

func TestSpecOfPrivilegedContainer(t *testing.T) {
	in := testInput(func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Privileged = true
		c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	})
	spec, seccomp, err := buildSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	if seccomp || spec.Linux.Seccomp != nil || len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) > 0 {
		t.Error("a privileged container is confined")
	}
	if len(spec.Linux.Devices) != 1 || !spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("devices %v %v", spec.Linux.Devices, spec.Linux.Resources.Devices)
	}
	for _, m := range spec.Mounts {
		if strings.HasPrefix(m.Destination, "/sys") && !slices.Contains(m.Options, "rw") {
			t.Errorf("%s is mounted %v", m.Destination, m.Options)
		}
	}
}

func TestSpecHidesPaths(t *testing.T) {
	spec := mustSpec(t, testInput(nil))
	if !slices.Contains(spec.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(spec.Linux.ReadonlyPaths, "/proc/sys") {
		t.Error("the defaults are missing")
	}
	spec = mustSpec(t, testInput(func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = []string{}, []string{"/proc/x"}
	}))
	if len(spec.Linux.MaskedPaths) != 0 || len(spec.Linux.ReadonlyPaths) != 1 {
		t.Errorf("what the pod says does not count: %v %v", spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths)
	}
}

func TestSpecNamespaces(t *testing.T) {
	kinds := func(in specInput) string {
		var all []string
		for _, n := range mustSpec(t, in).Linux.Namespaces {
			all = append(all, string(n.Type)+":"+n.Path)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	if got := kinds(testInput(nil)); got != "ipc:/ns/ipc mount: network:/ns/net pid: uts:/ns/uts" {
		t.Error(got)
	}
	in := testInput(func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	in.pidns, in.host.unified = "/ns/pid", true
	if got := kinds(in); got != "cgroup: ipc:/ns/ipc mount: network:/ns/net pid:/ns/pid uts:/ns/uts" {
		t.Error(got)
	}
	in = testInput(func(c *cri.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE })
	in.netns, in.ipcns, in.utsns = "", "", ""
	if got := kinds(in); got != "mount:" {
		t.Error(got)
	}
}

func TestSpecMounts(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	in := testInput(func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{HostPath: dir, ContainerPath: "/a/b/c"},
			{HostPath: filepath.Join(dir, "link"), ContainerPath: "/a/", Readonly: true},
			{HostPath: dir, ContainerPath: "/etc/hosts", MountOptions: []string{"noexec"}},
			{HostPath: dir, ContainerPath: "/dev/shm", Readonly: true, RecursiveReadOnly: true},
			{HostPath: filepath.Join(dir, "new"), ContainerPath: "/new", Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		}
	})
	in.hosts = "/f/hosts"
	spec := mustSpec(t, in)
	at := map[string]specs.Mount{}
	var order []string
	for _, m := range spec.Mounts {
		if _, twice := at[m.Destination]; twice {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = m
		order = append(order, m.Destination)
	}
	if slices.Index(order, "/a") > slices.Index(order, "/a/b/c") {
		t.Errorf("parents come after children: %v", order)
	}
	if m := at["/a"]; m.Source != dir || !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "rprivate") {
		t.Errorf("link: %+v", m)
	}
	if m := at["/etc/hosts"]; m.Source != dir || !slices.Contains(m.Options, "noexec") {
		t.Errorf("the pod's own /etc/hosts: %+v", m)
	}
	if m := at["/dev/shm"]; !slices.Contains(m.Options, "rro") {
		t.Errorf("recursively read-only: %+v", m)
	}
	if m := at["/new"]; !slices.Contains(m.Options, "rslave") || spec.Linux.RootfsPropagation != "rslave" {
		t.Errorf("propagation: %+v, %s", m, spec.Linux.RootfsPropagation)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Error("a missing directory was not made")
	}
	for name, m := range map[string]*cri.Mount{
		"not shared":     {HostPath: dir, ContainerPath: "/x", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		"relative":       {HostPath: dir, ContainerPath: "x"},
		"relative host":  {HostPath: "x", ContainerPath: "/x"},
		"rro but writes": {HostPath: dir, ContainerPath: "/x", RecursiveReadOnly: true},
	} {
		if _, _, err := buildSpec(testInput(func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{m} })); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	in = testInput(func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/x", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	})
	in.host.mountOf = func(string) (mountInfo, error) { return mountInfo{point: "/", shared: true}, nil }
	if got := mustSpec(t, in).Linux.RootfsPropagation; got != "rshared" {
		t.Errorf("propagation %q", got)
	}
}

func TestSpecResources(t *testing.T) {
	in := testInput(func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{
			CpuShares: 102, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 1 << 30, MemorySwapLimitInBytes: 1 << 30,
			OomScoreAdj: 900, HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4}},
		}
	})
	spec := mustSpec(t, in)
	r := spec.Linux.Resources
	if *r.CPU.Shares != 102 || *r.CPU.Quota != 50000 || *r.CPU.Period != 100000 || *r.Memory.Limit != 1<<30 || *r.Memory.Swap != 1<<30 ||
		len(r.HugepageLimits) != 1 || *spec.Process.OOMScoreAdj != 900 {
		t.Errorf("resources %+v", r)
	}
	in.host.swap, in.host.hugetlb = false, false
	if r := mustSpec(t, in).Linux.Resources; r.Memory.Swap != nil || len(r.HugepageLimits) != 0 {
		t.Error("limits that this machine cannot enforce are asked for")
	}
}

func TestSeccompProfileFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile.json")
	data, err := json.Marshal(specs.LinuxSeccomp{DefaultAction: specs.ActLog})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	profile := func(ref string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}
		}
	}
	if spec := mustSpec(t, testInput(profile(path))); spec.Linux.Seccomp == nil || spec.Linux.Seccomp.DefaultAction != specs.ActLog {
		t.Error("the profile was not taken")
	}
	for _, bad := range []string{"relative.json", path + ".missing", filepath.Dir(path)} {
		if _, _, err := buildSpec(testInput(profile(bad))); err == nil {
			t.Errorf("profile %q was accepted", bad)
		}
	}
}

func TestStopSignal(t *testing.T) {
	tests := []struct {
		pod   cri.Signal
		image string
		want  unix.Signal
	}{
		{want: unix.SIGTERM},
		{image: "SIGQUIT", want: unix.SIGQUIT},
		{image: "int", want: unix.SIGINT},
		{image: "37", want: 37},
		{image: "SIGRTMIN+3", want: 37},
		{image: "nonsense", want: unix.SIGTERM},
		{image: "999", want: unix.SIGTERM},
		{pod: cri.Signal_SIGNAL_SIGUSR2, image: "SIGQUIT", want: unix.SIGUSR2},
		{pod: cri.Signal_SIGNAL_SIGRTMINPLUS2, want: 36},
		{pod: cri.Signal_SIGNAL_SIGRTMAXMINUS1, want: 63},
		{pod: cri.Signal_SIGNAL_SIGRTMAX, want: 64},
	}
	for _, tt := range tests {
		got := stopSignal(&cri.ContainerConfig{StopSignal: tt.pod}, images.ImageConfig{StopSignal: tt.image})
		if got != tt.want {
			t.Errorf("%v %q: %v, want %v", tt.pod, tt.image, got, tt.want)
		}
		if tt.pod != 0 && criSignal(got) != tt.pod {
			t.Errorf("%v is shown as %v", tt.pod, criSignal(got))
		}
	}
}

func TestSysctls(t *testing.T) {
	own, none := pinned{net: true, ipc: true, uts: true}, pinned{}
	for name, want := range map[string]bool{
		"net.ipv4.ip_forward": true, "net/ipv4/conf/eth0.1/forwarding": true, "kernel.shmmax": true, "kernel.msgmax": true, "kernel.sem": true,
		"fs.mqueue.msg_max": true, "vm.swappiness": false, "kernel.panic": false, "net.../../vm.x": false, "net.//.vm.x": false,
	} {
		if err := sysctlAllowed(name, own); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
		if sysctlAllowed(name, none) == nil {
			t.Errorf("%s is allowed on the host", name)
		}
	}
	if got := sysctlPath("net.ipv4.conf.eth0/1.x"); got != "net/ipv4/conf/eth0.1/x" {
		t.Error(got)
	}
}

func TestParsers(t *testing.T) {
	dev := "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 1 2 0 0 0 0 0 200 3 4 0 0 0 0 0\n"
	if got := parseNetDev(dev); len(got) != 1 || got[0].RxBytes.Value != 100 || got[0].RxErrors.Value != 2 || got[0].TxBytes.Value != 200 || got[0].TxErrors.Value != 4 {
		t.Errorf("%v", got)
	}
	psi := parsePSI("some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
	if psi.Some.Avg10 != 1.5 || psi.Some.Total != 42 || psi.Full.Total != 7 {
		t.Errorf("%v", psi)
	}
	conf, err := resolvConf(&cri.DNSConfig{Servers: []string{"1.1.1.1", "8.8.8.8"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5", "edns0"}})
	if err != nil || string(conf) != "search a b\nnameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:5 edns0\n" {
		t.Errorf("%q, %v", conf, err)
	}
}
