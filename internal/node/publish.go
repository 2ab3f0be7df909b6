package node

import (
	"context"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/node/status"
)

// How long a status may wait that says nothing but that the pod is on its way up or down: what comes after it is expected
// any moment, and a write costs as much as a good part of a pod's start.
const (
	startPatience = 900 * time.Millisecond
	stopPatience  = 250 * time.Millisecond
	// A container that is ended because its definition changed has its successor in no time; that the pod was not ready in between is no news.
	replacePatience = time.Second
)

// publish computes the pod's status and has it written if the API doesn't have it. One write is in flight at most;
// whatever changes meanwhile is written as one.
func (w *worker) publish(ctx context.Context, now time.Time) {
	if w.pod == nil || w.orphan || !w.looked || ctx.Err() != nil || w.stage == stageDone {
		return
	}
	if !w.admitted && !w.rejected && (w.pod.Status.Phase == corev1.PodSucceeded || w.pod.Status.Phase == corev1.PodFailed) {
		// It had ended before this process saw it: what was written then stays.
		w.mu.Lock()
		w.shown = &w.pod.Status
		w.mu.Unlock()
		if w.stage == stageRemove && !w.final {
			w.final = true
			w.poke()
		}
		return
	}
	in := w.input(now)
	target := w.resize.source
	if w.static {
		if target = w.n.mirrorOf(w.pod); target == nil {
			target = w.resize.source
		} else if target.UID != w.mirror {
			w.mirror, w.written, w.latest = target.UID, nil, nil // a new image knows nothing yet
		}
	}
	base := *w.pod
	base.Status = target.Status
	base.Generation = target.Generation
	if w.want != nil {
		base.Status = status.Rebase(&target.Status, w.want)
	}
	in.Pod = &base
	computed := status.Compute(in)
	w.want = &computed
	if computed.Phase == corev1.PodRunning && !w.counted {
		w.counted = true
		w.n.counters.podStarts.Observe(now.Sub(w.started).Seconds())
	}
	w.mu.Lock()
	w.shown = &computed
	gone := w.gone
	w.mu.Unlock()
	if gone && !w.static || w.static && target == w.resize.source {
		w.final = w.stage == stageRemove
		return
	}
	if w.busy("status") {
		return
	}
	if w.inAPI(&target.Status, &computed) {
		if w.stage == stageRemove && !w.final {
			w.final = true
			w.poke()
		}
		return
	}
	if !w.statusRetry.due(now) {
		w.wakeAt(w.statusRetry.at)
		return
	}
	if until := w.patience(&computed); now.Before(until) {
		w.wakeAt(until)
		return
	}
	w.writeStatus(ctx, target, computed)
}

// patience tells until when a status need not be written because the pod is in transit: it is being started and nothing
// went wrong or runs yet, a container gives way to its changed self, or it was deleted and hasn't ended yet. A time that is over says that it is news.
func (w *worker) patience(s *corev1.PodStatus) time.Time {
	switch {
	case w.reason != "" || len(w.extra) > 0:
	case w.stage == stageRun && s.Phase == corev1.PodPending:
		if len(w.failures)+len(w.backoffs) > 0 || !untouched(s.InitContainerStatuses) || !untouched(s.ContainerStatuses) {
			break
		}
		return w.started.Add(startPatience)
	case w.stage == stageRun && len(w.failures)+len(w.backoffs) == 0:
		return w.replacing().Add(replacePatience)
	case w.pod.DeletionTimestamp != nil && w.stage > stageRun && w.stage < stageRemove:
		return w.stopped.Add(stopPatience)
	}
	return time.Time{}
}

// replacing tells when the last container ended that this node ended for another one in its place, which doesn't run yet; zero if there is none.
func (w *worker) replacing() (at time.Time) {
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if !c.Exited() || !w.replaced[c.ID] || !c.FinishedAt.After(at) {
			continue
		}
		// A successor that runs, or has ended on its own, is news.
		if latest := w.observed.Latest(c.Name); !latest.Running() && (!latest.Exited() || w.replaced[latest.ID]) {
			at = c.FinishedAt
		}
	}
	return at
}

// untouched tells whether none of the containers was ever there.
func untouched(list []corev1.ContainerStatus) bool {
	return !slices.ContainsFunc(list, func(c corev1.ContainerStatus) bool { return c.ContainerID != "" })
}

// inAPI tells whether the API has this status, as far as is known.
func (w *worker) inAPI(api, computed *corev1.PodStatus) bool {
	if w.written != nil {
		return status.Equal(w.written, computed)
	}
	return status.Equal(api, computed)
}

// noteVersion forgets what was written when somebody else has written since.
func (w *worker) noteVersion(pod *corev1.Pod) {
	if w.written != nil && version(pod) > w.writtenVersion && !status.Equal(w.written, &pod.Status) {
		w.written = nil
	}
	if w.latest != nil && version(pod) >= version(w.latest) {
		w.latest = nil
	}
}

// version orders the versions of one object (KEP-5504).
func version(pod *corev1.Pod) uint64 {
	n, _ := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	return n
}

func (w *worker) writeStatus(ctx context.Context, target *corev1.Pod, computed corev1.PodStatus) {
	if w.latest != nil && w.latest.UID == target.UID && version(w.latest) > version(target) {
		target = w.latest
	}
	w.spawn(ctx, "status", false, func(ctx context.Context) func() {
		got, err := w.n.updateStatus(ctx, target, computed)
		return func() {
			switch {
			case err == nil:
				w.statusRetry.ok()
				w.latest = got
				w.writtenVersion = version(got)
				written := computed
				w.written = &written
			case apierrors.IsNotFound(err) && w.static:
				w.statusRetry.ok() // somebody has deleted the image, and there comes another: the pod goes on
			case apierrors.IsNotFound(err):
				w.statusRetry.ok()
				w.tell(func() { w.gone = true })
			default:
				w.statusRetry.fail(w.n.clock.Now())
				if w.n.ctx.Err() == nil {
					w.n.log.Warn("cannot write a pod's status; trying again", "pod", describe(target), "error", err)
				}
			}
		}
	})
}

// updateStatus writes a status. Conditions that belong to others are kept as the API has them.
func (n *Node) updateStatus(ctx context.Context, pod *corev1.Pod, s corev1.PodStatus) (*corev1.Pod, error) {
	const attempts = 5
	client := n.cfg.Client.CoreV1().Pods(pod.Namespace)
	for i := 0; ; i++ {
		next := pod.DeepCopy()
		merged := status.Rebase(&pod.Status, &s)
		next.Status = *merged.DeepCopy()
		got, err := client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		if err == nil || !apierrors.IsConflict(err) || i == attempts {
			return got, err
		}
		fresh, err := client.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if fresh.UID != pod.UID {
			return nil, apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		}
		pod = fresh
	}
}
