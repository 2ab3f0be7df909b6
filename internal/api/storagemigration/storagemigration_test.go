package storagemigration_test

import (
	"testing"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/storagemigration"
)

func TestStorageVersionMigration(t *testing.T) {
	const deployments = "metadata: {name: a}\nspec: {resource: {group: apps, resource: deployments}}"
	apitest.Check(t, storagemigration.Kinds(), "StorageVersionMigration", []apitest.Case{
		{"deployments", deployments, ""},
		{"of the core group", "metadata: {name: a}\nspec: {resource: {resource: pods}}", ""},
		{"of nothing", "metadata: {name: a}\nspec: {}", "spec.resource.resource: Required value"},
	})
	c := apitest.Catalogue(t, storagemigration.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StorageVersionMigration")
	old := apitest.Read(t, c, k, deployments).(*storagemigrationv1.StorageVersionMigration)
	if got := apitest.Row(k, old, time.Now()); got != "a|deployments.apps|<unknown>" {
		t.Error(got)
	}
	m := old.DeepCopy()
	m.Spec.Resource.Resource = "daemonsets"
	if errs := k.ValidateUpdate(m, old); len(errs) != 1 || errs[0].Field != "spec" {
		t.Error(apitest.Text(errs))
	}
}
