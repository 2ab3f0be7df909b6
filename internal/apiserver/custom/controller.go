package custom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/store"
)

// Controller follows the definitions in the store: it gives them their names and conditions, has them served, and empties and removes
// those that are being deleted.
type Controller struct {
	// Definitions is where the CustomResourceDefinitions are.
	Definitions store.Reader
	Registry    *Registry
	// Write changes a definition: change gets the newest state and returns the wanted one, or what it got if nothing is to change. It
	// must not change what it gets. A definition that is gone is no error.
	Write func(ctx context.Context, name string, change func(*CRD) *CRD) error
	// Empty deletes all objects of a resource, and returns when none is left.
	Empty  func(ctx context.Context, gr schema.GroupResource) error
	Clock  clock.PassiveClock
	Logger *slog.Logger

	known  map[string]*CRD
	groups map[string]*members
	wg     sync.WaitGroup

	mu         sync.Mutex
	finalizing map[string]bool // guarded by mu
}

// members are the definitions of one group.
type members struct {
	names *Names
	// waiting are the definitions that did not get all their names.
	waiting map[string]bool
}

// Load serves the definitions that are there. It is called once, before Run.
func (c *Controller) Load(ctx context.Context) (revision int64, err error) {
	c.known, c.groups, c.finalizing = map[string]*CRD{}, map[string]*members{}, map[string]bool{}
	l, err := c.Definitions.List(ctx, store.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("listing custom resource definitions: %w", err)
	}
	for _, item := range l.Items {
		if crd, ok := item.Object.(*CRD); ok {
			c.learn(crd)
		}
	}
	return l.Revision, c.Registry.noteStored(ctx)
}

// Run follows the definitions from a revision on until ctx ends, and waits for what it started.
func (c *Controller) Run(ctx context.Context, revision int64) error {
	defer c.wg.Wait()
	c.wg.Go(func() { c.Registry.openStored(ctx, c.Logger) })
	for _, crd := range c.known {
		c.reconcile(ctx, crd)
	}
	for ctx.Err() == nil {
		w, err := c.Definitions.Watch(ctx, store.WatchOptions{Revision: revision})
		if err != nil {
			return fmt.Errorf("watching custom resource definitions: %w", err)
		}
		for err == nil {
			var events []store.Event
			if events, err = w.Next(ctx); err != nil {
				break
			}
			for _, e := range events {
				if e.Item == nil {
					continue
				}
				crd, ok := e.Item.Object.(*CRD)
				if !ok {
					continue
				}
				if e.Type == store.Deleted {
					c.forget(ctx, crd)
				} else {
					c.learn(crd)
					c.reconcile(ctx, crd)
				}
			}
		}
		w.Stop()
		if ctx.Err() != nil {
			return nil
		}
		c.Logger.Warn("the watch of custom resource definitions ended and begins again", "error", err)
		if revision, err = c.reload(ctx); err != nil {
			return err
		}
	}
	return nil
}

// reload finds out what happened while nobody watched.
func (c *Controller) reload(ctx context.Context) (int64, error) {
	l, err := c.Definitions.List(ctx, store.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("listing custom resource definitions: %w", err)
	}
	there := map[string]bool{}
	for _, item := range l.Items {
		if crd, ok := item.Object.(*CRD); ok {
			there[crd.Name] = true
			c.learn(crd)
			c.reconcile(ctx, crd)
		}
	}
	for name, crd := range c.known {
		if !there[name] {
			c.forget(ctx, crd)
		}
	}
	return l.Revision, nil
}

func (c *Controller) group(name string) *members {
	g := c.groups[name]
	if g == nil {
		g = &members{names: NewNames(), waiting: map[string]bool{}}
		c.groups[name] = g
	}
	return g
}

func resourceOf(crd *CRD) schema.GroupResource {
	return schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}
}

// learn serves a definition as it is now.
func (c *Controller) learn(crd *CRD) {
	old := c.known[crd.Name]
	c.known[crd.Name] = crd
	g := c.group(crd.Spec.Group)
	g.names.Set(crd.Name, crd.Status.AcceptedNames)
	gr := resourceOf(crd)
	if !Serving(crd) {
		c.Registry.Remove(gr)
		return
	}
	if _, served := c.Registry.Find(gr); served && old != nil && Same(old, crd) {
		c.Registry.Update(crd)
		return
	}
	if err := c.Registry.Set(crd); err != nil {
		c.Logger.Error("a custom resource can't be served", "name", crd.Name, "error", err)
		c.Registry.Remove(gr)
	}
}

// forget stops serving a definition that is gone, and lets others have its names.
func (c *Controller) forget(ctx context.Context, crd *CRD) {
	delete(c.known, crd.Name)
	c.Registry.Remove(resourceOf(crd))
	g := c.group(crd.Spec.Group)
	delete(g.waiting, crd.Name)
	g.names.Set(crd.Name, apiextensionsv1.CustomResourceDefinitionNames{})
	c.reconsider(ctx, g)
}

// reconsider looks again at the definitions that wait for names.
func (c *Controller) reconsider(ctx context.Context, g *members) {
	for name := range g.waiting {
		if crd := c.known[name]; crd != nil {
			c.reconcile(ctx, crd)
		}
	}
}

// reconcile writes the status that a definition should have, and ends one that is being deleted.
func (c *Controller) reconcile(ctx context.Context, crd *CRD) {
	g := c.group(crd.Spec.Group)
	freed := false
	if next := Observe(crd, g.names, c.Clock.Now()); next != crd {
		freed = true
		err := c.Write(ctx, crd.Name, func(now *CRD) *CRD {
			if now.UID != crd.UID {
				return now
			}
			return Observe(now, g.names, c.Clock.Now())
		})
		if err != nil && ctx.Err() == nil {
			c.Logger.Error("writing the status of a custom resource definition", "name", crd.Name, "error", err)
		}
		if err == nil {
			g.names.Set(crd.Name, next.Status.AcceptedNames)
		}
	}
	if isTrue(crd, apiextensionsv1.NamesAccepted) || condition(crd, apiextensionsv1.NamesAccepted) == nil {
		delete(g.waiting, crd.Name)
	} else {
		g.waiting[crd.Name] = true
	}
	if freed && len(g.waiting) > 0 && !g.waiting[crd.Name] {
		c.reconsider(ctx, g)
	}
	if crd.DeletionTimestamp != nil && apihelpers.CRDHasFinalizer(crd, apiextensionsv1.CustomResourceCleanupFinalizer) {
		c.finalize(ctx, crd)
	}
}

// retryPause is how long an attempt to empty a definition waits after it failed.
const retryPause = 5 * time.Second

// finalize empties a definition in the background and then lets it go.
func (c *Controller) finalize(ctx context.Context, crd *CRD) {
	id := string(crd.UID)
	c.mu.Lock()
	running := c.finalizing[id]
	c.finalizing[id] = true
	c.mu.Unlock()
	if running {
		return
	}
	c.wg.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.finalizing, id)
			c.mu.Unlock()
		}()
		for {
			err := c.end(ctx, crd)
			if err == nil || ctx.Err() != nil {
				return
			}
			c.Logger.Warn("deleting the objects of a custom resource definition", "name", crd.Name, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryPause):
			}
		}
	})
}

func (c *Controller) end(ctx context.Context, crd *CRD) error {
	terminating := func(status apiextensionsv1.ConditionStatus, reason, message string, last bool) error {
		return c.Write(ctx, crd.Name, func(now *CRD) *CRD {
			if now.UID != crd.UID || !apihelpers.CRDHasFinalizer(now, apiextensionsv1.CustomResourceCleanupFinalizer) {
				return now
			}
			next := now.DeepCopy()
			setCondition(next, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message}, c.Clock.Now())
			if last {
				apihelpers.CRDRemoveFinalizer(next, apiextensionsv1.CustomResourceCleanupFinalizer)
			}
			return next
		})
	}
	if !isTrue(crd, apiextensionsv1.Established) {
		return terminating(apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established", true)
	}
	if err := terminating(apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false); err != nil {
		return err
	}
	if err := c.Empty(ctx, resourceOf(crd)); err != nil {
		if ctx.Err() != nil {
			return err
		}
		told := terminating(apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err), false)
		return errors.Join(err, told)
	}
	return terminating(apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances", true)
}
