package runtime

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
	"github.com/celox/celox/internal/runtime/holdertest"
	"github.com/celox/celox/internal/runtime/images"
)

func TestMain(m *testing.M) {
	code := holdertest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

var _ Images = (*images.Store)(nil)

// oneImage is an image store with one image, made of busybox.
type oneImage struct {
	layer, dir string
	config     images.ImageConfig

	mu       sync.Mutex
	prepared map[string]bool // guarded by mu
}

const imageID = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func (o *oneImage) image() images.Image {
	return images.Image{ID: imageID, RepoTags: []string{"docker.io/library/busybox:latest"}, Size: 1, Config: o.config}
}

func (o *oneImage) Get(ref string) (images.Image, bool) {
	return o.image(), ref == "busybox" || ref == imageID
}
func (o *oneImage) List() []images.Image { return []images.Image{o.image()} }
func (o *oneImage) Pull(context.Context, string, *images.Auth, func(images.Progress)) (images.Image, error) {
	return images.Image{}, &images.Error{Kind: images.KindNotFound, Err: errors.New("no registry")}
}
func (o *oneImage) Remove(context.Context, string) error { return nil }
func (o *oneImage) FSInfo() (images.FSInfo, error)       { return images.FSInfo{Root: o.dir}, nil }
func (o *oneImage) Prepare(_ context.Context, _, id string) (images.Rootfs, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.prepared[id] = true
	r := images.Rootfs{Lower: []string{o.layer}, Upper: filepath.Join(o.dir, id, "upper"), Work: filepath.Join(o.dir, id, "work")}
	return r, errors.Join(os.MkdirAll(r.Upper, 0o755), os.MkdirAll(r.Work, 0o755))
}
func (o *oneImage) Release(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.prepared, id)
	return os.RemoveAll(filepath.Join(o.dir, id))
}
func (o *oneImage) Containers() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []string
	for id := range o.prepared {
		all = append(all, id)
	}
	return all
}

// plainNetwork gives out an address and counts who has one.
type plainNetwork struct {
	mu   sync.Mutex
	have map[string]bool // guarded by mu
	fail error
}

func (n *plainNetwork) Setup(_ context.Context, req SandboxRequest) (SandboxResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return SandboxResult{}, n.fail
	}
	if _, err := os.Stat(req.NetNSPath); err != nil {
		return SandboxResult{}, err
	}
	n.have[req.ID] = true
	return SandboxResult{IPs: []netip.Addr{netip.MustParseAddr("10.9.8.7"), netip.MustParseAddr("fd00::7")}}, nil
}

func (n *plainNetwork) Teardown(_ context.Context, req SandboxRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.have, req.ID)
	return nil
}
func (n *plainNetwork) Retain([]string) []string { return nil }

func (n *plainNetwork) Ready() error { return nil }

type fixture struct {
	t       testing.TB
	s       *Service
	images  *oneImage
	network *plainNetwork
	cfg     Config
	logs    string
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	holdertest.NeedRoot(t)
	dir := holdertest.Dir(t)
	f := &fixture{
		t:       t,
		images:  &oneImage{layer: filepath.Join(dir, "layer"), dir: filepath.Join(dir, "snapshots"), prepared: map[string]bool{}, config: images.ImageConfig{Env: []string{"FROM=image"}, Cmd: []string{"sleep", "1000"}}},
		network: &plainNetwork{have: map[string]bool{}},
		logs:    filepath.Join(dir, "logs"),
	}
	if err := holdertest.FillRootfs(f.images.layer); err != nil {
		t.Fatal(err)
	}
	f.cfg = Config{
		Root: filepath.Join(dir, "root"), Binary: holdertest.Binary(t), BinaryVersion: "v1", CgroupRoot: holdertest.Cgroup(t),
		Images: f.images, Network: f.network, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}
	f.open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := f.s.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if len(f.network.have) > 0 || len(f.images.prepared) > 0 {
			t.Errorf("left: addresses %v, snapshots %v", f.network.have, f.images.prepared)
		}
		left, _ := os.ReadDir(f.cfg.Root)
		if len(left) > 0 {
			t.Errorf("left in the runtime directory: %v", left)
		}
	})
	return f
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (f *fixture) open() {
	f.t.Helper()
	s, err := New(context.Background(), f.cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.s = s
}

// reopen is a restart of celox.
func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.s.Close(); err != nil {
		f.t.Error(err)
	}
	f.open()
}

func (f *fixture) sandboxConfig(name string, change func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"}, Hostname: name,
		LogDirectory: filepath.Join(f.logs, name), Labels: map[string]string{"app": name},
		DnsConfig: &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    f.cfg.CgroupRoot + "/kubepods/pod" + name,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func (f *fixture) sandbox(name string, change func(*cri.PodSandboxConfig)) (string, *cri.PodSandboxConfig) {
	f.t.Helper()
	c := f.sandboxConfig(name, change)
	id, err := f.s.Runtime().RunPodSandbox(context.Background(), c, "")
	if err != nil {
		f.t.Fatalf("run pod sandbox %s: %v", name, err)
	}
	return id, c
}

func (f *fixture) containerConfig(name string, change func(*cri.ContainerConfig), command ...string) *cri.ContainerConfig {
	c := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: "busybox", UserSpecifiedImage: "busybox:latest"},
		Command: command, LogPath: name + ".log", Labels: map[string]string{"name": name},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{OomScoreAdj: -900},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func (f *fixture) create(sandbox string, c *cri.ContainerConfig) string {
	f.t.Helper()
	id, err := f.s.Runtime().CreateContainer(context.Background(), sandbox, c, nil)
	if err != nil {
		f.t.Fatalf("create %s: %v", c.Metadata.Name, err)
	}
	return id
}

func (f *fixture) run(sandbox, name string, change func(*cri.ContainerConfig), command ...string) string {
	f.t.Helper()
	id := f.create(sandbox, f.containerConfig(name, change, command...))
	if err := f.s.Runtime().StartContainer(context.Background(), id); err != nil {
		f.t.Fatalf("start %s: %v", name, err)
	}
	return id
}

func (f *fixture) status(id string) *cri.ContainerStatus {
	f.t.Helper()
	resp, err := f.s.Runtime().ContainerStatus(context.Background(), id, false)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Status
}

func (f *fixture) exited(id string) *cri.ContainerStatus {
	f.t.Helper()
	k, err := f.s.findContainer(id)
	if err != nil {
		f.t.Fatal(err)
	}
	select {
	case <-k.ended:
	case <-time.After(time.Minute):
		f.t.Fatalf("container %s does not end", id)
	}
	return f.status(id)
}

// output is what a container wrote, both streams in their order.
func (f *fixture) output(id string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.status(id).LogPath)
	if err != nil {
		f.t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(line, " ", 4)
		b.WriteString(parts[len(parts)-1])
	}
	return b.String()
}

func TestPodLifecycle(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	r := f.s.Runtime()
	sandbox, config := f.sandbox("web", nil)
	st, err := r.PodSandboxStatus(ctx, sandbox, true)
	if err != nil {
		t.Fatal(err)
	}
	if st.Status.State != cri.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "10.9.8.7" || st.Status.Network.AdditionalIps[0].Ip != "fd00::7" {
		t.Errorf("status %v", st.Status)
	}
	if _, err := r.RunPodSandbox(ctx, config, ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same sandbox again: %v", err)
	}
	id := f.create(sandbox, f.containerConfig("c", nil, "sh", "-c", "hostname; cat /etc/resolv.conf /etc/hostname; echo $FROM $HOSTNAME; exit 3"))
	if got := f.status(id); got.State != cri.ContainerState_CONTAINER_CREATED || got.Image.Image != "busybox:latest" || got.ImageId != imageID {
		t.Errorf("created: %v", got)
	}
	if err := r.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	got := f.exited(id)
	if got.State != cri.ContainerState_CONTAINER_EXITED || got.ExitCode != 3 || got.Reason != "Error" || got.FinishedAt < got.StartedAt || got.StartedAt < got.CreatedAt {
		t.Errorf("exited: %v", got)
	}
	want := "web\nsearch default.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\nweb\nimage web\n"
	if out := f.output(id); out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if err := r.StartContainer(ctx, id); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start again: %v", err)
	}
	list, err := r.ListContainers(ctx, &cri.ContainerFilter{PodSandboxId: sandbox, LabelSelector: map[string]string{"name": "c"}})
	if err != nil || len(list) != 1 {
		t.Errorf("list %v, %v", list, err)
	}
	if err := r.StopPodSandbox(ctx, sandbox); err != nil {
		t.Fatal(err)
	}
	pods, err := r.ListPodSandbox(ctx, &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}})
	if err != nil || len(pods) != 1 {
		t.Errorf("stopped pods %v, %v", pods, err)
	}
	for range 2 { // idempotent
		if err := r.RemovePodSandbox(ctx, sandbox); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PodSandboxStatus(ctx, sandbox, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed sandbox: %v", err)
	}
	if _, err := r.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v", err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory" + config.Linux.CgroupParent); err == nil {
		t.Error("the cgroup of the pod is left")
	}
}

func TestSharedNamespaces(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("shared", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	pod := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	f.run(sandbox, "a", pod, "sh", "-c", "echo x > /dev/shm/f; nc -l -p 8080 -e echo hello & sleep 1000")
	id := f.run(sandbox, "b", pod, "sh", "-c", "while ! nc 127.0.0.1 8080; do sleep 0.1; done; cat /dev/shm/f; ps -o args")
	f.exited(id)
	if out := f.output(id); !strings.Contains(out, "hello\nx\n") || !strings.Contains(out, "sleep 1000") || !strings.Contains(out, "celox-pause") {
		t.Errorf("output %q", out)
	}
}

func TestSharedNamespaceEnds(t *testing.T) {
	f := newFixture(t)
	pod := func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD }
	sandbox, config := f.sandbox("frail", pod)
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}, "sleep", "1000")
	if err := f.s.client.Kill(context.Background(), sandbox, unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if st := f.exited(id); st.ExitCode != 137 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	b, err := f.s.findSandbox(sandbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 12000 {
		if f.s.sandboxState(b) == cri.PodSandboxState_SANDBOX_NOTREADY {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if st := f.s.sandboxState(b); st != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the sandbox is %v", st)
	}
	config.Metadata.Attempt++
	if _, err := f.s.Runtime().RunPodSandbox(context.Background(), config, ""); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestTargetNamespace(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("dbg", nil)
	app := f.run(sandbox, "app", nil, "sh", "-c", "sleep 999; true")
	id := f.run(sandbox, "debugger", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid, c.Linux.SecurityContext.NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, app
	}, "ps", "-o", "args")
	f.exited(id)
	if out := f.output(id); !strings.Contains(out, "sleep 999") {
		t.Errorf("output %q", out)
	}
}

func TestHostNamespaces(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("host", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	})
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
	}, "sh", "-c", "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done; sleep 1000 & exit 0")
	st := f.exited(id)
	if st.ExitCode != 0 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	var want strings.Builder
	for _, ns := range []string{"net", "pid", "ipc", "uts"} {
		link, _ := os.Readlink("/proc/self/ns/" + ns)
		want.WriteString(link + "\n")
	}
	if out := f.output(id); out != want.String() {
		t.Errorf("namespaces %q, want %q", out, want.String())
	}
	k, _ := f.s.findContainer(id)
	if _, err := os.Stat("/sys/fs/cgroup/pids" + f.s.cgroupOf(k)); err == nil {
		t.Error("what the container started in the background survived it")
	}
}

func TestSecurity(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("sec", nil)
	volume := t.TempDir()
	tests := []struct {
		name   string
		change func(*cri.ContainerConfig)
		script string
		want   string
	}{
		{"default", nil, "exec 2>/dev/null; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; touch /x && echo rw; (echo x > /proc/sys/kernel/shmmax) || echo protected",
			"CapEff:\t00000000a80425fb\nSeccomp:\t2\nrw\nprotected\n"},
		{"user", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
			c.Linux.SecurityContext.SupplementalGroups = []int64{3000}
			c.Linux.SecurityContext.NoNewPrivs = true
		}, "id; echo $HOME; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status",
			"uid=1000(app) gid=1000(app) groups=1000(app),2000(extra),3000\n/home/app\nNoNewPrivs:\t1\nCapEff:\t0000000000000000\n"},
		{"username", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUsername = "app"
			c.Linux.SecurityContext.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}, "id -u; id -G", "1000\n1000\n"},
		{"dropall", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
			c.Linux.SecurityContext.ReadonlyRootfs = true
		}, "grep CapBnd /proc/self/status; touch /x 2>/dev/null || echo readonly", "CapBnd:\t0000000000000400\nreadonly\n"},
		{"privileged", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Privileged = true
		}, "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && echo mounted; test -w /sys && echo sys; test -e /dev/kmsg && echo devices", "Seccomp:\t0\nmounted\nsys\ndevices\n"},
		{"mounts", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{
				{HostPath: volume, ContainerPath: "/data/deep"},
				{HostPath: volume, ContainerPath: "/ro", Readonly: true},
				{HostPath: volume, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true},
				{HostPath: volume + "/made", ContainerPath: "/made", Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			}
		}, "echo hi > /data/deep/f; cat /ro/f; touch /ro/x 2>/dev/null || echo ro; touch /rro/x 2>/dev/null || echo rro; touch /made/x && echo made", "hi\nro\nrro\nmade\n"},
		{"unshare", nil, "unshare -n true 2>/dev/null || echo refused", "refused\n"},
	}
	for _, tt := range tests {
		id := f.run(sandbox, tt.name, tt.change, "sh", "-c", tt.script)
		st := f.exited(id)
		out := f.output(id)
		if !strings.HasPrefix(out, tt.want) {
			t.Errorf("%s: exit code %d, output %q, want %q", tt.name, st.ExitCode, out, tt.want)
		}
		if tt.name == "user" && (st.User.Linux.Uid != 1000 || len(st.User.Linux.SupplementalGroups) != 3) {
			t.Errorf("user in the status: %v", st.User)
		}
	}
}

func TestImageVolume(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("vol", nil)
	volume := func(sub string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/vol", Image: &cri.ImageSpec{Image: imageID}, ImageSubPath: sub, Readonly: true}}
		}
	}
	whole := f.run(sandbox, "whole", volume(""), "sh", "-c", "cat /vol/etc/passwd | head -1; touch /vol/x 2>/dev/null || echo readonly")
	part := f.run(sandbox, "part", volume("etc"), "sh", "-c", "ls /vol")
	f.exited(whole)
	f.exited(part)
	if out := f.output(whole); out != "root:x:0:0:root:/root:/bin/sh\nreadonly\n" {
		t.Errorf("output %q", out)
	}
	if out := f.output(part); out != "group\npasswd\n" {
		t.Errorf("output %q", out)
	}
	for _, sub := range []string{"../..", "missing"} {
		if _, err := f.s.Runtime().CreateContainer(context.Background(), sandbox, f.containerConfig("bad", volume(sub), "true"), nil); err == nil || !strings.Contains(err.Error(), "ImageVolumeMountFailed") {
			t.Errorf("sub path %q: %v", sub, err)
		}
	}
}

func TestStartError(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("bad", nil)
	id := f.create(sandbox, f.containerConfig("missing", nil, "no-such-thing"))
	err := f.s.Runtime().StartContainer(context.Background(), id)
	if err == nil || !strings.Contains(err.Error(), `exec: "no-such-thing": executable file not found in $PATH`) {
		t.Fatalf("error %v", err)
	}
	st := f.status(id)
	if st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 128 || st.Reason != "StartError" || !strings.Contains(st.Message, "no-such-thing") {
		t.Errorf("status %v", st)
	}
	_, err = f.s.Runtime().CreateContainer(context.Background(), sandbox, f.containerConfig("who", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUsername = "nobody-here"
	}, "true"), nil)
	if err == nil || !strings.Contains(err.Error(), "no matching entries in passwd file") {
		t.Errorf("unknown user: %v", err)
	}
	_, err = f.s.Runtime().CreateContainer(context.Background(), sandbox, f.containerConfig("image", func(c *cri.ContainerConfig) {
		c.Image.Image = "other"
	}, "true"), nil)
	if status.Code(err) != codes.NotFound {
		t.Errorf("unknown image: %v", err)
	}
	if len(f.images.prepared) != 1 {
		t.Errorf("snapshots %v", f.images.prepared)
	}
}

func TestNetworkFailureLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.network.fail = errors.New("no address left")
	_, err := f.s.Runtime().RunPodSandbox(context.Background(), f.sandboxConfig("x", nil), "")
	if err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Fatalf("error %v", err)
	}
	for _, dir := range []string{f.s.dir.sandboxes(), filepath.Join(f.s.dir.run(), "sandboxes")} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	f.network.fail = nil
	f.sandbox("x", nil) // the name is free again
}

func TestStop(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	sandbox, _ := f.sandbox("stop", nil)
	polite := f.run(sandbox, "polite", func(c *cri.ContainerConfig) { c.StopSignal = cri.Signal_SIGNAL_SIGUSR1 },
		"sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.02; done")
	deaf := f.run(sandbox, "deaf", nil, "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")
	if err := f.s.Runtime().StopContainer(ctx, deaf, 1); err != nil {
		t.Fatal(err)
	}
	if st := f.status(deaf); st.ExitCode != 137 {
		t.Errorf("deaf: exit code %d, output %q", st.ExitCode, f.output(deaf))
	}
	if err := f.s.Runtime().StopContainer(ctx, polite, 60); err != nil {
		t.Fatal(err)
	}
	if st := f.status(polite); st.ExitCode != 5 {
		t.Errorf("polite: exit code %d", st.ExitCode)
	}
	if err := f.s.Runtime().StopContainer(ctx, polite, 0); err != nil {
		t.Errorf("stop again: %v", err)
	}
}

func TestOOMKilled(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("oom", nil)
	id := f.run(sandbox, "hungry", func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 10 << 20 },
		"sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=60")
	if st := f.exited(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
}

func TestRestart(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	sandbox, _ := f.sandbox("stay", nil)
	runs := f.run(sandbox, "runs", nil, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	ends := f.run(sandbox, "ends", nil, "sh", "-c", "sleep 0.3; exit 6")
	created := f.create(sandbox, f.containerConfig("later", nil, "true"))
	before := f.status(runs)
	if err := f.s.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // one ends while nobody looks
	// What a crash leaves half-made:
	half := &sandboxRecord{ID: strings.Repeat("a", 64), Phase: phaseCreating, CreatedAt: time.Now()}
	if err := writeRecord(f.s.dir.sandbox(half.ID), half); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.s.dir.container(strings.Repeat("b", 64)), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.open()
	after := f.status(runs)
	if after.State != cri.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt || after.CreatedAt != before.CreatedAt {
		t.Errorf("running container after a restart: %v, before %v", after, before)
	}
	if st := f.exited(ends); st.ExitCode != 6 || st.Reason != "Error" {
		t.Errorf("ended container: %v", st)
	}
	if err := f.s.Runtime().StartContainer(ctx, created); err != nil {
		t.Error(err)
	}
	f.exited(created)
	if out, _, err := f.s.Runtime().ExecSync(ctx, runs, []string{"echo", "alive"}, 0); err != nil || string(out) != "alive\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if err := f.s.Runtime().StopContainer(ctx, runs, 0); err != nil {
		t.Fatal(err)
	}
	// No number is missing in the log.
	for i, line := range strings.Fields(f.output(runs)) {
		if line != itoa(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
	if entries, _ := os.ReadDir(f.s.dir.sandboxes()); len(entries) != 1 {
		t.Errorf("half-made records are left: %v", entries)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func TestResetWithDeadHolder(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("gone", nil)
	f.run(sandbox, "c", nil, "sleep", "1000")
	if err := f.s.Close(); err != nil {
		t.Fatal(err)
	}
	killHolder(t, f.s.dir.run())
	if err := Reset(context.Background(), f.cfg.Root, f.s.log); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(f.cfg.Root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := Reset(context.Background(), f.cfg.Root, f.s.log); err != nil {
		t.Errorf("again: %v", err)
	}
	// The fixture destroys it again; addresses and snapshots are others' to reset.
	f.network.have = map[string]bool{}
	f.open()
}

func killHolder(t testing.TB, run string) {
	t.Helper()
	pids, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range pids {
		data, _ := os.ReadFile(p)
		if bytes.Contains(data, []byte("\x00"+run+"\x00")) {
			proc, err := os.FindProcess(atoi(filepath.Base(filepath.Dir(p))))
			if err != nil {
				t.Fatal(err)
			}
			if err := proc.Kill(); err != nil {
				t.Fatal(err)
			}
			for range 12000 {
				if _, err := os.Stat(filepath.Dir(p)); err != nil {
					break
				}
				if stat, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "stat")); bytes.Contains(stat, []byte(") Z ")) {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			return
		}
	}
	t.Log("no holder lives at this moment")
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

func TestStatsAndUpdate(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	sandbox, _ := f.sandbox("stats", nil)
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 50 << 20 }, "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=2; sleep 1000")
	for range 12000 {
		if st, _ := f.s.Runtime().ContainerStats(ctx, id); st.GetWritableLayer().GetUsedBytes().GetValue() >= 2<<20 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	st, err := f.s.Runtime().ContainerStats(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if st.Cpu.UsageCoreNanoSeconds.Value == 0 || st.Memory.UsageBytes.Value == 0 || st.Memory.AvailableBytes.Value == 0 || st.WritableLayer.UsedBytes.Value < 2<<20 {
		t.Errorf("stats %v", st)
	}
	pod, err := f.s.Runtime().PodSandboxStats(ctx, sandbox)
	if err != nil || len(pod.Linux.Containers) != 1 || pod.Linux.Memory.WorkingSetBytes == nil || pod.Linux.Network == nil {
		t.Errorf("pod stats %v, %v", pod, err)
	}
	err = f.s.Runtime().UpdateContainerResources(ctx, id, &cri.ContainerResources{Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 60 << 20, CpuShares: 300}})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.status(id).Resources.Linux; got.MemoryLimitInBytes != 60<<20 || got.CpuShares != 300 || got.OomScoreAdj != -900 {
		t.Errorf("resources %v", got)
	}
	f.reopen()
	if got := f.status(id).Resources.Linux; got.MemoryLimitInBytes != 60<<20 {
		t.Errorf("resources after a restart %v", got)
	}
}

func TestEvents(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan *cri.ContainerEventResponse, 100)
	done := make(chan error, 1)
	connected := make(chan struct{})
	go func() {
		done <- f.s.Runtime().GetContainerEvents(ctx, events, func(cri.RuntimeService_GetContainerEventsClient) { close(connected) })
	}()
	<-connected
	sandbox, _ := f.sandbox("ev", nil)
	id := f.run(sandbox, "c", nil, "true")
	f.exited(id)
	if err := f.s.Runtime().RemoveContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) < 4 {
		select {
		case e := <-events:
			if e.ContainerId == id {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
			}
		case <-time.After(time.Minute):
			t.Fatalf("events %v", got)
		}
	}
	// A container may end before its start is told.
	if s := strings.Join(got, " "); s != "CREATED STARTED STOPPED DELETED" && s != "CREATED STOPPED STARTED DELETED" {
		t.Errorf("events %v", got)
	}
	cancel()
	<-done
}

func TestSocket(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(f.cfg.Root, strings.Repeat("long/", 30), "celox.sock")
	done := make(chan error, 1)
	go func() { done <- f.s.Serve(ctx, socket) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(filepath.Join(f.cfg.Root, "long"))
	}()
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	conn, err := grpc.NewClient("passthrough:///celox", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return holder.Dial(socket) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	v, err := client.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil || v.RuntimeName != "celox" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version %v, %v", v, err)
	}
	if _, err := client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: "nope"}); status.Code(err) != codes.NotFound {
		t.Errorf("error over the socket: %v", err)
	}
	if _, err := client.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("checkpoint: %v", err)
	}
	sandbox, _ := f.sandbox("sock", nil)
	id := f.run(sandbox, "c", nil, "sleep", "1000")
	resp, err := client.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	if err != nil || !strings.HasPrefix(resp.Url, "http://127.0.0.1:") {
		t.Errorf("exec: %v, %v", resp, err)
	}
	list, err := client.StreamContainers(ctx, &cri.StreamContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if part, err := list.Recv(); err != nil || len(part.Containers) != 1 {
		t.Errorf("streamed list %v, %v", part, err)
	}
	imgs, err := cri.NewImageServiceClient(conn).ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil || len(imgs.Images) != 1 {
		t.Errorf("images %v, %v", imgs, err)
	}
}

func BenchmarkPod(b *testing.B) {
	f := newFixture(b)
	ctx := context.Background()
	r := f.s.Runtime()
	config := f.sandboxConfig("bench", nil)
	container := f.containerConfig("c", nil, "sleep", "1000")
	var spent [4]time.Duration
	names := [4]string{"sandbox", "create", "start", "remove"}
	b.ReportAllocs()
	for b.Loop() {
		var sandbox, id string
		for i, step := range []func() error{
			func() (err error) { sandbox, err = r.RunPodSandbox(ctx, config, ""); return err },
			func() (err error) { id, err = r.CreateContainer(ctx, sandbox, container, config); return err },
			func() error { return r.StartContainer(ctx, id) },
			func() error { return r.RemovePodSandbox(ctx, sandbox) },
		} {
			began := time.Now()
			if err := step(); err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(began)
		}
	}
	for i, d := range spent {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), "ms/"+names[i])
	}
}
