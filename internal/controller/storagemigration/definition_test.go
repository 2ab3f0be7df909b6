package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestEnded(t *testing.T) {
	crd := func(generation, observed int64) *apiextensionsv1.CustomResourceDefinition {
		return &apiextensionsv1.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{Generation: generation},
			Spec:       apiextensionsv1.CustomResourceDefinitionSpec{Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1"}, {Name: "v2", Storage: true}}},
			Status: apiextensionsv1.CustomResourceDefinitionStatus{Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{
				{Type: apiextensionsv1.StorageMigrating, ObservedGeneration: observed}}},
		}
	}
	for _, tt := range []struct {
		name      string
		crd       *apiextensionsv1.CustomResourceDefinition
		succeeded bool
		reason    string
		stored    []string
	}{
		{"all is migrated", crd(2, 2), true, "MigrationSucceeded", []string{"v2"}},
		{"it changed meanwhile", crd(3, 2), true, "MigrationSucceeded", nil},
		{"nobody said that it began", &apiextensionsv1.CustomResourceDefinition{}, true, "MigrationSucceeded", nil},
		{"it failed", crd(2, 2), false, "MigrationFailed", nil},
	} {
		s := ended(tt.crd, tt.succeeded)
		c := s["conditions"].([]map[string]any)
		stored, _ := s["storedVersions"].([]string)
		if len(c) != 1 || c[0]["status"] != metav1.ConditionFalse || c[0]["reason"] != tt.reason || !slices.Equal(stored, tt.stored) {
			t.Errorf("%s: %v", tt.name, s)
		}
	}
}

const widgets = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"}, "spec": {
	"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [
	{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
	{"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}`

// A migration of custom objects ends with their definition saying that they are stored in one version.
func TestDefinitionIsTold(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	api := e.Client.Discovery().RESTClient()
	asJSON := func(r *rest.Request) *rest.Request {
		return r.SetHeader("Accept", runtime.ContentTypeJSON).SetHeader("Content-Type", runtime.ContentTypeJSON)
	}
	if err := asJSON(api.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")).Body([]byte(widgets)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	if err := api.Patch(types.MergePatchType).AbsPath(definitionsPath+"widgets.example.com/status").SetHeader("Accept", runtime.ContentTypeJSON).
		Body([]byte(`{"status":{"storedVersions":["v1","v2"]}}`)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	ctl, err := New(Config{
		Client: e.Client, Metadata: e.Metadata, Informers: e.Informers, Clock: clocktesting.NewFakePassiveClock(time.Now()),
		Resolve: func(schema.GroupResource) (schema.GroupVersionResource, bool) { // its objects are not served here: those of another kind do
			return schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	if _, err := e.Client.StoragemigrationV1().StorageVersionMigrations().Create(ctx, &migrationv1.StorageVersionMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "widgets"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		m, err := e.Client.StoragemigrationV1().StorageVersionMigrations().Get(ctx, "m", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) {
			return fmt.Errorf("%+v", m.Status)
		}
		return nil
	})
	data, err := asJSON(api.Get().AbsPath(definitionsPath + "widgets.example.com")).Do(ctx).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := json.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(crd.Status.StoredVersions, []string{"v2"}) {
		t.Errorf("stored %v", crd.Status.StoredVersions)
	}
	i := slices.IndexFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.StorageMigrating
	})
	if i < 0 {
		t.Fatalf("%+v", crd.Status.Conditions)
	}
	if c := crd.Status.Conditions[i]; c.Status != apiextensionsv1.ConditionFalse || c.Reason != "MigrationSucceeded" || c.ObservedGeneration != crd.Generation {
		t.Errorf("%+v", c)
	}
}
