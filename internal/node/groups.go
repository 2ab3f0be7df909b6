package node

import (
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/stats"
)

// cgroupPatience bounds how long dying processes may keep a cgroup from being removed.
const cgroupPatience = 2 * time.Second

// burstable is what the burstable pods ask for together. Their common group gets it as its weight, so that against the guaranteed pods
// beside it, it counts as much as its pods would one by one.
type burstable struct {
	mu      sync.Mutex
	milli   map[types.UID]int64 // by pod; guarded by mu
	written uint64              // shares of the group; guarded by mu
}

// prepareGroups makes the groups that hold the pods' own.
func (n *Node) prepareGroups() error {
	if n.cgroups == nil {
		return nil
	}
	if err := n.cgroups.Vacate(); err != nil {
		return fmt.Errorf("node: cgroups cannot be handed down: %w", err)
	}
	all := n.cgroups.PodsGroup()
	for group, limits := range map[string]cgroup.Limits{
		all: cgroup.NodeLimits(n.registrar.Capacity, n.cfg.Reserved, stats.MaxPIDs(), n.cgroups.PageSizes()),
		n.cgroups.ClassGroup(corev1.PodQOSBestEffort): {CPUShares: cgroup.Shares(0)},
		n.cgroups.ClassGroup(corev1.PodQOSBurstable):  {CPUShares: cgroup.Shares(0)},
	} {
		if err := n.cgroups.Ensure(group, limits); err != nil {
			return fmt.Errorf("node: cgroup %s: %w", group, err)
		}
	}
	n.kernel = criconfig.Kernel{CgroupV2: n.cgroups.Version() == 2, Swap: n.cgroups.LimitsSwap(all), PageSizes: n.cgroups.PageSizes()}
	return nil
}

func (n *Node) groupLimits(f facts) cgroup.Limits {
	return cgroup.PodLimits(f.pod, f.class, n.cfg.PodPIDs, n.cgroups.PageSizes())
}

// ensureGroup makes a pod's group, and its class's wide enough for it.
func (n *Node) ensureGroup(f facts) error {
	if err := n.weigh(f); err != nil {
		return err
	}
	return n.cgroups.Ensure(f.cgroup, n.groupLimits(f))
}

// setGroup gives a pod's group other limits.
func (n *Node) setGroup(f facts, l cgroup.Limits) error {
	if err := n.weigh(f); err != nil {
		return err
	}
	return n.cgroups.Apply(f.cgroup, l)
}

// removeGroup removes a pod's group; that there is none is no error.
func (n *Node) removeGroup(f facts) error {
	if err := n.cgroups.Remove(f.cgroup, cgroupPatience); err != nil {
		return err
	}
	b := &n.burstable
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.milli, f.pod.UID)
	return n.writeWeight()
}

// weigh counts what a burstable pod asks for.
func (n *Node) weigh(f facts) error {
	if f.class != corev1.PodQOSBurstable {
		return nil
	}
	requests := resourcehelper.PodRequests(f.pod, resourcehelper.PodResourcesOptions{})
	b := &n.burstable
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.milli == nil {
		b.milli = map[types.UID]int64{}
	}
	b.milli[f.pod.UID] = requests.Cpu().MilliValue()
	return n.writeWeight()
}

// writeWeight writes the weight of the burstable pods if it has changed. The caller holds burstable.mu.
func (n *Node) writeWeight() error {
	b := &n.burstable
	var sum int64
	for _, milli := range b.milli {
		sum += milli
	}
	shares := cgroup.Shares(sum)
	if shares == b.written {
		return nil
	}
	if err := n.cgroups.Apply(n.cgroups.ClassGroup(corev1.PodQOSBurstable), cgroup.Limits{CPUShares: shares}); err != nil {
		return err
	}
	b.written = shares
	return nil
}

// orphanCgroups lists the groups of pods that nobody knows any more.
func (n *Node) orphanCgroups(known func(uid string) bool) []string {
	if n.cgroups == nil {
		return nil
	}
	var out []string
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		parent := n.cgroups.ClassGroup(class)
		for _, name := range n.cgroups.List(parent) {
			if uid, ok := strings.CutPrefix(name, "pod"); ok && uid != "" && !known(uid) {
				out = append(out, parent+"/"+name)
			}
		}
	}
	return out
}
