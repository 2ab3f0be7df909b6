package storagemigration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	migrationlisters "k8s.io/client-go/listers/storagemigration/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	fieldManager = "storage-version-migrator-controller"
	// runner is the field manager of what is said in the status of definitions.
	runner = "migration-runner-controller"
	// page is how many objects are listed at a time.
	page = 100
	// grace is how long a migration may be older than the resource that it names: discovery lags behind definitions.
	grace = time.Minute
)

// Reasons of conditions.
const (
	running   = "MigrationRunning"
	completed = "MigrationCompleted"
	succeeded = "StorageVersionMigrationSucceeded"
	failed    = "StorageVersionMigrationFailed"
)

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers *informers.Factory
	// Resolve finds a version in which a resource is served; false if there is no such resource, or it stores nothing.
	Resolve func(schema.GroupResource) (schema.GroupVersionResource, bool)
	Clock   clock.PassiveClock
	Log     *slog.Logger
	Metrics *controller.Metrics
}

// Controller reconciles StorageVersionMigrations.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	migrations migrationlisters.StorageVersionMigrationLister
	resolve    func(schema.GroupResource) (schema.GroupVersionResource, bool)
	clock      clock.PassiveClock
	crds       definitions
	loop       *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	migrations := cfg.Informers.Storagemigration().V1().StorageVersionMigrations()
	c := &Controller{client: cfg.Client, metadata: cfg.Metadata, migrations: migrations.Lister(), resolve: cfg.Resolve, clock: cfg.Clock}
	c.crds = definitions{cfg.Client.Discovery().RESTClient()}
	// One worker: a migration is a burst of writes that nobody waits for.
	c.loop = controller.NewLoop("storage_version_migrator", c.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{migrations.Informer().HasSynced}, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	return c, controller.Watch(migrations.Informer(), controller.Handlers[*migrationv1.StorageVersionMigration]{Changed: func(m *migrationv1.StorageVersionMigration) {
		if !over(m) {
			c.loop.Add(m.Name)
		}
	}})
}

// Run migrates until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func over(m *migrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationFailed))
}

// withCondition returns the conditions of a migration after one of them became true. One that has ended runs no more.
func withCondition(have []metav1.Condition, generation int64, kind migrationv1.MigrationConditionType, reason, message string, now time.Time) []metav1.Condition {
	out := append([]metav1.Condition(nil), have...)
	at := metav1.NewTime(now)
	meta.SetStatusCondition(&out, metav1.Condition{Type: string(kind), Status: metav1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: at})
	if kind != migrationv1.MigrationRunning && meta.FindStatusCondition(have, string(migrationv1.MigrationRunning)) != nil {
		meta.SetStatusCondition(&out, metav1.Condition{
			Type: string(migrationv1.MigrationRunning), Status: metav1.ConditionFalse, Reason: completed, Message: "Migration completed", ObservedGeneration: generation, LastTransitionTime: at,
		})
	}
	return out
}

// Reconcile carries one migration out, from its beginning: what was migrated before a crash costs no write again.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	m, err := c.migrations.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (over(m) || m.DeletionTimestamp != nil) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get migration: %w", err)
	}
	gr := schema.GroupResource{Group: m.Spec.Resource.Group, Resource: m.Spec.Resource.Resource}
	gvr, ok := c.resolve(gr)
	if !ok {
		if wait := m.CreationTimestamp.Add(grace).Sub(c.clock.Now()); wait > 0 {
			c.loop.AddAfter(name, wait)
			return nil
		}
		_, err := c.set(ctx, m, migrationv1.MigrationFailed, failed, failure("unable to obtain GVR from discovery"), "")
		return err
	}
	if !meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationRunning)) {
		first, err := c.metadata.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("list %s: %w", gr, err)
		}
		if err := c.crds.begin(ctx, gr, name); err != nil {
			return err
		}
		if m, err = c.set(ctx, m, migrationv1.MigrationRunning, running, "The migration is running", first.ResourceVersion); err != nil {
			return err
		}
	}
	err = c.migrate(ctx, gvr)
	var broken *brokenError
	if err != nil && !errors.As(err, &broken) {
		return err
	}
	// The definition first: what a crash leaves undone is done by another migration from the beginning, as long as this one has not ended.
	if err := c.crds.end(ctx, gr, err == nil); err != nil {
		return err
	}
	if err != nil {
		_, err = c.set(ctx, m, migrationv1.MigrationFailed, failed, failure(broken.Error()), "")
	} else {
		_, err = c.set(ctx, m, migrationv1.MigrationSucceeded, succeeded, "Migration completed", "")
	}
	return err
}

func failure(why string) string { return "migration encountered unhandled error: " + why }

// set writes one condition, and the resource version that the migration starts from unless that is empty.
func (c *Controller) set(ctx context.Context, m *migrationv1.StorageVersionMigration, kind migrationv1.MigrationConditionType, reason, message, version string) (*migrationv1.StorageVersionMigration, error) {
	m = m.DeepCopy()
	m.Status.Conditions = withCondition(m.Status.Conditions, m.Generation, kind, reason, message, c.clock.Now())
	if version != "" {
		m.Status.ResourceVersion = version
	}
	got, err := c.client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, m, metav1.UpdateOptions{FieldManager: fieldManager})
	if err != nil {
		return nil, fmt.Errorf("update status of migration %s: %w", m.Name, err)
	}
	return got, nil
}

// brokenError says that an object cannot be written again, however often it is tried.
type brokenError struct {
	object string
	err    error
}

func (e *brokenError) Error() string { return fmt.Sprintf("%s: %v", e.object, e.err) }

func (e *brokenError) Unwrap() error { return e.err }

// migrate writes all objects of a resource again.
func (c *Controller) migrate(ctx context.Context, gvr schema.GroupVersionResource) error {
	o := metav1.ListOptions{Limit: page}
	for {
		list, err := c.metadata.Resource(gvr).List(ctx, o)
		if err != nil {
			return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
		}
		for i := range list.Items {
			if err := c.rewrite(ctx, gvr, &list.Items[i]); err != nil {
				return err
			}
		}
		if o.Continue = list.Continue; o.Continue == "" {
			return nil
		}
	}
}

// rewrite writes one object again by a patch that changes nothing. One that changed or went meanwhile was written by somebody else.
func (c *Controller) rewrite(ctx context.Context, gvr schema.GroupVersionResource, obj *metav1.PartialObjectMetadata) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.UID, "resourceVersion": obj.ResourceVersion}})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = c.metadata.Resource(gvr).Namespace(obj.Namespace).Patch(ctx, obj.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
	at := gvr.GroupResource().String() + " " + obj.Namespace + "/" + obj.Name
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	case ctx.Err() != nil || apierrors.IsInternalError(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		return fmt.Errorf("migrate %s: %w", at, err)
	}
	return &brokenError{at, err}
}
