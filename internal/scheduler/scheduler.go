package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/scheduler/config"
)

// DefaultName is the scheduler that pods ask for if they don't say.
const DefaultName = v1.DefaultSchedulerName

const (
	// maxCalls is how many bindings, plans of eviction and reports are under way at once, and maxEvictionCalls how many victims are being evicted by plans.
	maxCalls         = 64
	maxEvictionCalls = 2 * maxCalls
	// callTimeout bounds one of them.
	callTimeout = 30 * time.Second
	// maxWoken bounds how many pods of a class one event wakes.
	maxWoken = 1000
)

// Config is what New needs.
type Config struct {
	Client kubernetes.Interface
	// Informers must be started by the caller after New.
	Informers *informers.Factory
	// Recorder gets the events about pods; nil is one of the scheduler's own, which writes to the API.
	Recorder events.EventRecorder
	// Poster, if it isn't nil, writes bindings, events, what pods are told in their status, and evictions instead of Client.
	Poster Poster
	Clock  clock.Clock // nil is the real one
	Log    *slog.Logger
	// Settings are the profiles and times; nil is config.Default().
	Settings *config.Scheduler
	// Extenders are asked about the pods that they are interested in, in their order.
	Extenders []Extender
	// CrashHalfLife is how fast the memory of where an owner's pods crashed fades; 0 remembers nothing.
	CrashHalfLife time.Duration
	// Metrics gets upstream's metrics; nil drops them.
	Metrics prometheus.Registerer
	// Seed of the choice between equally good nodes.
	Seed uint64
}

// Poster writes at paths of the API for who doesn't want to see what became of it, at less cost than a clientset. Errors are as a clientset's.
type Poster interface {
	// Post creates an object, which is given away and must be what decoding its encoding gives.
	Post(ctx context.Context, path string, obj runtime.Object) error
	// Patch changes an object. edit returns, perhaps several times, a copy of it as the strategic merge patch that encode returns would make it; the copy may share with
	// the object what is the same in both.
	Patch(ctx context.Context, path string, edit func(runtime.Object) (runtime.Object, error), encode func() ([]byte, error)) error
	// Delete deletes an object. The options are given away. If edit isn't nil the object is a pod, whose status it changes in the same step: it is as Patch's.
	Delete(ctx context.Context, path string, options *metav1.DeleteOptions, edit func(runtime.Object) (runtime.Object, error)) error
}

// Scheduler gives pods nodes.
type Scheduler struct {
	client    kubernetes.Interface
	clock     clock.Clock
	log       *slog.Logger
	extenders []Extender
	metrics   *metrics

	poster    Poster
	recorders map[string]events.EventRecorder // by profile
	events    *eventWriter                    // ours, if the caller gave no recorder

	synced []cache.DoneChecker

	wake  chan struct{} // has an element if there may be something to do
	calls chan struct{} // one element for each call under way
	// binds are bindings and plans of eviction, each with a place in calls; evictions are their victims; reporting has what waits for a place.
	binds, evictions, reporting pool
	wg                          sync.WaitGroup

	mu       sync.Mutex // guards what follows
	snapshot *Snapshot
	queue    *queue
	reports  map[types.UID]*report // failures that are being written to the API
	held     []heldReport          // those of them that are to be written at a time, in its order
	storage  chan struct{}         // closed and made anew when a claim changed
}

// New registers with the informers. Run does the work.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil || cfg.Informers == nil {
		return nil, errors.New("scheduler: a client and informers are needed")
	}
	settings := cfg.Settings
	if settings == nil {
		settings = config.Default()
	}
	if len(settings.Profiles) == 0 {
		return nil, errors.New("scheduler: a profile is needed")
	}
	s := &Scheduler{
		client: cfg.Client, poster: cfg.Poster, binds: pool{limit: fixed(maxCalls), spare: maxCalls / 2}, evictions: pool{limit: fixed(maxEvictionCalls), spare: maxCalls / 2}, reporting: pool{limit: fixed(maxReports), spare: maxReports / 2}, clock: cfg.Clock, log: cfg.Log, extenders: inOrder(cfg.Extenders), recorders: map[string]events.EventRecorder{},
		wake: make(chan struct{}, 1), calls: make(chan struct{}, maxCalls), storage: make(chan struct{}),
		snapshot: NewSnapshotFor(cfg.Seed, settings.Profiles), queue: newQueue(settings.InitialBackoff, settings.MaxBackoff), reports: map[types.UID]*report{},
	}
	if cfg.CrashHalfLife > 0 {
		s.snapshot.RememberCrashes(cfg.CrashHalfLife)
	}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for i := range settings.Profiles {
		name := settings.Profiles[i].SchedulerName
		if s.recorders[name] = cfg.Recorder; cfg.Recorder == nil {
			if s.events == nil {
				s.events = newEventWriter(cfg.Client, cfg.Poster, s.clock, s.log, func() int { return len(s.calls) })
			}
			s.recorders[name] = s.events.reporter(name)
		}
	}
	if err := s.register(cfg.Informers); err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	var err error
	s.queue.came = func(queue, event string) { s.metrics.came(queue, event) }
	if s.metrics, err = newMetrics(cfg.Metrics, s); err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	return s, nil
}

// recorder returns the recorder of a pod's profile.
func (s *Scheduler) recorder(p *Pod) events.EventRecorder { return s.recorders[p.profile.name] }

// Run decides and binds until the context ends, then waits for what is under way.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.reporting.close() // the last: those before may have something to report
	defer s.evictions.close()
	defer s.wg.Wait()
	defer s.binds.close()
	if s.events != nil {
		s.events.open(ctx)
		defer s.events.close()
	}
	for _, done := range s.synced {
		select {
		case <-done.Done():
		case <-ctx.Done():
			return nil
		}
	}
	s.log.Info("scheduler: ready", "nodes", s.countNodes())
	for ctx.Err() == nil {
		wait, more := s.step(ctx)
		if more {
			continue
		}
		s.sleep(ctx, wait)
	}
	return nil
}

func (s *Scheduler) countNodes() int {
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
	held := s.release(ctx, now)
	it := s.queue.take(now)
	if it == nil {
		<-s.calls
		due := s.queue.due()
		if due.IsZero() || !held.IsZero() && held.Before(due) {
			due = held
		}
		if due.IsZero() {
			return 0, false
		}
		return max(due.Sub(now), time.Millisecond), false
	}
	s.snapshot.Advance(now)
	it.attempts++
	p := it.p
	var d Decision
	if asked := s.interested(p.pod); len(asked) == 0 {
		d = s.snapshot.Decide(p)
	} else {
		var err error
		before := s.snapshot.changed()
		d, err = s.askExtenders(ctx, p, asked)
		if err == nil && d.Failure != nil && s.snapshot.changed() != before {
			err = errors.New("nodes changed while extenders were asked")
		}
		if s.queue.items[p.uid()] != it {
			<-s.calls
			return 0, true // deleted meanwhile
		}
		if err != nil {
			<-s.calls
			s.metrics.attempted(p, resultError, s.clock.Since(now))
			s.queue.retry(it, now)
			s.reportLater(ctx, it.p, report{reason: v1.PodReasonSchedulerError, message: err.Error()})
			return 0, true
		}
	}
	if d.Failure != nil {
		s.failed(ctx, it, now, d.Failure)
		return 0, true
	}
	// Booked at once: the next decision counts on it.
	devices, ok := s.snapshot.PlanDevices(p, d.Node)
	if !ok {
		f := s.snapshot.newFailure(p)
		f.Whole, f.Plugins = s.snapshot.claimReason(claimUnsatisfiable), []string{NameDynamicResources}
		s.failed(ctx, it, now, f)
		return 0, true
	}
	plan := s.snapshot.PlanVolumes(p, d.Node)
	if freed := s.snapshot.NominatedFor(p.uid()); freed != "" && freed != d.Node {
		defer s.eased(freed, nil)
	}
	s.snapshot.Place(p, d.Node, true)
	s.metrics.decided(s.clock.Since(now))
	told := s.endReport(p.uid())
	bind := func() {
		if told != nil {
			<-told
		}
		s.bind(ctx, it, p, d.Node, plan, devices, now)
		<-s.calls
	}
	if !plan.Empty() || !devices.Empty() || !s.binds.do(bind, maxCalls) {
		s.wg.Go(bind) // it may wait for volumes or devices, which holds no place
	}
	return 0, true
}

// failed puts a pod aside that fits nowhere, and makes room for it if that is possible at the cost of less important ones. s.mu must be held, and
// is while it returns; a place for a call is taken.
func (s *Scheduler) failed(ctx context.Context, it *item, now time.Time, f *Failure) {
	p := it.p
	r := report{reason: v1.PodReasonUnschedulable}
	var e Eviction
	room := false
	if f.Reasons[claimNotHere] > 0 {
		if c := s.snapshot.Deallocatable(p); c != nil {
			f.Claims = "deallocation of ResourceClaim completed"
			s.wg.Go(func() {
				if err := s.deallocate(ctx, c); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) {
					s.log.Error("scheduler: deallocate", "err", err)
				}
			})
		}
	}
	if f.Never == "" && f.Whole == "" {
		s.metrics.preempting()
		begin := s.clock.Now()
		if asked := s.interested(p.pod); len(asked) == 0 {
			e, room = s.snapshot.Preempt(p, f)
		} else if plans := s.snapshot.Evictions(p, f); len(plans) > 0 {
			e, room = s.agree(ctx, p, f, plans, asked)
		}
		status := "Unschedulable"
		if room {
			status = "Success"
		}
		took := s.clock.Since(begin)
		s.metrics.searched(took, status, room, &e)
		s.metrics.passed(p, "PostFilter", took, status)
	}
	s.metrics.attempted(p, resultUnschedulable, s.clock.Since(now))
	switch {
	case room:
		f.Room = fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", e.Node, len(e.Victims))
		r.nominate = &e.Node
		it.evicting = true
		if freed := s.snapshot.NominatedFor(p.uid()); freed != "" && freed != e.Node {
			defer s.eased(freed, nil)
		}
		s.snapshot.Nominate(p, e.Node)
		s.yield(ctx, e)
		if len(e.Yielding) > 0 {
			defer s.eased(e.Node, nil) // they may have kept more than it needs
		}
		evict := func() {
			s.evict(ctx, it, p, e)
			<-s.calls
		}
		if !s.binds.do(evict, maxCalls) {
			s.wg.Go(evict)
		}
	default:
		if f.Never == "" && s.snapshot.NominatedFor(p.uid()) != "" {
			node := s.snapshot.Unnominate(p.uid())
			defer s.eased(node, nil)
		}
		if f.Never == "" && p.pod.Status.NominatedNodeName != "" {
			none := ""
			r.nominate = &none
		}
		<-s.calls
	}
	s.queue.park(it, now, f.Plugins)
	if f.Quiet {
		return
	}
	r.message = f.Error()
	if !room && f.Whole == "" {
		r.hint = s.snapshot.hint(p)
	}
	if room {
		s.holdReport(ctx, p, r)
	} else {
		s.reportLater(ctx, p, r)
	}
}
