package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/pressure"
)

const (
	// pressureEvery is how often memory and disk are looked at while there are pods.
	pressureEvery = 10 * time.Second
	// pressureMemory is how long a condition stays after its cause is gone, so that the scheduler doesn't come back at once.
	pressureMemory = 5 * time.Minute
)

// watchPressure looks at memory and disk while there are pods, and evicts pods when either runs out (node-pressure
// eviction). A node without pods sleeps.
func (n *Node) watchPressure(ctx context.Context) {
	if n.cfg.Pressure.Off {
		return
	}
	var seen [3]time.Time
	for {
		workers := n.allWorkers()
		if len(workers) == 0 && seen == [3]time.Time{} {
			select {
			case <-ctx.Done():
				return
			case <-n.arrived:
			}
		}
		sleep(ctx, n, pressureEvery)
		if ctx.Err() != nil {
			return
		}
		workers = n.allWorkers()
		n.checkVolumes(workers)
		signals, err := pressure.Read(n.cfg.RootDir)
		if err != nil {
			n.log.Debug("cannot measure the machine", "error", err)
			continue
		}
		state := pressure.Judge(signals, n.cfg.Pressure)
		n.registrar.SetPressure(remember(state, &seen, n.clock.Now()))
		if victim := pressure.Victim(state, n.candidates(workers)); victim != nil {
			n.evict(victim.Pod, pressure.Message(state, signals, n.cfg.Pressure), minGrace)
		}
	}
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

// checkVolumes evicts pods whose emptyDir has outgrown its limit. (One in memory cannot.)
func (n *Node) checkVolumes(workers []*worker) {
	for _, w := range workers {
		pod, st := w.snapshot()
		if !alive(pod, st) {
			continue
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.IsZero() || v.EmptyDir.Medium != corev1.StorageMediumDefault {
				continue
			}
			if n.volumes.Usage(pod, v) > v.EmptyDir.SizeLimit.Value() {
				n.evict(pod, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String()), minGrace)
				break
			}
		}
	}
}

func (n *Node) candidates(workers []*worker) []pressure.Candidate {
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
				c.DiskBytes += n.volumes.Usage(pod, v)
			}
		}
		out = append(out, c)
	}
	return out
}
