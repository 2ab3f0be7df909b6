package deployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/revision"
)

// Annotations that the controller keeps on Deployments and ReplicaSets, with upstream's names: kubectl reads them.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredAnnotation         = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation             = "deployment.kubernetes.io/max-replicas"
	rollbackAnnotation        = "deprecated.deployment.rollback.to"
)

// maxHistory is how long the list of revisions that a set had may be, in bytes.
const maxHistory = 2000

// maxName is how long the name of a set may be, in bytes.
const maxName = 253

// notCopied are the annotations of a Deployment that its sets do not inherit.
var notCopied = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation, desiredAnnotation, maxAnnotation, rollbackAnnotation,
}

// sameTemplate compares templates but for the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

// findNew returns the set whose template is the deployment's: the oldest, should there be several.
func findNew(d *appsv1.Deployment, all []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	for _, rs := range slices.SortedFunc(slices.Values(all), byAge) {
		if sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			return rs
		}
	}
	return nil
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func without(all []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var rest []*appsv1.ReplicaSet
	for _, s := range all {
		if rs == nil || s.UID != rs.UID {
			rest = append(rest, s)
		}
	}
	return rest
}

func revisionOf(obj metav1.Object) int64 {
	n, err := strconv.ParseInt(obj.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0 // unset, or broken by somebody: counts as before all
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	var highest int64
	for _, rs := range sets {
		highest = max(highest, revisionOf(rs))
	}
	return highest
}

// ensureNew finds the new set in order, or with create makes it. The new set carries the highest revision; one that becomes new
// again (a rollback) remembers those that it had.
func (r *round) ensureNew(ctx context.Context, create bool) error {
	next := strconv.FormatInt(maxRevision(r.old)+1, 10)
	if rs := r.newSet; rs != nil {
		updated := rs.DeepCopy()
		changed := annotateNew(r.d, updated, next)
		if updated.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
			updated.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
			changed = true
		}
		if changed {
			got, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
			if err != nil {
				return fmt.Errorf("update replica set %s: %w", rs.Name, err)
			}
			r.replace(got)
		}
		if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
			return r.writeRevision(ctx, reasonFoundSet, fmt.Sprintf("Found new replica set %q", rs.Name))
		}
		return r.writeRevision(ctx, "", "")
	}
	if !create {
		return nil
	}
	hash := revision.TemplateHash(&r.d.Spec.Template, r.d.Status.CollisionCount)
	rs := newSet(r.d, hash)
	rs.Spec.Replicas = ptr.To(newReplicas(r.d, append(slices.Clone(r.old), rs), rs))
	annotateNew(r.d, rs, next)
	created, err := r.client.AppsV1().ReplicaSets(r.d.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		existing, getErr := r.client.AppsV1().ReplicaSets(r.d.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return fmt.Errorf("get replica set that is in the way: %w", getErr)
		}
		ref := metav1.GetControllerOf(existing)
		if ref == nil || ref.UID != r.d.UID || !sameTemplate(&existing.Spec.Template, &r.d.Spec.Template) {
			// Another template hashed to the same name. Count it: the next try hashes differently.
			collided := r.d.DeepCopy()
			collided.Status.CollisionCount = ptr.To(ptr.Deref(r.d.Status.CollisionCount, 0) + 1)
			if _, updateErr := r.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, collided, metav1.UpdateOptions{}); updateErr != nil {
				return fmt.Errorf("count hash collision: %w", updateErr)
			}
			return fmt.Errorf("replica set %s exists with another template: %w", rs.Name, err)
		}
		created = existing
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the namespace goes, and the deployment with it
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		r.recorder.Event(r.d, corev1.EventTypeWarning, reasonFailedCreate, message)
		if hasDeadline(r.d) {
			status := *r.d.Status.DeepCopy()
			r.setCondition(&status, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonFailedCreate, message)
			err = errors.Join(err, r.writeStatus(ctx, status))
		}
		return fmt.Errorf("create replica set: %w", err)
	default:
		if n := *created.Spec.Replicas; n > 0 {
			r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
		}
	}
	r.newSet = created
	r.all = append(r.all, created)
	if hasDeadline(r.d) {
		return r.writeRevision(ctx, reasonNewSet, fmt.Sprintf("Created new replica set %q", created.Name))
	}
	return r.writeRevision(ctx, "", "")
}

// writeRevision stores what ensureNew found: the revision, as an annotation of the deployment, and why it progresses, unless reason is empty. Both go
// with the status: an annotation that is written with the rest would count as a new generation, of something that nobody asked for. Somebody else's write
// in between must not lose the reason, since nothing brings it back.
func (r *round) writeRevision(ctx context.Context, reason, message string) error {
	api := r.client.AppsV1().Deployments(r.d.Namespace)
	base := r.d
	for last := false; ; last = true {
		updated := base.DeepCopy()
		setAnnotations(updated, map[string]string{revisionAnnotation: r.newSet.Annotations[revisionAnnotation]})
		if reason != "" {
			r.setCondition(&updated.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, message)
		}
		if equality.Semantic.DeepEqual(base, updated) {
			return nil
		}
		got, err := api.UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		if err == nil {
			r.d = got
			return nil
		}
		if !apierrors.IsConflict(err) || last {
			return fmt.Errorf("record revision: %w", err)
		}
		fresh, getErr := api.Get(ctx, base.Name, metav1.GetOptions{})
		if getErr != nil || fresh.UID != r.d.UID || fresh.Generation != r.d.Generation {
			return fmt.Errorf("record revision: %w", err) // another deployment than the set was made for
		}
		base = fresh
	}
}

func newSet(d *appsv1.Deployment, hash string) *appsv1.ReplicaSet {
	template := *d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            d.Name[:min(len(d.Name), maxName-1-len(hash))] + "-" + hash,
			Namespace:       d.Namespace,
			Labels:          template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To[int32](0), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template,
		},
	}
}

func withLabel(m map[string]string, hash string) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// annotateNew gives rs the deployment's annotations, the revision and the sizes; it says whether anything changed.
func annotateNew(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision string) bool {
	want := map[string]string{}
	for k, v := range d.Annotations {
		if !slices.Contains(notCopied, k) {
			want[k] = v
		}
	}
	was := rs.Annotations[revisionAnnotation]
	if next, err := strconv.ParseInt(revision, 10, 64); err == nil && revisionOf(rs) < next {
		want[revisionAnnotation] = revision
		if was != "" {
			want[revisionHistoryAnnotation] = remember(rs.Annotations[revisionHistoryAnnotation], was)
		}
	}
	if rs.UID == "" { // a set that is about to be made; an existing one gets its sizes when it is scaled
		maps.Copy(want, sizeAnnotations(d))
	}
	return setAnnotations(rs, want)
}

// remember adds a revision to those that a set had. What is too long loses the oldest.
func remember(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > maxHistory {
		_, rest, ok := strings.Cut(history, ",")
		if !ok {
			break
		}
		history = rest
	}
	return history
}

func sizeAnnotations(d *appsv1.Deployment) map[string]string {
	return map[string]string{
		desiredAnnotation: strconv.Itoa(int(*d.Spec.Replicas)),
		maxAnnotation:     strconv.Itoa(int(*d.Spec.Replicas + maxSurge(d))),
	}
}

// setAnnotations sets the given annotations and says whether anything changed. The object must be the caller's own.
func setAnnotations(obj metav1.Object, want map[string]string) bool {
	have := obj.GetAnnotations()
	changed := false
	for k, v := range want {
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if have == nil {
			have = map[string]string{}
		}
		have[k] = v
		changed = true
	}
	obj.SetAnnotations(have)
	return changed
}

// beyondHistory returns the empty old sets that the history limit leaves no room for, oldest revision first.
func beyondHistory(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var alive []*appsv1.ReplicaSet
	for _, rs := range old {
		if rs.DeletionTimestamp == nil {
			alive = append(alive, rs)
		}
	}
	excess := len(alive) - int(*d.Spec.RevisionHistoryLimit)
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revisionOf(a), revisionOf(b)), byAge(a, b))
	})
	var doomed []*appsv1.ReplicaSet
	for _, rs := range alive[:excess] {
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			doomed = append(doomed, rs)
		}
	}
	return doomed
}
