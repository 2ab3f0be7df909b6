// Package dradriver is a small driver for dynamic resource allocation, for tests: it registers with a node, and prepares a claim by writing a CDI file that gives the container
// the variable TOY_DEVICES with the names of its devices. The devices are nothing but names.
package dradriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthpbv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	drapbv1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Config is what Start needs.
type Config struct {
	// Name is the driver's, a domain.
	Name string
	// Registry is the node's directory for plugins, Dir one for the driver's own socket, and CDI that for files about devices.
	Registry, Dir, CDI string
	// Claim reads a claim.
	Claim func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error)
	// Versions are the services that it says it has, v1 if nil. It has v1 and v1beta1, and v1 and v1alpha1 of that for the health of devices.
	Versions []string
	// Hooks are what containers with a device run, in the words of CDI.
	Hooks []map[string]any
}

// Driver is a driver that runs.
type Driver struct {
	drapb.UnimplementedDRAPluginServer
	registerapi.UnimplementedRegistrationServer
	healthpb.UnimplementedDRAResourceHealthServer

	cfg     Config
	servers []*grpc.Server
	wg      sync.WaitGroup
	told    chan *registerapi.RegistrationStatus

	mu       sync.Mutex
	prepared map[string]string // names of devices by uid of claim
	fail     error
	calls    []string
	health   []*healthpb.DeviceHealth // what it says of its devices, nil: nothing
	hushed   error                    // why it doesn't
	heard    int
	news     chan struct{} // closed when the above changes
}

// Start starts a driver. Stop ends it.
func Start(cfg Config) (*Driver, error) {
	d := &Driver{cfg: cfg, prepared: map[string]string{}, told: make(chan *registerapi.RegistrationStatus, 16), news: make(chan struct{})}
	if cfg.Versions == nil {
		d.cfg.Versions = []string{drapb.DRAPluginService}
	}
	if err := errors.Join(os.MkdirAll(cfg.Registry, 0o750), os.MkdirAll(cfg.Dir, 0o750), os.MkdirAll(cfg.CDI, 0o755)); err != nil {
		return nil, err
	}
	own := grpc.NewServer()
	if slices.Contains(d.cfg.Versions, drapb.DRAPluginService) {
		drapb.RegisterDRAPluginServer(own, d)
	}
	if slices.Contains(d.cfg.Versions, drapbv1beta1.DRAPluginService) {
		drapbv1beta1.RegisterDRAPluginServer(own, drapbv1beta1.V1ServerWrapper{DRAPluginServer: d})
	}
	if slices.Contains(d.cfg.Versions, healthpb.DRAResourceHealthService) {
		healthpb.RegisterDRAResourceHealthServer(own, d)
	}
	if slices.Contains(d.cfg.Versions, healthpbv1alpha1.DRAResourceHealthService) {
		healthpbv1alpha1.RegisterDRAResourceHealthServer(own, healthpb.V1ServerWrapper{Server: d})
	}
	registration := grpc.NewServer()
	registerapi.RegisterRegistrationServer(registration, d)
	// The driver serves before it can be found.
	for _, s := range []struct {
		server *grpc.Server
		path   string
	}{{own, d.socket()}, {registration, filepath.Join(cfg.Registry, cfg.Name+"-reg.sock")}} {
		if err := d.serve(s.server, s.path); err != nil {
			return nil, errors.Join(err, d.Stop())
		}
	}
	return d, nil
}

func (d *Driver) socket() string { return filepath.Join(d.cfg.Dir, "dra.sock") }

func (d *Driver) serve(s *grpc.Server, path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	d.servers = append(d.servers, s)
	d.wg.Go(func() { _ = s.Serve(l) }) // ends with Stop
	return nil
}

// Stop ends the driver; its sockets and files go.
func (d *Driver) Stop() error {
	for _, s := range slices.Backward(d.servers) {
		s.Stop()
	}
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for uid := range d.prepared {
		errs = append(errs, d.remove(uid))
	}
	return errors.Join(errs...)
}

// Told returns what the node says about registrations, one after the other.
func (d *Driver) Told() <-chan *registerapi.RegistrationStatus { return d.told }

// Prepared are the names of the devices that are prepared, by the uid of the claim.
func (d *Driver) Prepared() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.prepared)
}

// Calls are the calls so far: "prepare NAME", "unprepare NAME".
func (d *Driver) Calls() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Fail has all further calls fail; nil ends that.
func (d *Driver) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// GetInfo implements registration.
func (d *Driver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DRAPlugin, Name: d.cfg.Name, Endpoint: d.socket(), SupportedVersions: d.cfg.Versions}, nil
}

// NotifyRegistrationStatus implements registration.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, st *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	select {
	case d.told <- st:
	default: // nobody listens
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// NodePrepareResources implements the driver.
func (d *Driver) NodePrepareResources(ctx context.Context, req *drapb.NodePrepareResourcesRequest) (*drapb.NodePrepareResourcesResponse, error) {
	out := &drapb.NodePrepareResourcesResponse{Claims: map[string]*drapb.NodePrepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		devices, err := d.prepare(ctx, c)
		r := &drapb.NodePrepareResourceResponse{Devices: devices}
		if err != nil {
			r = &drapb.NodePrepareResourceResponse{Error: err.Error()}
		}
		out.Claims[c.GetUid()] = r
	}
	return out, nil
}

func (d *Driver) kind() string { return d.cfg.Name + "/toy" }

func (d *Driver) file(uid string) string {
	return filepath.Join(d.cfg.CDI, strings.ReplaceAll(d.kind(), "/", "_")+"-"+uid+".json")
}

func (d *Driver) prepare(ctx context.Context, c *drapb.Claim) ([]*drapb.Device, error) {
	d.mu.Lock()
	fail := d.fail
	d.calls = append(d.calls, "prepare "+c.GetName())
	d.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	claim, err := d.cfg.Claim(ctx, c.GetNamespace(), c.GetName())
	if err != nil {
		return nil, err
	}
	if string(claim.UID) != c.GetUid() || claim.Status.Allocation == nil {
		return nil, fmt.Errorf("claim %s is another, or has no devices", c.GetName())
	}
	id := d.kind() + "=" + c.GetUid()
	var names []string
	var out []*drapb.Device
	for _, r := range claim.Status.Allocation.Devices.Results {
		if r.Driver == d.cfg.Name {
			names = append(names, r.Device)
			out = append(out, &drapb.Device{RequestNames: []string{r.Request}, PoolName: r.Pool, DeviceName: r.Device, CdiDeviceIds: []string{id}})
		}
	}
	all := strings.Join(names, ",")
	type object = map[string]any
	data, err := json.Marshal(object{"cdiVersion": "0.5.0", "kind": d.kind(), "devices": []object{{"name": c.GetUid(), "containerEdits": object{"env": []string{"TOY_DEVICES=" + all}, "hooks": d.cfg.Hooks}}}})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.WriteFile(d.file(c.GetUid()), data, 0o644); err != nil {
		return nil, err
	}
	d.prepared[c.GetUid()] = all
	return out, nil
}

// NodeUnprepareResources implements the driver.
func (d *Driver) NodeUnprepareResources(_ context.Context, req *drapb.NodeUnprepareResourcesRequest) (*drapb.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &drapb.NodeUnprepareResourcesResponse{Claims: map[string]*drapb.NodeUnprepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		d.calls = append(d.calls, "unprepare "+c.GetName())
		r := &drapb.NodeUnprepareResourceResponse{}
		if err := errors.Join(d.fail, d.remove(c.GetUid())); err != nil {
			r.Error = err.Error()
		}
		out.Claims[c.GetUid()] = r
	}
	return out, nil
}

// remove forgets a claim. d.mu must be held.
func (d *Driver) remove(uid string) error {
	if err := os.Remove(d.file(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(d.prepared, uid)
	return nil
}

// Slice is how a driver publishes devices of a node, by their names.
func Slice(driver, node string, devices ...string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-" + driver}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}}
	for _, name := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: name})
	}
	return s
}
