package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
)

// DefaultName is the scheduler that pods ask for if they don't say.
const DefaultName = v1.DefaultSchedulerName

const (
	// maxCalls is how many bindings and reports are under way at once.
	maxCalls = 64
	// callTimeout bounds one of them.
	callTimeout = 30 * time.Second
	// maxWoken bounds how many pods of a class one event wakes.
	maxWoken = 1000
)

// Config is what New needs.
type Config struct {
	Client kubernetes.Interface
	// Informers must be started by the caller after New; pods, nodes and namespaces are read.
	Informers informers.SharedInformerFactory
	// Recorder gets the events about pods; nil makes one that writes to the API (events.k8s.io/v1).
	Recorder events.EventRecorder
	Clock    clock.Clock // nil is the real one
	Log      *slog.Logger
	// SchedulerName is which pods to care for; empty means DefaultName.
	SchedulerName string
	// Seed of the choice between equally good nodes.
	Seed uint64
}

// Scheduler gives pods nodes.
type Scheduler struct {
	client kubernetes.Interface
	clock  clock.Clock
	log    *slog.Logger
	name   string

	recorder    events.EventRecorder
	broadcaster events.EventBroadcaster // ours, if the caller gave no recorder

	synced []cache.DoneChecker

	wake  chan struct{} // has an element if there may be something to do
	calls chan struct{} // one element for each call under way
	wg    sync.WaitGroup

	mu       sync.Mutex // guards what follows
	snapshot *Snapshot
	queue    *queue
	reports  map[types.UID]*report // failures that are being written to the API
}

// New registers with the informers. Run does the work.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil || cfg.Informers == nil {
		return nil, errors.New("scheduler: a client and informers are needed")
	}
	s := &Scheduler{
		client: cfg.Client, clock: cfg.Clock, log: cfg.Log, name: cmp.Or(cfg.SchedulerName, DefaultName), recorder: cfg.Recorder,
		wake: make(chan struct{}, 1), calls: make(chan struct{}, maxCalls),
		snapshot: NewSnapshot(cfg.Seed), queue: newQueue(), reports: map[types.UID]*report{},
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.recorder == nil {
		s.broadcaster = events.NewBroadcaster(&events.EventSinkImpl{Interface: cfg.Client.EventsV1()})
		s.recorder = s.broadcaster.NewRecorder(scheme.Scheme, s.name)
	}
	core := cfg.Informers.Core().V1()
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{core.Nodes().Informer(), s.nodeHandler()},
		{core.Namespaces().Informer(), s.namespaceHandler()},
		{core.Pods().Informer(), s.podHandler()},
	} {
		r, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return nil, fmt.Errorf("scheduler: %w", err)
		}
		s.synced = append(s.synced, r.HasSyncedChecker())
	}
	return s, nil
}

// Run decides and binds until the context ends, then waits for what is under way.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.wg.Wait()
	if s.broadcaster != nil {
		bctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := s.broadcaster.StartRecordingToSinkWithContext(bctx); err != nil {
			return fmt.Errorf("scheduler: events: %w", err)
		}
		defer s.broadcaster.Shutdown()
	}
	for _, done := range s.synced {
		select {
		case <-done.Done():
		case <-ctx.Done():
			return nil
		}
	}
	s.log.Info("scheduler: ready", "nodes", s.nodes())
	for ctx.Err() == nil {
		wait, more := s.step(ctx)
		if more {
			continue
		}
		s.sleep(ctx, wait)
	}
	return nil
}

func (s *Scheduler) nodes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot.Nodes()
}

// sleep waits for something to do, no longer than d if d isn't 0.
func (s *Scheduler) sleep(ctx context.Context, d time.Duration) {
	var due <-chan time.Time
	if d > 0 {
		t := s.clock.NewTimer(d)
		defer t.Stop()
		due = t.C()
	}
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-due:
	}
}

// signal makes Run look for something to do.
func (s *Scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// step decides for one pod. If there was none, it returns when the queue must be looked at again, 0 for not before an event.
func (s *Scheduler) step(ctx context.Context) (wait time.Duration, more bool) {
	// The place for the call is taken first: decisions don't run ahead of the API without bound.
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done():
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	it := s.queue.take(now)
	if it == nil {
		<-s.calls
		if due := s.queue.due(); !due.IsZero() {
			return max(due.Sub(now), time.Millisecond), false
		}
		return 0, false
	}
	d := s.snapshot.Decide(it.p)
	if d.Failure != nil {
		<-s.calls
		s.queue.park(it, now, d.Failure.Plugins)
		s.reportLater(ctx, it.pod, v1.PodReasonUnschedulable, d.Failure.Error())
		return 0, true
	}
	// Booked at once: the next decision counts on it.
	p := it.p
	s.snapshot.Place(p, d.Node, true)
	s.wg.Go(func() {
		defer func() { <-s.calls }()
		s.bind(ctx, it, p, d.Node)
	})
	return 0, true
}
