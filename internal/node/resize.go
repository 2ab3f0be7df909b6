package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/observed"
)

// spawnResize gives the running containers the limits that the specification asks for now (in-place resize, KEP-1287).
func (w *worker) spawnResize(ctx context.Context) {
	type change struct {
		container *observed.Container
		limits    *runtimeapi.LinuxContainerResources
	}
	var changes []change
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		spec := findContainer(w.pod, c.Name)
		if spec == nil || !c.Running() {
			continue
		}
		want := criconfig.Resources(w.pod, spec, w.n.memoryBytes, w.n.kernel)
		have := c.Resources.GetLinux()
		if have == nil || have.CpuShares == want.CpuShares && have.CpuQuota == want.CpuQuota && have.MemoryLimitInBytes == want.MemoryLimitInBytes {
			continue
		}
		changes = append(changes, change{c, want})
	}
	if len(changes) == 0 {
		return
	}
	f := w.facts()
	w.spawn(ctx, "resize", false, func(ctx context.Context) func() {
		n := w.n
		// The pod's group must be wide enough before its containers grow, and may shrink only after they did; trying both
		// ways, whichever the kernel refuses first succeeds the second time.
		if f.cgroup != "" {
			_ = n.applyGroup(f)
		}
		for _, c := range changes {
			if err := n.cfg.Runtime.UpdateContainerResources(ctx, c.container.ID, &runtimeapi.ContainerResources{Linux: c.limits}); err != nil && ctx.Err() == nil {
				n.event(f.pod, c.container.Name, corev1.EventTypeWarning, "ResizeError", plain(err))
			}
		}
		if f.cgroup != "" {
			if err := n.applyGroup(f); err != nil && ctx.Err() == nil {
				n.event(f.pod, "", corev1.EventTypeWarning, "ResizeError", err.Error())
			}
		}
		return nil
	})
}
