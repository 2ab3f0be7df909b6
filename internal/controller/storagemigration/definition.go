package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// definitions says in the status of a definition of custom objects that these are being migrated, and, when they are, that no other version of them is
// stored any more.
type definitions struct{ api rest.Interface }

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"

// begin says that a migration runs.
func (d definitions) begin(ctx context.Context, gr schema.GroupResource, migration string) error {
	return d.tell(ctx, gr, func(*apiextensionsv1.CustomResourceDefinition) map[string]any {
		return told(metav1.ConditionTrue, "MigrationRunning", fmt.Sprintf("Migration %s is running", migration))
	})
}

// end says how it went.
func (d definitions) end(ctx context.Context, gr schema.GroupResource, succeeded bool) error {
	return d.tell(ctx, gr, func(crd *apiextensionsv1.CustomResourceDefinition) map[string]any { return ended(crd, succeeded) })
}

// ended is the status of a definition whose objects were migrated. If it changed since the migration began, they may be stored in any version.
func ended(crd *apiextensionsv1.CustomResourceDefinition, succeeded bool) map[string]any {
	if !succeeded {
		return told(metav1.ConditionFalse, "MigrationFailed", "The migration has failed")
	}
	same := false
	for i := range crd.Status.Conditions {
		c := &crd.Status.Conditions[i]
		same = same || c.Type == apiextensionsv1.StorageMigrating && c.ObservedGeneration == crd.Generation
	}
	if !same {
		return told(metav1.ConditionFalse, "MigrationSucceeded", "The migration has succeeded but the stored versions have not been updated due to a generation mismatch")
	}
	status := told(metav1.ConditionFalse, "MigrationSucceeded", "The migration has succeeded and the stored versions have been updated")
	for i := range crd.Spec.Versions {
		if crd.Spec.Versions[i].Storage {
			status["storedVersions"] = []string{crd.Spec.Versions[i].Name}
		}
	}
	return status
}

// told is a status with the one condition that is ours; the rest of it is added by tell.
func told(status metav1.ConditionStatus, reason, message string) map[string]any {
	return map[string]any{"conditions": []map[string]any{{
		"type": apiextensionsv1.StorageMigrating, "status": status, "reason": reason, "message": message,
	}}}
}

// tell applies a status to the definition of a resource, if there is one, as long as nobody changes it meanwhile.
func (d definitions) tell(ctx context.Context, gr schema.GroupResource, status func(*apiextensionsv1.CustomResourceDefinition) map[string]any) error {
	if gr.Group == "" {
		return nil
	}
	path := definitionsPath + gr.Resource + "." + gr.Group
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		data, err := d.api.Get().AbsPath(path).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Raw()
		if err != nil {
			return err
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := json.Unmarshal(data, crd); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		s := status(crd)
		for _, c := range s["conditions"].([]map[string]any) {
			c["observedGeneration"], c["lastTransitionTime"] = crd.Generation, metav1.Now()
		}
		body, err := json.Marshal(map[string]any{
			"apiVersion": apiextensionsv1.SchemeGroupVersion.String(), "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": crd.Name, "resourceVersion": crd.ResourceVersion}, "status": s,
		})
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		return d.api.Patch(types.ApplyPatchType).AbsPath(path, "status").Param("fieldManager", runner).Param("force", "true").
			SetHeader("Accept", runtime.ContentTypeJSON).Body(body).Do(ctx).Error()
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("definition of %s: %w", gr, err)
	}
	return nil
}
