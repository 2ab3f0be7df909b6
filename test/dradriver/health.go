package dradriver

import (
	"google.golang.org/protobuf/proto"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"
)

// Device is what a driver says of a device; after seconds, if there are any, that doesn't count any more.
func Device(pool, name string, health healthpb.HealthStatus, seconds int64, message string) *healthpb.DeviceHealth {
	return &healthpb.DeviceHealth{Device: &healthpb.DeviceIdentifier{PoolName: pool, DeviceName: name}, Health: health, HealthCheckTimeoutSeconds: seconds, Message: message}
}

// Tell says how devices are to everybody who listens now or later.
func (d *Driver) Tell(list ...*healthpb.DeviceHealth) {
	d.turn(func() { d.health = list })
}

// Hush lets nobody listen: who does is told err, until it is nil.
func (d *Driver) Hush(err error) {
	d.turn(func() { d.hushed = err })
}

// turn changes what those who listen are told.
func (d *Driver) turn(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	close(d.news)
	d.news = make(chan struct{})
}

// Heard is how often somebody began to listen.
func (d *Driver) Heard() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.heard
}

// NodeWatchResources implements the service for the health of devices.
func (d *Driver) NodeWatchResources(_ *healthpb.NodeWatchResourcesRequest, stream healthpb.DRAResourceHealth_NodeWatchResourcesServer) error {
	d.mu.Lock()
	d.heard++
	d.mu.Unlock()
	for {
		d.mu.Lock()
		list, hushed, news := d.health, d.hushed, d.news
		d.mu.Unlock()
		if hushed != nil {
			return hushed
		}
		if list != nil {
			msg := &healthpb.NodeWatchResourcesResponse{}
			for _, one := range list {
				msg.Devices = append(msg.Devices, proto.CloneOf(one))
			}
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
		select {
		case <-news:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
