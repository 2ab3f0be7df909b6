// Package deviceplugin is a small device plugin, for tests. It does what the plugins of vendors do: it serves at a socket of its own, registers at the node's, tells which devices it has and how they are, and
// begins anew when the node's socket is made anew.
package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// node is the name of the node's socket.
const node = "kubelet.sock"

// Config is what Start needs.
type Config struct {
	// Resource is what it has devices of.
	Resource string
	// Dir is the node's directory for device plugins, or for plugins of any kind if Watched is set: the node finds it there.
	Dir     string
	Watched bool
	// Socket is the name of its own socket, a new one if empty.
	Socket string
	// Version is what it says it speaks, v1beta1 if empty.
	Version string
	// PreStart makes it want to know when containers start.
	PreStart bool
	// Prefer, unless nil, chooses devices.
	Prefer func(available, must []string, size int) []string
	// Allocate, unless nil, says what a container gets with devices.
	Allocate func(ctx context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error)
}

// Plugin is a plugin that runs.
type Plugin struct {
	pluginapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	cfg    Config
	socket string
	server *grpc.Server // of Start, then of the goroutine that follows the directory, and, when that is over, of Stop
	ctx    context.Context
	end    context.CancelFunc
	told   chan error

	following, serving sync.WaitGroup

	mu      sync.Mutex
	devices []*pluginapi.Device
	news    chan struct{} // closed when there are others
	calls   []string
}

// Start starts a plugin and registers it, unless there is no node: then it is registered when there is. Stop ends it.
func Start(cfg Config, devices ...*pluginapi.Device) (*Plugin, error) {
	p := &Plugin{cfg: cfg, devices: devices, told: make(chan error, 100), news: make(chan struct{})}
	p.ctx, p.end = context.WithCancel(context.Background())
	if cfg.Version == "" {
		p.cfg.Version = pluginapi.Version
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	p.socket = filepath.Join(cfg.Dir, cfg.Socket)
	if cfg.Socket == "" {
		f, err := os.CreateTemp(cfg.Dir, "plugin-*.name")
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			return nil, err
		}
		p.socket = f.Name() + ".sock"
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(watch.Add(cfg.Dir), p.serve()); err != nil {
		return nil, errors.Join(err, watch.Close())
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, node)); err == nil && !cfg.Watched {
		p.told <- p.register()
	}
	p.following.Go(func() {
		defer watch.Close()
		p.follow(watch)
	})
	return p, nil
}

// Healthy are devices that are well.
func Healthy(ids ...string) (out []*pluginapi.Device) {
	for _, id := range ids {
		out = append(out, &pluginapi.Device{ID: id, Health: pluginapi.Healthy})
	}
	return out
}

// serve serves at the plugin's own socket.
func (p *Plugin) serve() error {
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(s, p)
	registerapi.RegisterRegistrationServer(s, p)
	p.server = s
	p.serving.Go(func() { _ = s.Serve(l) }) // ends with Stop
	return nil
}

// follow begins anew when the node's socket is made anew.
func (p *Plugin) follow(watch *fsnotify.Watcher) {
	for {
		select {
		case <-p.ctx.Done():
			return
		case e := <-watch.Events:
			if p.cfg.Watched || filepath.Base(e.Name) != node || !e.Has(fsnotify.Create) {
				continue
			}
			p.server.Stop()
			err := p.serve()
			if err == nil {
				err = p.register()
			}
			p.told <- err
		}
	}
}

func (p *Plugin) register() error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.cfg.Dir, node), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	_, err = pluginapi.NewRegistrationClient(conn).Register(p.ctx, &pluginapi.RegisterRequest{
		Version: p.cfg.Version, Endpoint: filepath.Base(p.socket), ResourceName: p.cfg.Resource,
	}, grpc.WaitForReady(true))
	return errors.Join(err, conn.Close())
}

// Told returns how registrations ended, one after the other.
func (p *Plugin) Told() <-chan error { return p.told }

// Stop ends the plugin; its socket goes.
func (p *Plugin) Stop() {
	p.end()
	p.following.Wait()
	p.server.Stop()
	p.serving.Wait()
}

// Tell tells of other devices.
func (p *Plugin) Tell(devices ...*pluginapi.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = devices
	close(p.news)
	p.news = make(chan struct{})
}

// Calls are the calls so far, but for those that ask what it is and has.
func (p *Plugin) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

func (p *Plugin) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
}

// GetInfo implements the service that the node finds plugins by.
func (p *Plugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DevicePlugin, Name: p.cfg.Resource, Endpoint: p.socket, SupportedVersions: []string{p.cfg.Version}}, nil
}

// NotifyRegistrationStatus implements that service as well.
func (p *Plugin) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	var err error
	if !s.PluginRegistered {
		err = errors.New(s.Error)
	}
	p.told <- err
	return &registerapi.RegistrationStatusResponse{}, nil
}

// GetDevicePluginOptions implements the service of device plugins, as the methods below do.
func (p *Plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{PreStartRequired: p.cfg.PreStart, GetPreferredAllocationAvailable: p.cfg.Prefer != nil}, nil
}

// ListAndWatch tells of the devices.
func (p *Plugin) ListAndWatch(_ *pluginapi.Empty, s grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		p.mu.Lock()
		devices, news := p.devices, p.news
		p.mu.Unlock()
		if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-news:
		case <-s.Context().Done():
			return nil
		}
	}
}

// GetPreferredAllocation chooses.
func (p *Plugin) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	one := r.ContainerRequests[0]
	p.note("prefer %v with %v of %v", one.AllocationSize, one.MustIncludeDeviceIDs, one.AvailableDeviceIDs)
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{
		{DeviceIDs: p.cfg.Prefer(one.AvailableDeviceIDs, one.MustIncludeDeviceIDs, int(one.AllocationSize))},
	}}, nil
}

// Allocate says what a container gets.
func (p *Plugin) Allocate(ctx context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	ids := r.ContainerRequests[0].DevicesIds
	p.note("allocate %v", ids)
	out := &pluginapi.ContainerAllocateResponse{}
	if p.cfg.Allocate != nil {
		var err error
		if out, err = p.cfg.Allocate(ctx, ids); err != nil {
			return nil, err
		}
	}
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{out}}, nil
}

// PreStartContainer is told that a container starts.
func (p *Plugin) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p.note("start %v", r.DevicesIds)
	return &pluginapi.PreStartContainerResponse{}, nil
}
