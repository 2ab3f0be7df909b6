package node

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/node/dra"
	"github.com/celox/celox/internal/node/imagepull"
	"github.com/celox/celox/internal/node/objects"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/probe"
	"github.com/celox/celox/internal/node/status"
)

// stage is where a worker stands in the life of its pod. It only moves forward.
type stage int8

const (
	stageRun      stage = iota // the pod shall run
	stageStop                  // its containers are being ended
	stageTeardown              // sandbox, volumes and cgroup go
	stageEnded                 // it has ended; the API still has it
	stageRemove                // it is to vanish from the API, then from the runtime
	stageDone
)

// The delays before something that failed is tried again.
const (
	retryFirst = 2 * time.Second
	retryMax   = time.Minute
	// errorShown is how long a failed pull shows its error before it shows that it is backing off.
	errorShown = 3 * time.Second
	// configRetry is the delay after a missing config map or secret; its arrival wakes the pod at once.
	configRetry = 10 * time.Second
)

// worker is one pod's goroutine and state.
type worker struct {
	n    *Node
	uid  types.UID
	wake chan struct{} // capacity 1

	mu        sync.Mutex // guards what others give to the worker
	next      *corev1.Pod
	gone      bool // the source has it no more
	dirty     bool // the runtime has news
	refresh   bool // an object that the pod uses changed
	connected bool // the network of pods works now
	askAgain  bool // what the pod was refused may be there now
	evicted   *eviction
	completed []completion // results of tasks, to be applied by the worker
	hooks     map[string]bool
	shown     *corev1.PodStatus // the last computed status, for the kubelet API
	shownPod  *corev1.Pod
	live      map[string]bool          // the running containers
	seen      bool                     // live is known
	closed    bool                     // the worker has ended
	waiters   map[chan struct{}]string // who waits for which container to end

	// All below belongs to the worker's goroutine.
	pod      *corev1.Pod
	static   bool
	orphan   bool // made from the runtime's labels: the API never had it
	observed *observed.Pod
	reader   *observed.Reader
	stage    stage
	tasks    map[string]*task
	wg       sync.WaitGroup

	plugged  bool       // it has what it asks for of device plugins
	refused  *rejection // why it can't have that
	admitted bool
	started  time.Time // when the node took the pod
	rejected bool
	reason   string
	message  string
	extra    []corev1.PodCondition

	setupDone  bool
	setupWant  bool
	setupRetry retry
	tokenAt    time.Time
	sandbox    retry
	teardown   retry

	resize   resizing
	replaced map[string]bool // ended containers, by id, that this node ended to start others in their place
	resetBy  string          // the container whose end had all containers restarted, the last time
	past     map[string]bool // the containers, by id, that there were then
	counted  bool            // the start was counted

	failures map[string]failure
	messages map[string]string // termination messages by container id
	backoffs map[string]time.Time
	preStops map[string]bool

	stopGrace time.Duration
	stopped   time.Time // when the pod began to be ended
	tornDown  bool
	looked    bool // the runtime was read at least once

	written        *corev1.PodStatus // the last status that we wrote, unless somebody wrote after us
	writtenVersion uint64
	mirror         types.UID   // of a static pod: the image that written and latest are about
	latest         *corev1.Pod // what our last write returned, until the informer has caught up
	want           *corev1.PodStatus
	final          bool // the want status is the last one
	wakeTime       time.Time
	statusRetry    retry
}

// task is work in flight on behalf of a worker.
type task struct {
	cancel context.CancelFunc
	kill   bool
}

// completion is the result of a task.
type completion struct {
	apply func()
	look  bool // the runtime's side may have changed
}

// failure is why a container could not be started.
type failure struct {
	status.Waiting
	retryAt time.Time
	config  bool // it may be cured by a config map, a secret, or the pod's own fields
	delay   time.Duration
	// early: no container was made. It is old news as soon as there is another container than the one before.
	early  bool
	before string // the newest container when the attempt began, "" if there was none
}

// outdated says that a container was made since, by an attempt whose own end is not yet told: what that one shows is what counts.
func (f failure) outdated(latest *observed.Container) bool {
	return f.early && latest != nil && latest.ID != f.before
}

// eviction is the node's wish to end a pod.
type eviction struct {
	reason, message string
	grace           time.Duration
}

// retry is a delay that grows while something keeps failing.
type retry struct {
	at    time.Time
	delay time.Duration
}

func (r *retry) fail(now time.Time) {
	r.delay = min(max(2*r.delay, retryFirst), retryMax)
	r.at = now.Add(r.delay)
}

func (r *retry) ok() { *r = retry{} }

func (r *retry) due(now time.Time) bool { return !now.Before(r.at) }

func newWorker(n *Node, uid types.UID) *worker {
	return &worker{
		n: n, uid: uid, wake: make(chan struct{}, 1), dirty: true, hooks: map[string]bool{},
		reader: observed.NewReader(n.cfg.Runtime), observed: &observed.Pod{UID: uid}, tasks: map[string]*task{},
		failures: map[string]failure{}, messages: map[string]string{}, backoffs: map[string]time.Time{}, preStops: map[string]bool{},
		replaced: map[string]bool{}, past: map[string]bool{}, resize: resizing{given: map[string]corev1.ResourceRequirements{}},
	}
}

// poke wakes the worker.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// tell changes what others give to the worker, and wakes it.
func (w *worker) tell(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.poke()
}

func (w *worker) update(pod *corev1.Pod) { w.tell(func() { w.next = pod }) }
func (w *worker) runtimeChanged()        { w.tell(func() { w.dirty = true }) }
func (w *worker) objectChanged()         { w.tell(func() { w.refresh = true }) }
func (w *worker) networkReady()          { w.tell(func() { w.connected = true }) }
func (w *worker) resizeAgain()           { w.tell(func() { w.askAgain = true }) }
func (w *worker) evict(e eviction)       { w.tell(func() { w.evicted = &e }) }

// bundlesChanged wakes the pod if it projects trust bundles.
func (w *worker) bundlesChanged() {
	w.mu.Lock()
	pod := w.next
	w.mu.Unlock()
	if pod != nil && objects.UsesTrustBundles(pod) {
		w.objectChanged()
	}
}

// remove tells that the source has the pod no more. What it asked for is free at once, as everybody else believes now: a pod that is bound
// here in its place must not be refused because the containers of this one are still being killed.
func (w *worker) remove() {
	w.n.released(w.uid)
	w.tell(func() { w.gone = true })
}

// isGone says that the source has the pod no more.
func (w *worker) isGone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

// snapshot is the pod and its newest status, for the kubelet API.
func (w *worker) snapshot() (*corev1.Pod, *corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.shownPod
	if pod == nil {
		pod = w.next
	}
	return pod, w.shown
}

// run is the worker's goroutine. It ends when the pod is gone, or with ctx: the containers stay then.
func (w *worker) run(ctx context.Context) {
	defer w.close()
	defer w.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := w.n.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.step(ctx)
		if w.stage == stageDone && len(w.tasks) == 0 {
			return
		}
		var due <-chan time.Time
		if !w.wakeTime.IsZero() {
			if !timer.Stop() {
				select {
				case <-timer.C():
				default:
				}
			}
			timer.Reset(max(w.wakeTime.Sub(w.n.clock.Now()), 0))
			due = timer.C()
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-due:
		}
	}
}

// spawn runs f beside the worker; the function that f returns is run by the worker when f is done.
func (w *worker) spawn(ctx context.Context, key string, isKill bool, f func(ctx context.Context) func()) {
	ctx, cancel := context.WithCancel(ctx)
	w.tasks[key] = &task{cancel: cancel, kill: isKill}
	w.wg.Go(func() {
		done := f(ctx)
		cancel()
		w.tell(func() {
			w.completed = append(w.completed, completion{look: key != "status", apply: func() {
				delete(w.tasks, key)
				if done != nil {
					done()
				}
			}})
		})
	})
}

func (w *worker) busy(key string) bool { return w.tasks[key] != nil }

func containerKey(name string) string { return "c/" + name }

// wakeAt makes the worker look again at t at the latest.
func (w *worker) wakeAt(t time.Time) {
	if !t.IsZero() && (w.wakeTime.IsZero() || t.Before(w.wakeTime)) {
		w.wakeTime = t
	}
}

// step looks, decides and acts once.
func (w *worker) step(ctx context.Context) {
	w.wakeTime = time.Time{}
	dirty := w.take()
	if w.pod == nil {
		w.stage = stageDone
		return
	}
	if dirty {
		w.look(ctx)
	}
	if !w.looked || ctx.Err() != nil {
		return
	}
	now := w.n.clock.Now()
	w.decideStage(now)
	switch w.stage {
	case stageRun:
		w.runPod(ctx, now)
	case stageStop:
		w.stopPod(ctx, now)
	}
	if w.stage == stageTeardown {
		// Its status says now that it is over, and the scheduler gives its place to others: they must not be refused because its volumes still go.
		w.n.released(w.uid)
		w.tearDown(ctx, now)
	}
	if w.stage == stageEnded || w.stage == stageRemove {
		w.leave(ctx, now)
	}
	w.publish(ctx, now)
}

// take takes over what others gave.
func (w *worker) take() (dirty bool) {
	w.mu.Lock()
	completed := w.completed
	w.completed = nil
	dirty, w.dirty = w.dirty, false
	if w.next != nil && w.next != w.resize.source {
		w.changePod(w.next)
	}
	if w.askAgain {
		w.askAgain, w.resize.asked = false, true
	}
	if w.refresh {
		w.refresh = false
		w.setupWant = true
		w.retryConfigured()
		w.setupRetry.at = time.Time{}
	}
	evicted, connected := w.evicted, w.connected
	w.evicted, w.connected = nil, false
	w.mu.Unlock()
	for _, c := range completed {
		c.apply()
		dirty = dirty || c.look
	}
	if connected {
		w.sandbox.ok()
	}
	if evicted != nil && w.stage <= stageStop && w.reason == "" {
		w.reason, w.message = evicted.reason, evicted.message
		w.extra = append(w.extra, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: evicted.message,
		})
		w.beginStop(evicted.grace)
	}
	return dirty
}

// changePod takes a new version of the pod. The caller holds mu.
func (w *worker) changePod(pod *corev1.Pod) {
	old := w.resize.source
	w.resize.source = pod
	w.shownPod = pod
	if old == nil {
		w.static = isStatic(pod)
		w.pod = pod
		if !w.static {
			w.pod = promisedBefore(pod)
			w.resize.asked = w.pod != pod
			w.resize.remember(pod)
		}
		w.started = w.n.clock.Now()
		w.setupWant = true
		w.n.objects.Use(w.uid, objectRefs(pod))
		return
	}
	if w.admitted && !w.static {
		w.pod = withResourcesOf(pod, w.pod)
		w.resize.asked = w.resize.asked || !sameResources(old, pod)
	} else {
		w.pod = pod
	}
	if old.ResourceVersion == pod.ResourceVersion && pod.ResourceVersion != "" {
		return
	}
	w.noteVersion(pod)
	if !apiequality.Semantic.DeepEqual(old.Spec, pod.Spec) {
		clear(w.failures)
		w.setupRetry.at = time.Time{}
		w.n.objects.Use(w.uid, objectRefs(pod))
	}
	if !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations) {
		w.setupWant = true // the downward API shows them
		w.retryConfigured()
	}
}

// retryConfigured tries at once again what failed for its configuration: that may be different now.
func (w *worker) retryConfigured() {
	for name, f := range w.failures {
		if f.config {
			f.retryAt = time.Time{}.Add(1)
			w.failures[name] = f
		}
	}
}

// look reads the pod's side in the runtime and follows what it finds: probes, logs, last words.
func (w *worker) look(ctx context.Context) {
	o, err := w.reader.Read(ctx, w.uid)
	if err != nil {
		if ctx.Err() == nil {
			w.n.log.Warn("cannot read a pod from the runtime", "pod", describe(w.pod), "error", err)
			w.tellLater()
		}
		return
	}
	before := w.looked
	w.observed, w.looked = o, true
	if w.orphan && len(w.pod.Spec.Containers) == 0 {
		w.pod = remembered(w.pod, o)
	}
	w.noteLive(o)
	ip := ""
	if ips := w.podIPs(); len(ips) > 0 {
		ip = ips[0]
	}
	for i := range o.Containers {
		c := &o.Containers[i]
		if !c.Running() {
			w.n.prober.Stop(c.ID)
			w.n.rotator.Forget(c.ID)
			if c.Exited() {
				if _, ok := w.messages[c.ID]; !ok {
					if before {
						w.n.counters.ended(w.pod, c)
					}
					w.messages[c.ID] = w.lastWords(c)
				}
			}
			continue
		}
		spec := findContainer(w.pod, c.Name)
		if spec == nil {
			continue
		}
		w.n.rotator.Follow(c.ID, w.logFile(c))
		if w.stage == stageRun {
			target := probe.Target{Pod: w.pod, Container: spec, ID: c.ID, IP: ip, StartedAt: c.StartedAt}
			if before := status.FindAny(&w.pod.Status, c.Name); before != nil && before.ContainerID == w.n.runtimeName+"://"+c.ID {
				target.WasStarted = before.Started != nil && *before.Started
				target.WasReady = before.Ready
			}
			w.n.prober.Start(target)
		}
	}
	known := make(map[string]bool, len(o.Containers))
	for i := range o.Containers {
		known[o.Containers[i].ID] = true
	}
	maps.DeleteFunc(w.messages, func(id string, _ string) bool { return !known[id] })
	maps.DeleteFunc(w.resize.given, func(id string, _ corev1.ResourceRequirements) bool { return !known[id] })
	maps.DeleteFunc(w.replaced, func(id string, _ bool) bool { return !known[id] })
	maps.DeleteFunc(w.past, func(id string, _ bool) bool { return !known[id] })
}

// tellLater looks again after a moment.
func (w *worker) tellLater() {
	w.mu.Lock()
	w.dirty = true
	w.mu.Unlock()
	w.wakeAt(w.n.clock.Now().Add(time.Second))
}

// podIPs are the addresses of the pod, as far as they are known.
func (w *worker) podIPs() []string {
	if w.pod.Spec.HostNetwork {
		return w.n.cfg.NodeIPs
	}
	if s := w.observed.Sandbox(); s != nil {
		return s.IPs
	}
	return nil
}

// decideStage moves the worker forward when the pod has to end.
func (w *worker) decideStage(now time.Time) {
	w.mu.Lock()
	gone := w.gone
	w.mu.Unlock()
	switch {
	case w.stage <= stageStop && gone:
		grace := w.specGrace()
		if w.pod.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*w.pod.DeletionGracePeriodSeconds) * time.Second
		}
		w.beginStop(grace)
	case w.stage <= stageStop && w.pod.DeletionTimestamp != nil:
		grace := w.specGrace()
		if w.pod.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*w.pod.DeletionGracePeriodSeconds) * time.Second
		}
		w.beginStop(grace)
	case w.stage == stageRun && (w.pod.Status.Phase == corev1.PodSucceeded || w.pod.Status.Phase == corev1.PodFailed) && !w.static:
		w.beginStop(w.specGrace())
	case w.stage == stageRun:
		if s := w.pod.Spec.ActiveDeadlineSeconds; s != nil {
			begin := w.started
			if w.pod.Status.StartTime != nil {
				begin = w.pod.Status.StartTime.Time
			}
			end := begin.Add(time.Duration(*s) * time.Second)
			if now.Before(end) {
				w.wakeAt(end)
				return
			}
			w.reason, w.message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
			w.n.event(w.pod, "", corev1.EventTypeNormal, w.reason, w.message)
			w.beginStop(w.specGrace())
		}
	}
}

func (w *worker) specGrace() time.Duration {
	if g := w.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

// runPod does what a pod that shall run needs next.
func (w *worker) runPod(ctx context.Context, now time.Time) {
	if !w.admitted {
		if !w.hasDevices(ctx) {
			return
		}
		r := w.refused
		if r == nil {
			r = w.n.admit(w.pod, len(w.observed.Sandboxes) > 0 || w.pod.Status.StartTime != nil)
		}
		if r != nil {
			w.rejected, w.reason, w.message = true, r.reason, "Pod was rejected: "+r.message
			w.n.event(w.pod, "", corev1.EventTypeWarning, r.reason, r.message)
			w.n.counters.rejections.WithLabelValues(r.reason).Inc()
			w.stage = stageTeardown
			return
		}
		w.admitted = true
	}
	if !w.tokenAt.IsZero() {
		if now.Before(w.tokenAt) {
			w.wakeAt(w.tokenAt)
		} else {
			w.setupWant, w.tokenAt = true, time.Time{}
		}
	}
	if w.setupWant && !w.busy("setup") {
		if w.setupRetry.due(now) {
			w.setupWant = false
			w.spawnSetup(ctx)
		} else {
			w.wakeAt(w.setupRetry.at)
		}
	}
	w.noteReset()
	w.followResize(ctx, now)
	a := computeActions(w.situation(now))
	w.wakeAt(a.Wake)
	w.noteBackOff(a)
	if a.Finished && !w.anyBusy() {
		w.beginStop(w.specGrace())
		w.stopPod(ctx, now)
		return
	}
	for _, k := range a.Kill {
		if !w.busy(containerKey(k.Name)) {
			if k.Replace {
				w.replaced[k.ID] = true
			}
			w.spawnKill(ctx, k, w.killGrace(k))
		}
	}
	if !w.setupDone {
		return
	}
	if a.Sandbox && !w.busy("sandbox") {
		if w.sandbox.due(now) {
			w.spawnSandbox(ctx, a)
		} else {
			w.wakeAt(w.sandbox.at)
		}
	}
	for _, st := range a.Start {
		w.spawnStart(ctx, st, now)
	}
}

// hasDevices says whether it is known what the pod gets of device plugins. If not, it is asked for beside the worker. A pod that runs keeps what it has.
func (w *worker) hasDevices(ctx context.Context) bool {
	if w.plugged || w.refused != nil || w.observed.AnyRunning() || !w.n.plugged.Wants(w.pod) {
		return true
	}
	if w.busy("devices") {
		return false
	}
	pod := w.pod
	w.spawn(ctx, "devices", false, func(ctx context.Context) func() {
		err := w.n.plugged.Assign(ctx, pod)
		if ctx.Err() != nil {
			return nil // it isn't wanted any more
		}
		return func() {
			w.plugged = err == nil
			if err != nil {
				w.refused = &rejection{"UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}
			}
		}
	})
	return false
}

func (w *worker) anyBusy() bool {
	for key := range w.tasks {
		if key != "status" {
			return true
		}
	}
	return false
}

func (w *worker) situation(now time.Time) situation {
	s := situation{
		Pod: w.pod, Observed: w.observed, Now: now, Busy: map[string]bool{}, Held: map[string]time.Time{}, Probe: w.n.prober.Result,
		Given: w.givenTo, Replaced: w.replaced, Past: w.past, Settle: w.settling(),
	}
	for key := range w.tasks {
		if len(key) > 2 && key[:2] == "c/" {
			s.Busy[key[2:]] = true
		}
	}
	for name, f := range w.failures {
		s.Held[name] = f.retryAt
	}
	s.HookDone = func(id string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.hooks[id]
	}
	s.Crashed = func(c *corev1.Container, finished time.Time) (time.Time, time.Duration) {
		return w.n.crashes.Until(w.crashKey(c), finished, now)
	}
	return s
}

func (w *worker) crashKey(c *corev1.Container) string {
	return string(w.uid) + "/" + c.Name + "/" + observed.ContainerHash(c)
}

// noteBackOff remembers and reports which containers wait out their back-off.
func (w *worker) noteBackOff(a actions) {
	for name, wait := range a.Waiting {
		if !w.backoffs[name].Equal(a.Until[name]) {
			w.backoffs[name] = a.Until[name]
			w.n.event(w.pod, name, corev1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s", name, describe(w.pod)))
		}
		w.failures[name] = failure{Waiting: wait, retryAt: time.Time{}.Add(1)}
	}
}

// input collects what the status depends on.
func (w *worker) input(now time.Time) status.Input {
	in := status.Input{
		Pod: w.pod, Observed: w.observed, Now: now, RuntimeName: w.n.runtimeName, HostIPs: w.n.cfg.NodeIPs,
		StartTime: w.started, Waiting: map[string]status.Waiting{}, Probes: map[string]status.ProbeResult{}, Messages: w.messages,
		Reason: w.reason, Message: w.message, Rejected: w.rejected, ExtraConditions: w.extra,
		Terminal: w.stage >= stageTeardown, Given: w.resize.given, Replaced: w.replaced, Past: w.past, Restarting: w.stage == stageRun && w.restartingAll(),
	}
	if w.stage < stageTeardown {
		in.Resize = w.resize.conditions()
	}
	if dra.Uses(w.pod) {
		in.Devices = w.n.devices.Health(w.pod)
	}
	in.Plugged = w.n.plugged.Health(w.uid)
	if w.stage <= stageStop {
		for name, f := range w.failures {
			if !f.outdated(w.observed.Latest(name)) {
				in.Waiting[name] = f.Waiting
			}
		}
	}
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if !c.Running() {
			continue
		}
		if r, ok := w.n.prober.Result(c.ID); ok {
			in.Probes[c.Name] = status.ProbeResult{Started: r.Started, Ready: r.Ready}
		}
	}
	return in
}

// pullKey is whose back-off a pull is.
func (w *worker) pullKey(image string) string { return string(w.uid) + "/" + image }

func (w *worker) noteFailure(name string, f failure) {
	if f.retryAt.IsZero() && f.Reason != imagepull.ReasonInvalidName {
		delay := min(max(2*w.failures[name].delay, retryFirst), retryMax)
		f.delay = delay
		f.retryAt = w.n.clock.Now().Add(delay)
	}
	w.failures[name] = f
}
