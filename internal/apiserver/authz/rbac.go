package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// Readers are the collections that RBAC is made of.
type Readers struct {
	Roles, ClusterRoles, RoleBindings, ClusterRoleBindings store.Reader
}

func (r Readers) of(k kind) store.Reader {
	switch k {
	case roles:
		return r.Roles
	case clusterRoles:
		return r.ClusterRoles
	case roleBindings:
		return r.RoleBindings
	default:
		return r.ClusterRoleBindings
	}
}

// RBAC decides by roles and bindings. It may be used from many goroutines.
type RBAC struct {
	readers Readers
	index   *index
}

// NewRBAC returns an RBAC over readers. It is right about grants at once; Run keeps it right about what was taken away.
func NewRBAC(readers Readers) *RBAC { return &RBAC{readers: readers, index: newIndex()} }

// watchPause is the pause before a watch that failed is begun again.
const watchPause = time.Second

// Run follows the store's events until ctx ends.
func (r *RBAC) Run(ctx context.Context, log *slog.Logger) {
	done := make(chan struct{})
	for k := range kinds {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				if err := r.follow(ctx, k); err != nil && ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
					log.Warn("watching RBAC objects ended; beginning again", "error", err)
					select {
					case <-ctx.Done():
					case <-time.After(watchPause):
					}
				}
			}
		}()
	}
	for range kinds {
		<-done
	}
}

func (r *RBAC) follow(ctx context.Context, k kind) error {
	reader := r.readers.of(k)
	l, err := reader.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	r.index.replace(k, "", l.Items, l.Revision)
	w, err := reader.Watch(ctx, store.WatchOptions{Revision: l.Revision})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			switch e.Type {
			case store.Added, store.Modified:
				r.index.put(k, e.Item.Key, e.Revision, e.Item.Object)
			case store.Deleted:
				r.index.remove(k, e.Item.Key, e.Revision)
			}
		}
	}
}

// refresh compares the index with the store: everything of the cluster's scope, and one namespace.
func (r *RBAC) refresh(ctx context.Context, namespace string) error {
	for k := range kinds {
		o := store.ListOptions{}
		if k == roles || k == roleBindings {
			if namespace == "" {
				continue
			}
			o.Namespace = namespace
		}
		l, err := r.readers.of(k).List(ctx, o)
		if err != nil {
			return fmt.Errorf("read RBAC objects: %w", err)
		}
		r.index.replace(k, o.Namespace, l.Items, l.Revision)
	}
	return nil
}

// Authorize allows or has no opinion.
func (r *RBAC) Authorize(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	if reason, ok := r.allowed(&a); ok {
		return request.Allow, reason, nil
	}
	if err := r.refresh(ctx, a.Namespace); err != nil {
		return request.NoOpinion, "", err
	}
	if reason, ok := r.allowed(&a); ok {
		return request.Allow, reason, nil
	}
	return request.NoOpinion, r.refusal(&a), nil
}

func (r *RBAC) allowed(a *request.Attributes) (reason string, ok bool) {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	namespace := a.Namespace
	if !a.ResourceRequest {
		namespace = ""
	}
	r.index.visit(a.User.GetName(), a.User.GetGroups(), namespace, func(g *grant, rules []rbacv1.PolicyRule) bool {
		for i := range rules {
			if ruleAllows(&rules[i], a, resource) {
				reason, ok = g.reason, true
				return false
			}
		}
		return true
	}, nil)
	return reason, ok
}

// refusal names the roles that bindings of the user miss, which may be why he is refused.
func (r *RBAC) refusal(a *request.Attributes) string {
	var missing []error
	r.index.visit(a.User.GetName(), a.User.GetGroups(), a.Namespace, func(*grant, []rbacv1.PolicyRule) bool { return true },
		func(g *grant) { missing = append(missing, missingRole(g.ref)) })
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(missing))
}

func missingRole(ref rbacv1.RoleRef) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: rbacv1.GroupName, Resource: strings.ToLower(ref.Kind)}, ref.Name)
}

// ruleAllows tells whether one rule allows what is asked; resource includes the subresource.
func ruleAllows(rule *rbacv1.PolicyRule, a *request.Attributes, resource string) bool {
	if !containsOrAll(rule.Verbs, a.Verb, rbacv1.VerbAll) {
		return false
	}
	if !a.ResourceRequest {
		return pathMatches(rule.NonResourceURLs, a.Path)
	}
	return containsOrAll(rule.APIGroups, a.Group, rbacv1.APIGroupAll) &&
		resourceMatches(rule.Resources, resource, a.Subresource) &&
		(len(rule.ResourceNames) == 0 || containsOrAll(rule.ResourceNames, a.Name, a.Name))
}

func containsOrAll(set []string, s, all string) bool {
	for _, x := range set {
		if x == s || x == all {
			return true
		}
	}
	return false
}

func resourceMatches(set []string, resource, subresource string) bool {
	for _, x := range set {
		if x == resource || x == rbacv1.ResourceAll {
			return true
		}
		// "*/scale" is the scale subresource of everything.
		if subresource != "" && len(x) == len(subresource)+2 && x[:2] == "*/" && x[2:] == subresource {
			return true
		}
	}
	return false
}

func pathMatches(set []string, path string) bool {
	for _, x := range set {
		if x == rbacv1.NonResourceAll || x == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(x, "*"); ok && strings.HasPrefix(path, strings.TrimRight(prefix, "*")) {
			return true
		}
	}
	return false
}

// RulesFor lists the rules that reach u in namespace, and an error that names what could not be found out.
func (r *RBAC) RulesFor(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := r.refresh(ctx, namespace); err != nil {
		return nil, err
	}
	var out []rbacv1.PolicyRule
	var missing []error
	r.index.visit(u.GetName(), u.GetGroups(), namespace,
		func(_ *grant, rules []rbacv1.PolicyRule) bool {
			out = append(out, rules...)
			return true
		},
		func(g *grant) { missing = append(missing, missingRole(g.ref)) })
	return out, errors.Join(missing...)
}
