package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
	"github.com/celox/celox/internal/runtime/images"
	"github.com/celox/celox/internal/runtime/images/overlay"
)

// startErrorCode is the exit code of a container whose program could not be
// started.
const startErrorCode = 128

// Reasons of an ended container, as the kubelet shows them.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonStartError = "StartError"
)

// container is one container of a pod sandbox.
type container struct {
	id      string
	sandbox *sandbox
	config  *cri.ContainerConfig // read-only, but see resources
	ended   chan struct{}        // closed when the container is exited

	op sync.Mutex // held while the container is started or removed

	mu sync.Mutex
	// All guarded by mu: the durable record; whether the holder runs it; the
	// limits in force; the specification, if it was computed already.
	rec       containerRecord
	running   bool
	pid       int
	resources *cri.LinuxContainerResources
	spec      *specs.Spec
	seccomp   bool
}

func newContainer(id string, b *sandbox, rec containerRecord, config *cri.ContainerConfig) *container {
	return &container{
		id: id, sandbox: b, config: config, ended: make(chan struct{}), rec: rec,
		resources: config.GetLinux().GetResources(),
	}
}

func (k *container) record() containerRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec
}

func (k *container) isRunning() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running
}

func (k *container) state() cri.ContainerState {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.rec.Phase == phaseExited:
		return cri.ContainerState_CONTAINER_EXITED
	case k.running:
		return cri.ContainerState_CONTAINER_RUNNING
	}
	return cri.ContainerState_CONTAINER_CREATED
}

func containerName(sandboxID string, c *cri.ContainerConfig) string {
	return strings.Join([]string{"container", sandboxID, c.GetMetadata().GetName(), strconv.FormatUint(uint64(c.GetMetadata().GetAttempt()), 10)}, "_")
}

func (s *Service) findContainer(id string) (*container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k, ok := lookup(s.containers, id); ok {
		return k, nil
	}
	return nil, status.Errorf(codes.NotFound, "an error occurred when try to find container %q: not found", id)
}

func (s *Service) cgroupOf(k *container) string { return path.Join(k.sandbox.record().Cgroup, k.id) }

// CreateContainer prepares a container: its root file system and its
// specification. Nothing runs yet.
func (s *Service) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	config := req.GetConfig()
	if config.GetMetadata().GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "container metadata must have a name")
	}
	if s.sandboxState(b) != cri.PodSandboxState_SANDBOX_READY {
		return nil, status.Errorf(codes.FailedPrecondition, "pod sandbox %q is not ready", b.id)
	}
	ref := config.GetImage().GetImage()
	image, ok := s.cfg.Images.Get(ref)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "failed to resolve image %q: not found", ref)
	}
	raw, err := marshalConfig(config)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	rec := containerRecord{
		ID: newID(), SandboxID: b.id, Phase: phaseCreating, CreatedAt: time.Now(), BootID: s.boot,
		ImageID: image.ID, ImageRef: imageRef(image), ImageConfig: image.Config, Config: raw,
	}
	if config.GetLogPath() != "" && b.config.GetLogDirectory() != "" {
		rec.LogPath = filepath.Join(b.config.GetLogDirectory(), config.GetLogPath())
	}
	k := newContainer(rec.ID, b, rec, config)
	name := containerName(b.id, config)
	if err := s.reserve(name, k.id); err != nil {
		return nil, err
	}
	if err := s.makeContainer(ctx, k, image); err != nil {
		s.scrapContainer(k.id)
		s.unreserve(name)
		return nil, err
	}
	k.config, _ = proto.Clone(config).(*cri.ContainerConfig) // the caller's may change
	s.mu.Lock()
	alive := s.sandboxes[b.id] == b
	if alive {
		s.containers[k.id] = k
	}
	s.mu.Unlock()
	if !alive {
		s.scrapContainer(k.id)
		s.unreserve(name)
		return nil, status.Errorf(codes.NotFound, "pod sandbox %q was removed", b.id)
	}
	s.publish(cri.ContainerEventType_CONTAINER_CREATED_EVENT, k.id, b)
	return &cri.CreateContainerResponse{ContainerId: k.id}, nil
}

// imageRef is how status names an image: by the digest of its manifest.
func imageRef(i images.Image) string {
	if len(i.RepoDigests) > 0 {
		return i.RepoDigests[0]
	}
	return i.ID
}

func (s *Service) makeContainer(ctx context.Context, k *container, image images.Image) error {
	if err := writeRecord(s.dir.container(k.id), &k.rec); err != nil {
		return err
	}
	layers, err := s.cfg.Images.Prepare(ctx, image.ID, k.id)
	if err != nil {
		return fmt.Errorf("failed to prepare the root file system: %w", err)
	}
	rootfs := s.dir.rootfs(k.id)
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return err
	}
	if err := overlay.Mount(rootfs, layers.Lower, layers.Upper, layers.Work, 0); err != nil {
		return fmt.Errorf("failed to mount the root file system: %w", err)
	}
	who, err := readAccounts(rootfs)
	if err != nil {
		return err
	}
	if k.rec.User, err = resolveUser(k.config.GetLinux().GetSecurityContext(), image.Config.User, who); err != nil {
		return err
	}
	if err := s.imageVolumes(ctx, k); err != nil {
		return err
	}
	if err := s.prepareSpec(k); err != nil {
		return err
	}
	if k.rec.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(k.rec.LogPath), 0o755); err != nil {
			return err
		}
	}
	k.rec.Phase = phaseCreated
	return writeRecord(s.dir.container(k.id), &k.rec)
}

// prepareSpec computes the specification of a container that is to be started.
func (s *Service) prepareSpec(k *container) error {
	b := k.sandbox
	p := b.pinned()
	run := s.dir.sandboxRun(b.id)
	in := specInput{
		id: k.id, config: k.config, sandboxConfig: b.config, image: k.rec.ImageConfig, user: k.rec.User,
		rootfs: s.dir.rootfs(k.id), cgroup: s.cgroupOf(k), host: s.host,
		shm: "/dev/shm", hostname: filepath.Join(run, "hostname"), resolvConf: filepath.Join(run, "resolv.conf"),
	}
	if p.net {
		in.netns = s.dir.namespace(b.id, "net")
	}
	if p.uts {
		in.utsns = s.dir.namespace(b.id, "uts")
	}
	if p.ipc {
		in.ipcns, in.shm = s.dir.namespace(b.id, "ipc"), s.dir.shm(b.id)
	}
	options := k.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	switch options.GetPid() {
	case cri.NamespaceMode_POD:
		in.pidns = s.dir.namespace(b.id, "pid")
		if b.options().GetPid() != cri.NamespaceMode_POD {
			return status.Errorf(codes.InvalidArgument, "pod sandbox %q has no process namespace to share", b.id)
		}
	case cri.NamespaceMode_TARGET:
		target, err := s.findContainer(options.GetTargetId())
		if err != nil {
			return err
		}
		target.mu.Lock()
		pid, running := target.pid, target.running
		target.mu.Unlock()
		if target.sandbox != b || !running {
			return status.Errorf(codes.FailedPrecondition, "target container %q is not a running container of the same pod", target.id)
		}
		in.pidns = "/proc/" + strconv.Itoa(pid) + "/ns/pid"
	}
	if !hasMount(k.config, "/etc/hosts") {
		hosts, err := s.hostsFile(b)
		if err != nil {
			return err
		}
		in.hosts = hosts
	}
	spec, seccomp, err := buildSpec(in)
	if err != nil {
		return err
	}
	for i, v := range imageMounts(k.config) {
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: filepath.Clean(v.GetContainerPath()), Type: "bind",
			Source:  filepath.Join(s.imageMountPoint(k.id, i), v.GetImageSubPath()),
			Options: []string{"rbind", "rprivate", "ro"},
		})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spec, k.seccomp = spec, seccomp
	if len(k.config.GetCDIDevices()) > 0 {
		k.rec.DeviceEnv = slices.Clone(spec.Process.Env)
	}
	return nil
}

func hasMount(c *cri.ContainerConfig, path string) bool {
	for _, m := range c.GetMounts() {
		if filepath.Clean(m.GetContainerPath()) == path {
			return true
		}
	}
	return false
}

// hostsFile is the /etc/hosts of containers whose pod brings none.
func (s *Service) hostsFile(b *sandbox) (string, error) {
	if !b.pinned().net {
		return "/etc/hosts", nil
	}
	file := filepath.Join(s.dir.sandboxRun(b.id), "hosts")
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if rec := b.record(); len(rec.IPs) > 0 && b.config.GetHostname() != "" {
		text += rec.IPs[0].String() + "\t" + b.config.GetHostname() + "\n"
	}
	return file, os.WriteFile(file, []byte(text), 0o644)
}

func (s *Service) releaseSnapshots(id string) error {
	var err error
	for _, name := range s.cfg.Images.Containers() {
		if containerOfSnapshot(name) == id {
			err = errors.Join(err, s.cfg.Images.Release(name))
		}
	}
	return err
}

// unmountContainer removes the mounts of a container and their directory.
func (s *Service) unmountContainer(id string) error {
	dir := s.dir.containerRun(id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := unmount(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	// Only empty mount points may be left: never delete what is mounted.
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// StartContainer runs a created container.
func (s *Service) StartContainer(ctx context.Context, req *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	k.op.Lock()
	defer k.op.Unlock()
	if state := k.state(); state != cri.ContainerState_CONTAINER_CREATED {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is in %s state", k.id, state)
	}
	if s.sandboxState(k.sandbox) != cri.PodSandboxState_SANDBOX_READY {
		return nil, status.Errorf(codes.FailedPrecondition, "pod sandbox %q is not ready", k.sandbox.id)
	}
	if err := s.startContainer(ctx, k); err != nil {
		if s.failedToStart(k, err) {
			s.endTask(context.WithoutCancel(ctx), k.id)
		}
		return nil, err
	}
	s.publish(cri.ContainerEventType_CONTAINER_STARTED_EVENT, k.id, k.sandbox)
	return &cri.StartContainerResponse{}, nil
}

// startContainer needs k.op.
func (s *Service) startContainer(ctx context.Context, k *container) error {
	if k.spec == nil {
		if err := s.prepareSpec(k); err != nil {
			return err
		}
	}
	rec := k.record()
	// A caller that gives up must not leave a process that nobody knows of: the start is seen through, and who gave up stops the container.
	starting, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	st, err := s.client.Start(starting, holder.Task{
		ID: k.id, Spec: k.spec, DefaultSeccomp: k.seccomp, LogPath: rec.LogPath,
		Stdin: k.config.GetStdin(), StdinOnce: k.config.GetStdinOnce(),
	})
	if err != nil {
		var refused *holder.Error
		if !errors.As(err, &refused) {
			// No answer: it may have started all the same, or a successor of the
			// holder may find it half-started.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
			defer cancel()
			s.endTask(undo, k.id)
		}
		return err
	}
	s.apply(st)
	k.mu.Lock()
	k.spec = nil // not needed again
	k.mu.Unlock()
	return nil
}

// failedToStart records a container that never ran. It tells whether it runs all the same: the holder may have heard of the start, which
// gave no answer, only after it was told to end it. (If it hears of it later still, its event finds an ended container.)
func (s *Service) failedToStart(k *container, cause error) (runs bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rec.Phase == phaseExited {
		return false
	}
	runs = k.running
	now := time.Now()
	k.rec.Phase, k.rec.ExitCode, k.rec.Reason, k.rec.Message = phaseExited, startErrorCode, reasonStartError, cause.Error()
	k.rec.FinishedAt = now
	k.running = false
	if err := writeRecord(s.dir.container(k.id), &k.rec); err != nil {
		s.log.Error("record of a container", "id", k.id, "error", err)
	}
	close(k.ended)
	return runs
}

// apply takes in what the holder says of a task.
func (s *Service) apply(st holder.State) {
	s.mu.RLock()
	k, b := s.containers[st.ID], s.sandboxes[st.ID]
	s.mu.RUnlock()
	if b != nil && st.Phase == holder.PhaseExited {
		s.sandboxBroke(b)
	}
	if k == nil {
		return
	}
	switch st.Phase {
	case holder.PhaseRunning:
		k.mu.Lock()
		if k.rec.Phase == phaseCreated {
			k.running, k.pid, k.rec.StartedAt = true, st.Pid, st.StartedAt
		}
		k.mu.Unlock()
	case holder.PhaseExited:
		s.exited(k, st)
	}
}

// exited records the end of a container for good; then the holder may forget it.
func (s *Service) exited(k *container, st holder.State) {
	k.mu.Lock()
	if k.rec.Phase == phaseExited {
		k.mu.Unlock()
		return
	}
	k.rec.Phase, k.running, k.pid = phaseExited, false, 0
	k.rec.ExitCode, k.rec.FinishedAt, k.rec.Reason = int32(st.ExitCode), st.FinishedAt, st.Reason
	if !st.StartedAt.IsZero() {
		k.rec.StartedAt = st.StartedAt
	}
	err := writeRecord(s.dir.container(k.id), &k.rec)
	k.mu.Unlock()
	s.publish(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, k.id, k.sandbox)
	close(k.ended)
	if err != nil {
		s.log.Error("record of a container", "id", k.id, "error", err)
	} else if err := s.client.Delete(s.ctx, k.id); err != nil && s.ctx.Err() == nil {
		s.log.Warn("forgetting a task", "id", k.id, "error", err)
	}
}

// StopContainer asks a container to end and kills it when its time is over.
func (s *Service) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return &cri.StopContainerResponse{}, nil
	}
	if !k.isRunning() {
		return &cri.StopContainerResponse{}, nil
	}
	if req.GetTimeout() > 0 {
		signal := stopSignal(k.config, k.record().ImageConfig)
		if err := s.client.Kill(ctx, k.id, signal, false); err != nil && !ended(err) {
			return nil, err
		}
		timer := time.NewTimer(time.Duration(req.GetTimeout()) * time.Second)
		defer timer.Stop()
		select {
		case <-k.ended:
			return &cri.StopContainerResponse{}, nil
		case <-timer.C:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	return &cri.StopContainerResponse{}, s.killContainer(ctx, k)
}

func ended(err error) bool {
	return holder.HasCode(err, holder.CodeNotRunning) || holder.HasCode(err, holder.CodeNotFound)
}

// killContainer kills a container and waits until it is gone.
func (s *Service) killContainer(ctx context.Context, k *container) error {
	k.op.Lock() // a start under way comes first
	running := k.isRunning()
	k.op.Unlock()
	if !running {
		return nil
	}
	err := s.client.Kill(ctx, k.id, unix.SIGKILL, true)
	if err != nil && !ended(err) {
		return err
	}
	var lost <-chan time.Time
	if holder.HasCode(err, holder.CodeNotFound) {
		lost = time.After(lostPatience) // its end should be on its way to us
	}
	select {
	case <-k.ended:
	case <-lost:
		s.exited(k, lostState(k.id))
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// RemoveContainer removes a container; a running one is killed. Its log stays.
func (s *Service) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return &cri.RemoveContainerResponse{}, nil
	}
	return &cri.RemoveContainerResponse{}, s.removeContainer(ctx, k)
}

func (s *Service) removeContainer(ctx context.Context, k *container) error {
	if err := s.killContainer(ctx, k); err != nil {
		return err
	}
	k.op.Lock()
	defer k.op.Unlock()
	s.mu.RLock()
	there := s.containers[k.id] == k
	s.mu.RUnlock()
	if !there {
		return nil
	}
	if err := s.client.Delete(ctx, k.id); err != nil {
		return err
	}
	if err := s.unmountContainer(k.id); err != nil {
		return err
	}
	if err := s.releaseSnapshots(k.id); err != nil {
		return err
	}
	if err := os.Remove(s.dir.container(k.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	delete(s.containers, k.id)
	delete(s.names, containerName(k.sandbox.id, k.config))
	s.mu.Unlock()
	s.publish(cri.ContainerEventType_CONTAINER_DELETED_EVENT, k.id, k.sandbox)
	return nil
}

// ListContainers lists containers.
func (s *Service) ListContainers(_ context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	f := req.GetFilter()
	resp := &cri.ListContainersResponse{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.containers {
		state := k.state()
		if f.GetId() != "" && !strings.HasPrefix(k.id, f.GetId()) ||
			f.GetPodSandboxId() != "" && !strings.HasPrefix(k.sandbox.id, f.GetPodSandboxId()) ||
			f.GetState() != nil && f.GetState().GetState() != state ||
			!matches(f.GetLabelSelector(), k.config.GetLabels()) {
			continue
		}
		rec := k.record()
		resp.Containers = append(resp.Containers, &cri.Container{
			Id: k.id, PodSandboxId: k.sandbox.id, Metadata: k.config.GetMetadata(), Image: k.config.GetImage(),
			ImageRef: rec.ImageRef, ImageId: rec.ImageID, State: state, CreatedAt: rec.CreatedAt.UnixNano(),
			Labels: k.config.GetLabels(), Annotations: k.config.GetAnnotations(),
		})
	}
	return resp, nil
}

// ContainerStatus describes a container.
func (s *Service) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &cri.ContainerStatusResponse{Status: s.containerStatus(k)}
	if req.GetVerbose() {
		k.mu.Lock()
		pid := k.pid
		k.mu.Unlock()
		resp.Info = verboseInfo(map[string]any{"sandboxID": k.sandbox.id, "pid": pid, "cgroup": s.cgroupOf(k), "config": k.config})
	}
	return resp, nil
}

func verboseInfo(v any) map[string]string {
	data, err := json.Marshal(v)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	return map[string]string{"info": string(data)}
}

func (s *Service) containerStatus(k *container) *cri.ContainerStatus {
	state := k.state()
	k.mu.Lock()
	rec, limits := k.rec, k.resources
	k.mu.Unlock()
	st := &cri.ContainerStatus{
		Id: k.id, Metadata: k.config.GetMetadata(), State: state, CreatedAt: rec.CreatedAt.UnixNano(),
		Image: statusImage(k.config), ImageRef: rec.ImageRef, ImageId: rec.ImageID,
		Labels: k.config.GetLabels(), Annotations: k.config.GetAnnotations(), Mounts: k.config.GetMounts(), LogPath: rec.LogPath,
		Reason: rec.Reason, Message: rec.Message, ExitCode: rec.ExitCode,
		Resources:  &cri.ContainerResources{Linux: limits},
		StopSignal: criSignal(stopSignal(k.config, rec.ImageConfig)),
	}
	groups := make([]int64, len(rec.User.Groups))
	for i, g := range rec.User.Groups {
		groups[i] = int64(g)
	}
	st.User = &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(rec.User.UID), Gid: int64(rec.User.GID), SupplementalGroups: groups}}
	if !rec.StartedAt.IsZero() {
		st.StartedAt = rec.StartedAt.UnixNano()
	}
	if state != cri.ContainerState_CONTAINER_EXITED {
		return st
	}
	st.FinishedAt = rec.FinishedAt.UnixNano()
	if st.Reason == "" {
		st.Reason = reasonError
		if rec.ExitCode == 0 {
			st.Reason = reasonCompleted
		}
	}
	return st
}

func statusImage(c *cri.ContainerConfig) *cri.ImageSpec {
	if name := c.GetImage().GetUserSpecifiedImage(); name != "" {
		return &cri.ImageSpec{Image: name, UserSpecifiedImage: name, Annotations: c.GetImage().GetAnnotations()}
	}
	return c.GetImage()
}

func criSignal(sig unix.Signal) cri.Signal {
	name := unix.SignalName(sig)
	switch {
	case int(sig) == sigRTMin:
		name = "SIGRTMIN"
	case int(sig) == sigRTMax:
		name = "SIGRTMAX"
	case int(sig) > sigRTMin && int(sig) <= sigRTMin+15:
		name = "SIGRTMINPLUS" + strconv.Itoa(int(sig)-sigRTMin)
	case int(sig) > sigRTMin && int(sig) < sigRTMax:
		name = "SIGRTMAXMINUS" + strconv.Itoa(sigRTMax-int(sig))
	}
	return cri.Signal(cri.Signal_value["SIGNAL_"+name])
}

// ReopenContainerLog makes a container write to a new log file after the old one
// was renamed.
func (s *Service) ReopenContainerLog(ctx context.Context, req *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	k, err := s.findContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if !k.isRunning() {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", k.id)
	}
	return &cri.ReopenContainerLogResponse{}, s.client.ReopenLog(ctx, k.id)
}
