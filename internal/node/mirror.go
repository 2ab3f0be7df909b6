package node

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/node/observed"
)

// mirrors are the API's images of static pods, by namespace/name. Guarded by Node.mu.
type mirrors map[types.NamespacedName]*corev1.Pod

// isStatic tells whether a pod comes from a file or a URL.
func isStatic(pod *corev1.Pod) bool {
	s := pod.Annotations[observed.AnnotationConfigSource]
	return s != "" && s != "api" && !isMirror(pod)
}

// isMirror tells whether a pod of the API only shows a static pod.
func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// staticPod takes a static pod from its source and sees to its mirror. One whose manifest came back before it has ended waits for its end and begins anew then.
func (n *Node) staticPod(pod *corev1.Pod) {
	going := false
	n.withWorker(pod.UID, func(w *worker) { going = w.isGone() })
	if going {
		return // startWorker gives it back
	}
	n.deliver(pod)
	n.mu.Lock()
	missing := n.mirrors[nameOf(pod)] == nil
	start := missing && n.running
	if start {
		n.wg.Go(func() { n.createMirror(n.ctx, pod) })
	}
	n.mu.Unlock()
}

// staticGone ends a static pod whose manifest is gone, and its mirror.
func (n *Node) staticGone(uid types.UID) {
	n.withWorker(uid, func(w *worker) {
		if pod, _ := w.snapshot(); pod != nil {
			if m := n.mirrorOf(pod); m != nil {
				n.mu.Lock()
				if n.running {
					n.wg.Go(func() { n.deleteMirror(n.ctx, m) })
				}
				n.mu.Unlock()
			}
		}
		w.remove()
	})
}

// createMirror shows a static pod in the API.
func (n *Node) createMirror(ctx context.Context, pod *corev1.Pod) {
	select {
	case <-n.Ready(): // the node must exist: the pod names it as its owner
	case <-ctx.Done():
		return
	}
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion, mirror.Status = "", "", corev1.PodStatus{}
	hash := pod.Annotations[observed.AnnotationConfigHash]
	mirror.Annotations[corev1.MirrorPodAnnotationKey] = hash
	if node := n.registrar.Node(); node != nil {
		yes := true
		mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	}
	client := n.cfg.Client.CoreV1().Pods(pod.Namespace)
	for delay := retryFirst; ctx.Err() == nil; delay = min(2*delay, retryMax) {
		_, err := client.Create(ctx, mirror, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			have, gerr := client.Get(ctx, pod.Name, metav1.GetOptions{})
			if gerr == nil && have.Annotations[corev1.MirrorPodAnnotationKey] == hash {
				return
			}
			if gerr == nil && isMirror(have) {
				zero := int64(0)
				gerr = client.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
				if gerr == nil {
					continue
				}
			}
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		n.log.Warn("cannot show a static pod in the API; trying again", "pod", describe(pod), "error", err)
		sleep(ctx, n, delay)
	}
}

// mirrorSeen notes a mirror. One without its static pod is deleted; so is, at once, one that somebody deletes: it is but an image, and mirrorGone makes a new one.
func (n *Node) mirrorSeen(pod *corev1.Pod) {
	n.mu.Lock()
	if n.mirrors == nil {
		n.mirrors = mirrors{}
	}
	n.mirrors[nameOf(pod)] = pod
	uid := n.static.UID(nameOf(pod), pod.Annotations[corev1.MirrorPodAnnotationKey])
	if (uid == "" || pod.DeletionTimestamp != nil) && n.static.Synced() && n.running {
		n.wg.Go(func() { n.deleteMirror(n.ctx, pod) })
	}
	n.mu.Unlock()
	if uid != "" {
		n.withWorker(uid, (*worker).poke)
	}
}

// sortMirrors looks again at the mirrors that were seen before the manifests were read: those of pods whose manifests went while the node was away are deleted.
func (n *Node) sortMirrors() {
	n.mu.Lock()
	seen := slices.Collect(maps.Values(n.mirrors))
	n.mu.Unlock()
	for _, m := range seen {
		n.mirrorSeen(m)
	}
}

func (n *Node) deleteMirror(ctx context.Context, pod *corev1.Pod) {
	zero := int64(0)
	err := n.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		n.log.Warn("cannot delete the image of a static pod that is gone", "pod", describe(pod), "error", err)
	}
}

// mirrorGone makes a new mirror if the static pod is still there.
func (n *Node) mirrorGone(pod *corev1.Pod) {
	n.mu.Lock()
	delete(n.mirrors, nameOf(pod))
	n.mu.Unlock()
	if static := n.static.Get(nameOf(pod)); static != nil {
		n.staticPod(static)
	}
}

// mirrorOf is the API's image of a static pod, nil if there is none (yet).
func (n *Node) mirrorOf(pod *corev1.Pod) *corev1.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.mirrors[nameOf(pod)]
	if m == nil || m.Annotations[corev1.MirrorPodAnnotationKey] != pod.Annotations[observed.AnnotationConfigHash] {
		return nil
	}
	return m
}
