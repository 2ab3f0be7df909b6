package fakecri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// Exit is how a container ends.
type Exit struct {
	Code   int32
	Reason string // e.g. "OOMKilled"; "" for what the code says
}

// Runtime is the runtime. The exported fields are set before it is used.
type Runtime struct {
	// Life says how long a container lives and how it ends; nil or a false result: until it is stopped.
	Life func(*runtimeapi.ContainerConfig) (time.Duration, Exit, bool)
	// Stop says how a container answers SIGTERM: after a delay with an exit code. nil: at once with 143 (128+SIGTERM).
	Stop func(*runtimeapi.ContainerConfig) (time.Duration, Exit)
	// OnExec answers commands in containers; nil: success without output.
	OnExec func(ctx context.Context, container *runtimeapi.ContainerConfig, cmd []string) (stdout string, code int, err error)
	// BeforeStart, if not nil, is what happens, and how long it takes, before a container runs; other calls go on meanwhile.
	BeforeStart func(context.Context, *runtimeapi.ContainerConfig)
	// FailStart, if not nil, refuses to start containers.
	FailStart func(*runtimeapi.ContainerConfig) error
	// FailSandbox, if not nil, refuses to make sandboxes.
	FailSandbox func(*runtimeapi.PodSandboxConfig) error
	// FailStopSandbox, if not nil, refuses to stop sandboxes.
	FailStopSandbox func(id string) error

	mu         sync.Mutex
	n          int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	listeners  map[chan *runtimeapi.ContainerEventResponse]context.Context
	calls      []string
	network    string            // what is wrong with the network
	memory     map[string]uint64 // in use, by container

	imagesMu sync.Mutex
	images   map[string]*runtimeapi.Image
	// Pull makes an image available, or not; nil: every image exists.
	Pull func(ctx context.Context, image string, auth *runtimeapi.AuthConfig) error
}

type sandbox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type container struct {
	sandbox *sandbox
	config  *runtimeapi.ContainerConfig
	status  *runtimeapi.ContainerStatus
	ended   chan struct{}
	life    *time.Timer
}

var (
	_ cri.RuntimeService      = (*Runtime)(nil)
	_ cri.ImageManagerService = (*Images)(nil)
)

// New makes an empty runtime.
func New() *Runtime {
	return &Runtime{
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, images: map[string]*runtimeapi.Image{},
		listeners: map[chan *runtimeapi.ContainerEventResponse]context.Context{},
	}
}

func missing(what, id string) error {
	return grpcstatus.Errorf(codes.NotFound, "%s %q not found", what, id)
}

func (r *Runtime) id(prefix string) string {
	r.n++
	return fmt.Sprintf("%s%060d", prefix, r.n)
}

// Calls lists what was asked of the runtime, in order: "RunPodSandbox web", "StopContainer c 30" and so on.
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

func (r *Runtime) note(format string, args ...any) {
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

// emit tells the listeners. The caller holds mu.
func (r *Runtime) emit(c *container, t runtimeapi.ContainerEventType) {
	e := &runtimeapi.ContainerEventResponse{
		ContainerId: c.status.Id, ContainerEventType: t, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: proto.Clone(c.sandbox.status).(*runtimeapi.PodSandboxStatus),
	}
	for l, ctx := range r.listeners {
		select {
		case l <- e:
		case <-ctx.Done():
		}
	}
}

// GetContainerEvents sends events until ctx ends.
func (r *Runtime) GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	r.mu.Lock()
	r.listeners[ch] = ctx
	r.mu.Unlock()
	if established != nil {
		established(nil)
	}
	<-ctx.Done()
	r.mu.Lock()
	delete(r.listeners, ch)
	r.mu.Unlock()
	return ctx.Err()
}

// RunPodSandbox makes a sandbox.
func (r *Runtime) RunPodSandbox(_ context.Context, config *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	if r.FailSandbox != nil {
		if err := r.FailSandbox(config); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("RunPodSandbox %s", config.Metadata.Name)
	id := r.id("s")
	s := &sandbox{config: config, status: &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Labels: config.Labels, Annotations: config.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}}
	if s.status.Linux.Namespaces.Options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		s.status.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.1.%d.%d", r.n/250, r.n%250+1)}
	}
	r.sandboxes[id] = s
	return id, nil
}

// StopPodSandbox stops a sandbox and kills what is in it.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	if r.FailStopSandbox != nil {
		if err := r.FailStopSandbox(id); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return missing("sandbox", id)
	}
	r.note("StopPodSandbox %s", s.config.Metadata.Name)
	for _, c := range r.containers {
		if c.sandbox == s {
			r.end(c, Exit{Code: 137})
		}
	}
	s.status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	return nil
}

// KillSandbox makes a sandbox fail, as a reboot does.
func (r *Runtime) KillSandbox(id string) {
	_ = r.StopPodSandbox(context.Background(), id)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.sandbox.status.Id == id {
			r.emit(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
		}
	}
}

// RemovePodSandbox removes a sandbox with its containers.
func (r *Runtime) RemovePodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	r.note("RemovePodSandbox %s", s.config.Metadata.Name)
	for cid, c := range r.containers {
		if c.sandbox == s {
			r.end(c, Exit{Code: 137})
			delete(r.containers, cid)
		}
	}
	delete(r.sandboxes, id)
	return nil
}

// PodSandboxStatus tells about a sandbox.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, missing("sandbox", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: proto.Clone(s.status).(*runtimeapi.PodSandboxStatus)}, nil
}

func selected(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// ListPodSandbox lists sandboxes.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for id, s := range r.sandboxes {
		if f.GetId() != "" && f.GetId() != id || !selected(s.status.Labels, f.GetLabelSelector()) || f.GetState() != nil && f.State.State != s.status.State {
			continue
		}
		out = append(out, &runtimeapi.PodSandbox{Id: id, Metadata: s.status.Metadata, State: s.status.State, CreatedAt: s.status.CreatedAt, Labels: s.status.Labels, Annotations: s.status.Annotations})
	}
	return out, nil
}

// CreateContainer makes a container.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[sandboxID]
	if s == nil {
		return "", missing("sandbox", sandboxID)
	}
	r.note("CreateContainer %s", config.Metadata.Name)
	id := r.id("c")
	logPath := ""
	if config.LogPath != "" && s.config.LogDirectory != "" {
		logPath = filepath.Join(s.config.LogDirectory, config.LogPath)
	}
	c := &container{sandbox: s, config: config, ended: make(chan struct{}), status: &runtimeapi.ContainerStatus{
		Id: id, Metadata: config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: config.Image, ImageRef: config.GetImage().GetImage(), Labels: config.Labels, Annotations: config.Annotations, LogPath: logPath, Mounts: config.Mounts,
		Resources: &runtimeapi.ContainerResources{Linux: config.GetLinux().GetResources()},
	}}
	r.containers[id] = c
	r.emit(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return id, nil
}

// StartContainer starts a container.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	r.mu.Lock()
	if c := r.containers[id]; c != nil && r.BeforeStart != nil {
		r.mu.Unlock()
		r.BeforeStart(ctx, c.config)
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return missing("container", id)
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return grpcstatus.Error(codes.FailedPrecondition, "the container is not in the state created")
	}
	r.note("StartContainer %s", c.config.Metadata.Name)
	if r.FailStart != nil {
		if err := r.FailStart(c.config); err != nil {
			c.status.StartedAt = 0
			r.end(c, Exit{Code: 128, Reason: "StartError"})
			c.status.Message = err.Error()
			return err
		}
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	c.status.StartedAt = time.Now().UnixNano()
	r.writeLog(c, "stdout", "hello from "+c.config.Metadata.Name)
	if r.Life != nil {
		if d, exit, ok := r.Life(c.config); ok {
			c.life = time.AfterFunc(d, func() { r.Finish(id, exit) })
		}
	}
	r.emit(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

func (r *Runtime) writeLog(c *container, stream, text string) {
	if c.status.LogPath == "" {
		return
	}
	f, err := os.OpenFile(c.status.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s F %s\n", time.Now().Format(time.RFC3339Nano), stream, text)
}

// Log writes a line to a container's log.
func (r *Runtime) Log(id, stream, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.writeLog(c, stream, text)
	}
}

// Finish ends a running container.
func (r *Runtime) Finish(id string, exit Exit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.end(c, exit)
	}
}

// end ends a container. The caller holds mu.
func (r *Runtime) end(c *container, exit Exit) {
	if c.status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		return
	}
	if c.life != nil {
		c.life.Stop()
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_EXITED
	c.status.FinishedAt = time.Now().UnixNano()
	c.status.ExitCode = exit.Code
	c.status.Reason = exit.Reason
	if exit.Reason == "" {
		c.status.Reason = "Completed"
		if exit.Code != 0 {
			c.status.Reason = "Error"
		}
	}
	close(c.ended)
	r.emit(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// StopContainer ends a container as Stop says, with SIGKILL after the timeout.
func (r *Runtime) StopContainer(ctx context.Context, id string, timeout int64) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil {
		r.mu.Unlock()
		return missing("container", id)
	}
	r.note("StopContainer %s %d", c.config.Metadata.Name, timeout)
	delay, exit := time.Duration(0), Exit{Code: 143}
	if r.Stop != nil {
		delay, exit = r.Stop(c.config)
	}
	r.mu.Unlock()
	if limit := time.Duration(timeout) * time.Second; delay > limit {
		delay, exit = limit, Exit{Code: 137}
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		r.Finish(id, exit)
		return nil
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RemoveContainer removes a container.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	r.note("RemoveContainer %s", c.config.Metadata.Name)
	r.end(c, Exit{Code: 137})
	delete(r.containers, id)
	return nil
}

// ListContainers lists containers.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Container
	for id, c := range r.containers {
		if f.GetId() != "" && f.GetId() != id || f.GetPodSandboxId() != "" && f.GetPodSandboxId() != c.sandbox.status.Id ||
			!selected(c.status.Labels, f.GetLabelSelector()) || f.GetState() != nil && f.State.State != c.status.State {
			continue
		}
		out = append(out, &runtimeapi.Container{
			Id: id, PodSandboxId: c.sandbox.status.Id, Metadata: c.status.Metadata, Image: c.status.Image, ImageRef: c.status.ImageRef,
			State: c.status.State, CreatedAt: c.status.CreatedAt, Labels: c.status.Labels, Annotations: c.status.Annotations,
		})
	}
	return out, nil
}

// ContainerStatus tells about a container.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, missing("container", id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: proto.Clone(c.status).(*runtimeapi.ContainerStatus)}, nil
}

// Container finds the newest container of a pod by name: its id, or "".
func (r *Runtime) Container(pod, name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *container
	for _, c := range r.containers {
		if c.sandbox.config.Metadata.Name == pod && c.config.Metadata.Name == name && (found == nil || c.config.Metadata.Attempt > found.config.Metadata.Attempt) {
			found = c
		}
	}
	if found == nil {
		return ""
	}
	return found.status.Id
}

// Config is the configuration that a container was made with.
func (r *Runtime) Config(id string) *runtimeapi.ContainerConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.config
	}
	return nil
}

// UpdateContainerResources notes new limits.
func (r *Runtime) UpdateContainerResources(_ context.Context, id string, res *runtimeapi.ContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return missing("container", id)
	}
	r.note("UpdateContainerResources %s", c.config.Metadata.Name)
	c.status.Resources = res
	return nil
}

// ExecSync answers a command.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, error) {
	r.mu.Lock()
	c := r.containers[id]
	if c != nil {
		r.note("ExecSync %s %v", c.config.Metadata.Name, cmd)
	}
	r.mu.Unlock()
	if c == nil {
		return nil, nil, missing("container", id)
	}
	if r.OnExec == nil {
		return nil, nil, nil
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	out, code, err := r.OnExec(ctx, c.config, cmd)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: errors.New("command terminated with exit code " + strconv.Itoa(code)), Code: code}
	}
	return []byte(out), nil, err
}

// ReopenContainerLog makes the log file anew.
func (r *Runtime) ReopenContainerLog(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return missing("container", id)
	}
	return os.WriteFile(c.status.LogPath, bytes.NewBuffer(nil).Bytes(), 0o640)
}
