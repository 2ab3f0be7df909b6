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
		{"of nothing", "metadata: {name: a}\nspec: {}", "spec.resource.resource: Required value: resource is required to be set"},
		{"of odd names", "metadata: {name: a}\nspec: {resource: {group: Apps, resource: 1a}}",
			"spec.resource.resource: Invalid value: \"1a\": a DNS-1035 label must\nspec.resource.group: Invalid value: \"Apps\": a lowercase RFC 1123 subdomain"},
	})
	c := apitest.Catalogue(t, storagemigration.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StorageVersionMigration")
	old := apitest.Read(t, c, k, deployments).(*storagemigrationv1.StorageVersionMigration)
	if got := apitest.Row(k, old, time.Now()); got != "a|deployments.apps|Unknown" {
		t.Error(got)
	}
	m := old.DeepCopy()
	m.Spec.Resource.Resource = "daemonsets"
	if errs := k.ValidateUpdate(m, old); len(errs) != 1 || errs[0].Field != "spec" {
		t.Error(apitest.Text(errs))
	}
}

func TestStatus(t *testing.T) {
	const spec = "metadata: {name: a}\nspec: {resource: {resource: pods}}\n"
	with := func(version string, types ...string) string {
		s := spec + "status: {resourceVersion: '" + version + "', conditions: ["
		for _, typ := range types {
			s += "{type: " + typ + ", status: 'True', reason: R, lastTransitionTime: '2026-01-02T03:04:05Z'},"
		}
		return s + "]}"
	}
	apitest.CheckChanges(t, storagemigration.Kinds(), "StorageVersionMigration", "status", []apitest.Change{
		{"runs", spec, with("5", "Running"), ""},
		{"has succeeded", with("5", "Running"), with("5", "Succeeded"), ""},
		{"no number", spec, with("x"), "status.resourceVersion: Invalid value: \"x\": resource version is not well formed: x"},
		{"a negative number", spec, with("-1"), "status.resourceVersion: Invalid value: \"-1\": resource version is not well formed: -1"},
		{"another number", with("5"), with("6"), "status.resourceVersion: Invalid value: \"6\": field is immutable"},
		{"both", spec, with("", "Succeeded", "Failed", "Running"), "Both success and failed conditions cannot be true at the same time"},
		{"has succeeded and runs", spec, with("5", "Succeeded", "Running"), ""},
		{"not any more", with("5", "Succeeded"), with("5"), "Success condition cannot be set to false once it is true"},
		{"nor failed", with("5", "Failed"), with("5"), "Failed condition cannot be set to false once it is true"},
	})
}
