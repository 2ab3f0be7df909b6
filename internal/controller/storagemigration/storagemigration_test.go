package storagemigration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWithCondition(t *testing.T) {
	now := time.Unix(1000, 0)
	c := withCondition(nil, 3, migrationv1.MigrationRunning, running, "", now)
	c = withCondition(c, 3, migrationv1.MigrationSucceeded, succeeded, "", now)
	if r := meta.FindStatusCondition(c, "Running"); len(c) != 2 || r == nil || r.Reason != "MigrationCompleted" || r.ObservedGeneration != 3 || !meta.IsStatusConditionFalse(c, "Running") || !meta.IsStatusConditionTrue(c, "Succeeded") {
		t.Errorf("%+v", c)
	}
}

func TestMigrations(t *testing.T) {
	e := controllertest.Start(t)
	// The clock is ahead by more than what a migration waits for its resource.
	ctl, err := New(Config{
		Client: e.Client, Metadata: e.Metadata, Informers: e.Informers, Clock: clocktesting.NewFakePassiveClock(time.Now().Add(2 * grace)),
		Resolve: func(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
			k, ok := e.Catalogue.ByGroupResource(gr)
			if !ok {
				return schema.GroupVersionResource{}, false
			}
			return controllertest.Preferred(k), true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	versions := map[string]string{}
	for i := range page + 3 { // more than one page
		c, err := e.Client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		versions[c.Name] = c.ResourceVersion
	}
	for name, resource := range map[string]string{"good": "configmaps", "bad": "nothings"} {
		if _, err := e.Client.StoragemigrationV1().StorageVersionMigrations().Create(ctx, &migrationv1.StorageVersionMigration{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Run(t, ctl)
	for name, want := range map[string]migrationv1.MigrationConditionType{"good": migrationv1.MigrationSucceeded, "bad": migrationv1.MigrationFailed} {
		var m *migrationv1.StorageVersionMigration
		controllertest.Eventually(t, func() (err error) {
			if m, err = e.Client.StoragemigrationV1().StorageVersionMigrations().Get(ctx, name, metav1.GetOptions{}); err == nil && !meta.IsStatusConditionTrue(m.Status.Conditions, string(want)) {
				err = fmt.Errorf("%s: %+v", name, m.Status)
			}
			return err
		})
		// One that never ran is not said to have stopped.
		ran := meta.FindStatusCondition(m.Status.Conditions, string(migrationv1.MigrationRunning))
		if (name == "good") != (ran != nil && ran.Status == metav1.ConditionFalse) || name == "good" && m.Status.ResourceVersion == "" {
			t.Errorf("%s: %+v", name, m.Status)
		}
	}
	// What was stored well costs no write, and nobody who watches sees one.
	list, err := e.Client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if c := &list.Items[i]; versions[c.Name] != c.ResourceVersion {
			t.Fatalf("%s was written", c.Name)
		}
	}
}

// TestMigrationWaitsForItsResource: a definition may be younger than the migration that names it.
func TestMigrationWaitsForItsResource(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	asked := make(chan struct{}, 1)
	ctl, err := New(Config{
		Client: e.Client, Metadata: e.Metadata, Informers: e.Informers, Clock: clocktesting.NewFakePassiveClock(time.Now()),
		Resolve: func(schema.GroupResource) (schema.GroupVersionResource, bool) {
			select {
			case asked <- struct{}{}:
			default:
			}
			return schema.GroupVersionResource{}, false
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	migrations := e.Client.StoragemigrationV1().StorageVersionMigrations()
	if _, err := migrations.Create(ctx, &migrationv1.StorageVersionMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "early"}, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "foos"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The informers start with Run; reconciling again by hand asks a second time and must not write either.
	e.Run(t, ctl)
	<-asked
	if err := ctl.Reconcile(ctx, "early"); err != nil {
		t.Fatal(err)
	}
	m, err := migrations.Get(ctx, "early", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Status.Conditions) > 0 {
		t.Errorf("the migration was judged at once: %+v", m.Status)
	}
}
