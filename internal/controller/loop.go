package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Back-off of a failing key: the first retry after minBackoff, doubling to maxBackoff.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 1000 * time.Second
)

// Reconcile makes the world look like the object behind key says. It is called by one worker at a time for one key, again after an
// error with growing delays, and must be correct from any state.
type Reconcile func(ctx context.Context, key string) error

// Loop runs a controller's Reconcile over a queue of keys.
type Loop struct {
	name      string
	reconcile Reconcile
	workers   int
	synced    []cache.InformerSynced
	queue     workqueue.TypedRateLimitingInterface[string]
	log       *slog.Logger
	metrics   *Metrics
	busy      []busySince // one for each worker
}

// Options are the parts of a Loop that have defaults.
type Options struct {
	// Workers reconcile different keys at the same time; 0 is 4.
	Workers int
	// Synced must be true before the first key is reconciled.
	Synced  []cache.InformerSynced
	Log     *slog.Logger
	Metrics *Metrics
	// MinBackoff and MaxBackoff are the first and the longest pause after failures of a key, which double; 0 is 5 ms and 1000 s.
	MinBackoff, MaxBackoff time.Duration
}

// NewLoop makes a loop; Add fills its queue, Run empties it.
func NewLoop(name string, reconcile Reconcile, o Options) *Loop {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MinBackoff, o.MaxBackoff = cmp.Or(o.MinBackoff, minBackoff), cmp.Or(o.MaxBackoff, maxBackoff)
	order := &timed{}
	if o.Metrics != nil {
		order.wait = o.Metrics.queued.WithLabelValues(name)
	}
	l := &Loop{
		name: name, reconcile: reconcile, workers: o.Workers, synced: o.Synced, log: o.Log.With("controller", name), metrics: o.Metrics,
		busy: make([]busySince, o.Workers),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.MinBackoff, o.MaxBackoff),
			workqueue.TypedRateLimitingQueueConfig[string]{
				DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{
					Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Queue: order}),
				}),
			}),
	}
	l.metrics.add(l)
	return l
}

// Add queues a key. A key that is queued already is queued once.
func (l *Loop) Add(key string) {
	l.metrics.added(l.name)
	l.queue.Add(key)
}

// AddAfter queues a key when d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddObject queues an object by its namespace and name.
func (l *Loop) AddObject(obj metav1.Object) {
	l.Add(cache.MetaObjectToName(obj).String())
}

// Run reconciles until ctx ends and returns when all workers have.
func (l *Loop) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), l.synced...) {
		l.queue.ShutDown()
		return nil
	}
	var workers sync.WaitGroup
	for i := range l.workers {
		workers.Go(func() {
			pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("controller", l.name))) // what it costs is seen in profiles
			for l.next(ctx, &l.busy[i]) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	workers.Wait()
	return nil
}

// next reconciles one key; false says that the queue is closed.
func (l *Loop) next(ctx context.Context, busy *busySince) bool {
	key, closed := l.queue.Get()
	if closed {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true // draining
	}
	start := time.Now()
	busy.Store(start.UnixNano())
	err := l.guarded(ctx, key)
	busy.Store(0)
	l.metrics.reconciled(l.name, time.Since(start), err)
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
	default:
		// A conflict says that somebody else wrote: the newer object is on its way and the retry sees it.
		level := slog.LevelWarn
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			level = slog.LevelDebug
		}
		l.log.Log(ctx, level, "reconcile failed, will retry", "key", key, "retries", l.queue.NumRequeues(key), "err", err)
		l.queue.AddRateLimited(key)
	}
	return true
}

// guarded turns a panic of one key into its error, so that one broken object does not end a controller.
func (l *Loop) guarded(ctx context.Context, key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return l.reconcile(ctx, key)
}
