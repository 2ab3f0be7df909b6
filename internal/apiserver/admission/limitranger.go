package admission

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	helpers "k8s.io/component-helpers/resource"
)

// LimitRanges finds the limit ranges of a namespace.
type LimitRanges interface {
	LimitRanges(ctx context.Context, namespace string) ([]*corev1.LimitRange, error)
}

// LimitRanger gives containers the requests and limits that a namespace's limit ranges set as defaults, and refuses pods and
// claims that are outside of their bounds.
type LimitRanger struct{ objects LimitRanges }

// NewLimitRanger returns the plugin.
func NewLimitRanger(objects LimitRanges) *LimitRanger { return &LimitRanger{objects: objects} }

// limitRangerAnnotation tells what was set.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// concerns tells whether limits bind this write: new pods, pods that are resized, claims. What is being deleted is let go.
func (p *LimitRanger) concerns(a *Attributes) bool {
	switch {
	case a.Namespace == "" || a.Object == nil:
		return false
	case a.is("", "pods", ""):
		return a.Operation == Create
	case a.is("", "pods", "resize"):
	case a.is("", "persistentvolumeclaims", ""):
	default:
		return false
	}
	if a.Operation != Create && a.Operation != Update {
		return false
	}
	old, ok := a.OldObject.(metav1.Object)
	return !ok || old.GetDeletionTimestamp() == nil
}

// Admit sets defaults on new pods.
func (p *LimitRanger) Admit(ctx context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Operation != Create || !p.concerns(a) {
		return nil
	}
	ranges, err := p.objects.LimitRanges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		setDefaults(pod, r)
	}
	return nil
}

// setDefaults gives the containers of a pod the defaults of one limit range and writes down which.
func setDefaults(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range item.DefaultRequest {
			requests[name] = q.DeepCopy()
		}
		for name, q := range item.Default {
			limits[name] = q.DeepCopy()
		}
	}
	var notes []string
	set := func(what string, containers []corev1.Container) {
		for i := range containers {
			c := &containers[i]
			if names := fill(&c.Resources.Requests, requests); names != "" {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", names, what, c.Name))
			}
			if names := fill(&c.Resources.Limits, limits); names != "" {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", names, what, c.Name))
			}
		}
	}
	set("container", pod.Spec.Containers)
	set("init container", pod.Spec.InitContainers)
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

// fill adds what is missing and returns its names.
func fill(into *corev1.ResourceList, defaults corev1.ResourceList) string {
	var set []string
	for name, q := range defaults {
		if _, ok := (*into)[name]; ok {
			continue
		}
		if *into == nil {
			*into = corev1.ResourceList{}
		}
		(*into)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	sort.Strings(set)
	return strings.Join(set, ", ")
}

// Validate refuses what is outside of the bounds.
func (p *LimitRanger) Validate(ctx context.Context, a *Attributes) error {
	if !p.concerns(a) {
		return nil
	}
	ranges, err := p.objects.LimitRanges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var errs []error
		switch obj := a.Object.(type) {
		case *corev1.Pod:
			errs = checkPod(obj, r)
		case *corev1.PersistentVolumeClaim:
			errs = checkClaim(obj, r)
		}
		if len(errs) > 0 {
			return forbid(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

func checkPod(pod *corev1.Pod, r *corev1.LimitRange) []error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range containers {
					errs = append(errs, checkUsage(item, containers[j].Resources.Requests, containers[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			o := helpers.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, checkUsage(item, helpers.PodRequests(pod, o), helpers.PodLimits(pod, o))...)
		}
	}
	return errs
}

func checkUsage(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, name := range sortedNames(item.Min) {
		bound := item.Min[name]
		say := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s"+format, append([]any{name, item.Type, bound.String()}, args...)...))
		}
		req, hasReq := requests[name]
		limit, hasLimit := limits[name]
		switch {
		case !hasReq:
			say(".  No request is specified")
		case req.Cmp(bound) < 0:
			say(", but request is %s", req.String())
		case hasLimit && limit.Cmp(bound) < 0:
			say(", but limit is %s", limit.String())
		}
	}
	for _, name := range sortedNames(item.Max) {
		bound := item.Max[name]
		say := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s"+format, append([]any{name, item.Type, bound.String()}, args...)...))
		}
		req, hasReq := requests[name]
		limit, hasLimit := limits[name]
		switch {
		case !hasLimit:
			say(".  No limit is specified")
		case limit.Cmp(bound) > 0:
			say(", but limit is %s", limit.String())
		case hasReq && req.Cmp(bound) > 0:
			say(", but request is %s", req.String())
		}
	}
	for _, name := range sortedNames(item.MaxLimitRequestRatio) {
		bound := item.MaxLimitRequestRatio[name]
		say := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s max limit to request ratio per %s is %s, but "+format, append([]any{name, item.Type, bound.String()}, args...)...))
		}
		req, limit := requests[name], limits[name]
		switch {
		case req.IsZero():
			say("no request is specified or request is 0")
		case limit.IsZero():
			say("no limit is specified or limit is 0")
		default:
			if ratio := float64(limit.MilliValue()) / float64(req.MilliValue()); ratio > bound.AsApproximateFloat64() {
				say("provided ratio is %f", ratio)
			}
		}
	}
	return errs
}

func checkClaim(claim *corev1.PersistentVolumeClaim, r *corev1.LimitRange) []error {
	var errs []error
	requests := claim.Spec.Resources.Requests
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		check := func(word string, bounds corev1.ResourceList, outside func(q, bound resource.Quantity) bool) {
			for _, name := range sortedNames(bounds) {
				bound := bounds[name]
				q, ok := requests[name]
				switch {
				case !ok:
					errs = append(errs, fmt.Errorf("%s %s usage per %s is %s.  No request is specified", word, name, item.Type, bound.String()))
				case outside(q, bound):
					errs = append(errs, fmt.Errorf("%s %s usage per %s is %s, but request is %s", word, name, item.Type, bound.String(), q.String()))
				}
			}
		}
		check("minimum", item.Min, func(q, bound resource.Quantity) bool { return q.Cmp(bound) < 0 })
		check("maximum", item.Max, func(q, bound resource.Quantity) bool { return q.Cmp(bound) > 0 })
	}
	return errs
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(l))
	for name := range l {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
