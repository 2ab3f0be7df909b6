package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

func csiStorageCapacity() *api.Kind {
	return &api.Kind{
		Group:      "storage.k8s.io",
		Kind:       "CSIStorageCapacity",
		Resource:   "csistoragecapacities",
		Singular:   "csistoragecapacity",
		Namespaced: true,
		Prefix:     "csistoragecapacities",
		Versions:   []api.Version{api.NewVersion[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList]("v1")},
		Hub:        "v1",
		Validate:   api.Check(validateCSIStorageCapacity),
		ValidateUpdate: api.CheckUpdate(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := validateCSIStorageCapacity(c)
			errs = append(errs, check.Immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))...)
			return append(errs, check.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		}),
		Warnings: api.Warn(warnCSIStorageCapacity),
	}
}

// warnCSIStorageCapacity tells of a topology that names labels which nodes no longer have.
func warnCSIStorageCapacity(c, _ *storagev1.CSIStorageCapacity) []string {
	if c.NodeTopology == nil {
		return nil
	}
	var out []string
	warn := func(key string, p *field.Path) {
		if text, ok := podspec.OldNodeLabel(key); ok {
			out = append(out, p.String()+": "+key+" is "+text)
		}
	}
	at := field.NewPath("nodeTopology")
	for i := range c.NodeTopology.MatchExpressions {
		warn(c.NodeTopology.MatchExpressions[i].Key, at.Child("matchExpressions").Index(i).Child("key"))
	}
	for _, key := range check.Keys(c.NodeTopology.MatchLabels) {
		warn(key, at.Child("matchLabels").Child(key))
	}
	return out
}

func validateCSIStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	var errs field.ErrorList
	if c.NodeTopology != nil {
		errs = append(errs, check.Selector(c.NodeTopology, field.NewPath("nodeTopology"), false)...)
	}
	errs = append(errs, check.DNSSubdomain(c.StorageClassName, field.NewPath("storageClassName"))...)
	if c.Capacity != nil {
		errs = append(errs, check.NonNegativeQuantity(*c.Capacity, field.NewPath("capacity"))...)
	}
	return errs
}
