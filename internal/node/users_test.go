package node

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A pod that wants users of its own doesn't run as those of the machine instead.
func TestPodWithUsersOfItsOwnIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) { p.Spec.HostUsers = new(bool) }))
		pass(time.Second)
		r.wantEvent("FailedCreatePodSandBox", "can't set `spec.hostUsers: false`, runtime does not support user namespaces")
		if p := r.get("p"); p.Status.Phase != corev1.PodPending || r.runtime.Container("p", "c") != "" {
			t.Errorf("phase %s, container %q", p.Status.Phase, r.runtime.Container("p", "c"))
		}
	})
}
