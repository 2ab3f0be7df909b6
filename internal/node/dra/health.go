package dra

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
)

const (
	// healthPatience is how long what a driver says of a device counts, unless the driver says so itself.
	healthPatience = 30 * time.Second
	// maxReports is how many devices of a driver are remembered: names come from the driver and nobody checks them.
	maxReports = 16384
	// healthRetry is how long a driver is left alone that stopped telling.
	healthRetry = 5 * time.Second
)

// deviceID is a device of a driver.
type deviceID struct{ pool, name string }

// report is what a driver said of a device.
type report struct {
	health   corev1.ResourceHealthStatus
	message  string
	patience time.Duration
	until    time.Time // it doesn't count afterwards
}

// healthServices are the services that tell of the health of devices (KEP-4680), the best first. Their messages are the same, byte by byte; the package of the
// older one is used for both because that of v1 would bring itself and the older one into the binary.
func healthServices() []string {
	return []string{"v1.DRAResourceHealth", healthpb.DRAResourceHealthService}
}

// healthService is the service of these that a driver is asked with; "" if it doesn't tell.
func healthService(services []string) string {
	for _, s := range healthServices() {
		if slices.Contains(services, s) {
			return s
		}
	}
	return ""
}

// watchHealth begins to listen to a driver.
func (d *driver) watchHealth(ctx context.Context) (grpc.ServerStreamingClient[healthpb.NodeWatchResourcesResponse], error) {
	desc := &healthpb.DRAResourceHealth_ServiceDesc.Streams[0]
	stream, err := d.conn.NewStream(ctx, desc, "/"+d.health+"/"+desc.StreamName)
	if err != nil {
		return nil, err
	}
	out := &grpc.GenericClientStream[healthpb.NodeWatchResourcesRequest, healthpb.NodeWatchResourcesResponse]{ClientStream: stream}
	// A stream that is over already says why when it is read.
	if err := out.SendMsg(&healthpb.NodeWatchResourcesRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return out, out.CloseSend()
}

// listen hears what a driver says of its devices until ctx ends or the driver says that it has nothing to tell.
func (m *Manager) listen(ctx context.Context, d *driver) {
	for {
		err := m.hear(ctx, d)
		m.tell(d.plugin.Name, m.drivers.forget(d)) // nobody watches over the devices now
		if ctx.Err() != nil {
			return
		}
		m.cfg.Log.Debug("a driver tells no more of the health of its devices", "driver", d.plugin.Name, "error", err)
		if grpcstatus.Code(err) == codes.Unimplemented {
			return // a driver that learns it registers anew
		}
		t := m.cfg.Clock.NewTimer(healthRetry)
		select {
		case <-ctx.Done():
		case <-t.C():
		}
		t.Stop()
	}
}

// hear notes what a driver says on one stream.
func (m *Manager) hear(ctx context.Context, d *driver) error {
	stream, err := d.watchHealth(ctx)
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		changed, left := m.drivers.note(d, msg.GetDevices(), m.cfg.Clock.Now())
		if left > 0 {
			m.cfg.Log.Warn("a driver tells of more devices than are remembered", "driver", d.plugin.Name, "limit", maxReports, "left", left)
		}
		if len(changed) == 0 {
			continue
		}
		m.tell(d.plugin.Name, changed)
		select {
		case m.aged <- struct{}{}:
		default:
		}
	}
}

// note takes what a driver said now. changed are the devices that it said something new of, left how many there was no room for.
func (ds *drivers) note(d *driver, list []*healthpb.DeviceHealth, now time.Time) (changed map[deviceID]bool, left int) {
	changed = map[deviceID]bool{}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, said := range list {
		id := deviceID{said.GetDevice().GetPoolName(), said.GetDevice().GetDeviceName()}
		r := report{health: corev1.ResourceHealthStatusUnknown, message: shortened(said.GetMessage()), patience: healthPatience}
		switch said.GetHealth() {
		case healthpb.HealthStatus_HEALTHY:
			r.health = corev1.ResourceHealthStatusHealthy
		case healthpb.HealthStatus_UNHEALTHY:
			r.health = corev1.ResourceHealthStatusUnhealthy
		}
		// More seconds than a duration can hold are as good as for ever.
		const most = int64(24 * 365 * time.Hour / time.Second)
		if s := said.GetHealthCheckTimeoutSeconds(); s > 0 {
			r.patience = time.Duration(min(s, most)) * time.Second
		}
		r.until = now.Add(r.patience)
		before, known := d.reports[id]
		if !known && len(d.reports) >= maxReports {
			left++
			continue
		}
		if !known || !now.Before(before.until) || before.health != r.health || before.message != r.message || before.patience != r.patience {
			changed[id] = true
		}
		d.reports[id] = r
	}
	return changed, left
}

// shortened is a message that fits into a pod's status.
func shortened(s string) string {
	const end = "..."
	if len(s) <= corev1.ResourceHealthMessageMaxLength {
		return s
	}
	n := corev1.ResourceHealthMessageMaxLength - len(end)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + end
}

// forget forgets all that an instance of a driver said, and returns of which devices.
func (ds *drivers) forget(d *driver) map[deviceID]bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	out := map[deviceID]bool{}
	for id := range d.reports {
		out[id] = true
	}
	clear(d.reports)
	return out
}

// expire forgets what is too old to count, and returns of which devices, by driver. next is how long it is to the next one, 0 if there is none.
func (ds *drivers) expire(now time.Time) (out map[string]map[deviceID]bool, next time.Duration) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	out = map[string]map[deviceID]bool{}
	for name, list := range ds.byName {
		for _, d := range list {
			for id, r := range d.reports {
				if left := r.until.Sub(now); left > 0 {
					if next == 0 || left < next {
						next = left
					}
					continue
				}
				delete(d.reports, id)
				if out[name] == nil {
					out[name] = map[deviceID]bool{}
				}
				out[name][id] = true
			}
		}
	}
	return out, next
}

// said is what counts of what a driver said of a device. While the driver is being updated there are two who may know; the newer one goes first.
func (ds *drivers) said(name string, id deviceID, now time.Time) report {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range slices.Backward(ds.byName[name]) {
		if r, ok := d.reports[id]; ok && now.Before(r.until) {
			return r
		}
	}
	return report{health: corev1.ResourceHealthStatusUnknown}
}

// tell has the pods looked at that have one of some devices.
func (m *Manager) tell(driver string, changed map[deviceID]bool) {
	if len(changed) == 0 {
		return
	}
	pods := map[types.UID]bool{}
	m.mu.Lock()
	for _, c := range m.claims {
		if slices.ContainsFunc(c.Drivers[driver], func(d device) bool { return changed[deviceID{d.Pool, d.Name}] }) {
			for _, uid := range c.Pods {
				pods[uid] = true
			}
		}
	}
	m.mu.Unlock()
	if m.cfg.Changed == nil {
		return
	}
	for uid := range pods {
		m.cfg.Changed(uid)
	}
}

// age tells of devices that drivers haven't said anything of for too long, until ctx ends.
func (m *Manager) age(ctx context.Context) {
	for ctx.Err() == nil {
		gone, next := m.drivers.expire(m.cfg.Clock.Now())
		for name, ids := range gone {
			m.tell(name, ids)
		}
		var due <-chan time.Time
		stop := func() bool { return false }
		if next > 0 {
			t := m.cfg.Clock.NewTimer(next)
			due, stop = t.C(), t.Stop
		}
		select {
		case <-ctx.Done():
		case <-m.aged:
		case <-due:
		}
		stop()
	}
}

// Health is what the containers of a pod have of devices, and what drivers say of these, by container. Who isn't in it has claims that aren't prepared.
func (m *Manager) Health(pod *corev1.Pod) map[string][]corev1.ResourceStatus {
	out := map[string][]corev1.ResourceStatus{}
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if len(c.Resources.Claims) == 0 {
			continue
		}
		if list, ok := m.health(pod, c, now); ok {
			out[c.Name] = list
		}
	}
	return out
}

// health is Health for one container; ok says that all of its claims are prepared. m.mu must be held.
func (m *Manager) health(pod *corev1.Pod, container *corev1.Container, now time.Time) (out []corev1.ResourceStatus, ok bool) {
	for _, want := range container.Resources.Claims {
		name, made := nameOf(pod, want.Name)
		if made && name == "" {
			continue // none is needed
		}
		c := m.find(pod, name)
		if c == nil || !c.Prepared {
			return nil, false
		}
		one := corev1.ResourceStatus{Name: corev1.ResourceName("claim:" + want.Name)}
		if want.Request != "" {
			one.Name += corev1.ResourceName("/" + want.Request)
		}
		seen := map[corev1.ResourceID]bool{} // devices may share what a container gets for them
		for _, driver := range slices.Sorted(maps.Keys(c.Drivers)) {
			for i := range c.Drivers[driver] {
				d := &c.Drivers[driver][i]
				id := d.resourceID(driver)
				if !d.serves(want.Request) || seen[id] {
					continue
				}
				seen[id] = true
				said := m.drivers.said(driver, deviceID{d.Pool, d.Name}, now)
				h := corev1.ResourceHealth{ResourceID: id, Health: said.health}
				if said.message != "" {
					h.Message = &said.message
				}
				one.Resources = append(one.Resources, h)
			}
		}
		if len(one.Resources) > 0 {
			out = append(out, one)
		}
	}
	return out, true
}

// resourceID is what a device is called in the status of pods.
func (d *device) resourceID(driver string) corev1.ResourceID {
	if len(d.CDI) > 0 {
		return corev1.ResourceID(d.CDI[0])
	}
	return corev1.ResourceID(driver + "/" + d.Pool + "/" + d.Name)
}
