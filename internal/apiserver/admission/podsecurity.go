package admission

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// NamespacedPods finds namespaces and the pods in them.
type NamespacedPods interface {
	Namespaces
	Pods(ctx context.Context, namespace string) ([]*corev1.Pod, error)
}

// PodSecurity applies the Pod Security Standards that a namespace's labels ask for (KEP-2579). Without labels everything is
// allowed.
type PodSecurity struct {
	objects   NamespacedPods
	evaluator policy.Evaluator
	config    PodSecurityConfig
	counts    podSecurityCounts
}

// NewPodSecurity returns the plugin. A nil configuration asks for nothing of namespaces without labels, and exempts nobody.
func NewPodSecurity(objects NamespacedPods, c *PodSecurityConfig) (*PodSecurity, error) {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security checks: %w", err)
	}
	if c == nil {
		c = noPodSecurity()
	}
	return &PodSecurity{objects: objects, evaluator: e, config: *c, counts: newPodSecurityCounts()}, nil
}

// maxPodsChecked bounds how many pods are looked at when a namespace's level changes.
const maxPodsChecked = 3000

// Validate looks at pods, at what makes pods, and at the labels of namespaces.
func (p *PodSecurity) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Create && a.Operation != Update || a.Object == nil {
		return nil
	}
	switch obj := a.Object.(type) {
	case *corev1.Namespace:
		if a.Subresource == "" {
			return p.namespace(ctx, a, obj)
		}
	case *corev1.Pod:
		switch a.Subresource {
		case "", "ephemeralcontainers", "resize":
			return p.pod(ctx, a, obj)
		}
	default:
		if template := podTemplate(obj); template != nil && a.Subresource == "" {
			return p.template(ctx, a, template)
		}
	}
	return nil
}

// standard is the policy of a namespace; broken labels are taken for the strictest ones.
func (p *PodSecurity) standard(ns *corev1.Namespace) (psapi.Policy, error) {
	pol, errs := psapi.PolicyToEvaluate(ns.Labels, p.config.Defaults)
	if len(errs) == 0 {
		return pol, nil
	}
	return pol, apierrors.NewInvalid(schema.GroupKind{Kind: "Namespace"}, ns.Name, errs)
}

func (p *PodSecurity) namespace(ctx context.Context, a *Attributes, ns *corev1.Namespace) error {
	now, err := p.standard(ns)
	if a.Operation == Create {
		if err == nil && p.config.exemptNamespace(ns.Name) {
			p.config.warnOfExemption(a, ns, now)
		}
		return err
	}
	old, ok := a.OldObject.(*corev1.Namespace)
	if !ok {
		return err
	}
	before, oldErr := p.standard(old)
	if err != nil && (oldErr == nil || oldErr.Error() != err.Error()) {
		return err
	}
	stricter := now.Enforce != before.Enforce && now.Enforce.Level != psapi.LevelPrivileged &&
		(now.Enforce.Version != before.Enforce.Version || psapi.CompareLevels(now.Enforce.Level, before.Enforce.Level) > 0)
	if !stricter {
		return nil
	}
	if p.config.exemptNamespace(ns.Name) {
		p.config.warnOfExemption(a, ns, now)
		return nil
	}
	pods, err := p.objects.Pods(ctx, ns.Name)
	if err != nil {
		return err
	}
	for _, w := range p.existing(ns.Name, pods, now.Enforce) {
		a.Warn(w)
	}
	return nil
}

// existing says which pods of a namespace break its new level.
func (p *PodSecurity) existing(namespace string, pods []*corev1.Pod, level psapi.LevelVersion) []string {
	type offenders struct {
		first string
		count int
	}
	byReason := map[string]offenders{}
	var reasons []string
	slices.SortFunc(pods, func(x, y *corev1.Pod) int { return strings.Compare(x.Name, y.Name) })
	for _, pod := range pods[:min(len(pods), maxPodsChecked)] {
		if p.config.exemptRuntimeClass(pod.Spec.RuntimeClassName) {
			continue
		}
		result := p.check(level, &pod.ObjectMeta, &pod.Spec)
		if result.Allowed {
			continue
		}
		reason := result.ForbiddenReason()
		o, seen := byReason[reason]
		if !seen {
			reasons = append(reasons, reason)
			o.first = pod.Name
		}
		o.count++
		byReason[reason] = o
	}
	var out []string
	if len(pods) > maxPodsChecked {
		out = append(out, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", maxPodsChecked, len(pods)))
	}
	if len(reasons) > 0 {
		out = append(out, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	}
	var named []string
	for _, reason := range reasons {
		switch o := byReason[reason]; o.count {
		case 1:
			named = append(named, fmt.Sprintf("%s: %s", o.first, reason))
		case 2:
			named = append(named, fmt.Sprintf("%s (and 1 other pod): %s", o.first, reason))
		default:
			named = append(named, fmt.Sprintf("%s (and %d other pods): %s", o.first, o.count-1, reason))
		}
	}
	slices.Sort(named)
	return append(out, named...)
}

func (p *PodSecurity) check(level psapi.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) policy.AggregateCheckResult {
	return policy.AggregateCheckResults(p.evaluator.EvaluatePod(level, meta, spec))
}

// exempt says whether nobody looks at the pod, and why in the audit log.
func (p *PodSecurity) exempt(a *Attributes, spec *corev1.PodSpec) bool {
	why := ""
	switch {
	case p.config.exemptNamespace(a.Namespace):
		why = "namespace"
	case a.User != nil && slices.Contains(p.config.Usernames, a.User.GetName()):
		why = "user"
	case p.config.exemptRuntimeClass(spec.RuntimeClassName):
		why = "runtimeClass"
	default:
		return false
	}
	p.counts.exempted(a)
	a.Note(notePrefix+psapi.ExemptionReasonAnnotationKey, why)
	return true
}

const notePrefix = "pod-security.kubernetes.io/"

func (p *PodSecurity) pod(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	if p.exempt(a, &pod.Spec) {
		return nil
	}
	if old, ok := a.OldObject.(*corev1.Pod); ok && a.Operation == Update && !changesSecurity(pod, old) {
		return nil
	}
	ns, err := p.objects.Namespace(ctx, a.Namespace)
	if err != nil {
		return err
	}
	pol, broken := p.standard(ns)
	if broken == nil && pol.FullyPrivileged() {
		return nil
	}
	p.noteBroken(a, broken)
	a.Note(notePrefix+psapi.EnforcedPolicyAnnotationKey, pol.Enforce.String())
	p.audit(a, pol.Audit, &pod.ObjectMeta, &pod.Spec)
	if result := p.check(pol.Enforce, &pod.ObjectMeta, &pod.Spec); !result.Allowed {
		p.counts.judged(a, "enforce", pol.Enforce, false)
		return forbid(a, fmt.Errorf("violates PodSecurity %q: %s", pol.Enforce.String(), result.ForbiddenDetail()))
	}
	p.counts.judged(a, "enforce", pol.Enforce, true)
	p.warn(a, pol.Warn, &pod.ObjectMeta, &pod.Spec)
	return nil
}

// noteBroken says in the audit log that the labels of the namespace can't be read.
func (p *PodSecurity) noteBroken(a *Attributes, err error) {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return
	}
	p.counts.failed(a)
	if a.Annotate == nil || status.ErrStatus.Details == nil {
		return
	}
	var texts []string
	for _, c := range status.ErrStatus.Details.Causes {
		texts = append(texts, c.Field+": "+c.Message)
	}
	text := strings.Join(texts, ", ")
	if len(texts) > 1 {
		text = "[" + text + "]"
	}
	a.Note(notePrefix+"error", "Failed to parse policy: "+text)
}

// changesSecurity tells whether an update touches what a standard may judge: anything of the pod that can be changed but images
// without consequence, tolerations and deadlines.
func changesSecurity(pod, old *corev1.Pod) bool {
	if !reflect.DeepEqual(pod.Annotations, old.Annotations) {
		for k := range pod.Annotations {
			if (strings.HasPrefix(k, corev1.SeccompPodAnnotationKey) || strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)) &&
				pod.Annotations[k] != old.Annotations[k] {
				return true
			}
		}
	}
	spec, oldSpec := pod.Spec.DeepCopy(), old.Spec.DeepCopy()
	for _, s := range []*corev1.PodSpec{spec, oldSpec} {
		s.ActiveDeadlineSeconds, s.Tolerations = nil, nil
		for i := range s.Containers {
			s.Containers[i].Image = ""
		}
		for i := range s.InitContainers {
			s.InitContainers[i].Image = ""
		}
	}
	return !apiequality.Semantic.DeepEqual(spec, oldSpec)
}

// template warns of pods that will be refused, or warned of, when they are made.
func (p *PodSecurity) template(ctx context.Context, a *Attributes, t *corev1.PodTemplateSpec) error {
	if p.exempt(a, &t.Spec) {
		return nil
	}
	ns, err := p.objects.Namespace(ctx, a.Namespace)
	if err != nil {
		return err
	}
	pol, broken := p.standard(ns)
	if broken == nil && pol.Warn.Level == psapi.LevelPrivileged && pol.Audit.Level == psapi.LevelPrivileged {
		return nil
	}
	p.noteBroken(a, broken)
	p.audit(a, pol.Audit, &t.ObjectMeta, &t.Spec)
	p.warn(a, pol.Warn, &t.ObjectMeta, &t.Spec)
	return nil
}

// audit notes a violation of the level that a namespace wants to be told of in audit logs.
func (p *PodSecurity) audit(a *Attributes, level psapi.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if level.Level == psapi.LevelPrivileged {
		return
	}
	if result := p.check(level, meta, spec); !result.Allowed {
		p.counts.judged(a, "audit", level, false)
		a.Note(notePrefix+psapi.AuditViolationsAnnotationKey, fmt.Sprintf("would violate PodSecurity %q: %s", level.String(), result.ForbiddenDetail()))
	}
}

func (p *PodSecurity) warn(a *Attributes, level psapi.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if result := p.check(level, meta, spec); !result.Allowed && a.Warn != nil {
		p.counts.judged(a, "warn", level, false)
		a.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", level.String(), result.ForbiddenDetail()))
	}
}

// podTemplate returns the template of what makes pods, or nil.
func podTemplate(obj runtime.Object) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}
