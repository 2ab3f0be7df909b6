package clusterroleaggregation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// fieldManager owns the rules of roles that are made of others.
const fieldManager = "clusterrole-aggregation-controller"

// Controller reconciles ClusterRoles.
type Controller struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
	loop   *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	roles := f.Rbac().V1().ClusterRoles()
	ctl := &Controller{client: c, roles: roles.Lister()}
	ctl.loop = controller.NewLoop("clusterroleaggregator", ctl.Reconcile, controller.Options{Synced: []cache.InformerSynced{roles.Informer().HasSynced}, Log: log, Metrics: m})
	// Any role may be, or have been, a part of any aggregated one.
	queue := func(*rbacv1.ClusterRole) {
		all, err := ctl.roles.List(labels.Everything())
		if err != nil {
			return // a cache does not fail
		}
		for _, r := range all {
			if r.AggregationRule != nil {
				ctl.loop.Add(r.Name)
			}
		}
	}
	if err := controller.Watch(roles.Informer(), controller.Handlers[*rbacv1.ClusterRole]{Changed: queue, Delete: queue}); err != nil {
		return nil, fmt.Errorf("clusterroleaggregation: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile writes the rules of one role if they are not what they should be.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	role, err := c.roles.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get role: %w", err)
	}
	if role.AggregationRule == nil {
		return nil
	}
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list roles: %w", err)
	}
	rules, err := aggregate(role, all)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(role.Rules, rules) {
		return nil
	}
	// It is applied, so that the rules have an owner: who applies the role does not take them.
	apply := applyrbacv1.ClusterRole(role.Name)
	for _, r := range rules {
		rule := applyrbacv1.PolicyRule()
		rule.Verbs, rule.APIGroups, rule.Resources, rule.ResourceNames, rule.NonResourceURLs = r.Verbs, r.APIGroups, r.Resources, r.ResourceNames, r.NonResourceURLs
		apply.WithRules(rule)
	}
	if role.UID != "" {
		apply.WithUID(role.UID) // one that has gone meanwhile is not made again
	}
	_, err = c.client.RbacV1().ClusterRoles().Apply(ctx, apply, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("apply role: %w", err)
	}
	return nil
}

// aggregate is the rules of the roles that role selects, each once: selector by selector, and of each the roles by name.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	all = slices.SortedFunc(slices.Values(all), func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("selector %d of role %s: %w", i, role.Name, err)
		}
		for _, part := range all {
			if part.Name == role.Name || !selector.Matches(labels.Set(part.Labels)) {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, nil
}
