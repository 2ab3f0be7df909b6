package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

func pod() *api.Kind {
	ephemeral := api.Subresource{
		Name: "ephemeralcontainers", Verbs: api.StatusVerbs(), NoTable: true,
		PrepareForUpdate: PreparePodEphemeralContainers, ValidateUpdate: ValidatePodEphemeralContainersUpdate,
	}
	resize := api.Subresource{
		Name: "resize", Verbs: api.StatusVerbs(), NoTable: true, PrepareForUpdate: PreparePodResize, ValidateUpdate: ValidatePodResize,
	}
	return &api.Kind{
		Kind: "Pod", Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"}, Namespaced: true, Prefix: "pods",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.Pod, corev1.PodList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{
			options("attach", "PodAttachOptions", "create", "get"),
			{Name: "binding", Kind: schema.GroupVersionKind{Version: "v1", Kind: "Binding"}, Verbs: []string{"create"}, NoTable: true},
			ephemeral,
			{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}, NoTable: true},
			options("exec", "PodExecOptions", "create", "get"),
			{Name: "log", Verbs: []string{"get"}},
			options("portforward", "PodPortForwardOptions", "create", "get"),
			options("proxy", "PodProxyOptions", proxyVerbs()...),
			resize,
			api.Status(),
		},
		HasGeneration:          true,
		Resets:                 map[string][]string{"": {"status"}, "status": {"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"}},
		PrepareForCreate:       api.On(preparePod),
		PrepareForUpdate:       api.OnUpdate(preparePodUpdate),
		PrepareForStatusUpdate: api.OnUpdate(preparePodStatus),
		Default:                api.On(podspec.SetPodDefaults),
		Validate:               api.Check(validateNewPod),
		ValidateUpdate:         api.CheckUpdate(validatePodUpdate),
		ValidateStatusUpdate:   api.CheckUpdate(validatePodStatusUpdate),
		StatusWarnings:         api.Warn(warnPodStatus),
		Warnings: api.Warn(func(p, old *corev1.Pod) []string {
			if old != nil {
				return nil
			}
			var out []string
			if texts := check.IsDNS1123Label(p.Name); len(texts) > 0 {
				out = append(out, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", texts))
			}
			return append(out, podspec.PodWarnings(p)...)
		}),
		Canonicalize:             api.On(func(p *corev1.Pod) { podspec.SyncServiceAccount(&p.Spec) }),
		AllowUnconditionalUpdate: true,
		GracePeriod:              podGracePeriod,
		FieldNames: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
			"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
		Fields:        podFields,
		Indexes:       map[string]func(api.Object) []string{"spec.nodeName": func(o api.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }},
		Columns:       podColumns(),
		Row:           api.Row(podRow),
		RowConditions: podRowConditions,
	}
}

// podFields are what field selectors may ask for. status.podIPs may be asked for too, but has no value here, as upstream.
func podFields(obj api.Object) fields.Set {
	p := obj.(*corev1.Pod)
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podGracePeriod is how long a pod may take to end: what was asked, or what it says itself. A pod that no node has, or whose
// containers have all ended, needs no time.
func podGracePeriod(obj api.Object, asked *int64) int64 {
	p := obj.(*corev1.Pod)
	var seconds int64
	switch {
	case asked != nil:
		seconds = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

// Reason and message of the condition of pods that wait at a gate (KEP-3521).
const gatedMessage = "Scheduling is blocked due to non-empty scheduling gates"

// preparePod makes of what a client sent a pod that has not begun yet.
func preparePod(p *corev1.Pod) {
	podspec.DropDisabled(&p.Spec, nil)
	podspec.SetPodLevelResources(p)
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOSClass(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated, Message: gatedMessage,
			LastTransitionTime: metav1.Now().Rfc3339Copy(),
		}}
	}
	podspec.ApplyLabelKeys(&p.Spec, p.Labels)
	podspec.ApplyAppArmorAnnotations(p)
	raiseGracePeriod(&p.Spec)
	podspec.SyncServiceAccount(&p.Spec)
}

// raiseGracePeriod makes a negative grace period, which once meant "at once", a second.
func raiseGracePeriod(s *corev1.PodSpec) {
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		one := int64(1)
		s.TerminationGracePeriodSeconds = &one
	}
}

func preparePodUpdate(p, old *corev1.Pod) {
	p.Status = old.Status
	keepPodLevelResources(p, old)
	podspec.DropDisabled(&p.Spec, &old.Spec)
	raiseGracePeriod(&p.Spec)
	podspec.SyncServiceAccount(&p.Spec)
}

// keepPodLevelResources keeps what a client that does not know of it left out.
func keepPodLevelResources(p, old *corev1.Pod) {
	if p.Spec.Resources == nil {
		p.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
}

// validatePod checks what is asked of any pod, new or not.
func validatePod(p *corev1.Pod, opts podspec.Options) field.ErrorList {
	spec := field.NewPath("spec")
	errs := podspec.ValidatePodAnnotations(&p.ObjectMeta, &p.Spec, opts, field.NewPath("metadata", "annotations"))
	errs = append(errs, podspec.ValidatePodSpec(&p.Spec, &p.ObjectMeta, spec, opts)...)
	return append(errs, podspec.ValidatePodOnly(&p.Spec, spec)...)
}

func validateNewPod(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePod(p, podspec.Options{})
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if len(p.Spec.SchedulingGates) > 0 && p.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, podspec.ValidateAppArmorMatch(p, spec)...)
}
