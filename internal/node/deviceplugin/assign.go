package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Wants says whether a pod asks for devices of plugins.
func (m *Manager) Wants(pod *corev1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(containers(pod), func(c *corev1.Container) bool { return len(m.wants(pod, c)) > 0 })
}

// Has says whether a pod has devices of a resource.
func (m *Manager) Has(pod types.UID, name corev1.ResourceName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, has := range m.pods[pod] {
		if has[string(name)] != nil {
			return true
		}
	}
	return false
}

// containers are a pod's containers in the order in which they are started.
func containers(pod *corev1.Pod) (out []*corev1.Container) {
	for i := range pod.Spec.InitContainers {
		out = append(out, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	return out
}

// wants is how much a container asks for of each resource of plugins. Limits tell: of what isn't Kubernetes' own a container asks for no less. m.mu must be held.
func (m *Manager) wants(pod *corev1.Pod, c *corev1.Container) map[string]int {
	out := map[string]int{}
	for name, q := range c.Resources.Limits {
		if n := int(q.Value()); n > 0 && m.ours(string(name)) && !claimed(pod, c.Name, string(name)) {
			out[string(name)] = n
		}
	}
	return out
}

// ours says whether a resource is one of plugins: one is there, or pods have devices of it. m.mu must be held.
func (m *Manager) ours(name string) bool {
	r := m.resources[name]
	return r != nil && (r.known || len(m.owners(name)) > 0)
}

// owners are who has the devices of a resource. m.mu must be held.
func (m *Manager) owners(name string) map[string]types.UID {
	out := map[string]types.UID{}
	for uid, containers := range m.pods {
		for _, has := range containers {
			if g := has[name]; g != nil {
				for id := range g.Devices {
					out[id] = uid
				}
			}
		}
	}
	return out
}

// claimed says whether a container gets an extended resource by a claim (KEP-5004).
func claimed(pod *corev1.Pod, container, name string) bool {
	st := pod.Status.ExtendedResourceClaimStatus
	return st != nil && slices.ContainsFunc(st.RequestMappings, func(r corev1.ContainerExtendedResourceRequest) bool {
		return r.ContainerName == container && r.ResourceName == name
	})
}

// Assign gives a pod that comes to the node the devices that it asks for, or says why it can't have them. What an init container had is given to those after it. A pod that has all of them already is
// looked at again: they must be there and healthy, and while their plugin is away that is waited for. It waits as well for devices of pods that are over.
func (m *Manager) Assign(ctx context.Context, pod *corev1.Pod) error { return m.assign(ctx, pod, "") }

// assign is Assign for one container, or for all if the name is empty.
func (m *Manager) assign(ctx context.Context, pod *corev1.Pod, only string) error {
	spare := map[string]map[string]bool{} // what init containers had, by resource
	for i, c := range containers(pod) {
		m.mu.Lock()
		wants := m.wants(pod, c)
		m.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(wants)) {
			if only == "" || only == c.Name {
				if err := m.give(ctx, pod.UID, c.Name, name, wants[name], spare[name]); err != nil {
					return err
				}
			}
			if spare[name] == nil {
				spare[name] = map[string]bool{}
			}
			passes := i < len(pod.Spec.InitContainers) && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
			m.mu.Lock()
			if g := m.pods[pod.UID][c.Name][name]; g != nil {
				for id := range g.Devices {
					if passes {
						spare[name][id] = true
					} else {
						delete(spare[name], id)
					}
				}
			}
			m.mu.Unlock()
		}
	}
	return nil
}

// give gives a container devices of one resource.
func (m *Manager) give(ctx context.Context, pod types.UID, container, name string, count int, spare map[string]bool) error {
	for {
		news, err := m.tryGive(ctx, pod, container, name, count, spare)
		if news == nil {
			return err
		}
		m.cfg.Log.Debug("a pod waits for devices", "uid", pod, "container", container, "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
	}
}

// tryGive is give, but for waiting: it says with a channel that it is worth trying again when that is closed.
func (m *Manager) tryGive(ctx context.Context, pod types.UID, container, name string, count int, spare map[string]bool) (news <-chan struct{}, _ error) {
	m.mu.Lock()
	turn := m.resource(name).turn
	m.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	changed := m.news
	r := m.resources[name]
	has := m.pods[pod][container][name]
	o := m.offer(name, count, has, spare)
	if has != nil && len(has.Devices) != count {
		o = offer{err: fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", pod, container, name, len(has.Devices), count)}
	}
	p, away := r.serving(), r.known && !r.gone.IsZero()
	m.mu.Unlock()
	switch {
	case has != nil && o.err != nil && away:
		return changed, o.err // the plugin may be about to come back
	case o.err != nil:
		if m.cfg.Ending != nil && slices.ContainsFunc(o.others, m.cfg.Ending) {
			return changed, o.err
		}
		return nil, o.err
	case has != nil:
		return nil, nil
	}
	ids, err := o.pick(ctx, p)
	if err != nil {
		return nil, err
	}
	g, err := m.allocate(ctx, p, ids)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		g.Devices[id] = r.devices[id].nodes
	}
	return nil, m.hold(pod, container, name, g)
}

// hold notes what a container has. m.mu must be held.
func (m *Manager) hold(pod types.UID, container, name string, g *grant) error {
	containers := m.pods[pod]
	if containers == nil {
		containers = held{}
		m.pods[pod] = containers
	}
	if containers[container] == nil {
		containers[container] = map[string]*grant{}
	}
	containers[container][name] = g
	if err := m.save(); err != nil {
		delete(containers[container], name)
		return err
	}
	return nil
}

// offer is what a container may have of a resource.
type offer struct {
	err    error       // why it can have nothing
	others []types.UID // who has what is missing
	must   []string    // what it gets in any case: an init container had it
	free   []string    // what the rest is taken from
	rest   int
}

// offer decides about one container. The words are those that the kubelet has for it. m.mu must be held.
func (m *Manager) offer(name string, count int, has *grant, spare map[string]bool) (o offer) {
	r := m.resources[name]
	healthy := r.healthy()
	switch {
	case !r.known:
		o.err = fmt.Errorf("cannot allocate unregistered device %s", name)
		return o
	case len(healthy) == 0:
		o.err = fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
		return o
	case has != nil:
		for id := range has.Devices {
			if _, ok := slices.BinarySearch(healthy, id); !ok {
				o.err = fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", name)
			}
		}
		return o
	}
	owners := m.owners(name)
	for _, id := range healthy {
		owner, taken := owners[id]
		switch {
		case spare[id]:
			if len(o.must) < count {
				o.must = append(o.must, id)
			}
		case !taken:
			o.free = append(o.free, id)
		case !slices.Contains(o.others, owner):
			o.others = append(o.others, owner)
		}
	}
	o.rest = count - len(o.must)
	if o.rest > len(o.free) {
		o.err = fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, o.rest, len(o.free))
	}
	return o
}

// pick chooses devices of an offer: those that the plugin prefers, if it has a preference, then by name.
func (o *offer) pick(ctx context.Context, p *plugin) ([]string, error) {
	out := slices.Clone(o.must)
	if o.rest == 0 {
		return out, nil
	}
	var order []string
	if p.preferred {
		call, cancel := context.WithTimeout(ctx, allocateTimeout)
		defer cancel()
		resp, err := p.client.GetPreferredAllocation(call, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: append(slices.Clone(o.must), o.free...), MustIncludeDeviceIDs: o.must, AllocationSize: int32(len(o.must) + o.rest),
		}}})
		if err != nil {
			return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
		}
		if list := resp.GetContainerResponses(); len(list) > 0 {
			order = list[0].GetDeviceIDs()
		}
	}
	for _, id := range append(slices.Clone(order), o.free...) {
		if len(out) == len(o.must)+o.rest {
			break
		}
		if slices.Contains(o.free, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

// allocate has a plugin make devices ready, and returns what containers with them get.
func (m *Manager) allocate(ctx context.Context, p *plugin, ids []string) (*grant, error) {
	begun := m.cfg.Clock.Now()
	call, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	resp, err := p.client.Allocate(call, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	m.durations.WithLabelValues(p.name).Observe(m.cfg.Clock.Since(begun).Seconds())
	if err != nil {
		return nil, err
	}
	list := resp.GetContainerResponses()
	if len(list) == 0 {
		return nil, fmt.Errorf("no containers return in allocation response %v", resp)
	}
	return &grant{Devices: map[string][]int64{}, Answer: read(list[0])}, nil
}

// Release takes back the devices of a pod that is over.
func (m *Manager) Release(pod types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, ok := m.pods[pod]
	if !ok {
		return nil
	}
	delete(m.pods, pod)
	if err := m.save(); err != nil {
		m.pods[pod] = has
		return err
	}
	m.tellNews()
	return nil
}

// KeepOnly takes back the devices of pods that aren't known any more.
func (m *Manager) KeepOnly(known func(types.UID) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.tellNews() // who is known now may be one who keeps its devices
	was := maps.Clone(m.pods)
	maps.DeleteFunc(m.pods, func(uid types.UID, _ held) bool { return !known(uid) })
	if len(was) == len(m.pods) {
		return nil
	}
	if err := m.save(); err != nil {
		m.pods = was
		return err
	}
	return nil
}

// prepareStart tells the plugins of a container's devices that it starts, those that want to know.
func (m *Manager) prepareStart(ctx context.Context, pod types.UID, container string) error {
	type call struct {
		name string
		p    *plugin
		ids  []string
	}
	var calls []call
	m.mu.Lock()
	has := m.pods[pod][container]
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if r := m.resources[name]; r.preStart {
			calls = append(calls, call{name, r.serving(), slices.Sorted(maps.Keys(has[name].Devices))})
		}
	}
	m.mu.Unlock()
	for _, c := range calls {
		err := errors.New("endpoint " + c.name + " has been stopped")
		if c.p != nil {
			err = c.p.starts(ctx, c.ids)
		}
		if err != nil {
			return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
		}
	}
	return nil
}

func (p *plugin) starts(ctx context.Context, ids []string) error {
	call, cancel := context.WithTimeout(ctx, preStartTimeout)
	defer cancel()
	_, err := p.client.PreStartContainer(call, &pluginapi.PreStartContainerRequest{DevicesIds: ids})
	return err
}
