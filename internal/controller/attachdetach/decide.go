package attachdetach

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxUnmount is how long a node that is not ready may keep a volume that no pod needs.
	maxUnmount = 6 * time.Minute
	// managed is the annotation of nodes whose volumes this controller attaches.
	managed = "volumes.kubernetes.io/controller-managed-attach-detach"
)

// need is a volume that a pod on the node needs attached.
type need struct {
	volume *corev1.PersistentVolume
	pod    *corev1.Pod
}

// state is what is known of one node.
type state struct {
	name string
	node *corev1.Node // nil if it is gone
	// used says that the node has, or may have, a volume mounted: one that is gone may still run.
	used func(corev1.UniqueVolumeName) bool
	// needs, of the pods that are bound to the node.
	needs []need
	// attachments to this node, with their volumes; those of other makers are left out.
	attachments []attachment
	// elsewhere are the attachments of a volume to other nodes.
	elsewhere func(volume string) []*storagev1.VolumeAttachment
	// since says when it was first seen that an attachment should go; the zero time if that is now.
	since func(attachment string) time.Time
	now   time.Time
}

// attachment is one VolumeAttachment and the volume that it attaches.
type attachment struct {
	*storagev1.VolumeAttachment
	volume *corev1.PersistentVolume
}

// plan is what to do about one node, in this order: create, report, detach.
type plan struct {
	create []*storagev1.VolumeAttachment
	// blocked are needs whose volume is attached to another node and can be to one only.
	blocked []need
	// report are node.status.volumesAttached, when they are others than those there.
	report  []corev1.AttachedVolume
	changed bool
	detach  []detachment
	// waiting are attachments that should go but may not yet.
	waiting []string
	// again is when to look again; zero: when something changes.
	again time.Duration
}

type detachment struct {
	name, uid string
	forced    string // why, if the node still uses it; a label of the metric
}

// uniqueName is how a node's status calls a CSI volume.
func uniqueName(v *corev1.PersistentVolume) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + v.Spec.CSI.Driver + "^" + v.Spec.CSI.VolumeHandle)
}

// attachmentName is the name that upstream's controllers, nodes and CSI sidecars agree on.
func attachmentName(v *corev1.PersistentVolume, node string) string {
	sum := sha256.Sum256([]byte(v.Spec.CSI.VolumeHandle + v.Spec.CSI.Driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// exclusive says that a volume can be attached to one node only.
func exclusive(v *corev1.PersistentVolume) bool {
	return len(v.Spec.AccessModes) > 0 && !slices.Contains(v.Spec.AccessModes, corev1.ReadWriteMany) && !slices.Contains(v.Spec.AccessModes, corev1.ReadOnlyMany)
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// decide says what to do about one node.
func decide(s state) plan {
	var p plan
	needed := map[string]bool{}
	have := map[string]bool{}
	for _, a := range s.attachments {
		have[a.Name] = true
	}
	for _, n := range s.needs {
		name := attachmentName(n.volume, s.name)
		first := !needed[name]
		needed[name] = true
		switch {
		case have[name] || s.node == nil || s.node.Annotations[managed] != "true":
		case exclusive(n.volume) && len(s.elsewhere(n.volume.Name)) > 0:
			p.blocked = append(p.blocked, n)
		case first:
			p.create = append(p.create, &storagev1.VolumeAttachment{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: storagev1.VolumeAttachmentSpec{
					Attacher: n.volume.Spec.CSI.Driver, NodeName: s.name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &n.volume.Name},
				},
			})
		}
	}
	var attached []corev1.AttachedVolume
	for _, a := range s.attachments {
		stays := needed[a.Name]
		if !stays && a.DeletionTimestamp == nil {
			stays = s.leave(&p, a)
		}
		if stays && a.DeletionTimestamp == nil && a.Status.Attached {
			attached = append(attached, corev1.AttachedVolume{Name: uniqueName(a.volume), DevicePath: ""})
		}
	}
	slices.SortFunc(attached, func(a, b corev1.AttachedVolume) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if s.node != nil && s.node.Annotations[managed] == "true" {
		p.report, p.changed = attached, !sameVolumes(attached, s.node.Status.VolumesAttached)
	}
	return p
}

// leave decides about an attachment that no pod needs, and says whether it stays for now.
func (s *state) leave(p *plan, a attachment) bool {
	d := detachment{name: a.Name, uid: string(a.UID)}
	if s.used(uniqueName(a.volume)) {
		unhealthy := s.node == nil || !ready(s.node)
		since := s.since(a.Name)
		waited := time.Duration(0)
		if !since.IsZero() {
			waited = s.now.Sub(since)
		}
		switch {
		case unhealthy && waited >= maxUnmount:
			d.forced = "timeout"
		case s.node != nil && outOfService(s.node):
			d.forced = "out-of-service"
		default:
			p.waiting = append(p.waiting, a.Name)
			if left := maxUnmount - waited; unhealthy && (p.again == 0 || left < p.again) {
				p.again = left
			}
			return true
		}
	}
	p.detach = append(p.detach, d)
	return false
}

func sameVolumes(want, have []corev1.AttachedVolume) bool {
	if len(want) != len(have) {
		return false
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// blockedText says in an event why a volume cannot be attached yet; users are the pods that have it elsewhere.
func blockedText(n need, users []*corev1.Pod) string {
	text := fmt.Sprintf("Waiting for detach for volume %q ", n.volume.Name)
	var names []string
	others := 0
	for _, u := range users {
		if u.Namespace == n.pod.Namespace {
			names = append(names, u.Name)
		} else {
			others++
		}
	}
	slices.Sort(names)
	switch {
	case len(names) == 0 && others == 0:
		return text + "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node"
	case len(names) == 0:
		return text + fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", others)
	case others == 0:
		return text + "Volume is already used by pod(s) " + strings.Join(names, ", ")
	}
	return text + fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(names, ", "), others)
}
