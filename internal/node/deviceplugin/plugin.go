package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/node/plugins"
)

// Socket is the name of the socket that plugins register at.
const Socket = "kubelet.sock"

// How long a plugin may take.
const (
	connectTimeout  = 10 * time.Second
	allocateTimeout = 2 * time.Minute
	preStartTimeout = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
)

// plugin is one that is registered.
type plugin struct {
	name, socket        string
	conn                *grpc.ClientConn
	client              pluginapi.DevicePluginClient
	preStart, preferred bool
	cancel              context.CancelFunc // ends listening to it
	// devices are those that it told of, nil before it did; guarded by Manager.mu, and replaced as a whole.
	devices map[string]device
}

// registration is the service that plugins register with.
type registration struct {
	pluginapi.UnimplementedRegistrationServer
	m *Manager
}

// Register implements the service.
func (s *registration) Register(ctx context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	s.m.registrations.WithLabelValues(r.GetResourceName()).Inc()
	err := validVersion(r.GetVersion())
	if err == nil {
		err = validName(r.GetResourceName())
	}
	if err == nil {
		err = s.m.connect(ctx, r.GetResourceName(), filepath.Join(s.m.cfg.Dir, r.GetEndpoint()))
	}
	if err != nil {
		s.m.cfg.Log.Warn("cannot register a device plugin", "resource", r.GetResourceName(), "endpoint", r.GetEndpoint(), "error", err)
	}
	return &pluginapi.Empty{}, err
}

func validVersion(version string) error {
	if version == pluginapi.Version {
		return nil
	}
	return fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", version, pluginapi.SupportedVersions)
}

func validName(name string) error {
	if check.IsExtendedResource(corev1.ResourceName(name)) {
		return nil
	}
	return fmt.Errorf("the ResourceName %q is invalid", name)
}

// serve lets plugins register at the socket. Those who did with a process before this one see that the socket is made anew, and register again; their own sockets, which tell others that they
// are there, are taken away until then. The returned function ends it.
func (m *Manager) serve() (stop func()) {
	l, err := m.listenAnew()
	if err != nil {
		m.cfg.Log.Error("device plugins cannot register", "error", err)
		return func() {}
	}
	s := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(s, &registration{m: m})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			m.cfg.Log.Error("device plugins cannot register any more", "error", err)
		}
	}()
	return func() {
		s.Stop()
		<-done
	}
}

func (m *Manager) listenAnew() (net.Listener, error) {
	if err := os.MkdirAll(m.cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(m.cfg.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return net.Listen("unix", filepath.Join(m.cfg.Dir, Socket))
}

// Register implements plugins.Handler.
func (m *Manager) Register(p plugins.Plugin) error {
	if !slices.Contains(p.Versions, pluginapi.Version) {
		return fmt.Errorf("manager version, %s, is not among plugin supported versions %v", pluginapi.Version, p.Versions)
	}
	if err := validName(p.Name); err != nil {
		return fmt.Errorf("invalid name of device plugin socket: %w", err)
	}
	return m.connect(context.Background(), p.Name, p.Endpoint)
}

// Deregister implements plugins.Handler.
func (m *Manager) Deregister(p plugins.Plugin) {
	m.mu.Lock()
	var old *plugin
	if r := m.resources[p.Name]; r != nil {
		if i := r.at(p.Endpoint); i >= 0 {
			old = r.plugins[i]
		}
	}
	m.mu.Unlock()
	if old != nil {
		m.leave(old)
	}
}

// at is where the plugin at a socket is, -1 if there is none.
func (r *resource) at(socket string) int {
	return slices.IndexFunc(r.plugins, func(p *plugin) bool { return p.socket == socket })
}

// connect takes a plugin, in the place of one that was at the same socket.
func (m *Manager) connect(ctx context.Context, name, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return fmt.Errorf("failed to dial device plugin: %w", err)
	}
	client := pluginapi.NewDevicePluginClient(conn)
	call, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	options, err := client.GetDevicePluginOptions(call, &pluginapi.Empty{}, grpc.WaitForReady(true))
	if err != nil {
		return errors.Join(fmt.Errorf("failed to get device plugin options: %w", err), conn.Close())
	}
	listening, hush := context.WithCancel(context.Background())
	p := &plugin{
		name: name, socket: socket, conn: conn, client: client, cancel: hush,
		preStart: options.GetPreStartRequired(), preferred: options.GetGetPreferredAllocationAvailable(),
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		hush()
		return errors.Join(errors.New("the node is stopping"), conn.Close())
	}
	r := m.resource(name)
	var old *plugin
	if i := r.at(socket); i >= 0 {
		old = r.plugins[i]
	}
	r.plugins = append(r.plugins, p)
	m.wg.Go(func() { m.listen(listening, p) })
	m.mu.Unlock()
	if old != nil {
		m.leave(old)
	}
	m.cfg.Log.Info("a device plugin registered", "resource", name, "socket", socket)
	return nil
}

// listen hears what a plugin says of its devices until it ends that, which is its end.
func (m *Manager) listen(ctx context.Context, p *plugin) {
	err := m.hear(ctx, p)
	if ctx.Err() == nil { // else who ended it has done the rest
		m.cfg.Log.Warn("a device plugin is gone", "resource", p.name, "socket", p.socket, "error", err)
		m.leave(p)
	}
	if err := p.conn.Close(); err != nil {
		m.cfg.Log.Debug("close the connection of a device plugin", "resource", p.name, "error", err)
	}
}

func (m *Manager) hear(ctx context.Context, p *plugin) error {
	stream, err := p.client.ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		return err
	}
	for {
		said, err := stream.Recv()
		if err != nil {
			return err
		}
		devices := make(map[string]device, len(said.GetDevices()))
		for _, d := range said.GetDevices() {
			one := device{healthy: d.GetHealth() == pluginapi.Healthy}
			for _, n := range d.GetTopology().GetNodes() {
				one.nodes = append(one.nodes, n.GetID())
			}
			devices[d.GetID()] = one
		}
		m.change(p.name, func(r *resource) {
			if slices.Contains(r.plugins, p) {
				p.devices = devices
			}
		})
	}
}

// leave forgets a plugin, and ends listening to it. It may be called again.
func (m *Manager) leave(p *plugin) {
	p.cancel()
	m.change(p.name, func(r *resource) {
		r.plugins = slices.DeleteFunc(slices.Clone(r.plugins), func(o *plugin) bool { return o == p })
	})
}
