package node

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/probe"
	"github.com/celox/celox/internal/node/status"
)

// situation is everything that decides what happens next to a pod that shall run. computeActions changes nothing in it.
type situation struct {
	Pod      *corev1.Pod
	Observed *observed.Pod
	Now      time.Time
	// Busy names the containers with a task in flight.
	Busy map[string]bool
	// Held names containers that must not be tried again before that time: their image or configuration failed. The zero
	// time holds until the pod changes.
	Held map[string]time.Time
	// Probe is what the prober knows of a running container, by id.
	Probe func(id string) (probe.Result, bool)
	// HookDone tells whether the container's postStart hook has ended, by id.
	HookDone func(id string) bool
	// Given is what a running container was given, by id.
	Given func(id string) (corev1.ResourceRequirements, bool)
	// Replaced are ended containers, by id, that the node ended itself to start others in their place.
	Replaced map[string]bool
	// Past are the containers, by id, that there were when all were to be restarted together (KEP-5532).
	Past map[string]bool
	// Settle says that they are about to be: nothing is begun until what is under way has ended.
	Settle bool
	// Crashed tells when a container that ended at finished may start again; the zero time says now.
	Crashed func(c *corev1.Container, finished time.Time) (until time.Time, delay time.Duration)
}

// start asks for a new container.
type start struct {
	Container    *corev1.Container
	RestartCount int
	Ephemeral    *corev1.EphemeralContainer // nil for others
	Replaces     *observed.Container        // the incarnation before, nil if there is none
	Leftover     bool                       // Replaces was created but never started: it only has to be removed
}

// kill asks for the end of a container.
type kill struct {
	ID      string
	Name    string
	Message string         // of the Killing event
	Grace   *time.Duration // nil: the pod's
	Reason  probe.Kind     // the probe that failed, if one did
	Replace bool           // another is to be started in its place, whatever its restart policy says
	Abrupt  bool           // without its preStop hook
}

// actions is the decision.
type actions struct {
	// Sandbox asks for a new sandbox; Attempt counts them. Changed: there was one before that isn't usable any more.
	Sandbox bool
	Attempt uint32
	Changed bool

	Start   []start
	Kill    []kill
	Waiting map[string]status.Waiting // containers that wait out their back-off
	Until   map[string]time.Time      // when that is over
	Wake    time.Time                 // when to decide again at the latest; zero: at the next event

	// Finished says that everything has ended for good. Failed init containers and completed pods end so.
	Finished bool
}

func (a *actions) wakeAt(t time.Time) {
	if a.Wake.IsZero() || t.Before(a.Wake) {
		a.Wake = t
	}
}

// computeActions decides what a pod needs next. The order of things: a sandbox, the init containers one after another
// (sidecars stay, KEP-753), then all others at once; ended containers come back as their restart policy says.
func computeActions(s situation) actions {
	a := actions{Waiting: map[string]status.Waiting{}, Until: map[string]time.Time{}}
	sandbox := usableSandbox(s.Pod, s.Observed)
	if sandbox == nil {
		decideSandbox(&s, &a)
		return a
	}
	if s.Settle || killPast(&s, &a) {
		return a
	}
	killStrays(&s, &a, sandbox)

	initialized, failed := decideInit(&s, &a, sandbox)
	if failed {
		a.Finished = true
		a.Start, a.Kill = nil, nil
		return a
	}
	decideEphemeral(&s, &a, sandbox)
	if !initialized {
		return a
	}
	alive := 0
	for i := range s.Pod.Spec.Containers {
		if decideMain(&s, &a, sandbox, &s.Pod.Spec.Containers[i]) {
			alive++
		}
	}
	if alive == 0 {
		a.Finished = true
		a.Start, a.Kill = nil, nil
	}
	return a
}

// usableSandbox is the newest sandbox, if containers can be put into it.
func usableSandbox(pod *corev1.Pod, o *observed.Pod) *observed.Sandbox {
	s := o.ReadySandbox()
	if s == nil || s.HostNet != pod.Spec.HostNetwork && s.HostNet {
		return nil
	}
	if !pod.Spec.HostNetwork && len(s.IPs) == 0 {
		return nil
	}
	return s
}

func decideSandbox(s *situation, a *actions) {
	old := s.Observed.Sandbox()
	if old == nil && len(s.Observed.Containers) == 0 {
		a.Sandbox = true
		return
	}
	// The sandbox is gone or broken: is there anything left to run?
	needed := false
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		latest := s.Observed.Latest(c.Name)
		if latest == nil && s.Pod.Spec.RestartPolicy != corev1.RestartPolicyNever || latest == nil && !anyStarted(s.Observed) {
			needed = true
		}
		if latest != nil && restarts(s.Pod, c, latest) {
			needed = true
		}
	}
	if failedInit(s) {
		needed = false
	}
	if !needed {
		a.Finished = true
		return
	}
	a.Sandbox = true
	if old != nil {
		a.Attempt = old.Attempt + 1
		a.Changed = true
	}
}

func failedInit(s *situation) bool {
	if s.Pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
		return false
	}
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		if status.IsSidecar(c) {
			continue
		}
		if l := s.Observed.Latest(c.Name); l != nil && l.Exited() && l.ExitCode != 0 && !restarts(s.Pod, c, l) {
			return true
		}
	}
	return false
}

func anyStarted(o *observed.Pod) bool {
	return slices.ContainsFunc(o.Containers, func(c observed.Container) bool { return !c.StartedAt.IsZero() })
}

// killStrays ends running containers that live in an older sandbox: their network is gone.
func killStrays(s *situation, a *actions, sandbox *observed.Sandbox) {
	for i := range s.Observed.Containers {
		c := &s.Observed.Containers[i]
		if c.Running() && c.SandboxID != sandbox.ID && !s.Busy[c.Name] {
			a.Kill = append(a.Kill, kill{ID: c.ID, Name: c.Name, Message: "Pod sandbox changed, it will be killed and re-created."})
		}
	}
}

// killPast ends what still runs of before all containers were restarted together. It tells whether there was anything.
func killPast(s *situation, a *actions) bool {
	found := false
	for i := range s.Observed.Containers {
		c := &s.Observed.Containers[i]
		if !c.Running() || !s.past(c) || isEphemeral(s.Pod, c.Name) {
			continue
		}
		found = true
		grace := time.Duration(0)
		a.Kill = append(a.Kill, kill{
			ID: c.ID, Name: c.Name, Message: fmt.Sprintf("Container %s will be restarted with all others of the pod", c.Name), Grace: &grace, Abrupt: true, Replace: true,
		})
	}
	return found
}

func isEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(e corev1.EphemeralContainer) bool { return e.Name == name })
}

// past tells whether a container is from before all were restarted together.
func (s *situation) past(c *observed.Container) bool {
	return s.Past[c.ID]
}

// restartsAll is the newest container whose end asks for the restart of all, nil if there is none.
func restartsAll(pod *corev1.Pod, o *observed.Pod) *observed.Container {
	var out *observed.Container
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			l := o.Latest(list[i].Name)
			if l == nil || !l.Exited() {
				continue
			}
			rule := status.MatchingRule(&list[i], l.ExitCode)
			if rule != nil && rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers && (out == nil || l.FinishedAt.After(out.FinishedAt)) {
				out = l
			}
		}
	}
	return out
}

// current is the newest incarnation of a container if it belongs to this sandbox, and to the present.
func (s *situation) current(name string, sandbox *observed.Sandbox) *observed.Container {
	if c := s.Observed.Latest(name); c != nil && c.SandboxID == sandbox.ID && !s.past(c) {
		return c
	}
	return nil
}

// decideInit walks the init containers. It tells whether the pod's containers may run, and whether the pod has failed.
func decideInit(s *situation, a *actions, sandbox *observed.Sandbox) (initialized, failed bool) {
	pastInit := false
	for i := range s.Pod.Spec.Containers {
		if s.current(s.Pod.Spec.Containers[i].Name, sandbox) != nil {
			pastInit = true
		}
	}
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		sidecar := status.IsSidecar(c)
		if pastInit && !sidecar {
			continue
		}
		if s.Busy[c.Name] {
			if pastInit || sidecar && sidecarStarted(s, c, sandbox) {
				continue
			}
			return false, false
		}
		latest := s.current(c.Name, sandbox)
		switch {
		case latest == nil:
			s.anew(a, c, s.Observed.Latest(c.Name))
			if !pastInit {
				return false, false
			}
		case latest.Running():
			if !sidecar {
				return false, false
			}
			if killed := s.examine(a, c, latest); killed || !sidecarStarted(s, c, sandbox) {
				if !pastInit {
					return false, false
				}
			}
		case latest.Exited() && !sidecar && latest.ExitCode == 0:
			continue
		case latest.Exited() && !sidecar && !restarts(s.Pod, c, latest):
			return false, true
		default:
			s.again(a, c, latest)
			if !pastInit {
				return false, false
			}
		}
	}
	return true, false
}

// sidecarStarted tells whether the containers after a sidecar may start.
func sidecarStarted(s *situation, c *corev1.Container, sandbox *observed.Sandbox) bool {
	latest := s.current(c.Name, sandbox)
	if latest == nil || !latest.Running() {
		return false
	}
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil && !s.HookDone(latest.ID) {
		return false
	}
	if c.StartupProbe == nil {
		return true
	}
	r, ok := s.Probe(latest.ID)
	return ok && r.Started
}

// decideMain tells whether the container lives or will live.
func decideMain(s *situation, a *actions, sandbox *observed.Sandbox, c *corev1.Container) bool {
	if s.Busy[c.Name] {
		return true
	}
	latest := s.Observed.Latest(c.Name)
	switch {
	case latest == nil:
		s.begin(a, c, nil)
		return true
	case s.past(latest):
		s.anew(a, c, latest)
		return true
	case s.Replaced[latest.ID]:
		s.begin(a, c, latest)
		return true
	case latest.Running():
		if latest.SandboxID == sandbox.ID {
			s.examine(a, c, latest)
		}
		return true
	case latest.State == runtimeapi.ContainerState_CONTAINER_CREATED || latest.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		s.again(a, c, latest)
		return true
	case !restarts(s.Pod, c, latest):
		return false
	case latest.SandboxID != sandbox.ID:
		s.begin(a, c, latest) // it didn't crash: its sandbox went away
		return true
	}
	s.again(a, c, latest)
	return true
}

// restarts tells whether a container that has ended comes back: by its own rules and policy (KEP-5307), else by the
// pod's.
func restarts(pod *corev1.Pod, c *corev1.Container, ended *observed.Container) bool {
	if !ended.Exited() {
		return true
	}
	return status.Restarts(pod.Spec.RestartPolicy, c, ended.ExitCode)
}

// anew starts a container again that belongs to an older sandbox, or to before all were restarted. Only the one whose end was the cause of
// that waits out a back-off: it might end in that way every time.
func (s *situation) anew(a *actions, c *corev1.Container, before *observed.Container) {
	if before != nil && before.Exited() && s.past(before) {
		if rule := status.MatchingRule(c, before.ExitCode); rule != nil && rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
			s.again(a, c, before)
			return
		}
	}
	s.begin(a, c, before)
}

// begin starts a container for the first time in its sandbox.
func (s *situation) begin(a *actions, c *corev1.Container, before *observed.Container) {
	if s.held(a, c) {
		return
	}
	st := start{Container: c, Replaces: before}
	if before != nil {
		st.RestartCount = before.RestartCount + 1
	} else if known := status.FindAny(&s.Pod.Status, c.Name); known != nil && known.ContainerID != "" {
		st.RestartCount = int(known.RestartCount) + 1 // the runtime has forgotten it
	}
	a.Start = append(a.Start, st)
}

// again starts a container that has ended, when its back-off is over.
func (s *situation) again(a *actions, c *corev1.Container, ended *observed.Container) {
	if s.Replaced[ended.ID] {
		s.begin(a, c, ended)
		return
	}
	if s.held(a, c) {
		return
	}
	if ended.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		// The node stopped between creating and starting it.
		a.Start = append(a.Start, start{Container: c, RestartCount: ended.RestartCount, Replaces: ended, Leftover: true})
		return
	}
	if until, delay := s.Crashed(c, ended.FinishedAt); !until.IsZero() {
		a.wakeAt(until)
		a.Until[c.Name] = until
		a.Waiting[c.Name] = status.Waiting{
			Reason:  status.ReasonCrashLoopBackOff,
			Message: fmt.Sprintf("back-off %v restarting failed container=%s pod=%s", delay, c.Name, describe(s.Pod)),
		}
		return
	}
	a.Start = append(a.Start, start{Container: c, RestartCount: ended.RestartCount + 1, Replaces: ended})
}

func (s *situation) held(a *actions, c *corev1.Container) bool {
	until, ok := s.Held[c.Name]
	if !ok {
		return false
	}
	if !until.IsZero() {
		if !s.Now.Before(until) {
			return false
		}
		a.wakeAt(until)
	}
	return true
}

// examine ends a running container that isn't what it should be any more, or whose probes failed.
func (s *situation) examine(a *actions, c *corev1.Container, running *observed.Container) (killed bool) {
	k := kill{ID: running.ID, Name: c.Name}
	r, _ := s.Probe(running.ID)
	var p *corev1.Probe
	switch {
	case running.Hash != "" && running.Hash != observed.ContainerHash(c):
		k.Message = fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)
		k.Replace = true
	case r.Failed == probe.Liveness:
		k.Reason, p = probe.Liveness, c.LivenessProbe
		k.Message = fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name)
	case r.Failed == probe.Startup:
		k.Reason, p = probe.Startup, c.StartupProbe
		k.Message = fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name)
	case s.resizeRestarts(c, running):
		k.Message = fmt.Sprintf("Container %s resize requires restart", c.Name)
		k.Replace = true
	default:
		return false
	}
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		g := time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
		k.Grace = &g
	}
	if !restarts(s.Pod, c, &observed.Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: 137}) && k.Reason != probe.None {
		k.Message = fmt.Sprintf("Container %s failed %s probe", c.Name, lower(k.Reason))
	}
	a.Kill = append(a.Kill, k)
	return true
}

func lower(k probe.Kind) string {
	if k == probe.Startup {
		return "startup"
	}
	return "liveness"
}

// decideEphemeral starts ephemeral containers once each.
func decideEphemeral(s *situation, a *actions, sandbox *observed.Sandbox) {
	for i := range s.Pod.Spec.EphemeralContainers {
		e := &s.Pod.Spec.EphemeralContainers[i]
		c := corev1.Container(e.EphemeralContainerCommon)
		if s.Busy[c.Name] || s.Observed.Latest(c.Name) != nil || s.held(a, &c) {
			continue
		}
		a.Start = append(a.Start, start{Container: &c, Ephemeral: e})
	}
}
