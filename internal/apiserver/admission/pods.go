package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TaintNodesByCondition keeps new nodes empty until they have said that they are ready.
type TaintNodesByCondition struct{}

// Admit taints a new node.
func (TaintNodesByCondition) Admit(_ context.Context, a *Attributes) error {
	node, ok := a.Object.(*corev1.Node)
	if !ok || a.Operation != Create || !a.is("", "nodes", "") {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}

// defaultTolerationSeconds is how long pods stay on a node that is not ready or not reachable.
const defaultTolerationSeconds = 300

// DefaultTolerationSeconds lets pods that say nothing of it stay for five minutes on a node that does not answer.
type DefaultTolerationSeconds struct{}

// Admit adds the two tolerations that are missing.
func (DefaultTolerationSeconds) Admit(_ context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Operation != Create && a.Operation != Update || !a.is("", "pods", "") {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if !tolerated {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute,
				TolerationSeconds: new(int64(defaultTolerationSeconds)),
			})
		}
	}
	return nil
}

// PriorityClasses finds priority classes.
type PriorityClasses interface {
	PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error)
	PriorityClasses(ctx context.Context) ([]*schedulingv1.PriorityClass, error)
}

// The priority classes of the system.
const (
	systemClusterCritical = "system-cluster-critical"
	systemNodeCritical    = "system-node-critical"
)

// Priority turns the name of a pod's priority class into its priority.
type Priority struct{ objects PriorityClasses }

// NewPriority returns the plugin.
func NewPriority(objects PriorityClasses) *Priority { return &Priority{objects: objects} }

// Admit resolves the class of a pod.
func (p *Priority) Admit(ctx context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || !a.is("", "pods", "") {
		return nil
	}
	switch a.Operation {
	case Update:
		// Neither can be changed, so a client that leaves them out means what is there.
		if old, ok := a.OldObject.(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
		return nil
	case Create:
		return p.resolve(ctx, a, pod)
	}
	return nil
}

func (p *Priority) resolve(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	var class *schedulingv1.PriorityClass
	var err error
	if name := pod.Spec.PriorityClassName; name != "" {
		class, err = p.objects.PriorityClass(ctx, name)
		if apierrors.IsNotFound(err) {
			return forbid(a, fmt.Errorf("no PriorityClass with name %s was found", name))
		}
	} else {
		class, err = p.defaultClass(ctx)
	}
	if err != nil {
		return err
	}
	priority, preemption := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName = class.Name
		priority = class.Value
		if class.PreemptionPolicy != nil {
			preemption = *class.PreemptionPolicy
		}
	}
	if given := pod.Spec.Priority; given != nil && *given != priority {
		return forbid(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, priority))
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != preemption {
		return forbid(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, preemption))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &priority, &preemption
	return nil
}

// defaultClass returns the class of pods that name none, or nil. Should several want to be it, the lowest is.
func (p *Priority) defaultClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	all, err := p.objects.PriorityClasses(ctx)
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for _, c := range all {
		if c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	return found, nil
}

// Validate allows only one default class, and keeps the system's classes.
func (p *Priority) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation == Delete && a.is(schedulingv1.GroupName, "priorityclasses", "") {
		if a.Name == systemClusterCritical || a.Name == systemNodeCritical {
			return forbidText(a, "this is a system priority class and cannot be deleted")
		}
		return nil
	}
	class, ok := a.Object.(*schedulingv1.PriorityClass)
	if !ok || a.Operation != Create && a.Operation != Update || !class.GlobalDefault {
		return nil
	}
	there, err := p.defaultClass(ctx)
	if err != nil {
		return err
	}
	if there != nil && there.Name != class.Name {
		return forbid(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", there.Name))
	}
	return nil
}

// RuntimeClasses finds runtime classes.
type RuntimeClasses interface {
	RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
}

// RuntimeClass gives pods the overhead and the scheduling constraints of their runtime class (KEP-585, KEP-688).
type RuntimeClass struct{ objects RuntimeClasses }

// NewRuntimeClass returns the plugin.
func NewRuntimeClass(objects RuntimeClasses) *RuntimeClass { return &RuntimeClass{objects: objects} }

// Admit completes a new pod.
func (p *RuntimeClass) Admit(ctx context.Context, a *Attributes) error {
	pod, class, err := p.classOf(ctx, a)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
			return forbidText(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	selector := maps.Clone(pod.Spec.NodeSelector)
	for k, v := range class.Scheduling.NodeSelector {
		if there, ok := selector[k]; ok && there != v {
			return forbid(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, there))
		}
		if selector == nil {
			selector = map[string]string{}
		}
		selector[k] = v
	}
	pod.Spec.NodeSelector = selector
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(x corev1.Toleration) bool { return apiequality.Semantic.DeepEqual(x, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

// Validate refuses an overhead that is not the class's.
func (p *RuntimeClass) Validate(ctx context.Context, a *Attributes) error {
	pod, class, err := p.classOf(ctx, a)
	if err != nil || pod == nil {
		return err
	}
	switch {
	case class != nil && class.Overhead != nil:
		if !apiequality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
			return forbidText(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
	case pod.Spec.Overhead != nil: // an empty one too: it says that there is one
		return forbidText(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

// classOf returns the new pod that a is about, if it is, and its runtime class, if it names one.
func (p *RuntimeClass) classOf(ctx context.Context, a *Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Operation != Create || !a.is("", "pods", "") {
		return nil, nil, nil
	}
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	class, err := p.objects.RuntimeClass(ctx, *pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		return nil, nil, forbid(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
	}
	return pod, class, err
}
