package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// parallel is how many writes are under way at a time: each waits for a disk, and disks take many at once.
const parallel = 32

// Ensure makes the objects of a fresh cluster and repairs those that lost something. When nothing is missing, it only lists.
// Several servers may do it at the same time.
func Ensure(ctx context.Context, client kubernetes.Interface) error {
	if err := ensureNamespaces(ctx, client); err != nil {
		return fmt.Errorf("make the system namespaces: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	var writes []func() error
	for _, plan := range []func(context.Context, kubernetes.Interface) ([]func() error, error){
		planClusterRoles, planClusterRoleBindings, planRoles, planRoleBindings, planPriorityClasses, planPriorityLevels, planFlowSchemas,
	} {
		w, err := plan(ctx, client)
		if err != nil {
			return errors.Join(fmt.Errorf("make the default objects: %w", err), g.Wait())
		}
		writes = append(writes, w...)
	}
	for _, write := range writes {
		g.Go(write)
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make the default objects: %w", err)
	}
	return nil
}

// cached lets a list be answered from memory.
func cached() metav1.ListOptions { return metav1.ListOptions{ResourceVersion: "0"} }

func ensureNamespaces(ctx context.Context, client kubernetes.Interface) error {
	api := client.CoreV1().Namespaces()
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range []string{metav1.NamespaceDefault, kubeSystem, kubePublic, corev1.NamespaceNodeLease} {
		g.Go(func() error {
			_, err := api.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				_, err = api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			}
			return tolerate(err)
		})
	}
	return g.Wait()
}

// tolerate forgives that another server was faster.
func tolerate(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// object is what all kinds here have in common.
type object interface {
	metav1.Object
	comparable
}

// api is the part of a typed client that is used.
type api[T object] interface {
	Create(ctx context.Context, obj T, o metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, o metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// plan compares what is wanted with what there is. Repair returns a changed copy of what is there, the wanted object itself if
// the old one must be removed first, or the zero value if all is good.
func plan[T object](ctx context.Context, wanted, there []T, client func(namespace string) api[T], repair func(wanted, there T) T) []func() error {
	type key struct{ namespace, name string }
	have := make(map[key]T, len(there))
	for _, obj := range there {
		have[key{obj.GetNamespace(), obj.GetName()}] = obj
	}
	var none T
	var writes []func() error
	for _, want := range wanted {
		got, ok := have[key{want.GetNamespace(), want.GetName()}]
		if !ok {
			writes = append(writes, func() error {
				_, err := client(want.GetNamespace()).Create(ctx, want, metav1.CreateOptions{})
				return tolerate(err)
			})
			continue
		}
		switch repaired := repair(want, got); repaired {
		case none:
		case want:
			writes = append(writes, func() error {
				api := client(want.GetNamespace())
				if err := api.Delete(ctx, want.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				_, err := api.Create(ctx, want, metav1.CreateOptions{})
				return tolerate(err)
			})
		default:
			writes = append(writes, func() error {
				_, err := client(want.GetNamespace()).Update(ctx, repaired, metav1.UpdateOptions{})
				return tolerate(err)
			})
		}
	}
	return writes
}

// pointers turns a list's items into pointers.
func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// left tells whether the owner of the cluster wants an object to be left alone.
func left(obj metav1.Object) bool {
	return obj.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false"
}

// mergeMeta adds labels and annotations that are missing, and reports whether there were any.
func mergeMeta(wanted, into metav1.Object) bool {
	l, changedLabels := merged(wanted.GetLabels(), into.GetLabels())
	a, changedAnnotations := merged(wanted.GetAnnotations(), into.GetAnnotations())
	if changedLabels {
		into.SetLabels(l)
	}
	if changedAnnotations {
		into.SetAnnotations(a)
	}
	return changedLabels || changedAnnotations
}

func merged(wanted, there map[string]string) (map[string]string, bool) {
	out := map[string]string{}
	for k, v := range there {
		out[k] = v
	}
	changed := false
	for k, v := range wanted {
		if _, ok := out[k]; !ok {
			out[k], changed = v, true
		}
	}
	return out, changed
}

func planClusterRoles(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	wanted := clusterRoles()
	fillAggregated(wanted)
	return planClusterRolesOf(ctx, client, wanted)
}

func planClusterRolesOf(ctx context.Context, client kubernetes.Interface, wanted []*rbacv1.ClusterRole) ([]func() error, error) {
	l, err := client.RbacV1().ClusterRoles().List(ctx, cached())
	if err != nil {
		return nil, err
	}
	return plan(ctx, wanted, pointers(l.Items),
		func(string) api[*rbacv1.ClusterRole] { return client.RbacV1().ClusterRoles() },
		func(want, got *rbacv1.ClusterRole) *rbacv1.ClusterRole {
			if left(got) {
				return nil
			}
			out := got.DeepCopy()
			changed := mergeMeta(want, out)
			switch {
			case want.AggregationRule == nil:
				if ok, missing := validation.Covers(out.Rules, want.Rules); !ok {
					out.Rules, changed = append(out.Rules, missing...), true
				}
			case out.AggregationRule == nil:
				out.AggregationRule, changed = want.AggregationRule, true
			default:
				// The rules of an aggregated role are the aggregation controller's.
				for _, s := range want.AggregationRule.ClusterRoleSelectors {
					if !slices.ContainsFunc(out.AggregationRule.ClusterRoleSelectors, func(x metav1.LabelSelector) bool { return apiequality.Semantic.DeepEqual(x, s) }) {
						out.AggregationRule.ClusterRoleSelectors, changed = append(out.AggregationRule.ClusterRoleSelectors, s), true
					}
				}
			}
			if !changed {
				return nil
			}
			return out
		}), nil
}

func planRoles(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	var there []*rbacv1.Role
	for _, ns := range []string{kubeSystem, kubePublic} {
		l, err := client.RbacV1().Roles(ns).List(ctx, cached())
		if err != nil {
			return nil, err
		}
		there = append(there, pointers(l.Items)...)
	}
	return plan(ctx, roles(), there,
		func(ns string) api[*rbacv1.Role] { return client.RbacV1().Roles(ns) },
		func(want, got *rbacv1.Role) *rbacv1.Role {
			if left(got) {
				return nil
			}
			out := got.DeepCopy()
			changed := mergeMeta(want, out)
			if ok, missing := validation.Covers(out.Rules, want.Rules); !ok {
				out.Rules, changed = append(out.Rules, missing...), true
			}
			if !changed {
				return nil
			}
			return out
		}), nil
}

// addSubjects appends the wanted subjects that are missing.
func addSubjects(wanted, there []rbacv1.Subject) ([]rbacv1.Subject, bool) {
	out := slices.Clone(there)
	for _, s := range wanted {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, len(out) != len(there)
}

func planClusterRoleBindings(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	return planClusterRoleBindingsOf(ctx, client, clusterRoleBindings())
}

func planClusterRoleBindingsOf(ctx context.Context, client kubernetes.Interface, wanted []*rbacv1.ClusterRoleBinding) ([]func() error, error) {
	l, err := client.RbacV1().ClusterRoleBindings().List(ctx, cached())
	if err != nil {
		return nil, err
	}
	return plan(ctx, wanted, pointers(l.Items),
		func(string) api[*rbacv1.ClusterRoleBinding] {
			return client.RbacV1().ClusterRoleBindings()
		},
		func(want, got *rbacv1.ClusterRoleBinding) *rbacv1.ClusterRoleBinding {
			if left(got) {
				return nil
			}
			if got.RoleRef != want.RoleRef {
				return want // a binding cannot be given another role
			}
			out := got.DeepCopy()
			changed := mergeMeta(want, out)
			var added bool
			if out.Subjects, added = addSubjects(want.Subjects, got.Subjects); !changed && !added {
				return nil
			}
			return out
		}), nil
}

func planRoleBindings(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	var there []*rbacv1.RoleBinding
	for _, ns := range []string{kubeSystem, kubePublic} {
		l, err := client.RbacV1().RoleBindings(ns).List(ctx, cached())
		if err != nil {
			return nil, err
		}
		there = append(there, pointers(l.Items)...)
	}
	return plan(ctx, roleBindings(), there,
		func(ns string) api[*rbacv1.RoleBinding] {
			return client.RbacV1().RoleBindings(ns)
		},
		func(want, got *rbacv1.RoleBinding) *rbacv1.RoleBinding {
			if left(got) {
				return nil
			}
			if got.RoleRef != want.RoleRef {
				return want // a binding cannot be given another role
			}
			out := got.DeepCopy()
			changed := mergeMeta(want, out)
			var added bool
			if out.Subjects, added = addSubjects(want.Subjects, got.Subjects); !changed && !added {
				return nil
			}
			return out
		}), nil
}

func planPriorityClasses(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	api := client.SchedulingV1().PriorityClasses()
	l, err := api.List(ctx, cached())
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for i := range l.Items {
		there[l.Items[i].Name] = true
	}
	var writes []func() error
	for _, c := range priorityClasses() {
		if !there[c.Name] {
			writes = append(writes, func() error {
				_, err := api.Create(ctx, c, metav1.CreateOptions{})
				return tolerate(err)
			})
		}
	}
	return writes, nil
}

// flowKept tells whether the owner of the cluster took a flow control object over. Two of them are the server's own.
func flowKept(obj metav1.Object) bool {
	if n := obj.GetName(); n == flowcontrolv1.PriorityLevelConfigurationNameExempt || n == flowcontrolv1.PriorityLevelConfigurationNameCatchAll {
		return false
	}
	switch obj.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] {
	case "true":
		return false
	case "false":
		return true
	}
	return obj.GetGeneration() != 1
}

func planPriorityLevels(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	l, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, cached())
	if err != nil {
		return nil, err
	}
	return plan(ctx, priorityLevels(), pointers(l.Items),
		func(string) api[*flowcontrolv1.PriorityLevelConfiguration] {
			return client.FlowcontrolV1().PriorityLevelConfigurations()
		},
		func(want, got *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
			out := got.DeepCopy()
			if flowKept(got) || !mergeMeta(want, out) && apiequality.Semantic.DeepEqual(want.Spec, got.Spec) {
				return nil
			}
			out.Spec = want.Spec
			// How much of the server the exempt may use is the owner's choice.
			if got.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && got.Spec.Exempt != nil {
				out.Spec.Exempt = got.Spec.Exempt
				if apiequality.Semantic.DeepEqual(out, got) {
					return nil
				}
			}
			return out
		}), nil
}

func planFlowSchemas(ctx context.Context, client kubernetes.Interface) ([]func() error, error) {
	l, err := client.FlowcontrolV1().FlowSchemas().List(ctx, cached())
	if err != nil {
		return nil, err
	}
	return plan(ctx, flowSchemas(), pointers(l.Items),
		func(string) api[*flowcontrolv1.FlowSchema] { return client.FlowcontrolV1().FlowSchemas() },
		func(want, got *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchema {
			out := got.DeepCopy()
			if flowKept(got) || !mergeMeta(want, out) && apiequality.Semantic.DeepEqual(want.Spec, got.Spec) {
				return nil
			}
			out.Spec = want.Spec
			return out
		}), nil
}
