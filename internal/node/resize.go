package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/observed"
)

// resizing is what a worker knows of the in-place resize of its pod (KEP-1287). The worker's pod always has the resources that it was
// promised; those that the API asks for are in source until the node has promised them.
type resizing struct {
	source   *corev1.Pod // as the API has it
	asked    bool        // what the pod is to have was not compared with what there is since it changed
	given    map[string]corev1.ResourceRequirements
	group    *cgroup.Limits // in force for the pod's group; nil: not known
	pending  *corev1.PodCondition
	progress *corev1.PodCondition
	settled  *corev1.Pod // nothing was left to do for what this version of the pod asks for
	retry    retry
	again    time.Time // when a resize that waits is tried again at the latest
}

// resizeRetry is after how long the node is asked again for what it didn't have; usually it tells as soon as it has it.
const resizeRetry = 3 * time.Minute

// conditions are those that the status shows.
func (z *resizing) conditions() []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range []*corev1.PodCondition{z.pending, z.progress} {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out
}

// remember takes over the conditions that a process before this one wrote.
func (z *resizing) remember(pod *corev1.Pod) {
	for i := range pod.Status.Conditions {
		c := pod.Status.Conditions[i]
		switch {
		case c.Status != corev1.ConditionTrue:
		case c.Type == corev1.PodResizePending:
			z.pending = &c
		case c.Type == corev1.PodResizeInProgress:
			z.progress = &c
		}
	}
}

// followResize promises the pod what it asks for if the node has it, and makes it true.
func (w *worker) followResize(ctx context.Context, now time.Time) {
	z := &w.resize
	if sameResources(z.source, w.pod) {
		if z.pending != nil {
			z.pending = nil
			w.n.unresize(w.uid)
		}
	} else if z.pending != nil && !now.Before(z.again) {
		z.asked = true
	}
	switch {
	case !z.asked || sameResources(z.source, w.pod):
		z.asked = false
	case !w.n.cfg.Pods.HasSynced():
		w.wakeAt(now.Add(time.Second)) // it isn't known yet what others were promised
	default:
		z.asked = false
		w.promise()
		z.again = now.Add(resizeRetry)
	}
	if z.pending != nil {
		w.wakeAt(z.again)
	}
	if w.sized() {
		return
	}
	plan := w.planResize()
	if !plan.any() && !w.busy("resize") {
		z.settled = w.pod
	}
	switch {
	case plan.any():
		if z.progress == nil {
			z.progress = resizeCondition(corev1.PodResizeInProgress, "", "", w.pod.Generation)
		}
		if !z.retry.due(now) {
			w.wakeAt(z.retry.at)
		} else if !w.busy("resize") && w.setupDone {
			w.spawnResize(ctx, plan)
		}
	case w.busy("resize") || plan.restarting:
	case z.progress != nil:
		generation := z.progress.ObservedGeneration
		z.progress = nil
		w.n.event(w.pod, "", corev1.EventTypeNormal, "ResizeCompleted", resizeMessage("Pod resize completed", w.pod, generation, ""))
	}
}

// sized says that nothing has changed since all was as it should be, which costs less to see than what should be.
func (w *worker) sized() bool {
	z := &w.resize
	if z.progress != nil || z.settled == nil || z.group == nil && w.n.cgroups != nil || z.settled != w.pod && !sameResources(z.settled, w.pod) {
		return false
	}
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if _, known := z.given[c.ID]; !known && c.Running() && !isEphemeral(w.pod, c.Name) {
			return false
		}
	}
	return true
}

// promise asks the node for what the pod asks for.
func (w *worker) promise() {
	z := &w.resize
	generation := z.source.Generation
	if r := w.n.resized(z.source); r != nil {
		if z.pending == nil || z.pending.ObservedGeneration != generation {
			w.n.event(w.pod, "", corev1.EventTypeWarning, "ResizeDeferred", resizeMessage("Pod resize Deferred", z.source, generation, r.message))
		}
		z.pending = resizeCondition(corev1.PodResizePending, corev1.PodReasonDeferred, r.message, generation)
		return
	}
	w.pod = z.source
	z.pending = nil
	z.progress = resizeCondition(corev1.PodResizeInProgress, "", "", generation)
	z.retry.ok()
	w.n.event(w.pod, "", corev1.EventTypeNormal, "ResizeStarted", resizeMessage("Pod resize started", w.pod, generation, ""))
}

func resizeCondition(t corev1.PodConditionType, reason, message string, generation int64) *corev1.PodCondition {
	return &corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation}
}

// resizeMessage tells of a resize with the resources of all containers, as the events of the kubelet do.
func resizeMessage(prefix string, pod *corev1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: problem}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	data, err := json.Marshal(summary)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(data)
}

// resizePlan is what has to be changed in the kernel.
type resizePlan struct {
	containers []resizeStep
	group      bool // the pod's group is to have other limits
	restarting bool // containers get theirs by being restarted
}

type resizeStep struct {
	container *observed.Container
	given     corev1.ResourceRequirements // what it will have
	limits    *runtimeapi.LinuxContainerResources
	shrinks   bool // its memory
}

func (p *resizePlan) any() bool { return len(p.containers) > 0 || p.group || p.restarting }

// planResize compares what the pod is to have with what it has.
func (w *worker) planResize() resizePlan {
	var plan resizePlan
	s := situation{Pod: w.pod, Given: w.givenTo}
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		spec := findContainer(w.pod, c.Name)
		if spec == nil || !c.Running() || isEphemeral(w.pod, c.Name) {
			continue
		}
		step := resizeStep{container: c, given: givenTo(w.pod, spec), limits: criconfig.Resources(w.pod, spec, w.n.memoryBytes, w.n.kernel)}
		given, known := w.resize.given[c.ID]
		if !known {
			if w.busy(containerKey(c.Name)) {
				continue // it is being started
			}
			// It is from before this process: what it has is what the runtime says.
			if have := c.Resources.GetLinux(); have == nil || sameLimits(have, step.limits) {
				w.resize.given[c.ID] = step.given
				continue
			}
			plan.containers = append(plan.containers, step)
			continue
		}
		have, want := sizesOf(nil, &given), sizesOf(w.pod.Spec.Resources, &spec.Resources)
		switch {
		case have == want:
		case s.resizeRestarts(spec, c):
			plan.restarting = true
		case !w.busy(containerKey(c.Name)):
			step.shrinks = want.memoryLimitB > 0 && (have.memoryLimitB == 0 || want.memoryLimitB < have.memoryLimitB)
			plan.containers = append(plan.containers, step)
		}
	}
	if w.resize.group != nil {
		plan.group = !reflect.DeepEqual(*w.resize.group, w.n.groupLimits(w.facts()))
	}
	return plan
}

// givenTo is what a container has been given.
func (w *worker) givenTo(id string) (corev1.ResourceRequirements, bool) {
	r, ok := w.resize.given[id]
	return r, ok
}

func sameLimits(a, b *runtimeapi.LinuxContainerResources) bool {
	return a.CpuShares == b.CpuShares && a.CpuQuota == b.CpuQuota && a.MemoryLimitInBytes == b.MemoryLimitInBytes
}

// spawnResize gives the running containers, and the pod's group, the limits that they are to have now.
func (w *worker) spawnResize(ctx context.Context, plan resizePlan) {
	f := w.facts()
	if len(plan.containers) == 0 && !plan.group {
		return // restarts do the rest
	}
	var have *cgroup.Limits
	if w.resize.group != nil {
		g := *w.resize.group
		have = &g
	}
	w.spawn(ctx, "resize", false, func(ctx context.Context) func() {
		done, group, err := w.n.resizePod(ctx, f, plan, have)
		ended := ctx.Err() != nil
		return func() {
			z := &w.resize
			maps.Copy(z.given, done)
			if group != nil {
				z.group = group
			}
			if err == nil {
				z.retry.ok()
				return
			}
			if ended {
				return
			}
			z.retry.fail(w.n.clock.Now())
			if z.progress == nil {
				z.progress = resizeCondition(corev1.PodResizeInProgress, "", "", w.pod.Generation)
			}
			if z.progress.Reason != corev1.PodReasonError || z.progress.Message != err.Error() {
				z.progress.Reason, z.progress.Message = corev1.PodReasonError, err.Error()
				w.n.event(w.pod, "", corev1.EventTypeWarning, "ResizeError", resizeMessage("Pod resize error", w.pod, z.progress.ObservedGeneration, err.Error()))
			}
		}
	})
}

// resizePod makes room, changes the containers, and takes the room away that isn't needed any more: a pod's group must be wide enough before
// its containers grow, and can be narrowed only after they shrank.
func (n *Node) resizePod(ctx context.Context, f facts, plan resizePlan, have *cgroup.Limits) (done map[string]corev1.ResourceRequirements, group *cgroup.Limits, err error) {
	done = map[string]corev1.ResourceRequirements{}
	if err := n.roomToShrink(ctx, f, plan, have); err != nil {
		return done, nil, err
	}
	var want cgroup.Limits
	if f.cgroup != "" && have != nil {
		want = n.groupLimits(f)
		wide := widest(*have, want)
		if err := n.setGroup(f, wide); err != nil {
			return done, nil, fmt.Errorf("failed to set pod cgroup config: %w", err)
		}
		group = &wide
	}
	for _, c := range plan.containers {
		if err := n.cfg.Runtime.UpdateContainerResources(ctx, c.container.ID, &runtimeapi.ContainerResources{Linux: c.limits}); err != nil {
			return done, group, fmt.Errorf("failed to update resources of container %q: %s", c.container.Name, plain(err))
		}
		done[c.container.ID] = c.given
	}
	if group != nil && !plan.restarting {
		if err := n.setGroup(f, want); err != nil {
			return done, group, fmt.Errorf("failed to set pod cgroup config: %w", err)
		}
		group = &want
	}
	return done, group, nil
}

// roomToShrink refuses limits of memory that are below what is in use: the kernel would end processes.
func (n *Node) roomToShrink(ctx context.Context, f facts, plan resizePlan, have *cgroup.Limits) error {
	var problems []string
	if f.cgroup != "" && have != nil {
		want := n.groupLimits(f).MemoryBytes
		if want > 0 && (have.MemoryBytes <= 0 || want < have.MemoryBytes) {
			if used := n.cgroups.Usage(f.cgroup).MemoryBytes; used >= uint64(want) {
				problems = append(problems, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", want, used))
			}
		}
	}
	for _, c := range plan.containers {
		if !c.shrinks {
			continue
		}
		stats, err := n.cfg.Runtime.ContainerStats(ctx, c.container.ID)
		if err != nil {
			problems = append(problems, fmt.Sprintf("missing container %q memory usage", c.container.Name))
			continue
		}
		used := max(stats.GetMemory().GetUsageBytes().GetValue(), stats.GetMemory().GetWorkingSetBytes().GetValue())
		if limit := c.limits.MemoryLimitInBytes; used >= uint64(limit) {
			problems = append(problems, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", c.container.Name, limit, used))
		}
	}
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", problems[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(problems, ", "))
}

// widest are the limits that hold nobody back whom either of the two lets go on.
func widest(a, b cgroup.Limits) cgroup.Limits {
	out := b
	out.CPUShares = max(a.CPUShares, b.CPUShares)
	if a.CPUQuotaUS <= 0 || b.CPUQuotaUS > 0 && a.CPUQuotaUS > b.CPUQuotaUS {
		out.CPUQuotaUS, out.CPUPeriodUS = a.CPUQuotaUS, a.CPUPeriodUS
	}
	if a.MemoryBytes <= 0 || b.MemoryBytes > 0 && a.MemoryBytes > b.MemoryBytes {
		out.MemoryBytes = a.MemoryBytes
	}
	return out
}
