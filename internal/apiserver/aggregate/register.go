package aggregate

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/store"
)

// The label of the APIServices that the server makes itself, and its values: made once at the start, or kept true all the time.
const (
	managedLabel = "kube-aggregator.kubernetes.io/automanaged"
	onStart      = "onstart"
	always       = "true"
)

var anyRevision = store.GetOptions{AnyRevision: true}

func automatic(gv schema.GroupVersion, group, version int32, managed string) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group, Labels: map[string]string{managedLabel: managed}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version,
		},
	}
}

// register makes the APIServices of the group versions that are served here, repairs those that were made earlier and
// removes those of group versions that are served no longer. It tries until it has succeeded.
func (a *Aggregator) register(ctx context.Context) {
	for wait := pause; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		err := a.registerOnce(ctx)
		if err == nil {
			a.registered.Store(true)
			return
		}
		if ctx.Err() != nil {
			return
		}
		a.log.Warn("making the APIServices of the built-in groups", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// Registered reports whether the APIServices of the groups that are served here have been made.
func (a *Aggregator) Registered() bool { return a.registered.Load() }

func (a *Aggregator) registerOnce(ctx context.Context) error {
	l, err := a.cfg.APIServices.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	old := map[string]*apiregistrationv1.APIService{}
	for _, item := range l.Items {
		if s, ok := item.Object.(*apiregistrationv1.APIService); ok && s.Labels[managedLabel] == onStart {
			old[s.Name] = s
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(a.cfg.Local))
	for i, local := range a.cfg.Local {
		want := automatic(local.GroupVersion, local.GroupPriority, local.VersionPriority, onStart)
		have := old[want.Name]
		delete(old, want.Name)
		if local.Yields && have != nil && have.Spec.Service != nil {
			continue // somebody has applied his own over this server's, whose label has stayed
		}
		wg.Go(func() { errs[i] = a.ensure(ctx, want, have) })
	}
	wg.Wait()
	for _, s := range old {
		if s.Spec.Service == nil {
			errs = append(errs, a.drop(ctx, s))
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// ensure makes an APIService, or gives one that is managed the wanted spec. Those of others are left alone.
func (a *Aggregator) ensure(ctx context.Context, want, have *apiregistrationv1.APIService) error {
	if have == nil {
		_, err := a.client.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if reflect.DeepEqual(have.Spec, want.Spec) {
		return nil
	}
	out := have.DeepCopy()
	out.Spec = want.Spec
	_, err := a.client.Update(ctx, out, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (a *Aggregator) drop(ctx context.Context, s *apiregistrationv1.APIService) error {
	err := a.client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// customGroups counts the definitions that serve each group version; only one goroutine uses it.
type customGroups struct {
	of     map[string][]schema.GroupVersion // by name of the definition
	counts map[schema.GroupVersion]int
}

// put takes over what a definition serves now and returns the group versions that this touches.
func (c *customGroups) put(name string, serves []schema.GroupVersion) []schema.GroupVersion {
	touched := map[schema.GroupVersion]bool{}
	for _, gv := range c.of[name] {
		c.counts[gv]--
		touched[gv] = true
	}
	for _, gv := range serves {
		c.counts[gv]++
		touched[gv] = true
	}
	c.of[name] = serves
	if len(serves) == 0 {
		delete(c.of, name)
	}
	return slices.Collect(maps.Keys(touched))
}

// followDefinitions keeps the APIServices of custom resources true: one for each group version that some definition serves.
func (a *Aggregator) followDefinitions(ctx context.Context) error {
	w, err := a.cfg.Definitions.Watch(ctx, store.WatchOptions{SendInitial: true, Bookmarks: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	a.custom = customGroups{of: map[string][]schema.GroupVersion{}, counts: map[schema.GroupVersion]int{}}
	settled := false
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Type == store.Bookmark {
				if e.Initial && !settled {
					settled = true
					if err := a.syncAllCustom(ctx); err != nil {
						return err
					}
				}
				continue
			}
			crd, ok := e.Item.Object.(*apiextensionsv1.CustomResourceDefinition)
			if !ok {
				continue
			}
			var serves []schema.GroupVersion
			if e.Type != store.Deleted {
				for i := range crd.Spec.Versions {
					if v := &crd.Spec.Versions[i]; v.Served {
						serves = append(serves, schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name})
					}
				}
			}
			touched := a.custom.put(crd.Name, serves)
			if !settled {
				continue
			}
			for _, gv := range touched {
				if err := a.syncCustom(ctx, gv); err != nil {
					return err
				}
			}
		}
	}
}

// syncAllCustom is for the beginning: it also removes what became superfluous while the server was away.
func (a *Aggregator) syncAllCustom(ctx context.Context) error {
	l, err := a.cfg.APIServices.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	all := maps.Clone(a.custom.counts)
	for _, item := range l.Items {
		if s, ok := item.Object.(*apiregistrationv1.APIService); ok && s.Labels[managedLabel] == always {
			all[schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}] = 0
		}
	}
	for gv := range all {
		if err := a.syncCustom(ctx, gv); err != nil {
			return err
		}
	}
	return nil
}

// syncCustom makes or removes the APIService of a group version of custom resources.
func (a *Aggregator) syncCustom(ctx context.Context, gv schema.GroupVersion) error {
	want := automatic(gv, api.CustomGroupPriority, api.CustomVersionPriority, always)
	var have *apiregistrationv1.APIService
	item, err := a.cfg.APIServices.Get(ctx, want.Name, anyRevision)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if item != nil {
		have, _ = item.Object.(*apiregistrationv1.APIService)
	}
	wanted := a.custom.counts[gv] > 0
	if !wanted {
		delete(a.custom.counts, gv)
	}
	switch {
	case have != nil && have.Labels[managedLabel] != always:
		return nil // somebody else's
	case wanted:
		return a.ensure(ctx, want, have)
	case have != nil:
		return a.drop(ctx, have)
	}
	return nil
}
