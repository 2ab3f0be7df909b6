package statefulset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/pods"
	"github.com/celox/celox/internal/controller/revision"
)

// round is one look at a StatefulSet and its pods.
type round struct {
	c               *Controller
	key             string
	set             *appsv1.StatefulSet
	current, update *appsv1.ControllerRevision
	// templates of the two revisions.
	currentTemplate, updateTemplate *corev1.PodTemplateSpec
	now                             time.Time

	wanted    []*corev1.Pod // by ordinal, from the first; nil where there is none
	condemned []*corev1.Pod // beyond the wanted, the last first
	status    appsv1.StatefulSetStatus
}

func newRound(c *Controller, key string, set *appsv1.StatefulSet, all []*corev1.Pod, current, update *appsv1.ControllerRevision) (*round, error) {
	r := &round{c: c, key: key, set: set, current: current, update: update, now: c.clock.Now(), wanted: make([]*corev1.Pod, replicas(set)), updateTemplate: &set.Spec.Template}
	var err error
	if r.currentTemplate, err = revision.Template(current); err != nil {
		return nil, err
	}
	r.status = appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current.Name, UpdateRevision: update.Name, Conditions: set.Status.Conditions,
	}
	for _, p := range all {
		n, _ := ordinalOf(set, p.Name)
		if i := n - first(set); i >= 0 && i < len(r.wanted) {
			r.wanted[i] = p
		} else {
			r.condemned = append(r.condemned, p)
		}
		r.status.Replicas++
		if pods.Ready(p) && p.Status.Phase == corev1.PodRunning {
			r.status.ReadyReplicas++
			if r.available(p) {
				r.status.AvailableReplicas++
			}
		}
		if p.DeletionTimestamp == nil {
			if r.revisionOf(p) == current.Name {
				r.status.CurrentReplicas++
			}
			if r.revisionOf(p) == update.Name {
				r.status.UpdatedReplicas++
			}
		}
	}
	slices.SortFunc(r.condemned, func(a, b *corev1.Pod) int {
		x, _ := ordinalOf(set, a.Name)
		y, _ := ordinalOf(set, b.Name)
		return cmp.Compare(y, x)
	})
	return r, nil
}

func (r *round) revisionOf(p *corev1.Pod) string {
	return p.Labels[appsv1.ControllerRevisionHashLabelKey]
}

func (r *round) available(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && pods.Available(p, time.Duration(r.set.Spec.MinReadySeconds)*time.Second, r.now)
}

// healthy says that a pod is up and not on its way out.
func (r *round) healthy(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && pods.Ready(p)
}

func (r *round) inOrder() bool { return r.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

// partition is the first ordinal (counted from the set's first) that gets the new template.
func (r *round) partition() int {
	if u := r.set.Spec.UpdateStrategy.RollingUpdate; r.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && u != nil {
		return int(ptr.Deref(u.Partition, 0))
	}
	return 0
}

// step goes on from where the pods are. A set in order takes one step and waits for its effect.
func (r *round) step(ctx context.Context) error {
	if wait, err := r.fillAll(ctx); wait || err != nil {
		return err
	}
	// Claims that are to go with a pod have to be its own before it goes.
	for _, p := range r.condemned {
		if _, err := r.own(ctx, p, true); err != nil {
			return err
		}
	}
	unhealthy := r.firstUnhealthy()
	for _, p := range r.condemned {
		if p.DeletionTimestamp != nil {
			if r.inOrder() {
				return nil
			}
			continue
		}
		// The set shrinks only while the rest is well, unless the pod itself is what is not.
		if r.inOrder() && !(r.healthy(p) && r.available(p)) && p != unhealthy {
			return nil
		}
		if err := r.remove(ctx, p); err != nil {
			return err
		}
		if r.inOrder() {
			return nil
		}
	}
	if r.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	return r.roll(ctx)
}

// fillAll sees that all pods exist: in order up to the first that the others have to wait for; else in batches that double, for as long as nothing
// refuses.
func (r *round) fillAll(ctx context.Context) (wait bool, err error) {
	var errs []error
	refused := false
	for i, batch, left := 0, 1, 1; i < len(r.wanted); i++ {
		wait, err := r.fill(ctx, i)
		if err != nil {
			errs = append(errs, err)
			refused = refused || !apierrors.IsAlreadyExists(err) // a name that is taken is nobody else's trouble
		}
		if r.inOrder() && (wait || err != nil) {
			return true, err
		}
		if left--; left == 0 {
			if refused {
				break
			}
			batch *= 2
			left = batch
		}
	}
	return false, errors.Join(errs...)
}

func (r *round) firstUnhealthy() *corev1.Pod {
	for _, p := range r.wanted {
		if p != nil && !(r.healthy(p) && r.available(p)) {
			return p
		}
	}
	for _, p := range slices.Backward(r.condemned) {
		if !(r.healthy(p) && r.available(p)) {
			return p
		}
	}
	return nil
}

// fill sees that the i-th pod exists and is what it should be; wait says that those after it have to.
func (r *round) fill(ctx context.Context, i int) (wait bool, err error) {
	p, ordinal := r.wanted[i], first(r.set)+i
	switch {
	case p == nil:
		return true, r.create(ctx, i)
	case pods.Ended(p):
		if p.DeletionTimestamp == nil {
			return true, r.remove(ctx, p)
		}
		return true, nil
	}
	if p.Status.Phase == corev1.PodPending { // it may wait for a claim that somebody deleted; one that runs has its volumes
		if err := r.makeClaims(ctx, ordinal); err != nil {
			return true, err
		}
		if err := r.ownOrSay(ctx, p); err != nil {
			return true, err
		}
	}
	if r.inOrder() && !(r.healthy(p) && r.available(p)) {
		return true, nil
	}
	return false, r.conform(ctx, p, ordinal)
}

// conform gives a pod what it lacks of its identity, and its claims their owners. A volume can't be given to it any more: that is refused, and told.
func (r *round) conform(ctx context.Context, p *corev1.Pod, ordinal int) error {
	mounted := isMounted(r.set, p, ordinal)
	if !mounted {
		if err := r.makeClaims(ctx, ordinal); err != nil {
			r.tellUpdate(p, err)
			return err
		}
	}
	owned, err := r.own(ctx, p, false)
	if err != nil {
		r.tellUpdate(p, err)
		return err
	}
	if mounted && isLabelled(p) {
		if owned {
			r.tellUpdate(p, nil)
		}
		return nil
	}
	fixed := p.DeepCopy()
	label(fixed, ordinal)
	mount(r.set, fixed, ordinal)
	_, err = r.c.client.CoreV1().Pods(p.Namespace).Update(ctx, fixed, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) { // else it is tried again at once, with what the pod is now
		r.tellUpdate(p, err)
	}
	if err != nil {
		return fmt.Errorf("update pod %s: %w", p.Name, err)
	}
	return nil
}

func (r *round) tellUpdate(p *corev1.Pod, err error) {
	kind, reason := corev1.EventTypeNormal, "SuccessfulUpdate"
	if err != nil {
		kind, reason = corev1.EventTypeWarning, "FailedUpdate"
	}
	r.c.recorder.Event(r.set, kind, reason, podEvent(r.set, "update", p.Name, err))
}

// create makes the i-th pod: from the old template if the rollout has not come to it yet.
func (r *round) create(ctx context.Context, i int) error {
	ordinal := first(r.set) + i
	template, name := r.updateTemplate, r.update.Name
	if r.isOld(i) {
		template, name = r.currentTemplate, r.current.Name
	}
	p := podFor(r.set, template, name, ordinal)
	if r.claimsLeft(ordinal) {
		r.c.loop.AddAfter(r.key, leftRetry)
		return nil
	}
	if err := r.makeClaims(ctx, ordinal); err != nil {
		r.c.recorder.Event(r.set, corev1.EventTypeWarning, "FailedCreate", podEvent(r.set, "create", p.Name, err))
		return err
	}
	made, err := r.c.pods.Create(ctx, r.key, r.set, p)
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("pod %s exists and is not of this set: %w", p.Name, err)
	} else if err != nil {
		return err
	}
	if made == nil {
		return nil // the namespace goes
	}
	if err := r.ownOrSay(ctx, made); err != nil {
		return err
	}
	r.status.Replicas++
	if name == r.current.Name {
		r.status.CurrentReplicas++
	}
	if name == r.update.Name {
		r.status.UpdatedReplicas++
	}
	return nil
}

// isOld says that the i-th pod, if it is made now, gets the template before the update: below the partition; without one, while a rollout from the
// last to the first has not come to it.
func (r *round) isOld(i int) bool {
	if r.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || r.current.Name == r.update.Name {
		return false
	}
	if r.set.Spec.UpdateStrategy.RollingUpdate != nil {
		return i < r.partition()
	}
	return i < int(r.set.Status.CurrentReplicas)
}

func (r *round) remove(ctx context.Context, p *corev1.Pod) error {
	if r.revisionOf(p) == r.current.Name {
		r.status.CurrentReplicas--
	}
	if r.revisionOf(p) == r.update.Name {
		r.status.UpdatedReplicas--
	}
	return r.c.pods.Delete(ctx, r.key, r.set, p)
}

// maxUnavailable is how many pods may be away at once while templates change.
func maxUnavailable(set *appsv1.StatefulSet) (int, error) {
	one := intstr.FromInt32(1)
	limit := &one
	if u := set.Spec.UpdateStrategy.RollingUpdate; u != nil && u.MaxUnavailable != nil {
		limit = u.MaxUnavailable
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, replicas(set), false)
	if err != nil {
		return 0, fmt.Errorf("maxUnavailable: %w", err)
	}
	return max(1, n), nil
}

// roll replaces pods of older templates, the last first, as many as keep the number of unavailable pods within the limit (KEP-961). In order, all
// are well when it begins. Else one that serves nobody is replaced at no cost, before any other.
func (r *round) roll(ctx context.Context) error {
	budget, err := maxUnavailable(r.set)
	if err != nil {
		return err
	}
	away := 0
	for _, p := range r.wanted {
		if !r.serves(p) {
			away++
		}
	}
	r.c.metrics.showUnavailable(r.set, away)
	budget -= away
	for _, serving := range []bool{false, true} {
		if r.inOrder() && !serving {
			continue
		}
		for i := len(r.wanted) - 1; i >= r.partition(); i-- {
			p := r.wanted[i]
			if p == nil || r.revisionOf(p) == r.update.Name || p.DeletionTimestamp != nil || !r.inOrder() && r.serves(p) != serving {
				continue
			}
			if serving {
				if budget <= 0 {
					return nil
				}
				budget--
			}
			if err := r.remove(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// serves says that a pod is available and stays.
func (r *round) serves(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && r.available(p)
}

// podEvent says in upstream's words what was done to a pod of a set.
func podEvent(set metav1.Object, verb, pod string, err error) string {
	verb = strings.ToUpper(verb[:1]) + verb[1:]
	if err != nil {
		return fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod, set.GetName(), err)
	}
	return fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod, set.GetName())
}

// leftRetry is how soon a set is looked at again that waits for claims to go: nothing tells of their end.
const leftRetry = time.Second

// claimsLeft says that a claim of an ordinal is still on its way out with the pod before. A new pod must not get it.
func (r *round) claimsLeft(ordinal int) bool {
	if retention(r.set).WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return false
	}
	return slices.ContainsFunc(claimsOf(r.set, ordinal), func(c *corev1.PersistentVolumeClaim) bool {
		have, err := r.c.claims.PersistentVolumeClaims(c.Namespace).Get(c.Name)
		return err == nil && isLeft(have, podName(r.set, ordinal))
	})
}

// makeClaims makes those claims of an ordinal that do not exist.
func (r *round) makeClaims(ctx context.Context, ordinal int) error {
	var errs []error
	for _, claim := range claimsOf(r.set, ordinal) {
		have, err := r.c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		if err == nil && have.DeletionTimestamp == nil {
			continue
		}
		if err == nil {
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", claim.Name))
			continue
		}
		claim.OwnerReferences, _ = ownersOf(r.set, claim, nil, false)
		_, err = r.c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
		switch {
		case apierrors.IsAlreadyExists(err): // the cache is behind
		case err != nil:
			r.c.recorder.Eventf(r.set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, podName(r.set, ordinal), r.set.Name, err)
			errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", claim.Name, err))
		default:
			r.c.recorder.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, podName(r.set, ordinal), r.set.Name)
		}
	}
	return utilerrors.NewAggregate(errs) // its words are those of the event
}

// own sees that the claims of a pod belong to whom the retention policy says, and says whether any did not.
func (r *round) own(ctx context.Context, p *corev1.Pod, condemned bool) (changed bool, err error) {
	ordinal, _ := ordinalOf(r.set, p.Name)
	for _, c := range claimsOf(r.set, ordinal) {
		have, err := r.c.claims.PersistentVolumeClaims(c.Namespace).Get(c.Name)
		if err != nil {
			continue // it has been made with the right owner, or is gone
		}
		owners, conflict := ownersOf(r.set, have, p, condemned)
		if conflict && retention(r.set) != keepAll {
			r.c.warnOnce(r.set, have)
		}
		if equality.Semantic.DeepEqual(owners, have.OwnerReferences) {
			continue
		}
		have = have.DeepCopy()
		have.OwnerReferences = owners
		changed = true
		if _, err := r.c.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, have, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return changed, fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", c.Name, err)
		}
	}
	return changed, nil
}

// ownOrSay does so for a pod that is wanted, and tells if it can't.
func (r *round) ownOrSay(ctx context.Context, p *corev1.Pod) error {
	_, err := r.own(ctx, p, false)
	if err != nil {
		r.tellUpdate(p, err)
	}
	return err
}

// conclude ends a rollout when every pod that there should be, and no other, is of the new template and ready.
func (r *round) conclude() {
	s, n := &r.status, int32(replicas(r.set))
	if s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
}
