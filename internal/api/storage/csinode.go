package storage

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// maxNodeID limits what a driver may call a node, in bytes.
const maxNodeID = 256

func csiNode() *api.Kind {
	return &api.Kind{
		Group:            "storage.k8s.io",
		Kind:             "CSINode",
		Resource:         "csinodes",
		Singular:         "csinode",
		Prefix:           "csinodes",
		Versions:         []api.Version{api.NewVersion[storagev1.CSINode, storagev1.CSINodeList]("v1")},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		Resets:           map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareForUpdate: api.OnUpdate(func(n, old *storagev1.CSINode) { n.Status = old.Status }),
		// The health of storage is behind a feature gate (CSIVolumeHealth): it is kept where it already is.
		PrepareForStatusUpdate: api.OnUpdate(func(n, old *storagev1.CSINode) {
			n.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&n.ObjectMeta, &old.ObjectMeta)
			if len(old.Status.StorageHealth) == 0 {
				n.Status.StorageHealth = nil
			}
		}),
		Validate:       api.Check(validateCSINode),
		ValidateUpdate: api.CheckUpdate(validateCSINodeUpdate),
		ReturnDeleted:  true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Drivers", table.Integer, "Drivers indicates the number of CSI drivers registered on the node"),
			table.AgeColumn(),
		),
		Row: api.Row(func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), table.Age(n, now)}
		}),
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range n.Spec.Drivers {
		d, p := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, validateDriverName(d.Name, p.Child("name"))...)
		switch {
		case d.NodeID == "":
			errs = append(errs, field.Required(p.Child("nodeID"), ""))
		case len(d.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(p.Child("nodeID"), d.NodeID, "must be 256 characters or less"))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			errs = append(errs, check.NonNegative(int64(*d.Allocatable.Count), p.Child("allocatable", "count"))...)
		}
		if names[d.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), d.Name))
		}
		names[d.Name] = true
		keys := map[string]bool{}
		for _, k := range d.TopologyKeys {
			if k == "" {
				errs = append(errs, field.Required(p, ""))
			}
			if keys[k] {
				errs = append(errs, field.Duplicate(p, k))
			}
			keys[k] = true
			errs = append(errs, check.QualifiedName(k, p)...)
		}
	}
	return errs
}

func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := validateCSINode(n)
	for _, before := range old.Spec.Drivers {
		for _, d := range n.Spec.Drivers {
			if d.Name != before.Name {
				continue
			}
			if d.NodeID != before.NodeID || !apiequality.Semantic.DeepEqual(d.TopologyKeys, before.TopologyKeys) {
				d.Allocatable = nil // may change, so it is not shown
				errs = append(errs, field.Invalid(field.NewPath("spec", "drivers"), check.Rendered(d), check.ImmutableText))
			}
		}
	}
	return errs
}
