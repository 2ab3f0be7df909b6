package storagemigration

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"github.com/celox/celox/internal/api"
)

func storageVersionMigration() *api.Kind {
	return &api.Kind{
		Group:        "storagemigration.k8s.io",
		Kind:         "StorageVersionMigration",
		Resource:     "storageversionmigrations",
		Singular:     "storageversionmigration",
		Prefix:       "storageversionmigrations",
		Versions:     []api.Version{api.NewVersion[storagemigrationv1.StorageVersionMigration, storagemigrationv1.StorageVersionMigrationList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
