package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
)

var (
	podsResource    = corev1.SchemeGroupVersion.WithResource("pods")
	budgetsResource = schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}
	bindingTarget   = negotiate.Target{Kind: corev1.SchemeGroupVersion.WithKind("Binding"), New: func() runtime.Object { return &corev1.Binding{} }, Internal: "core"}
)

// succeeded is the answer of a subresource that has nothing to show.
func (x *exchange) succeeded() error {
	if x.silent() {
		x.w.WriteHeader(http.StatusCreated)
		return nil
	}
	accept, err := negotiate.ParseTablelessAccept(x.r.Header)
	if err != nil {
		return err
	}
	x.send(http.StatusCreated, negotiate.Accept{Media: accept.Media}, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	})
	return nil
}

// bind puts a pod on a node: POST of a Binding to the pod (whose name is then in the path) or to the collection of bindings.
func (x *exchange) bind(name string) error {
	if _, err := negotiate.ParseTablelessAccept(x.r.Header); err != nil {
		return err
	}
	o, err := x.createOptions()
	if err != nil {
		return err
	}
	obj, err := x.decode(bindingTarget, o.validation)
	if err != nil {
		return err
	}
	b, ok := obj.(*corev1.Binding)
	if !ok {
		return apierrors.NewBadRequest("not a Binding object")
	}
	if b.Namespace == "" {
		b.Namespace = x.info.Namespace
	}
	switch {
	case b.Namespace != x.info.Namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	case name == "":
		name = b.Name
		b.UID = "" // as of anything that is created
	}
	pods := x.s.resources[podsResource]
	if pods == nil {
		return noSuchResource()
	}
	a := x.attributes(admission.Create, b, nil, o.dryRun)
	a.Kind, a.Name, a.Namespace = bindingTarget.Kind, name, x.info.Namespace
	a.Options = o.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	if b.Name != name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if err := validateBinding(b); err != nil {
		return err
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return err
	}
	if name == "" {
		return apierrors.NewBadRequest("Name parameter required.")
	}
	x.res = pods
	_, err = x.mutate(pods.key(x.info.Namespace, name), o.dryRun, func(current *store.Item) (store.Mutation, error) {
		if current == nil {
			return store.Mutation{}, x.notFound(name)
		}
		pod, err := x.bound(current.Object, b, o.dryRun)
		if err != nil {
			return store.Mutation{}, err
		}
		return store.Mutation{Object: pod}, nil
	})
	if err != nil {
		return x.named(err, name)
	}
	return x.succeeded()
}

func validateBinding(b *corev1.Binding) error {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	} else if len(errs) == 0 {
		errs = append(errs, check.DNSSubdomain(b.Target.Name, field.NewPath("target", "name"))...)
	}
	if len(errs) > 0 {
		return errs.ToAggregate()
	}
	return nil
}

// bound is a copy of a pod that has its node.
func (x *exchange) bound(live store.Object, b *corev1.Binding, dryRun bool) (*corev1.Pod, error) {
	old, ok := live.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("pods are held as a %T", live))
	}
	unlike := func(what string, want, have any) error {
		return apierrors.NewConflict(podsResource.GroupResource(), old.Name, unmet("pods/"+old.Namespace+"/"+old.Name, dryRun, what, want, have))
	}
	switch {
	case b.UID != "" && b.UID != old.UID:
		return nil, unlike("UID", b.UID, old.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != old.ResourceVersion:
		return nil, unlike("ResourceVersion", b.ResourceVersion, old.ResourceVersion)
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, old.Name, fmt.Errorf(format, args...))
	}
	switch {
	case old.DeletionTimestamp != nil:
		return nil, refuse("pod %s is being deleted, cannot be assigned to a host", old.Name)
	case old.Spec.NodeName != "":
		return nil, refuse("pod %v is already assigned to node %q", old.Name, old.Spec.NodeName)
	case len(old.Spec.SchedulingGates) > 0:
		return nil, refuse("pod %v has non-empty .spec.schedulingGates", old.Name)
	}
	// What is not changed is shared with the old pod: both are read-only once stored.
	pod := *old
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = "" // it has its node
	if len(b.Annotations) > 0 {
		pod.Annotations = merged(old.Annotations, b.Annotations, true)
	}
	if len(b.Labels) > 0 {
		pod.Labels = merged(old.Labels, b.Labels, false)
	}
	setPodCondition(&pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, metav1.NewTime(x.s.clock.Now().UTC()).Rfc3339Copy())
	return &pod, nil
}

// merged is a copy of a with what b adds; over says whether b's values take the place of a's.
func merged(a, b map[string]string, over bool) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		if _, taken := out[k]; !taken || over {
			out[k] = v
		}
	}
	return out
}

// setPodCondition sets a condition in a copy of the pod's list.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition, now metav1.Time) {
	c.LastTransitionTime = now
	list := slices.Clone(pod.Status.Conditions)
	i := slices.IndexFunc(list, func(have corev1.PodCondition) bool { return have.Type == c.Type })
	if i < 0 {
		pod.Status.Conditions = append(list, c)
		return
	}
	if list[i].Status == c.Status {
		c.LastTransitionTime = list[i].LastTransitionTime
	}
	list[i] = c
	pod.Status.Conditions = list
}

var evictionTarget = negotiate.Target{
	Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"), Internal: "policy",
	New: func() runtime.Object { return &policyv1.Eviction{} },
	// policy/v1beta1 has the same form, and old clients send it.
	Alias: schema.GroupVersion{Group: "policy", Version: "v1beta1"},
}

// evict deletes a pod if its disruption budget allows it.
func (x *exchange) evict() error {
	if _, err := negotiate.ParseTablelessAccept(x.r.Header); err != nil {
		return err
	}
	o, err := x.createOptions()
	if err != nil {
		return err
	}
	e, err := x.decodeEviction(o.validation)
	if err != nil {
		return err
	}
	name := x.info.Name
	if e.Namespace != "" && e.Namespace != x.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if e.Name != name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := e.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if b := options.IgnoreStoreReadErrorWithClusterBreakingPotential; b != nil && *b {
		return apierrors.NewInvalid(evictionTarget.Kind.GroupKind(), name, field.ErrorList{field.Invalid(
			field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option")})
	}
	switch {
	case len(options.DryRun) == 0:
		options.DryRun = o.dryRuns
	case len(o.dryRuns) == 0:
		o.dryRun, o.dryRuns = true, options.DryRun
	case !slices.Equal(o.dryRuns, options.DryRun):
		//lint:ignore ST1005 clients know these words
		return fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", o.dryRuns, options.DryRun)
	}
	a := x.attributes(admission.Create, e, nil, o.dryRun)
	a.Kind, a.Options = schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, o.forCreate()
	if err := x.s.cfg.Admission.Admit(x.ctx, a); err != nil {
		return err
	}
	item, err := x.load(name, getNewest)
	if err != nil {
		return err
	}
	pod, ok := item.Object.(*corev1.Pod)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("pods are held as a %T", item.Object))
	}
	if err := x.s.cfg.Admission.Validate(x.ctx, a); err != nil {
		return err
	}
	if !uncounted(pod) {
		if err := x.spend(pod, o.dryRun); err != nil {
			return err
		}
	}
	if err := invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(options)); err != nil {
		return err
	}
	if !o.dryRun {
		if err := x.markDisrupted(pod, options.Preconditions); err != nil {
			return err
		}
	}
	if _, err := x.deleteObject(x.info.Namespace, name, options, nil); err != nil {
		return err
	}
	return x.succeeded()
}

// decodeEviction reads an Eviction of policy/v1, or of policy/v1beta1.
func (x *exchange) decodeEviction(validation string) (*policyv1.Eviction, error) {
	obj, err := x.decode(evictionTarget, validation)
	if err != nil {
		return nil, err
	}
	e, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest("not an Eviction object")
	}
	return e, nil
}

// uncounted says whether a pod is of no account for budgets: it does not run, or ends anyway.
func uncounted(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// spend takes one disruption from the budget of the pod, or says why there is none.
func (x *exchange) spend(pod *corev1.Pod, dryRun bool) error {
	budgets := x.s.resources[budgetsResource]
	if budgets == nil {
		return nil
	}
	l, err := budgets.col.List(x.ctx, store.ListOptions{Namespace: pod.Namespace})
	if err != nil {
		return err
	}
	var mine []*policyv1.PodDisruptionBudget
	for _, item := range l.Items {
		b, ok := item.Object.(*policyv1.PodDisruptionBudget)
		if !ok {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && s.Matches(labels.Set(pod.Labels)) {
			mine = append(mine, b)
		}
	}
	switch len(mine) {
	case 0:
		return nil
	case 1:
	default:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	b := mine[0]
	if !ready(pod) {
		if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
			return nil
		}
		if b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0 {
			return nil
		}
	}
	_, err = budgets.col.Mutate(x.ctx, budgets.key(b.Namespace, b.Name), func(current *store.Item) (store.Mutation, error) {
		if current == nil {
			return store.Mutation{}, apierrors.NewNotFound(budgets.gr, b.Name)
		}
		now, ok := current.Object.(*policyv1.PodDisruptionBudget)
		if !ok {
			return store.Mutation{}, apierrors.NewInternalError(fmt.Errorf("budgets are held as a %T", current.Object))
		}
		next, err := spent(now, pod.Name, metav1.NewTime(x.s.clock.Now().UTC()).Rfc3339Copy())
		if err != nil || dryRun {
			return store.Mutation{}, err
		}
		return store.Mutation{Object: next}, nil
	})
	return err
}

// maxDisrupted is how many evictions a budget remembers until the controller has seen them.
const maxDisrupted = 2000

// spent is a copy of the budget with one disruption less.
func spent(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) (*policyv1.PodDisruptionBudget, error) {
	gr := schema.GroupResource{Group: "policy", Resource: "poddisruptionbudget"}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return nil, overBudget(fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name), 10)
	case b.Status.DisruptionsAllowed < 0:
		return nil, becauseOf(apierrors.NewForbidden(gr, b.Name, errors.New("pdb disruptions allowed is negative")),
			fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: pdb disruptions allowed is negative", b.Name))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return nil, becauseOf(apierrors.NewForbidden(gr, b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller")),
			fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller", b.Name))
	case b.Status.DisruptionsAllowed == 0:
		return nil, overBudget(whyNone(b), 0)
	}
	next := b.DeepCopy()
	next.Status.DisruptionsAllowed--
	if next.Status.DisruptionsAllowed == 0 {
		c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Status.ObservedGeneration, LastTransitionTime: now}
		i := slices.IndexFunc(next.Status.Conditions, func(have metav1.Condition) bool { return have.Type == c.Type })
		if i < 0 {
			next.Status.Conditions = append(next.Status.Conditions, c)
		} else {
			if next.Status.Conditions[i].Status == c.Status {
				c.LastTransitionTime = next.Status.Conditions[i].LastTransitionTime
			}
			next.Status.Conditions[i] = c
		}
	}
	if next.Status.DisruptedPods == nil {
		next.Status.DisruptedPods = map[string]metav1.Time{}
	}
	next.Status.DisruptedPods[pod] = now
	return next, nil
}

// whyNone says why a budget allows no disruption. Its numbers say nothing while the controller could not count its pods.
func whyNone(b *policyv1.PodDisruptionBudget) string {
	var refused metav1.Condition
	if c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition); c != nil && c.Status == metav1.ConditionFalse && c.Message != "" {
		refused = *c
	}
	switch {
	case refused.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, refused.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case refused.Message != "":
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, refused.Reason, refused.Message)
	default:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	}
}

func overBudget(why string, retrySeconds int) error {
	return becauseOf(apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retrySeconds), why)
}

// becauseOf adds what a budget says to the refusal of an eviction.
func becauseOf(err *apierrors.StatusError, why string) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}

// markDisrupted says in the pod's status why it ends, if the pod is the one that was asked for. What is asked of its version then holds
// for the version that this makes.
func (x *exchange) markDisrupted(pod *corev1.Pod, asked *metav1.Preconditions) error {
	item, err := x.res.col.Mutate(x.ctx, x.res.key(pod.Namespace, pod.Name), func(current *store.Item) (store.Mutation, error) {
		if current == nil {
			return store.Mutation{}, x.notFound(pod.Name)
		}
		old, ok := current.Object.(*corev1.Pod)
		if !ok || old.UID != pod.UID {
			return store.Mutation{}, x.conflict(pod.Name)
		}
		if err := x.preconditions(old, asked); err != nil {
			return store.Mutation{}, err
		}
		next := *old
		setPodCondition(&next, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		}, metav1.NewTime(x.s.clock.Now().UTC()).Rfc3339Copy())
		return store.Mutation{Object: &next}, nil
	})
	if err == nil && item != nil && asked != nil && asked.ResourceVersion != nil && *asked.ResourceVersion != "" {
		*asked.ResourceVersion = item.Object.GetResourceVersion()
	}
	return x.named(err, pod.Name)
}
