package runtime

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/celox/celox/internal/runtime/holder"
)

// Names and versions that CRI's Version reports.
const (
	runtimeName = "celox"
	apiVersion  = "v1"
	// Handler is the only runtime handler besides the empty one.
	Handler = "celox"
)

// Service is the container runtime. It implements CRI's RuntimeServiceServer and
// ImageServiceServer; every method may be called concurrently.
type Service struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	cfg    Config
	log    *slog.Logger
	dir    layout
	host   host
	boot   string
	client *holder.Client
	events *broker

	migrating atomic.Bool // see expectMigration

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.RWMutex
	sandboxes  map[string]*sandbox   // by id; guarded by mu
	containers map[string]*container // by id; guarded by mu
	names      map[string]string     // reserved names to ids; guarded by mu

	streamMu sync.Mutex
	stream   streaming.Server // started by the first request that needs it; guarded by streamMu
}

// settings is what Reset must know of a runtime that is not running.
type settings struct {
	CgroupRoot string `json:"cgroupRoot"`
}

// New opens the runtime below cfg.Root: it finds or starts the holder, takes up
// the containers that live, and removes what a crash left half-made.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if !filepath.IsAbs(cfg.Root) {
		return nil, fmt.Errorf("the runtime directory %q is not an absolute path", cfg.Root)
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = DefaultCgroupRoot(cfg.Root)
	}
	if cfg.StreamAddress == "" {
		cfg.StreamAddress = "127.0.0.1:0"
	}
	if cfg.Version == "" {
		cfg.Version = "0.0.0"
	}
	s := &Service{
		cfg: cfg, log: cfg.Log, dir: layout(cfg.Root), boot: bootID(), events: newBroker(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{},
	}
	var err error
	if s.host, err = inspectHost(); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.dir.sandboxes(), s.dir.containers(), s.dir.run()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := writeRecord(s.dir.settings(), settings{CgroupRoot: cfg.CgroupRoot}); err != nil {
		return nil, err
	}
	if err := mountRun(s.dir.run()); err != nil {
		return nil, err
	}
	s.client, err = holder.Open(ctx, holder.Options{Layout: s.dir.holder(), Binary: cfg.Binary, Version: cfg.BinaryVersion, Log: s.log})
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.load(ctx); err != nil {
		s.cancel()
		_ = s.client.Close()
		return nil, err
	}
	seen := make(chan []holder.State, 1)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		first := true
		s.client.Watch(s.ctx, func(states []holder.State, snapshot bool) {
			for _, st := range states {
				s.apply(st)
				if !snapshot && st.Phase == holder.PhaseRunning && !s.wanted(st) {
					// Its start was given up before the holder had heard of it.
					s.wg.Go(func() { s.endTask(s.ctx, st.ID) })
				}
			}
			if snapshot {
				s.reconcile(states)
			}
			if first {
				first = false
				seen <- states
			}
		})
	}()
	select {
	case <-seen:
	case <-ctx.Done():
		_ = s.Close()
		return nil, ctx.Err()
	}
	return s, nil
}

// DefaultCgroupRoot names the cgroup of a runtime directory so that two on one
// machine never share one.
func DefaultCgroupRoot(root string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(root)))
	return "/celox-" + hex.EncodeToString(sum[:4])
}

// Close ends the service; containers live on.
func (s *Service) Close() error {
	s.cancel()
	s.streamMu.Lock()
	if s.stream != nil {
		_ = s.stream.Stop()
	}
	s.streamMu.Unlock()
	s.events.close()
	s.wg.Wait()
	err := s.client.Close()
	s.mu.RLock()
	empty := len(s.sandboxes) == 0 && len(s.containers) == 0
	s.mu.RUnlock()
	if empty {
		// Nothing lives on: leave neither a process nor a mount.
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err = errors.Join(err, holder.Destroy(ctx, s.dir.holder()), unmount(s.dir.run()))
	}
	return err
}

// CgroupRoot is the cgroup below which everything of this runtime lives.
func (s *Service) CgroupRoot() string { return s.cfg.CgroupRoot }

// mountRun puts a tmpfs at the directory of volatile files, if it is not there.
func mountRun(dir string) error {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Stat(filepath.Dir(dir), &above); err != nil {
		return &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	if here.Dev != above.Dev {
		return nil
	}
	if err := unix.Mount("celox-run", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=711"); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("mounting a tmpfs at %s: %w: containers need root", dir, err)
		}
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	// Namespaces can only be pinned where mounts do not propagate.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return &os.PathError{Op: "make private", Path: dir, Err: err}
	}
	return nil
}

func inspectHost() (host, error) {
	h := host{mountOf: mountOf}
	h.devices = func() ([]specs.LinuxDevice, error) { return devicesAt("/dev", "/dev") }
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(status)) {
		if hexBits, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(hexBits), 16, 64)
			if err != nil {
				return h, err
			}
			h.capabilities = capabilitySet(bits)
		}
	}
	h.unified = unifiedCgroups()
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	if h.unified {
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		h.hugetlb = strings.Contains(string(controllers), "hugetlb")
		h.swap = exists("/proc/swaps")
	} else {
		h.hugetlb = exists("/sys/fs/cgroup/hugetlb")
		h.swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.appArmor = strings.HasPrefix(string(enabled), "Y")
	h.hostname, err = os.Hostname()
	return h, err
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// newID makes the id of a sandbox or container: 64 hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Version answers CRI's Version.
func (s *Service) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{
		Version: "0.1.0", RuntimeName: runtimeName, RuntimeVersion: s.cfg.Version, RuntimeApiVersion: apiVersion,
	}, nil
}

// Status answers CRI's Status: the runtime is ready when it answers, the network
// when it says so.
func (s *Service) Status(_ context.Context, req *cri.StatusRequest) (*cri.StatusResponse, error) {
	network := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	if err := s.cfg.Network.Ready(); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", "Network plugin returns error: "+err.Error()
	}
	features := &cri.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}
	resp := &cri.StatusResponse{
		Status:          &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: cri.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: []*cri.RuntimeHandler{{Features: features}, {Name: Handler, Features: features}},
		Features:        &cri.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{
			"root": s.cfg.Root, "cgroupRoot": s.cfg.CgroupRoot, "cgroupVersion": map[bool]int{false: 1, true: 2}[s.host.unified],
			"holder": s.cfg.BinaryVersion, "capabilities": s.host.capabilities,
		})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"config": string(info)}
	}
	return resp, nil
}

// UpdateRuntimeConfig accepts the pod address range, which the built-in network
// learns elsewhere.
func (s *Service) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

// RuntimeConfig tells the kubelet how cgroups are named.
func (s *Service) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: cri.CgroupDriver_CGROUPFS}}, nil
}
