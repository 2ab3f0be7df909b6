package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/clock"
)

// Config is what New needs.
type Config struct {
	NodeName string
	Client   kubernetes.Interface
	// File keeps what was prepared.
	File  string
	Clock clock.Clock
	Log   *slog.Logger
	// Changed, unless nil, is told of pods whose devices have another health. It is called concurrently.
	Changed func(types.UID)
}

// Manager prepares devices. It is the handler for plugins of type DRAPlugin. Its methods are safe for concurrent use.
type Manager struct {
	cfg     Config
	drivers drivers
	wake    chan struct{} // capacity 1
	aged    chan struct{} // capacity 1: drivers said something new of devices

	mu     sync.Mutex           // guards what follows, and the file
	claims map[types.UID]*claim // by their own uid
	stale  map[types.UID]bool   // pods that are gone and whose claims are still to be undone
}

// claim is a claim that drivers prepared on this node, or were asked to. The fields are written to the file.
type claim struct {
	UID       types.UID           `json:"uid"`
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Pods      []types.UID         `json:"pods"`
	Drivers   map[string][]device `json:"drivers"`
	Prepared  bool                `json:"prepared"`

	calls sync.Mutex // held while drivers are asked about the claim
}

// device is what a driver said of a device.
type device struct {
	Requests []string `json:"requests,omitempty"` // none means all
	Pool     string   `json:"pool"`
	Name     string   `json:"name"`
	CDI      []string `json:"cdi,omitempty"`
}

// New makes a Manager that knows what the file says.
func New(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, wake: make(chan struct{}, 1), aged: make(chan struct{}, 1), stale: map[types.UID]bool{}}
	m.drivers.init()
	var err error
	if m.claims, err = load(cfg.File); err != nil {
		return nil, fmt.Errorf("dra: %w", err)
	}
	return m, nil
}

// Uses says whether a pod has claims to devices.
func Uses(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

// Prepare has the devices of all claims of a pod prepared. It may be called again: what is prepared stays so.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		ref := &pod.Spec.ResourceClaims[i]
		name, made := nameOf(pod, ref.Name)
		if !made {
			return fmt.Errorf("pod %q: ResourceClaim not created yet", pod.Namespace+"/"+pod.Name)
		}
		if name == "" {
			continue
		}
		if err := m.prepareNamed(ctx, pod, name, ref.ResourceClaimTemplateName != nil); err != nil {
			return err
		}
	}
	if st := pod.Status.ExtendedResourceClaimStatus; st != nil {
		return m.prepareNamed(ctx, pod, st.ResourceClaimName, true)
	}
	return nil
}

// prepareNamed has one claim prepared; owned says that it must be one that was made for the pod.
func (m *Manager) prepareNamed(ctx context.Context, pod *corev1.Pod, name string, owned bool) error {
	if m.prepared(pod, name) {
		return nil
	}
	obj, err := m.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("fetch ResourceClaim %s referenced by pod %s: %w", name, pod.Name, err)
	}
	return m.prepare(ctx, pod, owned, obj)
}

// nameOf is the name of the claim behind an entry of a pod: "" if none is needed; made is false as long as it has yet to be made.
func nameOf(pod *corev1.Pod, entry string) (name string, made bool) {
	for i := range pod.Spec.ResourceClaims {
		if ref := &pod.Spec.ResourceClaims[i]; ref.Name == entry && ref.ResourceClaimName != nil {
			return *ref.ResourceClaimName, true
		}
	}
	for i := range pod.Status.ResourceClaimStatuses {
		if st := &pod.Status.ResourceClaimStatuses[i]; st.Name == entry {
			if st.ResourceClaimName == nil {
				return "", true
			}
			return *st.ResourceClaimName, true
		}
	}
	return "", false
}

// prepared says whether all is done for a pod's claim.
func (m *Manager) prepared(pod *corev1.Pod, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.find(pod, name)
	return c != nil && c.Prepared
}

// find returns the claim with a name that a pod uses. m.mu must be held.
func (m *Manager) find(pod *corev1.Pod, name string) *claim {
	for _, c := range m.claims {
		if c.Namespace == pod.Namespace && c.Name == name && slices.Contains(c.Pods, pod.UID) {
			return c
		}
	}
	return nil
}

func (m *Manager) prepare(ctx context.Context, pod *corev1.Pod, owned bool, obj *resourcev1.ResourceClaim) error {
	key := obj.Namespace + "/" + obj.Name
	switch {
	case owned && !metav1.IsControlledBy(obj, pod):
		return fmt.Errorf("ResourceClaim %s was not created for Pod %s/%s (Pod is not owner)", key, pod.Namespace, pod.Name)
	case obj.Status.Allocation == nil:
		return fmt.Errorf("resource claim %s is not allocated", key)
	case !slices.ContainsFunc(obj.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }):
		return fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, obj.Name, obj.UID)
	}
	// Before anything is noted: a pod whose driver was never here must not wait for it when it goes.
	for _, r := range obj.Status.Allocation.Devices.Results {
		if _, err := m.drivers.get(r.Driver); err != nil {
			return fmt.Errorf("NodePrepareResources: %w", err)
		}
	}
	c, err := m.hold(pod, obj)
	if err != nil {
		return err
	}
	c.calls.Lock()
	defer c.calls.Unlock()
	m.mu.Lock()
	done, there := c.Prepared, m.claims[c.UID] == c
	names := slices.Sorted(maps.Keys(c.Drivers))
	m.mu.Unlock()
	switch {
	case done:
		return nil
	case !there:
		return fmt.Errorf("resource claim %s is being unprepared", key) // for another pod; the next try takes it anew
	}
	for _, driver := range names {
		devices, err := m.ask(ctx, driver, c)
		if err != nil {
			return err
		}
		m.mu.Lock()
		c.Drivers[driver] = devices
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.Prepared = true
	return m.save()
}

// hold notes that a pod uses a claim, before anybody does anything about it.
func (m *Manager) hold(pod *corev1.Pod, obj *resourcev1.ResourceClaim) (*claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.claims[obj.UID]
	if c == nil {
		c = &claim{UID: obj.UID, Namespace: obj.Namespace, Name: obj.Name, Drivers: map[string][]device{}}
		for _, r := range obj.Status.Allocation.Devices.Results {
			c.Drivers[r.Driver] = nil
		}
		m.claims[obj.UID] = c
	}
	if slices.Contains(c.Pods, pod.UID) {
		return c, nil
	}
	c.Pods = append(c.Pods, pod.UID)
	return c, m.save()
}

// ask has a driver prepare a claim.
func (m *Manager) ask(ctx context.Context, driver string, c *claim) ([]device, error) {
	d, err := m.drivers.get(driver)
	if err != nil {
		return nil, fmt.Errorf("NodePrepareResources: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := d.client.NodePrepareResources(call, &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{c.wire()}})
	if err != nil {
		return nil, fmt.Errorf("NodePrepareResources of driver %s: %w", driver, err)
	}
	got := resp.GetClaims()[string(c.UID)]
	switch {
	case got == nil:
		return nil, fmt.Errorf("NodePrepareResources of driver %s skipped ResourceClaim %s", driver, c.Name)
	case got.GetError() != "":
		return nil, fmt.Errorf("NodePrepareResources of driver %s failed for ResourceClaim %s: %s", driver, c.Name, got.GetError())
	}
	var out []device
	for _, dev := range got.GetDevices() {
		out = append(out, device{Requests: dev.GetRequestNames(), Pool: dev.GetPoolName(), Name: dev.GetDeviceName(), CDI: dev.GetCdiDeviceIds()})
	}
	return out, nil
}

func (c *claim) wire() *drapb.Claim {
	return &drapb.Claim{Namespace: c.Namespace, Uid: string(c.UID), Name: c.Name}
}

// serves says whether a device is for a request; "" is any. A request with alternatives is meant whichever of them was taken.
func (d *device) serves(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool {
		main, _, _ := strings.Cut(r, "/")
		return r == request || main == request
	})
}

// Unprepare undoes Prepare for a pod that is over: claims that no other pod on the node uses are given back to their drivers.
func (m *Manager) Unprepare(ctx context.Context, pod types.UID) error {
	m.mu.Lock()
	var mine []*claim
	for _, c := range m.claims {
		if slices.Contains(c.Pods, pod) {
			mine = append(mine, c)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, c := range mine {
		errs = append(errs, m.release(ctx, c, pod))
	}
	return errors.Join(errs...)
}

func (m *Manager) release(ctx context.Context, c *claim, pod types.UID) error {
	c.calls.Lock()
	defer c.calls.Unlock()
	m.mu.Lock()
	if others := slices.DeleteFunc(slices.Clone(c.Pods), func(uid types.UID) bool { return uid == pod }); len(others) > 0 {
		c.Pods = others
		defer m.mu.Unlock()
		return m.save()
	}
	c.Prepared = false
	names := slices.Sorted(maps.Keys(c.Drivers))
	m.mu.Unlock()
	for _, driver := range names {
		if err := m.undo(ctx, driver, c); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(c.Pods) == 1 { // nobody else came meanwhile
		delete(m.claims, c.UID)
	} else {
		c.Pods = slices.DeleteFunc(slices.Clone(c.Pods), func(uid types.UID) bool { return uid == pod })
	}
	return m.save()
}

// undo has a driver unprepare a claim.
func (m *Manager) undo(ctx context.Context, driver string, c *claim) error {
	d, err := m.drivers.get(driver)
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := d.client.NodeUnprepareResources(call, &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{c.wire()}})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources of driver %s: %w", driver, err)
	}
	got, ok := resp.GetClaims()[string(c.UID)]
	switch {
	case !ok:
		return fmt.Errorf("NodeUnprepareResources of driver %s skipped ResourceClaim %s", driver, c.Name)
	case got.GetError() != "":
		return fmt.Errorf("NodeUnprepareResources of driver %s failed for ResourceClaim %s: %s", driver, c.Name, got.GetError())
	}
	return nil
}

// KeepOnly has claims undone whose pods aren't known any more, by and by: their drivers may not be there yet.
func (m *Manager) KeepOnly(known func(types.UID) bool) {
	m.mu.Lock()
	for _, c := range m.claims {
		for _, uid := range c.Pods {
			if !known(uid) {
				m.stale[uid] = true
			}
		}
	}
	m.mu.Unlock()
	m.poke()
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run undoes what pods left that are gone, and deletes what drivers published that are gone, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	// A driver that doesn't come back after a restart of the node is gone too: "" is all of them.
	m.drivers.miss("", m.cfg.Clock.Now())
	var wg sync.WaitGroup
	wg.Go(func() { m.age(ctx) })
	for ctx.Err() == nil {
		wait := m.step(ctx)
		t := m.cfg.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-t.C():
		}
		t.Stop()
	}
	m.drivers.close()
	wg.Wait()
}

// step does what is due and returns when to look again.
func (m *Manager) step(ctx context.Context) time.Duration {
	const idle, retry = time.Hour, 5 * time.Second
	wait := idle
	m.mu.Lock()
	stale := slices.Collect(maps.Keys(m.stale))
	m.mu.Unlock()
	for _, uid := range stale {
		if err := m.Unprepare(ctx, uid); err != nil {
			m.cfg.Log.Debug("cannot unprepare claims of a pod that is gone; trying again", "uid", uid, "error", err)
			wait = retry
			continue
		}
		m.mu.Lock()
		delete(m.stale, uid)
		m.mu.Unlock()
	}
	now := m.cfg.Clock.Now()
	due, next := m.drivers.due(now)
	for _, driver := range due {
		if err := m.wipe(ctx, driver); err != nil {
			if ctx.Err() == nil {
				m.cfg.Log.Warn("cannot delete the ResourceSlices of a driver that is gone; trying again", "driver", driver, "error", err)
			}
			m.drivers.missAgain(driver, now.Add(retry))
			wait = min(wait, retry)
		}
	}
	if next > 0 {
		wait = min(wait, next)
	}
	return wait
}
