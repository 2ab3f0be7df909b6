package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
)

const (
	shmOptions    = "mode=1777,size=65536k"
	hostnameLimit = 64 // of the kernel
)

// sandbox is a pod sandbox: the namespaces and files that the containers of a
// pod share. It has no process of its own, unless they share a process
// namespace.
type sandbox struct {
	id     string
	config *cri.PodSandboxConfig // read-only

	op sync.Mutex // held while the sandbox is made, stopped or removed

	mu  sync.Mutex
	rec sandboxRecord // guarded by mu
	// broken: its shared process namespace has ended, so nothing can be started
	// in it any more; guarded by mu.
	broken bool
}

func (b *sandbox) record() sandboxRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

func sandboxName(c *cri.PodSandboxConfig) string {
	m := c.GetMetadata()
	return strings.Join([]string{"pod", m.GetName(), m.GetNamespace(), m.GetUid(), strconv.FormatUint(uint64(m.GetAttempt()), 10)}, "_")
}

// options are the sandbox's namespace modes.
func (b *sandbox) options() *cri.NamespaceOption {
	return b.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// pinned says which namespaces the sandbox has of its own. A pod on the host's
// network also has the host's name.
func (b *sandbox) pinned() pinned {
	network := b.options().GetNetwork() != cri.NamespaceMode_NODE
	return pinned{net: network, uts: network, ipc: b.options().GetIpc() != cri.NamespaceMode_NODE}
}

// reserve claims a name for an id, so that the same pod or container is never
// made twice.
func (s *Service) reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, taken := s.names[name]; taken {
		return status.Errorf(codes.AlreadyExists, "failed to reserve name %q: it is reserved for %q", name, other)
	}
	s.names[name] = id
	return nil
}

func (s *Service) unreserve(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, name)
}

// RunPodSandbox makes the namespaces of a pod and connects them.
func (s *Service) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	config := req.GetConfig()
	if config.GetMetadata().GetName() == "" || config.GetMetadata().GetUid() == "" {
		return nil, status.Error(codes.InvalidArgument, "pod sandbox metadata must have a name and a uid")
	}
	if h := req.GetRuntimeHandler(); h != "" && h != Handler {
		return nil, status.Errorf(codes.InvalidArgument, "no runtime for %q is configured", h)
	}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options.GetUsernsOptions() != nil && options.GetUsernsOptions().GetMode() == cri.NamespaceMode_POD {
		return nil, status.Error(codes.Unimplemented, "user namespaces are not supported by this runtime")
	}
	raw, err := marshalConfig(config)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	b := &sandbox{id: newID(), config: config}
	b.rec = sandboxRecord{
		ID: b.id, Phase: phaseCreating, CreatedAt: time.Now(), Handler: req.GetRuntimeHandler(), BootID: s.boot, Config: raw,
		Cgroup: s.cgroupParent(b),
	}
	name := sandboxName(config)
	if err := s.reserve(name, b.id); err != nil {
		return nil, err
	}
	b.op.Lock()
	defer b.op.Unlock()
	s.expectMigration()
	if err := s.makeSandbox(ctx, b); err != nil {
		// The caller's time may be over; what is half-made must go all the same.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		s.scrapSandbox(undo, b)
		s.unreserve(name)
		return nil, err
	}
	s.mu.Lock()
	s.sandboxes[b.id] = b
	s.mu.Unlock()
	s.publish(cri.ContainerEventType_CONTAINER_CREATED_EVENT, b.id, b)
	s.publish(cri.ContainerEventType_CONTAINER_STARTED_EVENT, b.id, b)
	return &cri.RunPodSandboxResponse{PodSandboxId: b.id}, nil
}

func (s *Service) cgroupParent(b *sandbox) string {
	parent := b.config.GetLinux().GetCgroupParent()
	if parent == "" {
		return path.Join(s.cfg.CgroupRoot, b.id)
	}
	return path.Join("/", parent)
}

func (s *Service) makeSandbox(ctx context.Context, b *sandbox) error {
	if err := writeRecord(s.dir.sandbox(b.id), &b.rec); err != nil {
		return err
	}
	p := b.pinned()
	sysctls := maps.Clone(b.config.GetLinux().GetSysctls())
	for name := range sysctls {
		if err := sysctlAllowed(name, p); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if p.net {
		// Harmless inside a network of one's own, and saves capabilities.
		for name, value := range map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"} {
			if _, set := sysctls[name]; !set {
				if sysctls == nil {
					sysctls = map[string]string{}
				}
				sysctls[name] = value
			}
		}
	}
	hostname := b.config.GetHostname()
	if hostname == "" || !p.uts {
		hostname = s.host.hostname
	}
	if len(hostname) > hostnameLimit {
		return status.Errorf(codes.InvalidArgument, "hostname %q is longer than %d characters", hostname, hostnameLimit)
	}
	run := s.dir.sandboxRun(b.id)
	if err := pinNamespaces(filepath.Join(run, "ns"), p, hostname, sysctls); err != nil {
		return fmt.Errorf("namespaces of pod sandbox %q: %w", b.id, err)
	}
	if err := s.writeSandboxFiles(b, hostname); err != nil {
		return err
	}
	if p.ipc {
		if err := os.Mkdir(s.dir.shm(b.id), 0o777); err != nil {
			return err
		}
		if err := unix.Mount("shm", s.dir.shm(b.id), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, shmOptions); err != nil {
			return &os.PathError{Op: "mount", Path: s.dir.shm(b.id), Err: err}
		}
	}
	var ips []netip.Addr
	if p.net {
		result, err := s.cfg.Network.Setup(ctx, s.networkRequest(b))
		if err != nil {
			return fmt.Errorf("failed to setup network for sandbox %q: %w", b.id, err)
		}
		ips = result.IPs
	}
	if b.options().GetPid() == cri.NamespaceMode_POD {
		st, err := s.client.Start(ctx, holder.Task{ID: b.id, Pause: true, PauseCgroup: path.Join(b.rec.Cgroup, b.id)})
		if err != nil {
			return fmt.Errorf("process namespace of pod sandbox %q: %w", b.id, err)
		}
		if _, err := pinPID(filepath.Join(run, "ns"), st.Pid); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.IPs, b.rec.Phase = ips, phaseReady
	return writeRecord(s.dir.sandbox(b.id), &b.rec)
}

// writeSandboxFiles makes the files that containers get as their /etc/hostname
// and /etc/resolv.conf.
func (s *Service) writeSandboxFiles(b *sandbox, hostname string) error {
	run := s.dir.sandboxRun(b.id)
	if err := os.WriteFile(filepath.Join(run, "hostname"), []byte(hostname+"\n"), 0o644); err != nil {
		return err
	}
	resolv, err := resolvConf(b.config.GetDnsConfig())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(run, "resolv.conf"), resolv, 0o644)
}

// resolvConf writes resolv.conf(5) from what CRI says, or copies the host's.
func resolvConf(dns *cri.DNSConfig) ([]byte, error) {
	if len(dns.GetServers()) == 0 && len(dns.GetSearches()) == 0 && len(dns.GetOptions()) == 0 {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return data, err
	}
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		b.WriteString("search " + strings.Join(dns.GetSearches(), " ") + "\n")
	}
	for _, server := range dns.GetServers() {
		b.WriteString("nameserver " + server + "\n")
	}
	if len(dns.GetOptions()) > 0 {
		b.WriteString("options " + strings.Join(dns.GetOptions(), " ") + "\n")
	}
	return []byte(b.String()), nil
}

func (s *Service) networkRequest(b *sandbox) SandboxRequest {
	m := b.config.GetMetadata()
	req := SandboxRequest{ID: b.id, Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid(), NetNSPath: s.dir.namespace(b.id, "net"),
		Annotations: b.config.GetAnnotations()}
	if dns := b.config.GetDnsConfig(); dns != nil {
		req.DNS = DNSConfig{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()}
	}
	for _, p := range b.config.GetPortMappings() {
		if p.GetHostPort() <= 0 {
			continue
		}
		req.PortMappings = append(req.PortMappings, PortMapping{
			Protocol: p.GetProtocol().String(), ContainerPort: uint16(p.GetContainerPort()), HostPort: uint16(p.GetHostPort()), HostIP: p.GetHostIp(),
		})
	}
	return req
}

// findSandbox looks a sandbox up by its id, or by an unambiguous beginning.
func (s *Service) findSandbox(id string) (*sandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if b, ok := lookup(s.sandboxes, id); ok {
		return b, nil
	}
	return nil, status.Errorf(codes.NotFound, "an error occurred when try to find sandbox %q: not found", id)
}

func lookup[T any](m map[string]T, id string) (T, bool) {
	if v, ok := m[id]; ok || len(id) >= 64 || id == "" {
		return v, ok
	}
	var found T
	n := 0
	for full, v := range m {
		if strings.HasPrefix(full, id) {
			found = v
			n++
		}
	}
	if n != 1 {
		var none T
		return none, false
	}
	return found, true
}

func (s *Service) containersOf(b *sandbox) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*container
	for _, k := range s.containers {
		if k.sandbox == b {
			all = append(all, k)
		}
	}
	return all
}

// StopPodSandbox kills the containers of a pod and takes back its network.
func (s *Service) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return &cri.StopPodSandboxResponse{}, nil // gone already
	}
	b.op.Lock()
	defer b.op.Unlock()
	return &cri.StopPodSandboxResponse{}, s.stopSandbox(ctx, b)
}

// stopSandbox needs b.op.
func (s *Service) stopSandbox(ctx context.Context, b *sandbox) error {
	for _, k := range s.containersOf(b) {
		if err := s.killContainer(ctx, k); err != nil {
			return fmt.Errorf("failed to stop container %q: %w", k.id, err)
		}
	}
	rec := b.record()
	if rec.Phase == phaseNotReady {
		return nil
	}
	if b.pinned().net {
		if err := s.cfg.Network.Teardown(ctx, s.networkRequest(b)); err != nil {
			return fmt.Errorf("failed to destroy network for sandbox %q: %w", b.id, err)
		}
	}
	if b.options().GetPid() == cri.NamespaceMode_POD {
		s.endTask(ctx, b.id)
	}
	if err := errors.Join(unpinNamespaces(filepath.Join(s.dir.sandboxRun(b.id), "ns")), unmount(s.dir.shm(b.id))); err != nil {
		return err
	}
	b.mu.Lock()
	b.rec.Phase = phaseNotReady
	err := writeRecord(s.dir.sandbox(b.id), &b.rec)
	b.mu.Unlock()
	s.publish(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, b.id, b)
	return err
}

// RemovePodSandbox removes a pod sandbox with its containers.
func (s *Service) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	b.op.Lock()
	defer b.op.Unlock()
	if err := s.stopSandbox(ctx, b); err != nil {
		return nil, err
	}
	for _, k := range s.containersOf(b) {
		if err := s.removeContainer(ctx, k); err != nil {
			return nil, err
		}
	}
	s.clearSandboxRun(b.id)
	if err := os.Remove(s.dir.sandbox(b.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cgroup := b.record().Cgroup
	s.mu.Lock()
	delete(s.sandboxes, b.id)
	delete(s.names, sandboxName(b.config))
	shared := false
	for _, other := range s.sandboxes {
		shared = shared || other.record().Cgroup == cgroup
	}
	s.mu.Unlock()
	if !shared {
		// The container library leaves the pod's cgroup in each hierarchy.
		holder.TrimCgroup(cgroup)
	}
	s.publish(cri.ContainerEventType_CONTAINER_DELETED_EVENT, b.id, b)
	return &cri.RemovePodSandboxResponse{}, nil
}

// state tells whether the sandbox can run containers.
func (s *Service) sandboxState(b *sandbox) cri.PodSandboxState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rec.Phase != phaseReady || b.broken {
		return cri.PodSandboxState_SANDBOX_NOTREADY
	}
	return cri.PodSandboxState_SANDBOX_READY
}

// sandboxBroke takes note that the first process of a shared process namespace
// has ended; the kubelet then makes a new sandbox.
func (s *Service) sandboxBroke(b *sandbox) {
	b.mu.Lock()
	news := !b.broken && b.rec.Phase == phaseReady
	b.broken = true
	b.mu.Unlock()
	if news {
		s.publish(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, b.id, b)
	}
}

// PodSandboxStatus describes a pod sandbox.
func (s *Service) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &cri.PodSandboxStatusResponse{Status: s.sandboxStatus(b)}
	for _, k := range s.containersOf(b) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, s.containerStatus(k))
	}
	resp.Timestamp = time.Now().UnixNano()
	if req.GetVerbose() {
		rec := b.record()
		resp.Info = verboseInfo(map[string]any{
			"cgroup": rec.Cgroup, "netNS": s.dir.namespace(b.id, "net"), "config": b.config,
		})
	}
	return resp, nil
}

func (s *Service) sandboxStatus(b *sandbox) *cri.PodSandboxStatus {
	rec := b.record()
	st := &cri.PodSandboxStatus{
		Id: b.id, Metadata: b.config.GetMetadata(), State: s.sandboxState(b), CreatedAt: rec.CreatedAt.UnixNano(),
		Network:        &cri.PodSandboxNetworkStatus{},
		Linux:          &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: b.options()}},
		Labels:         b.config.GetLabels(),
		Annotations:    b.config.GetAnnotations(),
		RuntimeHandler: rec.Handler,
	}
	for i, ip := range rec.IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
			continue
		}
		st.Network.AdditionalIps = append(st.Network.AdditionalIps, &cri.PodIP{Ip: ip.String()})
	}
	return st
}

// ListPodSandbox lists pod sandboxes.
func (s *Service) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	f := req.GetFilter()
	resp := &cri.ListPodSandboxResponse{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.sandboxes {
		state := s.sandboxState(b)
		if f.GetId() != "" && !strings.HasPrefix(b.id, f.GetId()) ||
			f.GetState() != nil && f.GetState().GetState() != state ||
			!matches(f.GetLabelSelector(), b.config.GetLabels()) {
			continue
		}
		rec := b.record()
		resp.Items = append(resp.Items, &cri.PodSandbox{
			Id: b.id, Metadata: b.config.GetMetadata(), State: state, CreatedAt: rec.CreatedAt.UnixNano(),
			Labels: b.config.GetLabels(), Annotations: b.config.GetAnnotations(), RuntimeHandler: rec.Handler,
		})
	}
	return resp, nil
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// UpdatePodSandboxResources is told after the kubelet changed the pod's cgroup;
// there is nothing left to do.
func (s *Service) UpdatePodSandboxResources(_ context.Context, req *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	if _, err := s.findSandbox(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &cri.UpdatePodSandboxResourcesResponse{}, nil
}
