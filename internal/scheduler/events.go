package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
)

const (
	// eventCalls is how many events are being written at once: few, so that they don't compete with bindings. While many of these are under way it is busyEventCalls,
	// with a rest after each, unless so many events wait that some would be dropped soon.
	eventCalls     = 4
	busyEventCalls = 1
	busyEventRest  = time.Millisecond
	busyBinds      = 8
	// maxEvents is how many may wait to be written; what comes then is dropped, as upstream does with less.
	maxEvents  = 1 << 16
	manyEvents = maxEvents / 2
	// seriesPause is how long the count of a series isn't written again, and seriesEnd after which silence the next event is a new one (upstream's).
	seriesPause = time.Minute
	seriesEnd   = 6 * time.Minute
	// maxNote is the longest text of an event, in bytes.
	maxNote = 1024
)

// eventWriter writes events to the API, behind what they are about. It does what client-go's broadcaster does for less: an event costs one object and one call, and there
// is no goroutine while there is nothing to write.
//
// What goes wrong again and again with one pod is a series: one event whose count and newest words are written once a minute.
type eventWriter struct {
	client kubernetes.Interface
	poster Poster // nil: client
	clock  clock.PassiveClock
	log    *slog.Logger
	calls  pool
	busy   func(waiting int) bool // something comes before events, of which so many wait

	mu      sync.Mutex
	ctx     context.Context       // what events are written with; nil when it isn't open
	series  map[seriesKey]*series // guarded by mu
	swept   time.Time             // when finished series were dropped last
	dropped int                   // events that found no room since the last that did
}

// seriesKey is what events of a series have in common.
type seriesKey struct {
	pod    types.UID
	reason string
}

// series is an event that may come again. All is guarded by the writer's mutex.
type series struct {
	event    *v1.Event
	made     bool // the API has it
	count    int32
	last     time.Time
	note     string
	written  time.Time
	underWay bool
}

// newEventWriter returns a writer that isn't open. binds says how many calls are under way that come before events.
func newEventWriter(c kubernetes.Interface, poster Poster, clk clock.PassiveClock, log *slog.Logger, binds func() int) *eventWriter {
	busy := func(waiting int) bool { return waiting < manyEvents && binds() >= busyBinds }
	limit := func(waiting int) int {
		if busy(waiting) {
			return busyEventCalls
		}
		return eventCalls
	}
	return &eventWriter{client: c, poster: poster, clock: clk, log: log, calls: pool{limit: limit}, busy: busy, series: map[seriesKey]*series{}}
}

// open lets events be written from now on, with ctx.
func (w *eventWriter) open(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ctx = ctx
}

// close ends that: what waits is dropped, what is being written, for which the context of open must have ended, is waited for.
func (w *eventWriter) close() {
	w.mu.Lock()
	w.ctx = nil
	w.mu.Unlock()
	w.calls.drop()
	w.calls.close()
}

// reporter is a profile's events.EventRecorder.
type reporter struct {
	w              *eventWriter
	name, instance string
}

// reporter returns what records the events of a profile.
func (w *eventWriter) reporter(name string) events.EventRecorder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &reporter{w, name, name + "-" + host}
}

// reference is how an event names a pod.
func reference(p *v1.Pod) v1.ObjectReference {
	return v1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
}

// Eventf records what happened to a pod; regarding and related must be pods.
func (r *reporter) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	pod, ok := regarding.(*v1.Pod)
	if !ok {
		return
	}
	w, now := r.w, r.w.clock.Now()
	e := &v1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Namespace: pod.Namespace, Name: eventName(pod.Name, now)},
		InvolvedObject:      reference(pod),
		Reason:              reason,
		Message:             shortened(fmt.Sprintf(note, args...)),
		Type:                kind,
		EventTime:           metav1.NewMicroTime(now.Truncate(time.Microsecond)),
		Action:              action,
		ReportingController: r.name,
		ReportingInstance:   r.instance,
	}
	if other, ok := related.(*v1.Pod); ok && other != nil {
		ref := reference(other)
		e.Related = &ref
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx := w.ctx
	if ctx == nil {
		return
	}
	if kind != v1.EventTypeWarning {
		w.do(func() { w.create(ctx, e) })
		return
	}
	w.sweep(now)
	key := seriesKey{pod.UID, reason}
	s := w.series[key]
	if s == nil || now.Sub(s.last) > seriesEnd {
		if len(w.series) < maxEvents {
			s = &series{event: e, count: 1, last: now, note: e.Message, written: now, underWay: true}
			w.series[key] = s
		}
		first := e
		if s != nil {
			first = e.DeepCopy() // e is still needed
		}
		w.do(func() {
			made := w.create(ctx, first)
			if s != nil {
				w.mu.Lock()
				defer w.mu.Unlock()
				s.made, s.underWay = made, false
			}
		})
		return
	}
	s.count++
	s.last, s.note = now, e.Message
	if s.underWay || s.made && now.Sub(s.written) < seriesPause {
		return
	}
	s.written, s.underWay = now, true
	w.do(func() { w.again(ctx, s) })
}

// do has f called soon, if there is room for it. w.mu must be held.
func (w *eventWriter) do(f func()) {
	paced := func() {
		f()
		if w.busy(w.calls.left()) {
			time.Sleep(busyEventRest)
		}
	}
	if w.calls.do(paced, maxEvents) {
		w.dropped = 0
		return
	}
	if w.dropped++; w.dropped == 1 {
		w.log.Warn("scheduler: too many events wait to be written, some are dropped", "waiting", maxEvents)
	}
}

// sweep forgets series that are over, now and then. w.mu must be held.
func (w *eventWriter) sweep(now time.Time) {
	if now.Sub(w.swept) < seriesEnd {
		return
	}
	w.swept = now
	for key, s := range w.series {
		if now.Sub(s.last) > seriesEnd && !s.underWay {
			delete(w.series, key)
		}
	}
}

// create writes an event, which is given away, and says whether the API has it. One that can't be written is dropped: events are best effort.
func (w *eventWriter) create(ctx context.Context, e *v1.Event) bool {
	about, reason := e.InvolvedObject, e.Reason
	var err error
	if w.poster != nil {
		err = w.poster.Post(ctx, "/api/v1/namespaces/"+e.Namespace+"/events", e) // which ends in time by itself
	} else {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err = w.client.CoreV1().Events(e.Namespace).Create(call, e, metav1.CreateOptions{})
	}
	w.complain(ctx, about.Namespace+"/"+about.Name, reason, err)
	return err == nil
}

// complain logs that an event about a pod could not be written.
func (w *eventWriter) complain(ctx context.Context, pod, reason string, err error) {
	// A namespace that is being deleted takes no events about the pods that go with it.
	if err == nil || ctx.Err() != nil || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
		return
	}
	w.log.Warn("scheduler: write event", "pod", pod, "reason", reason, "err", err)
}

// again writes how often the event of a series has come, or the event itself if the API hasn't it.
func (w *eventWriter) again(ctx context.Context, s *series) {
	w.mu.Lock()
	made, count, last, note := s.made, s.count, s.last, s.note
	e := s.event
	w.mu.Unlock()
	at := metav1.NewMicroTime(last)
	if made {
		patch, err := json.Marshal(map[string]any{"series": v1.EventSeries{Count: count, LastObservedTime: at}, "message": note})
		if err == nil {
			call, cancel := context.WithTimeout(ctx, callTimeout)
			_, err = w.client.CoreV1().Events(e.Namespace).Patch(call, e.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			cancel()
		}
		if made = !apierrors.IsNotFound(err); made {
			w.complain(ctx, e.Namespace+"/"+e.InvolvedObject.Name, e.Reason, err)
		}
	}
	if !made { // it was never written, or is so old that it is gone
		next := e.DeepCopy()
		next.Message = note
		if count > 1 {
			next.Series = &v1.EventSeries{Count: count, LastObservedTime: at}
		}
		made = w.create(ctx, next)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.made, s.underWay = made, false
}

// eventName is the pod's name and the time, as upstream names events; a name has at most 253 characters.
func eventName(pod string, now time.Time) string {
	suffix := "." + strconv.FormatInt(now.UnixNano(), 16)
	return strings.TrimRight(pod[:min(len(pod), 253-len(suffix))], "-.") + suffix
}

// shortened cuts a text to what an event takes.
func shortened(text string) string {
	if len(text) > maxNote {
		text = text[:maxNote-3] + "..."
	}
	return text
}

// pool calls functions in few goroutines: one that has grown its stack for a call has it for the next. The zero value, with a limit, is ready.
type pool struct {
	// limit is how many calls are under way at once when so many wait; it is asked again before each call.
	limit func(waiting int) int
	spare int // how many goroutines stay until close though there is nothing to call

	mu      sync.Mutex
	more    sync.Cond // with mu: a spare goroutine has something to do
	waiting []func()  // guarded by mu
	first   int       // of waiting; what is before has been called; guarded by mu
	running int       // goroutines; guarded by mu
	idle    int       // of those; guarded by mu
	closed  bool      // guarded by mu
	wg      sync.WaitGroup
}

// fixed is a limit that doesn't depend on what waits.
func fixed(n int) func(int) int { return func(int) int { return n } }

// do has f called as soon as it can be; it says no if more than most wait already.
func (p *pool) do(f func(), most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting)-p.first >= most {
		return false
	}
	p.waiting = append(p.waiting, f)
	if len(p.waiting)-p.first <= p.idle {
		p.more.Signal()
	} else {
		p.help()
	}
	return true
}

// working is how many calls are under way.
func (p *pool) working() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running - p.idle
}

// left is how many wait.
func (p *pool) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) - p.first
}

// help starts a goroutine if something waits and another one is allowed. mu must be held.
func (p *pool) help() {
	if n := len(p.waiting) - p.first; n > 0 && p.running < p.limit(n) {
		p.running++
		p.wg.Go(p.work)
	}
}

func (p *pool) work() {
	for {
		f := p.next()
		if f == nil {
			return
		}
		f()
	}
}

// next takes what is to be called next; if there is nothing, the goroutine that asks is counted out.
func (p *pool) next() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.first == len(p.waiting) {
		p.waiting, p.first = p.waiting[:0], 0
		if cap(p.waiting) > 1024 {
			p.waiting = nil
		}
		if p.closed || p.idle >= p.spare {
			p.running--
			return nil
		}
		p.more.L = &p.mu
		p.idle++
		p.more.Wait()
		p.idle--
	}
	if p.running > p.limit(len(p.waiting)-p.first) {
		p.running-- // there is another one
		return nil
	}
	f := p.waiting[p.first]
	p.waiting[p.first] = nil
	if p.first++; p.first > 1024 && p.first > len(p.waiting)/2 {
		p.waiting = append([]func(){}, p.waiting[p.first:]...)
		p.first = 0
	}
	p.help() // the limit may have been lower when these came
	return f
}

// drop forgets what waits.
func (p *pool) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting, p.first = nil, 0
}

// close returns when everything has been called.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.more.Broadcast()
	p.mu.Unlock()
	p.wg.Wait()
}
