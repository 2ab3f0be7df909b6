package storage

import (
	"strconv"
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Limits of tokens that a driver asks for, and of how often it is asked for its capacity.
const (
	maxDriverName          = 63
	minTokenSeconds        = 10 * 60
	maxTokenSeconds        = 1 << 32
	minUpdatePeriodSeconds = 10
)

func csiDriver() *api.Kind {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:    "storage.k8s.io",
		Kind:     "CSIDriver",
		Resource: "csidrivers",
		Singular: "csidriver",
		Prefix:   "csidrivers",
		Versions: []api.Version{api.NewVersion[storagev1.CSIDriver, storagev1.CSIDriverList]("v1")},
		Hub:      "v1",
		Default:  api.On(defaultCSIDriver),
		// Only changes count, and only from the first one on.
		PrepareForUpdate: api.OnUpdate(func(d, old *storagev1.CSIDriver) {
			d.Generation = old.Generation
			if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
				d.Generation++
			}
		}),
		Validate:       api.Check(func(d *storagev1.CSIDriver) field.ErrorList { return validateCSIDriver(d) }),
		ValidateUpdate: api.CheckUpdate(validateCSIDriverUpdate),
		Warnings:       api.Warn(warnCSIDriver),
		ReturnDeleted:  true,
		Columns: api.Columns(
			table.Name(),
			table.Column("AttachRequired", table.Boolean, doc["attachRequired"]),
			table.Column("PodInfoOnMount", table.Boolean, doc["podInfoOnMount"]),
			table.Column("StorageCapacity", table.Boolean, doc["storageCapacity"]),
			table.Column("TokenRequests", table.String, doc["tokenRequests"]),
			table.Column("RequiresRepublish", table.Boolean, doc["requiresRepublish"]),
			table.Column("Modes", table.String, doc["volumeLifecycleModes"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(d *storagev1.CSIDriver, now time.Time) []any {
			modes, audiences := make([]string, len(d.Spec.VolumeLifecycleModes)), make([]string, len(d.Spec.TokenRequests))
			for i, m := range d.Spec.VolumeLifecycleModes {
				modes[i] = string(m)
			}
			for i, t := range d.Spec.TokenRequests {
				audiences[i] = t.Audience
			}
			mode := strings.Join(modes, ",")
			if mode == "" {
				mode = table.None
			}
			tokens := table.Unset
			if len(audiences) > 0 {
				tokens = strings.Join(audiences, ",")
			}
			return []any{
				d.Name, isTrue(d.Spec.AttachRequired, true), isTrue(d.Spec.PodInfoOnMount, false), isTrue(d.Spec.StorageCapacity, false),
				tokens, isTrue(d.Spec.RequiresRepublish, false), mode, table.Age(d, now),
			}
		}),
	}
}

func isTrue(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	for _, f := range []struct {
		field **bool
		value bool
	}{{&s.AttachRequired, true}, {&s.PodInfoOnMount, false}, {&s.StorageCapacity, false}, {&s.RequiresRepublish, false}, {&s.SELinuxMount, false}, {&s.PreventPodSchedulingIfMissing, false}} {
		if *f.field == nil {
			v := f.value
			*f.field = &v
		}
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	if s.FSGroupPolicy == nil {
		p := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
		s.FSGroupPolicy = &p
	}
}

// validateDriverName wants a name as CSI has it: a domain, upper case forgiven.
func validateDriverName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(p, name, maxDriverName))
	}
	return append(errs, check.Each(validation.IsDNS1123Subdomain(strings.ToLower(name)), p, name)...)
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	p, s := field.NewPath("spec"), &d.Spec
	var errs field.ErrorList
	if len(d.Name) > maxDriverName {
		errs = append(errs, field.TooLong(field.NewPath("metadata", "name"), d.Name, maxDriverName))
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount}, {"storageCapacity", s.StorageCapacity}} {
		if f.value == nil {
			errs = append(errs, field.Required(p.Child(f.name), ""))
		}
	}
	if s.FSGroupPolicy != nil {
		errs = append(errs, check.OneOf(*s.FSGroupPolicy, p.Child("fsGroupPolicy"),
			storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)...)
	}
	audiences := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := p.Child("tokenRequests").Index(i)
		if audiences[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		audiences[t.Audience] = true
		if e := t.ExpirationSeconds; e != nil && *e < minTokenSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
		} else if e != nil && *e > maxTokenSeconds {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	if t := s.ServiceAccountTokenInSecrets; t != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(p.Child("serviceAccountTokenInSecrets"), *t, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	for _, m := range s.VolumeLifecycleModes {
		switch m {
		case storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral:
		default:
			errs = append(errs, field.NotSupported(p.Child("volumeLifecycleModes"), m,
				[]storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}))
		}
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < minUpdatePeriodSeconds {
		errs = append(errs, field.Invalid(p.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to "+strconv.Itoa(minUpdatePeriodSeconds)+" seconds"))
	}
	return errs
}

func validateCSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	p := field.NewPath("spec")
	errs := validateCSIDriver(d)
	errs = append(errs, check.Immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, p.Child("attachedRequired"))...)
	return append(errs, check.Immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, p.Child("volumeLifecycleModes"))...)
}

// warnCSIDriver tells of tokens that a driver would get in the volume's attributes, where logs show them.
func warnCSIDriver(d, old *storagev1.CSIDriver) []string {
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil ||
		old != nil && apiequality.Semantic.DeepEqual(old.Spec.TokenRequests, d.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}
