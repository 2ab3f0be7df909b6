package storage

import (
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// Annotations that make a class the one that claims get which name none.
const (
	isDefault     = "storageclass.kubernetes.io/is-default-class"
	isDefaultBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// Limits of the parameters of a class.
const (
	maxParameters      = 512
	maxParametersBytes = 256 << 10
)

func storageClass() *api.Kind {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return &api.Kind{
		Group:                    "storage.k8s.io",
		Kind:                     "StorageClass",
		Resource:                 "storageclasses",
		Singular:                 "storageclass",
		ShortNames:               []string{"sc"},
		Prefix:                   "storageclasses",
		Versions:                 []api.Version{api.NewVersion[storagev1.StorageClass, storagev1.StorageClassList]("v1")},
		Hub:                      "v1",
		Default:                  api.On(defaultStorageClass),
		Validate:                 api.Check(validateStorageClass),
		ValidateUpdate:           api.CheckUpdate(validateStorageClassUpdate),
		Warnings:                 api.Warn(warnStorageClass),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Provisioner", table.String, doc["provisioner"]),
			table.Column("ReclaimPolicy", table.String, doc["reclaimPolicy"]),
			table.Column("VolumeBindingMode", table.String, doc["volumeBindingMode"]),
			table.Column("AllowVolumeExpansion", table.String, doc["allowVolumeExpansion"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *storagev1.StorageClass, now time.Time) []any { return storageClassRow(c, false, now) }),
		ListRow: func(list iter.Seq[api.Object]) api.Cells {
			chosen := defaultClass(list)
			return api.Row(func(c *storagev1.StorageClass, now time.Time) []any { return storageClassRow(c, c.Name == chosen, now) })
		},
	}
}

func storageClassRow(c *storagev1.StorageClass, chosen bool, now time.Time) []any {
	name := c.Name
	if chosen {
		name += " (default)"
	}
	reclaim, mode := string(corev1.PersistentVolumeReclaimDelete), string(storagev1.VolumeBindingImmediate)
	if c.ReclaimPolicy != nil {
		reclaim = string(*c.ReclaimPolicy)
	}
	if c.VolumeBindingMode != nil {
		mode = string(*c.VolumeBindingMode)
	}
	return []any{name, c.Provisioner, reclaim, mode, c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion, table.Age(c, now)}
}

// defaultClass returns the name of the class that claims get which name none: of those that say it of themselves the newest, and of
// equally old ones the first by name. "" is none.
func defaultClass(list iter.Seq[api.Object]) string {
	var best api.Object
	for c := range list {
		if a := c.GetAnnotations(); a[isDefault] != "true" && a[isDefaultBeta] != "true" {
			continue
		}
		if best == nil {
			best = c
			continue
		}
		t, u := c.GetCreationTimestamp(), best.GetCreationTimestamp()
		if t.After(u.Time) || t.Equal(&u) && c.GetName() < best.GetName() {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.GetName()
}

// warnStorageClass tells of topologies that name labels which nodes no longer have.
func warnStorageClass(c, _ *storagev1.StorageClass) []string {
	var out []string
	for i := range c.AllowedTopologies {
		for j := range c.AllowedTopologies[i].MatchLabelExpressions {
			key := c.AllowedTopologies[i].MatchLabelExpressions[j].Key
			if text, ok := podspec.OldNodeLabel(key); ok {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				out = append(out, at.String()+": "+key+" is "+text)
			}
		}
	}
	return out
}

func defaultStorageClass(c *storagev1.StorageClass) {
	if c.ReclaimPolicy == nil {
		p := corev1.PersistentVolumeReclaimDelete
		c.ReclaimPolicy = &p
	}
	if c.VolumeBindingMode == nil {
		m := storagev1.VolumeBindingImmediate
		c.VolumeBindingMode = &m
	}
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	if at := field.NewPath("provisioner"); c.Provisioner == "" {
		errs = check.Missing(at)
	} else {
		errs = validateProvisioner(c.Provisioner, at)
	}
	errs = append(errs, validateParameters(c.Parameters, false, field.NewPath("parameters"))...)
	if c.ReclaimPolicy != nil && *c.ReclaimPolicy != "" {
		errs = append(errs, check.OneOf(*c.ReclaimPolicy, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, check.OneOf(*c.VolumeBindingMode, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// validateProvisioner wants a qualified name; upper case is forgiven.
func validateProvisioner(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.QualifiedName(strings.ToLower(name), p)
}

func validateParameters(params map[string]string, wanted bool, p *field.Path) field.ErrorList {
	if len(params) > maxParameters {
		return field.ErrorList{field.TooLong(p, "", maxParameters)}
	}
	if wanted && len(params) == 0 {
		return field.ErrorList{field.Required(p, "must contain at least one key/value pair")}
	}
	var errs field.ErrorList
	size := 0
	for _, k := range check.Keys(params) {
		if k == "" {
			errs = append(errs, field.Invalid(p, k, "field can not be empty."))
		}
		size += len(k) + len(params[k])
	}
	if size > maxParametersBytes {
		errs = append(errs, field.TooLong(p, "", maxParametersBytes))
	}
	return errs
}

// validateTopologies wants each term to select other nodes than those before it. Upstream compares a term with as many empty
// ones first as there are terms, so an empty one is a duplicate from the start.
func validateTopologies(terms []corev1.TopologySelectorTerm, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	before := make([]map[string]map[string]bool, len(terms), 2*len(terms)) // the values of each key
	for i := range terms {
		at := p.Index(i).Child("matchLabelExpressions")
		keys := map[string]map[string]bool{}
		for j, e := range terms[i].MatchLabelExpressions {
			expr := at.Index(j)
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(expr.Child("values"), ""))
			}
			values := map[string]bool{}
			for n, v := range e.Values {
				if values[v] {
					errs = append(errs, field.Duplicate(expr.Child("values").Index(n), v))
				}
				values[v] = true
			}
			errs = append(errs, check.QualifiedName(e.Key, expr.Child("key"))...)
			if keys[e.Key] != nil {
				errs = append(errs, field.Duplicate(expr.Child("key"), e.Key))
			}
			keys[e.Key] = values
		}
		for _, b := range before {
			if apiequality.Semantic.DeepEqual(keys, b) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		before = append(before, keys)
	}
	return errs
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := validateStorageClass(c)
	errs = append(errs, check.Unchanged(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, check.Unchanged(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
	errs = append(errs, check.Unchanged(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, check.Unchanged(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
