package deviceplugin

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// goneGrace is how long the devices of a plugin that went away are counted, as in upstream.
const goneGrace = 5 * time.Minute

// Config is what New needs.
type Config struct {
	// Dir is where plugins register and have their sockets. It is made if it isn't there.
	Dir string
	// File keeps which devices containers have.
	File  string
	Clock clock.Clock
	Log   *slog.Logger
	// NodeChanged, unless nil, is told when Capacity has something new.
	NodeChanged func()
	// PodChanged, unless nil, is told of pods whose devices have another health. Both are called concurrently.
	PodChanged func(types.UID)
	// Ending says of a pod that has devices whether it gives them back in a moment; nil: none does. It is also asked about pods that nobody knows.
	Ending func(types.UID) bool
}

// Manager knows the plugins and who has their devices. It is the handler for plugins of type DevicePlugin. Its methods are safe for concurrent use.
type Manager struct {
	cfg           Config
	registrations *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	wake          chan struct{}  // capacity 1: a plugin went, or came
	wg            sync.WaitGroup // those who listen to plugins; none comes once it is closed

	mu        sync.Mutex // guards what follows, and the file
	resources map[string]*resource
	pods      map[types.UID]held
	news      chan struct{} // closed, and made anew, when who waits for devices may look again
	closed    bool
}

// resource is what plugins have of one kind. It stays for ever: names are few.
type resource struct {
	// known says that the node counts it: a plugin listed devices, and is there or hasn't been gone for long.
	known bool
	// dropped says that the node counted it once: it says so, lest others believe that it is no business of nodes.
	dropped bool
	plugins []*plugin         // the newest is the last; there are two while one is being updated
	devices map[string]device // as listed last; never changed, but replaced
	gone    time.Time         // since when no plugin tells of devices, zero if one does
	// preStart says that the last plugin wants to be told before a container starts.
	preStart bool
	turn     chan struct{} // capacity 1: held by who gives devices of it
}

// device is what a plugin says of a device.
type device struct {
	healthy bool
	nodes   []int64 // of NUMA
}

// held are the devices of a pod: by container, then by resource.
type held map[string]map[string]*grant

// grant is what a container has of a resource. It is never changed. The fields are written to the file.
type grant struct {
	Devices map[string][]int64 `json:"devices"` // their NUMA nodes by their names
	Answer  answer             `json:"answer"`
}

// Device is a device of a resource.
type Device struct {
	Resource, ID string
	Nodes        []int64 // of NUMA
}

// New makes a Manager that knows what the file says.
func New(cfg Config) (*Manager, error) {
	m := &Manager{
		cfg: cfg, wake: make(chan struct{}, 1), resources: map[string]*resource{}, pods: map[types.UID]held{}, news: make(chan struct{}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_device_plugin_registration_total", Help: "Registrations of device plugins, by resource.",
		}, []string{"resource_name"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_device_plugin_alloc_duration_seconds", Help: "How long device plugins took to allocate devices, by resource.", Buckets: prometheus.DefBuckets,
		}, []string{"resource_name"}),
	}
	return m, m.load()
}

// Metrics are those of the kubelet about device plugins.
func (m *Manager) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.registrations, m.durations}
}

// Run lets plugins register until ctx ends. It is called once.
func (m *Manager) Run(ctx context.Context) {
	stop := m.serve()
	for ctx.Err() == nil {
		next := m.drop(m.cfg.Clock.Now())
		var due <-chan time.Time
		end := func() bool { return false }
		if next > 0 {
			t := m.cfg.Clock.NewTimer(next)
			due, end = t.C(), t.Stop
		}
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-due:
		}
		end()
	}
	stop()
	m.mu.Lock()
	m.closed = true
	for _, r := range m.resources {
		for _, p := range r.plugins {
			p.cancel()
		}
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// drop counts no longer what has been gone for long. next is how long it is to the next one, 0 if there is none.
func (m *Manager) drop(now time.Time) (next time.Duration) {
	dropped := false
	m.mu.Lock()
	for name, r := range m.resources {
		if !r.known || r.gone.IsZero() {
			continue
		}
		if left := r.gone.Add(goneGrace).Sub(now); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		m.cfg.Log.Info("a device plugin is gone: its resource isn't there any more", "resource", name)
		r.known, r.dropped, r.devices, dropped = false, true, nil, true
	}
	if dropped {
		if err := m.save(); err != nil {
			m.cfg.Log.Warn("cannot note that a device plugin is gone", "error", err)
		}
		m.tellNews()
	}
	m.mu.Unlock()
	if dropped {
		m.tellNode()
	}
	return next
}

// tellNews has who waits for devices look again. m.mu must be held.
func (m *Manager) tellNews() {
	close(m.news)
	m.news = make(chan struct{})
}

func (m *Manager) tellNode() {
	if m.cfg.NodeChanged != nil {
		m.cfg.NodeChanged()
	}
}

// resource is the resource of a name, made if there was none. m.mu must be held.
func (m *Manager) resource(name string) *resource {
	r := m.resources[name]
	if r == nil {
		r = &resource{turn: make(chan struct{}, 1)}
		m.resources[name] = r
	}
	return r
}

// serving is the plugin that counts: the newest one that has told of its devices; nil if there is none.
func (r *resource) serving() *plugin {
	for _, p := range slices.Backward(r.plugins) {
		if p.devices != nil {
			return p
		}
	}
	return nil
}

// healthy are the devices that can be had, sorted.
func (r *resource) healthy() (out []string) {
	if r.serving() == nil {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.devices)) {
		if r.devices[id].healthy {
			out = append(out, id)
		}
	}
	return out
}

// health is what is told of a device: if nobody tells of it, nobody knows.
func (r *resource) health(id string) corev1.ResourceHealthStatus {
	d, ok := r.devices[id]
	switch {
	case !ok || r.serving() == nil:
		return corev1.ResourceHealthStatusUnknown
	case d.healthy:
		return corev1.ResourceHealthStatusHealthy
	}
	return corev1.ResourceHealthStatusUnhealthy
}

// Capacity is how many devices there are of each resource, and how many of these can be had. Resources that are there no more are in it with none.
func (m *Manager) Capacity() (capacity, allocatable corev1.ResourceList) {
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.resources {
		if !r.known && !r.dropped {
			continue
		}
		capacity[corev1.ResourceName(name)] = *apiresource.NewQuantity(int64(len(r.devices)), apiresource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *apiresource.NewQuantity(int64(len(r.healthy())), apiresource.DecimalSI)
	}
	return capacity, allocatable
}

// Allocatable are the devices that can be had, whoever has them.
func (m *Manager) Allocatable() (out []Device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		r := m.resources[name]
		for _, id := range r.healthy() {
			out = append(out, Device{name, id, r.devices[id].nodes})
		}
	}
	return out
}

// InUse are the devices that a container has.
func (m *Manager) InUse(pod types.UID, container string) (out []Device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := m.pods[pod][container]
	for _, name := range slices.Sorted(maps.Keys(has)) {
		for _, id := range slices.Sorted(maps.Keys(has[name].Devices)) {
			out = append(out, Device{name, id, has[name].Devices[id]})
		}
	}
	return out
}

// Health is what the containers of a pod have of devices, and how these are, by container. Who has none isn't in it.
func (m *Manager) Health(pod types.UID) map[string][]corev1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pods[pod]) == 0 {
		return nil
	}
	out := map[string][]corev1.ResourceStatus{}
	for container, has := range m.pods[pod] {
		for _, name := range slices.Sorted(maps.Keys(has)) {
			one := corev1.ResourceStatus{Name: corev1.ResourceName(name)}
			for _, id := range slices.Sorted(maps.Keys(has[name].Devices)) {
				one.Resources = append(one.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(id), Health: m.resources[name].health(id)})
			}
			out[container] = append(out[container], one)
		}
	}
	return out
}

// change changes the plugins of a resource or what they say, and tells who has to know of it. m.mu must not be held.
func (m *Manager) change(name string, f func(r *resource)) {
	m.mu.Lock()
	r := m.resource(name)
	capacity, healthy, known, preStart := len(r.devices), len(r.healthy()), r.known, r.preStart
	before := map[types.UID]map[string]corev1.ResourceHealthStatus{}
	for uid := range m.pods {
		before[uid] = m.healthOf(uid, name)
	}
	f(r)
	if p := r.serving(); p != nil {
		r.known, r.dropped, r.devices, r.gone, r.preStart = true, false, p.devices, time.Time{}, p.preStart
	} else if r.gone.IsZero() {
		r.gone = m.cfg.Clock.Now()
	}
	var pods []types.UID
	for uid, was := range before {
		if !maps.Equal(was, m.healthOf(uid, name)) {
			pods = append(pods, uid)
		}
	}
	if known != r.known || preStart != r.preStart {
		if err := m.save(); err != nil {
			m.cfg.Log.Warn("cannot note a device plugin", "resource", name, "error", err)
		}
	}
	other := known != r.known || capacity != len(r.devices) || healthy != len(r.healthy())
	m.tellNews()
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	if other {
		m.tellNode()
	}
	if m.cfg.PodChanged != nil {
		for _, uid := range pods {
			m.cfg.PodChanged(uid)
		}
	}
}

// healthOf is the health of a pod's devices of a resource; nil if it has none. m.mu must be held.
func (m *Manager) healthOf(pod types.UID, name string) map[string]corev1.ResourceHealthStatus {
	var out map[string]corev1.ResourceHealthStatus
	for _, has := range m.pods[pod] {
		if g := has[name]; g != nil {
			for id := range g.Devices {
				if out == nil {
					out = map[string]corev1.ResourceHealthStatus{}
				}
				out[id] = m.resources[name].health(id)
			}
		}
	}
	return out
}
