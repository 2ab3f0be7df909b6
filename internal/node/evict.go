package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/pressure"
)

const (
	// pressureEvery is how often memory and disk are looked at while there are pods.
	pressureEvery = 10 * time.Second
	// pressureMemory is how long a condition stays after its cause is gone, so that the scheduler doesn't come back at once.
	pressureMemory = 5 * time.Minute
)

// watchPressure looks at memory and disk at the start, when a first pod comes and then while there are pods, and evicts pods when either
// runs out (node-pressure eviction). A node without pods sleeps.
func (n *Node) watchPressure(ctx context.Context) {
	if n.cfg.Pressure.Off {
		return
	}
	var seen [3]time.Time
	for ctx.Err() == nil {
		n.relieve(ctx, &seen)
		if len(n.allWorkers()) > 0 || seen != [3]time.Time{} {
			sleep(ctx, n, pressureEvery)
			continue
		}
		select {
		case <-ctx.Done():
		case <-n.arrived:
		}
	}
}

// firstLook has the first status of the node say whether memory or disk are short: else pods would come, only to be evicted.
func (n *Node) firstLook(ctx context.Context) {
	if n.cfg.Pressure.Off {
		return
	}
	if signals, err := n.measure(ctx); err == nil {
		n.registrar.SetPressure(pressure.Judge(signals, n.cfg.Pressure))
	}
}

// relieve measures once and does something about what is short: pods go that use more than their own limits, then containers of pods
// that are over and images that nobody uses, then a pod.
func (n *Node) relieve(ctx context.Context, seen *[3]time.Time) {
	workers := n.allWorkers()
	evicted := n.checkStorage(ctx, workers)
	signals, err := n.measure(ctx)
	if err != nil {
		n.log.Debug("cannot measure the machine", "error", err)
		return
	}
	state := pressure.Judge(signals, n.cfg.Pressure)
	if state.Any() && *seen == [3]time.Time{} {
		n.log.Warn("the machine is short of something: new pods wait, and pods are evicted (--eviction-hard says from when on)", "why", pressure.Message(signals, n.cfg.Pressure))
	}
	n.registrar.SetPressure(remember(state, seen, n.clock.Now()))
	if !state.Any() || evicted {
		return
	}
	if pressure.Reclaim(signals, n.cfg.Pressure) {
		removed := n.removeDead(ctx, workers)
		freed, err := n.images.DeleteUnused(ctx)
		if err != nil {
			n.log.Warn("removing unused images", "error", err)
		}
		if freed > 0 || removed > 0 {
			if signals, err = n.measure(ctx); err != nil || !pressure.Judge(signals, n.cfg.Pressure).Any() {
				return
			}
		}
	}
	if victim := pressure.Victim(signals, n.cfg.Pressure, n.candidates(ctx, workers)); victim != nil {
		n.evict(victim.Pod, pressure.Message(signals, n.cfg.Pressure), minGrace)
	}
}

// removeDead removes the containers of pods that are over, with what they wrote into their own file systems: else an evicted pod would keep the disk full
// until somebody deletes it. It returns how many there were. Their states are in the pods' statuses.
func (n *Node) removeDead(ctx context.Context, workers []*worker) int {
	over := map[types.UID]bool{}
	for _, w := range workers {
		if pod, st := w.snapshot(); pod != nil && st != nil && ended(st) {
			over[pod.UID] = true
		}
	}
	if len(over) == 0 {
		return 0
	}
	list, err := n.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}})
	if err != nil {
		n.log.Warn("cannot list the containers that ended", "error", err)
		return 0
	}
	removed := 0
	for _, c := range list {
		if uid, _ := podAndContainer(c.Labels); !over[uid] {
			continue
		}
		if err := n.cfg.Runtime.RemoveContainer(ctx, c.Id); err != nil {
			n.log.Warn("cannot remove a container that ended", "id", c.Id, "error", err)
			continue
		}
		removed++
	}
	return removed
}

// ended tells whether a pod is over and the status says of each container how.
func ended(st *corev1.PodStatus) bool {
	if st.Phase != corev1.PodSucceeded && st.Phase != corev1.PodFailed {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].State.Running != nil {
				return false
			}
		}
	}
	return true
}

func (n *Node) measure(ctx context.Context) (pressure.Signals, error) {
	dir := ""
	if info, err := n.cfg.Images.ImageFsInfo(ctx); err == nil && len(info.GetImageFilesystems()) > 0 {
		dir = info.ImageFilesystems[0].GetFsId().GetMountpoint()
	}
	return pressure.Read(n.cfg.RootDir, dir)
}

// remember keeps conditions up for a while.
func remember(now pressure.State, seen *[3]time.Time, at time.Time) pressure.State {
	hold := func(i int, holds bool) bool {
		if holds {
			seen[i] = at
		}
		if seen[i].IsZero() || at.Sub(seen[i]) >= pressureMemory {
			seen[i] = time.Time{}
			return false
		}
		return true
	}
	return pressure.State{Memory: hold(0, now.Memory), Disk: hold(1, now.Disk), PID: hold(2, now.PID)}
}

func (n *Node) evict(pod *corev1.Pod, message string, grace time.Duration) {
	n.log.Warn("evicting a pod", "pod", describe(pod), "why", message)
	n.event(pod, "", corev1.EventTypeWarning, "Evicted", message)
	n.withWorker(pod.UID, func(w *worker) { w.evict(eviction{"Evicted", message, grace}) })
}

// alive tells whether a pod may still be evicted.
func alive(pod *corev1.Pod, st *corev1.PodStatus) bool {
	return pod != nil && st != nil && st.Phase != corev1.PodSucceeded && st.Phase != corev1.PodFailed && pod.DeletionTimestamp == nil
}

// checkStorage evicts pods that use more of the disk than they may: a volume, a container or a pod has outgrown its limit. (A volume in
// memory cannot.) It tells whether it did.
func (n *Node) checkStorage(ctx context.Context, workers []*worker) bool {
	var written map[types.UID]map[string]int64 // measured when the first pod needs it
	evicted := false
	for _, w := range workers {
		pod, st := w.snapshot()
		if !alive(pod, st) || !limitsStorage(pod) {
			continue
		}
		if written == nil && limitsContainers(pod) {
			written = n.writtenBytes(ctx)
		}
		if message := n.outgrown(pod, written[pod.UID]); message != "" {
			n.evict(pod, message, minGrace)
			evicted = true
		}
	}
	return evicted
}

func limitsStorage(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil {
			return true
		}
	}
	return limitsContainers(pod)
}

func limitsContainers(pod *corev1.Pod) bool {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceEphemeralStorage]; ok {
			return true
		}
	}
	return false
}

// outgrown says which limit a pod exceeds; written is what its containers wrote into their file systems.
func (n *Node) outgrown(pod *corev1.Pod, written map[string]int64) string {
	var used int64
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault {
			continue
		}
		size := n.volumes.Usage(pod, v)
		used += size
		if limit := v.EmptyDir.SizeLimit; limit != nil && !limit.IsZero() && size > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	if !limitsContainers(pod) {
		return ""
	}
	var total int64
	every := true
	sum := corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		size := written[c.Name] + n.logBytes(pod, c.Name)
		used += size
		limit, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]
		if !ok {
			every = false
			continue
		}
		if size > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
		total += limit.Value()
		q := sum[corev1.ResourceEphemeralStorage]
		q.Add(limit)
		sum[corev1.ResourceEphemeralStorage] = q
	}
	if q := sum[corev1.ResourceEphemeralStorage]; every && used > total {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	return ""
}

// writtenBytes is what the containers of each pod wrote into their own file systems, by container.
func (n *Node) writtenBytes(ctx context.Context) map[types.UID]map[string]int64 {
	out := map[types.UID]map[string]int64{}
	list, err := n.cfg.Runtime.ListContainerStats(ctx, nil)
	if err != nil {
		n.log.Debug("cannot measure the containers", "error", err)
		return out
	}
	for _, s := range list {
		uid, name := podAndContainer(s.GetAttributes().GetLabels())
		if out[uid] == nil {
			out[uid] = map[string]int64{}
		}
		out[uid][name] += int64(s.GetWritableLayer().GetUsedBytes().GetValue())
	}
	return out
}

// candidates measures the pods that can be evicted. It looks at every file of theirs: it is asked only when something is short.
func (n *Node) candidates(ctx context.Context, workers []*worker) []pressure.Candidate {
	written := n.writtenBytes(ctx)
	var out []pressure.Candidate
	for _, w := range workers {
		pod, st := w.snapshot()
		if !alive(pod, st) {
			continue
		}
		c := pressure.Candidate{Pod: pod}
		if n.cgroups != nil {
			c.MemoryBytes = int64(n.cgroups.Usage(cgroup.PodGroup(n.cgroups.Root(), st.QOSClass, string(pod.UID))).WorkingSetBytes)
		}
		for i := range pod.Spec.Volumes {
			if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
				c.FilesBytes += n.volumes.Usage(pod, v)
			}
		}
		c.FilesBytes += n.logBytes(pod, "")
		for _, size := range written[pod.UID] {
			c.RootBytes += size
		}
		out = append(out, c)
	}
	return out
}
