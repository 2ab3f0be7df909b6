package persistentvolume

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// Recycling: a pod with this prefix and the volume's name empties the volume.
const (
	recyclerPrefix    = "recycler-for-"
	recyclerNamespace = "default"
	recyclerImage     = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.4"
	recyclerCommand   = `test -e /scrub && find /scrub -mindepth 1 -delete && test -z "$(ls -A /scrub)" || exit 1`
	// A recycler may take as long as this, more for large volumes.
	recyclerBase, recyclerPerGiB = 60 * time.Second, 30 * time.Second
	// recyclerRetry is how long a failure stands before the next attempt.
	recyclerRetry = time.Minute
)

// reclaim does with a volume whose claim is gone what its policy says.
func (c *Controller) reclaim(ctx context.Context, v *corev1.PersistentVolume) error {
	var err error
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		if v, err = c.setVolumePhase(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	if metav1.HasAnnotation(v.ObjectMeta, volumehelpers.AnnMigratedTo) || v.DeletionTimestamp != nil {
		return nil
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		return c.remove(ctx, v)
	case corev1.PersistentVolumeReclaimRecycle:
		return c.recycle(ctx, v)
	case corev1.PersistentVolumeReclaimRetain:
		return nil
	}
	return c.fail(ctx, v, warn("VolumeUnknownReclaimPolicy", "Volume has an unrecognized PersistentVolumeReclaimPolicy"))
}

func (c *Controller) fail(ctx context.Context, v *corev1.PersistentVolume, n notice) error {
	v, err := c.setVolumePhase(ctx, v, corev1.VolumeFailed, n.message)
	if err != nil {
		return err
	}
	c.tell(v, n)
	return nil
}

// remove deletes a volume and what is behind it.
func (c *Controller) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	c.operations.begin(deleteOperation, v.Name, c.deleterOf(v))
	if deletedElsewhere(v) {
		return nil
	}
	if used := c.usedBy(v); used != "" {
		c.tell(v, tell("VolumeFailedDelete", "Volume is used by pods: %s", used))
		return nil // the pods' end is seen as a change of the claim's volume
	}
	if why := noDeleter(v); why != "" {
		c.operations.failed(deleteOperation, v.Name)
		return c.fail(ctx, v, warn("VolumeFailedDelete", "%s", why))
	}
	if err := removeHostPath(v.Spec.HostPath.Path); err != nil {
		c.operations.failed(deleteOperation, v.Name)
		return c.fail(ctx, v, warn("VolumeFailedDelete", "%s", err))
	}
	err := c.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume %s: %w", v.Name, err)
	}
	return nil
}

// removeHostPath removes a directory below /tmp of the machine that this process runs on, and refuses any other; as upstream, this is for
// trying things out on one machine.
func removeHostPath(dir string) error {
	below, ok := strings.CutPrefix(path.Clean(dir), "/tmp/")
	if !ok {
		return fmt.Errorf("host_path deleter only supports /tmp/.+ but received provided %s", dir)
	}
	root, err := os.OpenRoot("/tmp") // no symbolic link leads out of it
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	defer root.Close()
	if err := root.RemoveAll(below); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// usedBy names the pods that still have the claim to which the volume was bound; "" if there are none.
func (c *Controller) usedBy(v *corev1.PersistentVolume) string {
	if v.Spec.ClaimRef == nil {
		return ""
	}
	found, _ := c.pods.ByIndex(podsUsingClaim, v.Spec.ClaimRef.Namespace+"/"+v.Spec.ClaimRef.Name) // the index is there
	var names []string
	for _, obj := range found {
		if p, ok := obj.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ",")
}

// recycle empties a volume with a pod and makes it available again.
func (c *Controller) recycle(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Spec.HostPath == nil && v.Spec.NFS == nil {
		return c.fail(ctx, v, warn("VolumeFailedRecycle", "No recycler plugin found for the volume!"))
	}
	pods := c.client.CoreV1().Pods(recyclerNamespace)
	pod, err := c.podLister.Pods(recyclerNamespace).Get(recyclerPrefix + v.Name)
	switch {
	case apierrors.IsNotFound(err):
		if used := c.usedBy(v); used != "" {
			c.tell(v, tell("VolumeFailedRecycle", "Volume is used by pods: %s", used))
			return nil
		}
		if _, err := pods.Create(ctx, recyclerFor(v), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			c.tell(v, warn("VolumeFailedRecycle", "Recycle failed: %s", err))
			return fmt.Errorf("create recycler of volume %s: %w", v.Name, err)
		}
		return nil // the pod's end is seen
	case err != nil:
		return fmt.Errorf("get recycler of volume %s: %w", v.Name, err)
	case pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
		return nil
	case pod.Status.Phase == corev1.PodFailed:
		// The failed pod itself is the mark that this was tried, so that a restart does not try at once again.
		if err := c.fail(ctx, v, warn("VolumeFailedRecycle", "Recycle failed: %s", pod.Status.Message)); err != nil {
			return err
		}
		if left := recyclerRetry - c.clock.Since(endOf(pod)); left > 0 {
			c.volumeLoop.AddAfter(v.Name, left)
			return nil
		}
	}
	// The pod goes first: who is stopped in between empties the volume again, rather than leaves a pod behind that nobody looks for.
	err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete recycler of volume %s: %w", v.Name, err)
	}
	if pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	c.tell(v, tell("VolumeRecycled", "Volume recycled"))
	return c.unbind(ctx, v)
}

// endOf is when a pod ended, or when it was made if its containers do not say.
func endOf(p *corev1.Pod) time.Time {
	end := p.CreationTimestamp.Time
	for i := range p.Status.ContainerStatuses {
		if t := p.Status.ContainerStatuses[i].State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	return end
}

func recyclerFor(v *corev1.PersistentVolume) *corev1.Pod {
	size := v.Spec.Capacity[corev1.ResourceStorage]
	limit := max(recyclerBase, time.Duration(size.Value()>>30)*recyclerPerGiB)
	source := corev1.VolumeSource{HostPath: v.Spec.HostPath, NFS: v.Spec.NFS}
	if source.HostPath != nil {
		source.NFS = nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: recyclerPrefix + v.Name, Namespace: recyclerNamespace},
		Spec: corev1.PodSpec{
			ActiveDeadlineSeconds: ptr.To(int64(limit / time.Second)),
			RestartPolicy:         corev1.RestartPolicyNever,
			Volumes:               []corev1.Volume{{Name: "vol", VolumeSource: source}},
			Containers: []corev1.Container{{
				Name: "pv-recycler", Image: recyclerImage, Command: []string{"/bin/sh"}, Args: []string{"-c", recyclerCommand},
				VolumeMounts: []corev1.VolumeMount{{Name: "vol", MountPath: "/scrub"}},
			}},
		},
	}
}

// podChanged has the volume looked at that waits for the pod: as its recycler, or because the pod had its claim and has ended. Claims of one that finds no node
// tell what they wait for.
func (c *Controller) podChanged(p *corev1.Pod) {
	if p.Spec.NodeName == "" && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse
	}) {
		for _, k := range claimsOf(p) {
			c.claimLoop.Add(k)
		}
	}
	if name, ok := strings.CutPrefix(p.Name, recyclerPrefix); ok && p.Namespace == recyclerNamespace {
		c.volumeLoop.Add(name)
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		c.podGone(p)
	}
}

// podGone has the volumes looked at whose claims the pod had.
func (c *Controller) podGone(p *corev1.Pod) {
	if name, ok := strings.CutPrefix(p.Name, recyclerPrefix); ok && p.Namespace == recyclerNamespace {
		c.volumeLoop.Add(name)
	}
	for i := range p.Spec.Volumes {
		for _, k := range claimOfPod(p, &p.Spec.Volumes[i]) {
			names, _ := c.volumes.IndexKeys(volumesByClaim, k) // the index is there
			for _, n := range names {
				c.volumeLoop.Add(n)
			}
		}
	}
}
