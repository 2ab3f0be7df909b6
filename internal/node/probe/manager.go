package probe

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// Kind is what a probe is for.
type Kind int8

// The kinds.
const (
	None Kind = iota
	Startup
	Readiness
	Liveness
)

func (k Kind) String() string {
	return [...]string{"", "Startup", "Readiness", "Liveness"}[k]
}

// Target is one running container.
type Target struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	ID        string
	IP        string
	StartedAt time.Time
	// WasStarted and WasReady carry over what was known of this very container before the node restarted.
	WasStarted, WasReady bool
}

// Result is what is known of a container.
type Result struct {
	Started bool
	Ready   bool
	// Failed is Startup or Liveness when the container has to be restarted.
	Failed Kind
}

// Config is what a Manager is given.
type Config struct {
	Executor Executor
	Clock    clock.WithTicker
	// Changed is called, without locks held, when a pod's result changed.
	Changed func(types.UID)
	// Event records a warning about a container.
	Event func(pod *corev1.Pod, container, reason, message string)
	// Count counts finished questions for metrics; may be nil.
	Count func(pod *corev1.Pod, container string, kind Kind, result string)
}

// Manager runs the probes. Its methods are safe for concurrent use.
type Manager struct {
	Config
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	targets map[string]*target // by container id
}

type target struct {
	Target
	cancel  context.CancelFunc
	quiet   context.CancelFunc // ends all but readiness
	started chan struct{}      // closed when the startup probe passed
	result  Result             // guarded by Manager.mu
}

// New makes a Manager.
func New(c Config) *Manager {
	ctx, stop := context.WithCancel(context.Background())
	return &Manager{Config: c, ctx: ctx, stop: stop, targets: map[string]*target{}}
}

// Close ends all probes and waits for them.
func (m *Manager) Close() {
	m.stop()
	m.wg.Wait()
}

// Start begins to probe a container; a container that is probed already is left alone.
func (m *Manager) Start(t Target) {
	c := t.Container
	if c.StartupProbe == nil && c.ReadinessProbe == nil && c.LivenessProbe == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.targets[t.ID]; ok || m.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	started := c.StartupProbe == nil || t.WasStarted
	doomable, quiet := context.WithCancel(ctx)
	w := &target{Target: t, cancel: cancel, quiet: quiet, started: make(chan struct{}), result: Result{Started: started, Ready: started && (c.ReadinessProbe == nil || t.WasReady)}}
	if started {
		close(w.started)
	} else {
		m.wg.Go(func() { m.run(doomable, w, Startup, c.StartupProbe) })
	}
	if c.ReadinessProbe != nil {
		m.wg.Go(func() { m.run(ctx, w, Readiness, c.ReadinessProbe) })
	}
	if c.LivenessProbe != nil {
		m.wg.Go(func() { m.run(doomable, w, Liveness, c.LivenessProbe) })
	}
	m.targets[t.ID] = w
}

// Stop ends the probes of a container and forgets it.
func (m *Manager) Stop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.targets[id]; w != nil {
		w.cancel()
		delete(m.targets, id)
	}
}

// Quiet ends the startup and liveness probes of a container that is being stopped: nobody will restart it. Readiness is
// asked on, because a service may still send it requests.
func (m *Manager) Quiet(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.targets[id]; w != nil {
		w.quiet()
	}
}

// Result tells what is known of a container that is probed.
func (m *Manager) Result(id string) (Result, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.targets[id]
	if w == nil {
		return Result{}, false
	}
	return w.result, true
}

// run is the life of one probe.
func (m *Manager) run(ctx context.Context, w *target, kind Kind, p *corev1.Probe) {
	if kind != Startup {
		select {
		case <-w.started:
		case <-ctx.Done():
			return
		}
	}
	first := w.StartedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second)
	if !m.sleep(ctx, first.Sub(m.Clock.Now())) {
		return
	}
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	ticker := m.Clock.NewTicker(period)
	defer ticker.Stop()
	last, run := unknown, 0
	for {
		got, text := check(ctx, m.Executor, w.Container, w.ID, w.IP, p)
		if ctx.Err() != nil {
			return
		}
		if got == warning {
			m.Event(w.Pod, w.Container.Name, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", kind, text))
			got = success
		}
		m.count(w, kind, got)
		switch got {
		case failure:
			m.Event(w.Pod, w.Container.Name, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, text))
		case unknown:
			m.Event(w.Pod, w.Container.Name, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %s", kind, text))
		}
		if got != unknown {
			if got == last {
				run++
			} else {
				last, run = got, 1
			}
			threshold := int(max(p.FailureThreshold, 1))
			if got == success {
				threshold = int(max(p.SuccessThreshold, 1))
			}
			if run >= threshold && m.apply(w, kind, got == success) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// apply notes a result and tells whether the probe is over.
func (m *Manager) apply(w *target, kind Kind, ok bool) (done bool) {
	m.mu.Lock()
	before := w.result
	switch kind {
	case Startup:
		done = true
		if ok {
			w.result.Started = true
			w.result.Ready = w.Container.ReadinessProbe == nil
			close(w.started)
		} else {
			w.result.Failed = Startup
		}
	case Readiness:
		w.result.Ready = ok
	case Liveness:
		if !ok {
			w.result.Failed = Liveness
			done = true
		}
	}
	changed := before != w.result
	m.mu.Unlock()
	if changed {
		m.Changed(w.Pod.UID)
	}
	return done
}

func (m *Manager) count(w *target, kind Kind, got outcome) {
	if m.Count != nil {
		m.Count(w.Pod, w.Container.Name, kind, [...]string{"successful", "failed", "unknown"}[got])
	}
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := m.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C():
		return true
	}
}
