package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/quota"
	"github.com/celox/celox/internal/store"
)

// Quotas finds the quotas of a namespace.
type Quotas interface {
	ResourceQuotas(ctx context.Context, namespace string) ([]*corev1.ResourceQuota, error)
}

// Charger changes a stored quota atomically: the collection of quotas itself.
type Charger interface {
	Mutate(ctx context.Context, key string, f store.MutateFunc) (*store.Item, error)
}

// ResourceQuota refuses what would use more than a namespace may, and charges what is let in. A controller corrects the usage
// from time to time, and gives back what is deleted.
type ResourceQuota struct {
	objects Quotas
	charger Charger
	limited []LimitedResource
}

// NewResourceQuota returns the plugin; limited are the resources that nobody may use without a quota.
func NewResourceQuota(objects Quotas, charger Charger, limited []LimitedResource) *ResourceQuota {
	return &ResourceQuota{objects: objects, charger: charger, limited: limited}
}

// Validate checks and charges; it stands last, so that nothing is charged that another plugin refuses.
func (p *ResourceQuota) Validate(ctx context.Context, a *Attributes) error {
	if !charged(a) {
		return nil
	}
	quotas, err := p.objects.ResourceQuotas(ctx, a.Namespace)
	if err != nil || len(quotas) == 0 && len(p.limited) == 0 {
		return err
	}
	now := time.Now()
	gr := a.groupResource()
	usage := quota.Usage(gr, a.Object, now)
	if err := negative(a, usage); err != nil {
		return err
	}
	if err := p.uncovered(gr, a, usage, quotas); err != nil {
		return err
	}
	grown := usage
	if a.Operation == Update {
		grown = increase(usage, quota.Usage(gr, a.OldObject, now))
	}
	var bills []bill
	for _, q := range quotas {
		limited := about(gr, usage, q.Status.Hard)
		if len(limited) == 0 || !quota.Matches(q, a.Object) {
			continue
		}
		// A pod must say what it needs of what is limited, even where that would be nothing.
		if pod, ok := a.Object.(*corev1.Pod); ok {
			if missing := unspecified(pod, q.Status.Hard); missing != "" {
				return forbid(a, fmt.Errorf("failed quota: %s: must specify %s", q.Name, missing))
			}
		}
		if slices.ContainsFunc(limited, func(n corev1.ResourceName) bool { _, known := q.Status.Used[n]; return !known }) {
			return forbid(a, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, joined(limited)))
		}
		use := grown
		if a.Operation == Update && !quota.Matches(q, a.OldObject) {
			use = usage // what comes into a quota's scope is charged in full
		}
		wanted := corev1.ResourceList{}
		for name, n := range use {
			if _, limited := q.Status.Hard[name]; limited && !n.IsZero() {
				wanted[name] = n
			}
		}
		if err := exceeded(q, wanted); err != nil {
			return forbid(a, err)
		}
		if len(wanted) > 0 {
			bills = append(bills, bill{q, wanted})
		}
	}
	if a.DryRun {
		return nil
	}
	for i, b := range bills {
		if err := p.charge(ctx, b, false); err != nil {
			for _, paid := range bills[:i] {
				// What cannot be given back now, the quota controller gives back.
				err = errors.Join(err, p.charge(ctx, paid, true))
			}
			var over *overError
			if errors.As(err, &over) {
				return forbid(a, over)
			}
			return err
		}
	}
	return nil
}

// charged tells whether a write may use up a quota.
func charged(a *Attributes) bool {
	if a.Namespace == "" || a.Object == nil {
		return false
	}
	switch a.groupResource().String() {
	case "namespaces", "bindings", "events", "events.events.k8s.io", "localsubjectaccessreviews.authorization.k8s.io":
		return false
	case "pods":
		return a.Operation == Create && a.Subresource == "" || a.Operation == Update && (a.Subresource == "resize" || a.Subresource == "" && deadlineCame(a))
	case "services", "persistentvolumeclaims":
		return a.Subresource == "" && (a.Operation == Create || a.Operation == Update)
	}
	return a.Operation == Create && a.Subresource == ""
}

// deadlineCame tells whether an update of a pod takes it from the quotas of pods that go on to those of pods that end, or back.
func deadlineCame(a *Attributes) bool {
	pod, ok := a.Object.(*corev1.Pod)
	old, ok2 := a.OldObject.(*corev1.Pod)
	return ok && ok2 && quota.Terminating(pod) != quota.Terminating(old)
}

// bill is what one quota is charged.
type bill struct {
	quota  *corev1.ResourceQuota
	wanted corev1.ResourceList
}

// overError says that a quota is used up.
type overError struct{ text string }

func (e *overError) Error() string { return e.text }

// exceeded returns an error if q has no room for wanted. What gets less may always.
func exceeded(q *corev1.ResourceQuota, wanted corev1.ResourceList) error {
	var over []corev1.ResourceName
	for _, name := range sortedNames(wanted) {
		n := wanted[name]
		if n.Sign() <= 0 {
			continue
		}
		used := q.Status.Used[name].DeepCopy()
		used.Add(n)
		if hard := q.Status.Hard[name]; used.Cmp(hard) > 0 {
			over = append(over, name)
		}
	}
	if len(over) == 0 {
		return nil
	}
	return &overError{fmt.Sprintf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
		q.Name, show(wanted, over), show(q.Status.Used, over), show(q.Status.Hard, over))}
}

func show(l corev1.ResourceList, names []corev1.ResourceName) string {
	parts := make([]string, len(names))
	for i, name := range names {
		n := l[name]
		parts[i] = string(name) + "=" + n.String()
	}
	return strings.Join(parts, ",")
}

// charge writes the usage into the quota as it is now, which may be fuller than the one that was checked.
func (p *ResourceQuota) charge(ctx context.Context, b bill, back bool) error {
	_, err := p.charger.Mutate(ctx, b.quota.Namespace+"/"+b.quota.Name, func(current *store.Item) (store.Mutation, error) {
		if current == nil {
			return store.Mutation{}, nil // a quota that is gone limits nothing
		}
		q, ok := current.Object.(*corev1.ResourceQuota)
		if !ok {
			return store.Mutation{}, fmt.Errorf("quota %s is held as a %T", current.Key, current.Object)
		}
		if !back {
			if err := exceeded(q, limitedBy(q, b.wanted)); err != nil {
				return store.Mutation{}, err
			}
		}
		out := q.DeepCopy()
		if out.Status.Used == nil {
			out.Status.Used = corev1.ResourceList{}
		}
		for name, n := range limitedBy(q, b.wanted) {
			used := out.Status.Used[name].DeepCopy()
			if back {
				used.Sub(n)
			} else {
				used.Add(n)
			}
			if used.Sign() < 0 {
				used.Set(0)
			}
			out.Status.Used[name] = used
		}
		return store.Mutation{Object: out}, nil
	})
	return err
}

// limitedBy leaves out what the quota no longer limits.
func limitedBy(q *corev1.ResourceQuota, wanted corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range wanted {
		if _, ok := q.Status.Hard[name]; ok {
			out[name] = n
		}
	}
	return out
}

// about are the names of a quota that are about objects of a resource, in order.
func about(gr schema.GroupResource, usage, hard corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name := range hard {
		if _, used := usage[name]; used {
			out = append(out, name)
		} else if r, ok := quota.Resource(name); ok && r == gr {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func joined(names []corev1.ResourceName) string {
	words := make([]string, len(names))
	for i, n := range names {
		words[i] = string(n)
	}
	return strings.Join(words, ",")
}

// negative refuses an object that would give something to its quota.
func negative(a *Attributes, usage corev1.ResourceList) error {
	var bad []corev1.ResourceName
	for _, name := range sortedNames(usage) {
		if n := usage[name]; n.Sign() < 0 {
			bad = append(bad, name)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return forbid(a, fmt.Errorf("quota usage is negative for resource(s): %s", joined(bad)))
}

// increase is what x is more than y. What is less is given back by the quota controller.
func increase(x, y corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range x {
		n := n.DeepCopy()
		if n.Sub(y[name]); n.Sign() > 0 {
			out[name] = n
		}
	}
	return out
}

// unspecified lists what a quota limits and the containers of a pod do not state, as "cpu for: a,b; memory for: a".
func unspecified(pod *corev1.Pod, hard corev1.ResourceList) string {
	var out []string
	for _, limited := range sortedNames(hard) {
		list, name, ok := computeResource(limited)
		if !ok {
			continue
		}
		if set, level := podLevel(pod, list, name); level {
			if set {
				continue
			}
		}
		var lacking []string
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				r := containers[i].Resources.Requests
				if list == "limits" {
					r = containers[i].Resources.Limits
				}
				if _, ok := r[name]; !ok {
					lacking = append(lacking, containers[i].Name)
				}
			}
		}
		if len(lacking) > 0 {
			slices.Sort(lacking)
			out = append(out, fmt.Sprintf("%s for: %s", limited, strings.Join(lacking, ",")))
		}
	}
	return strings.Join(out, "; ")
}

// podLevel tells whether the pod as a whole states a resource, and whether it states any (KEP-2837).
func podLevel(pod *corev1.Pod, list string, name corev1.ResourceName) (set, any bool) {
	r := pod.Spec.Resources
	if r == nil {
		return false, false
	}
	l := r.Requests
	if list == "limits" {
		l = r.Limits
	}
	_, set = l[name]
	return set, true
}

// computeResource tells which list of a container a quota's name is about, if it is one that must be stated.
func computeResource(limited corev1.ResourceName) (list string, name corev1.ResourceName, ok bool) {
	switch limited {
	case corev1.ResourceCPU, corev1.ResourceMemory:
		return "requests", limited, true
	}
	list, rest, found := strings.Cut(string(limited), ".")
	if !found || list != "requests" && list != "limits" {
		return "", "", false
	}
	switch name = corev1.ResourceName(rest); name {
	case corev1.ResourceCPU, corev1.ResourceMemory:
		return list, name, true
	}
	return "", "", false
}
