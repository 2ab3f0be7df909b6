package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/probe"
	"github.com/celox/celox/internal/node/status"
)

const (
	// minGrace is the least time between SIGTERM and SIGKILL.
	minGrace = time.Second
	// minGraceAfterHook is what a container gets even if its preStop hook used up all of its time.
	minGraceAfterHook = 2 * time.Second
)

// beginStop ends the pod. Later calls can only shorten the grace period.
func (w *worker) beginStop(grace time.Duration) {
	grace = max(grace, minGrace)
	switch {
	case w.stage < stageStop:
		w.stage = stageStop
		w.stopGrace = grace
		w.stopped = w.n.clock.Now()
		// Whatever was being started isn't wanted any more.
		for key, t := range w.tasks {
			if !t.kill && key != "status" {
				t.cancel()
			}
		}
	case w.stage == stageStop && grace < w.stopGrace:
		w.stopGrace = grace
		for _, t := range w.tasks {
			if t.kill {
				t.cancel()
			}
		}
	}
}

// killGrace is how long a container may take that is ended for a reason of its own.
func (w *worker) killGrace(k kill) time.Duration {
	if k.Grace != nil {
		return max(*k.Grace, minGrace)
	}
	return max(w.specGrace(), minGrace)
}

// stopPod ends the containers: first the pod's own, all at once, then its sidecars, the last one first.
func (w *worker) stopPod(ctx context.Context, now time.Time) {
	own, sidecars := w.runningContainers()
	for _, c := range own {
		if !w.busy(containerKey(c.Name)) {
			w.spawnKill(ctx, kill{ID: c.ID, Name: c.Name}, w.stopGrace)
		}
	}
	if len(own) == 0 {
		for i := len(w.pod.Spec.InitContainers) - 1; i >= 0; i-- {
			name := w.pod.Spec.InitContainers[i].Name
			c, ok := sidecars[name]
			if !ok {
				continue
			}
			if !w.busy(containerKey(name)) {
				w.spawnKill(ctx, kill{ID: c.ID, Name: c.Name}, w.stopGrace)
			}
			break
		}
	}
	if len(own) == 0 && len(sidecars) == 0 && !w.anyBusy() {
		w.stage = stageTeardown
	}
}

// runningContainers sorts what runs into the pod's own containers and its sidecars.
func (w *worker) runningContainers() (own []*observed.Container, sidecars map[string]*observed.Container) {
	sidecars = map[string]*observed.Container{}
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if !c.Running() {
			continue
		}
		isSidecar := false
		for j := range w.pod.Spec.InitContainers {
			if ic := &w.pod.Spec.InitContainers[j]; ic.Name == c.Name && status.IsSidecar(ic) {
				isSidecar = true
			}
		}
		if isSidecar {
			sidecars[c.Name] = c
		} else {
			own = append(own, c)
		}
	}
	return own, sidecars
}

// spawnKill ends a container beside the worker: preStop, SIGTERM, and after the grace period SIGKILL.
func (w *worker) spawnKill(ctx context.Context, k kill, grace time.Duration) {
	f := w.facts()
	container := findContainer(w.pod, k.Name)
	hooked := w.preStops[k.ID]
	w.preStops[k.ID] = true
	message := k.Message
	if message == "" {
		message = "Stopping container " + k.Name
	}
	if k.Reason != probe.None || k.Message != "" {
		w.n.prober.Stop(k.ID)
	} else {
		w.n.prober.Quiet(k.ID)
	}
	if !hooked {
		w.n.event(w.pod, k.Name, corev1.EventTypeNormal, "Killing", message)
	}
	w.spawn(ctx, containerKey(k.Name), true, func(ctx context.Context) func() {
		begun := w.n.clock.Now()
		left := grace
		if !hooked && !k.Abrupt && container != nil && container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
			w.n.preStop(ctx, f, container, k.ID, grace)
			left = max(grace-w.n.clock.Since(begun), minGraceAfterHook)
		}
		if ctx.Err() != nil {
			return nil
		}
		err := w.n.cfg.Runtime.StopContainer(ctx, k.ID, int64((left+time.Second-1)/time.Second))
		if err != nil && ctx.Err() == nil && !observed.IsNotFound(err) {
			w.n.event(f.pod, "", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+plain(err))
			sleep(ctx, w.n, time.Second)
		}
		return nil
	})
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, n *Node, d time.Duration) {
	t := n.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C():
	}
}

func (n *Node) preStop(ctx context.Context, f facts, c *corev1.Container, id string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	ip := ""
	if len(f.ips) > 0 {
		ip = f.ips[0]
	}
	runner := n.hooks(f.pod)
	if err := runner.Run(ctx, c, id, ip, c.Lifecycle.PreStop); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		n.log.Debug("preStop hook failed", "pod", describe(f.pod), "container", c.Name, "error", err)
		n.event(f.pod, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

// tearDown takes the pod's sandbox, volumes and cgroup away.
func (w *worker) tearDown(ctx context.Context, now time.Time) {
	if w.tornDown {
		w.stage = stageEnded
		return
	}
	if w.busy("teardown") {
		return
	}
	if !w.teardown.due(now) {
		w.wakeAt(w.teardown.at)
		return
	}
	f := w.facts()
	sandboxes := w.observed.Sandboxes
	for i := range w.observed.Containers {
		w.n.prober.Stop(w.observed.Containers[i].ID)
	}
	w.spawn(ctx, "teardown", false, func(ctx context.Context) func() {
		err := w.n.tearDownPod(ctx, f, sandboxes)
		return func() {
			if err != nil {
				if ctx.Err() == nil || w.n.ctx.Err() == nil {
					w.n.log.Warn("cannot tear a pod down; trying again", "pod", describe(f.pod), "error", err)
				}
				w.teardown.fail(w.n.clock.Now())
				return
			}
			w.tornDown = true
			w.stage = stageEnded
		}
	})
}

func (n *Node) tearDownPod(ctx context.Context, f facts, sandboxes []observed.Sandbox) error {
	for i := range sandboxes {
		if err := n.cfg.Runtime.StopPodSandbox(ctx, sandboxes[i].ID); err != nil && !observed.IsNotFound(err) {
			return fmt.Errorf("stop sandbox: %w", err)
		}
	}
	if err := n.devices.Unprepare(ctx, f.pod.UID); err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	if err := n.plugged.Release(f.pod.UID); err != nil {
		return fmt.Errorf("release devices: %w", err)
	}
	if err := n.volumes.TeardownVolumes(f.pod.UID); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	if f.cgroup != "" {
		if err := n.removeGroup(f); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// leave waits for the pod's deletion once it has ended, then removes what is left of it: first from the API, so that
// whoever waits for its name can go on, then from the runtime and the disk.
func (w *worker) leave(ctx context.Context, now time.Time) {
	w.mu.Lock()
	gone := w.gone
	w.mu.Unlock()
	if w.stage == stageEnded && (gone || w.pod.DeletionTimestamp != nil) {
		w.stage = stageRemove
		w.n.released(w.uid)
	}
	if w.stage == stageEnded {
		w.n.released(w.uid)
		return
	}
	if w.busy("remove") {
		return
	}
	if !gone && !w.final {
		return // the last status has to be written first
	}
	if !w.teardown.due(now) {
		w.wakeAt(w.teardown.at)
		return
	}
	f := w.facts()
	sandboxes, containers := w.observed.Sandboxes, w.observed.Containers
	deleteFromAPI := !gone && !w.static && !w.orphan
	w.spawn(ctx, "remove", false, func(ctx context.Context) func() {
		err := w.n.removePod(ctx, f, deleteFromAPI, sandboxes, containers)
		return func() {
			if err != nil {
				if w.n.ctx.Err() == nil {
					w.n.log.Warn("cannot remove a pod; trying again", "pod", describe(f.pod), "error", err)
				}
				w.teardown.fail(w.n.clock.Now())
				return
			}
			w.stage = stageDone
		}
	})
}

func (n *Node) removePod(ctx context.Context, f facts, fromAPI bool, sandboxes []observed.Sandbox, containers []observed.Container) error {
	if fromAPI {
		zero := int64(0)
		err := n.cfg.Client.CoreV1().Pods(f.pod.Namespace).Delete(ctx, f.pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero,
			Preconditions:      metav1.NewUIDPreconditions(string(f.pod.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete from the API: %w", err)
		}
	}
	for i := range containers {
		n.rotator.Forget(containers[i].ID)
	}
	for i := range sandboxes {
		if err := n.cfg.Runtime.RemovePodSandbox(ctx, sandboxes[i].ID); err != nil && !observed.IsNotFound(err) {
			return fmt.Errorf("remove sandbox: %w", err)
		}
	}
	if err := n.volumes.Teardown(f.pod.UID); err != nil {
		return err
	}
	if f.cgroup != "" {
		if err := n.removeGroup(f); err != nil {
			return err
		}
	}
	n.crashes.ForgetAll(string(f.pod.UID) + "/")
	n.puller.Forget(string(f.pod.UID) + "/")
	return os.RemoveAll(criconfig.PodLogDir(n.cfg.LogDir, f.pod.Namespace, f.pod.Name, f.pod.UID))
}
