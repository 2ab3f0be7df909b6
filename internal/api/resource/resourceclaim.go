package resource

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func resourceClaim() *api.Kind {
	return &api.Kind{
		Group:        "resource.k8s.io",
		Kind:         "ResourceClaim",
		Resource:     "resourceclaims",
		Singular:     "resourceclaim",
		Namespaced:   true,
		Prefix:       "resourceclaims",
		Versions:     []api.Version{api.NewVersion[resourcev1.ResourceClaim, resourcev1.ResourceClaimList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.TablelessStatus()},
		Resets:       map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(c *resourcev1.ResourceClaim) {
			c.Status = resourcev1.ResourceClaimStatus{}
			dropFromClaim(&c.Spec, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(c, old *resourcev1.ResourceClaim) {
			c.Status = old.Status
			dropFromClaim(&c.Spec, &old.Spec)
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(c, old *resourcev1.ResourceClaim) {
			c.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
			dropOptionalNodeOperations(c, old)
			dropDeallocated(c, old)
		}),
		Default: api.On(func(c *resourcev1.ResourceClaim) {
			defaultClaim(&c.Spec)
			if a := c.Status.Allocation; a != nil {
				for i := range a.Devices.Results {
					defaultTolerations(a.Devices.Results[i].Tolerations)
				}
			}
		}),
		Validate: api.Check(func(c *resourcev1.ResourceClaim) field.ErrorList {
			return validateClaimSpec(&c.Spec, field.NewPath("spec"))
		}),
		ValidateInNamespace:      api.CheckInNamespace(validateClaimAdmin),
		ValidateUpdate:           api.CheckUpdate(validateClaimUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateClaimStatus),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns: api.Columns(
			table.Name(),
			table.Column("State", table.String, "A summary of the current state (allocated, pending, reserved, etc.)."),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *resourcev1.ResourceClaim, now time.Time) []any {
			return []any{c.Name, state(c), table.Age(c, now)}
		}),
	}
}

func state(c *resourcev1.ResourceClaim) string {
	var words []string
	if c.DeletionTimestamp != nil {
		words = append(words, "deleted")
	}
	if c.Status.Allocation == nil {
		if c.DeletionTimestamp == nil {
			words = append(words, "pending")
		}
		return strings.Join(words, ",")
	}
	words = append(words, "allocated")
	if len(c.Status.ReservedFor) > 0 {
		words = append(words, "reserved")
	}
	return strings.Join(words, ",")
}

func validateClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	return check.Unchanged(c.Spec, old.Spec, field.NewPath("spec"))
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	p, s := field.NewPath("status"), &c.Status
	reserved := p.Child("reservedFor")
	users := validateReserved(s.ReservedFor, reserved)
	errs := slices.Clone(users)
	devices := validateDeviceStatuses(s, p.Child("devices"))
	errs = append(errs, devices...)
	switch {
	case len(s.ReservedFor) == 0:
	case s.Allocation == nil:
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil:
		for _, r := range s.ReservedFor {
			if !slices.Contains(old.Status.ReservedFor, r) {
				errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
				break
			}
		}
	}
	allocation := p.Child("allocation")
	switch was := old.Status.Allocation; {
	case s.Allocation == nil:
	case was == nil:
		errs = append(errs, validateAllocation(s.Allocation, requestNames(&c.Spec), allocation)...)
	case !apiequality.Semantic.DeepEqual(*was, *s.Allocation):
		errs = append(errs, check.Declared(field.ErrorList{field.Invalid(allocation, nil, check.OnceText)})...)
	}
	// What is declared is told in the order of the fields, which the rest is not: after the allocation come its users, and the devices.
	late := slices.DeleteFunc(append(users, devices...), func(e *field.Error) bool { return !e.IsBeta() })
	errs = slices.DeleteFunc(errs, func(e *field.Error) bool { return slices.Contains(late, e) })
	return append(errs, late...)
}

// requestNames are the names by which the parts of a claim are referred to: of requests, and "request/subrequest".
func requestNames(s *resourcev1.ResourceClaimSpec) map[string]bool {
	names := map[string]bool{}
	for _, r := range s.Devices.Requests {
		names[r.Name] = true
		for _, sub := range r.FirstAvailable {
			names[r.Name+"/"+sub.Name] = true
		}
	}
	return names
}

func validateReserved(list []resourcev1.ResourceClaimConsumerReference, p *field.Path) field.ErrorList {
	return validateUnique(list, resourcev1.ResourceClaimReservedForMaxSize, p,
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID },
		func(r *resourcev1.ResourceClaimConsumerReference, p *field.Path) field.ErrorList {
			var errs field.ErrorList
			for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
				if f.value == "" {
					errs = append(errs, field.Required(p.Child(f.name), ""))
				}
			}
			return errs
		})
}

const notAdmin = "admin access to devices requires the `" + resourcev1.DRAAdminNamespaceLabelKey + ": true` label on the containing namespace"

// validateAdmin allows requests of administrators in their namespaces only.
func validateAdmin(s *resourcev1.ResourceClaimSpec, labels map[string]string) field.ErrorList {
	if labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	p := field.NewPath("spec", "devices", "requests")
	for i, r := range s.Devices.Requests {
		if r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess {
			return field.ErrorList{field.Forbidden(p.Index(i).Child("adminAccess"), notAdmin)}
		}
	}
	return nil
}

// validateClaimAdmin is validateAdmin for claims and, once they are allocated, for what was allocated.
func validateClaimAdmin(c, old *resourcev1.ResourceClaim, labels map[string]string) field.ErrorList {
	if old == nil {
		return validateAdmin(&c.Spec, labels)
	}
	if c.Status.Allocation == nil || givesAdmin(old.Status.Allocation) || labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
		return nil
	}
	p := field.NewPath("status", "allocation", "devices", "results")
	for i, r := range c.Status.Allocation.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			return field.ErrorList{field.Forbidden(p.Index(i).Child("adminAccess"), notAdmin)}
		}
	}
	return nil
}

// givesAdmin says whether an allocation has a device that its users may do everything with. As allocations stay, that was checked then.
func givesAdmin(a *resourcev1.AllocationResult) bool {
	return a != nil && slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return r.AdminAccess != nil && *r.AdminAccess })
}

// dropOptionalNodeOperations drops what is of the feature DRAOptionalNodeOperations, which is off by default.
func dropOptionalNodeOperations(c, old *resourcev1.ResourceClaim) {
	if a := old.Status.Allocation; a != nil && slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.SkipNodeOperations) > 0 }) {
		return
	}
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			a.Devices.Results[i].SkipNodeOperations = nil
		}
	}
}

// maxAllocationConfig is how many configurations come with an allocation: those of the claim and of the classes.
const maxAllocationConfig = 2 * resourcev1.DeviceConfigMaxSize

func validateAllocation(a *resourcev1.AllocationResult, names map[string]bool, p *field.Path) field.ErrorList {
	errs := validateEach(a.Devices.Results, resourcev1.AllocationResultsMaxSize, p.Child("devices", "results"),
		func(r *resourcev1.DeviceRequestAllocationResult, p *field.Path) field.ErrorList {
			errs := validateReference(r.Request, names, p.Child("request"))
			errs = append(errs, check.Driver(r.Driver, resourcev1.DriverNameMaxLength, p.Child("driver"))...)
			errs = append(errs, validateDeclaredPool(r.Pool, p.Child("pool"))...)
			errs = append(errs, check.DNSLabel(r.Device, p.Child("device"))...)
			var rest field.ErrorList
			for i := range r.Tolerations {
				for _, e := range validateToleration(&r.Tolerations[i], p.Child("tolerations").Index(i)) {
					if e.IsBeta() {
						errs = append(errs, e) // what is declared is told in the order of the fields
					} else {
						rest = append(rest, e)
					}
				}
			}
			errs = append(errs, validateBindingConditions(r.BindingConditions, r.BindingFailureConditions, p)...)
			errs = append(errs, rest...)
			if r.ShareID != nil {
				errs = append(errs, validateDeclaredShare(string(*r.ShareID), p.Child("shareID"))...)
			}
			return errs
		})
	errs = append(errs, validateEach(a.Devices.Config, maxAllocationConfig, p.Child("devices", "config"),
		func(c *resourcev1.DeviceAllocationConfiguration, p *field.Path) field.ErrorList {
			errs := check.Declared(check.Enum(c.Source, p.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass))
			errs = append(errs, validateReferences(c.Requests, names, p.Child("requests"))...)
			return append(errs, validateConfiguration(&c.DeviceConfiguration, false, p)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(a.NodeSelector, false, p.Child("nodeSelector"))...)
	}
	return errs
}

// validateShare wants a UUID in its one normal form.
func validateShare(id string, p *field.Path) field.ErrorList {
	if err := uuid.Validate(id); err != nil {
		return field.ErrorList{field.Invalid(p, id, "error validating uid: "+err.Error())}
	}
	if len(id) != len(uuid.Nil.String()) || id != strings.ToLower(id) {
		return field.ErrorList{field.Invalid(p, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

// validateDeclaredShare is validateShare where upstream declares what a share is called.
func validateDeclaredShare(id string, p *field.Path) field.ErrorList {
	if len(validateShare(id, p)) == 0 {
		return nil
	}
	return check.Declared(field.ErrorList{field.Invalid(p, id, "must be a lowercase UUID in 8-4-4-4-12 format")})
}

// maxPool limits the name of a pool, in bytes; each of its parts is a domain.
const maxPool = 253

func validatePool(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if len(name) > maxPool {
		errs = append(errs, field.TooLong(p, name, maxPool))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, check.DNSSubdomain(part, p)...)
	}
	return errs
}

// validateDeclaredPool is validatePool where upstream declares what a pool is called.
func validateDeclaredPool(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return check.Missing(p)
	}
	var errs field.ErrorList
	if len(name) > maxPool {
		errs = append(errs, field.TooLong(p, name, maxPool))
	}
	for i, part := range strings.Split(name, "/") {
		if part == "" {
			errs = append(errs, field.Invalid(p, name, fmt.Sprintf("segment %d: must not be empty", i)))
			continue
		}
		for _, e := range check.Domain(part, p) {
			e.Detail = fmt.Sprintf("segment %d: %s", i, e.Detail)
			errs = append(errs, e)
		}
	}
	return check.Declared(errs)
}

// deviceID names one allocated device, or a share of one.
type deviceID struct{ Driver, Pool, Device, ShareID string }

func allocatedDevices(s *resourcev1.ResourceClaimStatus) map[deviceID]bool {
	out := map[deviceID]bool{}
	if s.Allocation == nil {
		return out
	}
	for _, r := range s.Allocation.Devices.Results {
		d := deviceID{Driver: r.Driver, Pool: r.Pool, Device: r.Device}
		if r.ShareID != nil {
			d.ShareID = string(*r.ShareID)
		}
		out[d] = true
	}
	return out
}

func idOf(d *resourcev1.AllocatedDeviceStatus) deviceID {
	id := deviceID{Driver: d.Driver, Pool: d.Pool, Device: d.Device}
	if d.ShareID != nil {
		id.ShareID = *d.ShareID
	}
	return id
}

// dropDeallocated removes the statuses of devices that were allocated before and no longer are: a status ends with the allocation.
func dropDeallocated(c, old *resourcev1.ResourceClaim) {
	before, now := allocatedDevices(&old.Status), allocatedDevices(&c.Status)
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		return before[idOf(&d)] && !now[idOf(&d)]
	})
}

// validateDeviceStatuses wants statuses of allocated devices only.
func validateDeviceStatuses(s *resourcev1.ResourceClaimStatus, p *field.Path) field.ErrorList {
	allocated := allocatedDevices(s)
	return validateUnique(s.Devices, math.MaxInt, p, idOf, func(d *resourcev1.AllocatedDeviceStatus, p *field.Path) field.ErrorList {
		errs := validateDriver(d.Driver, p.Child("driver"))
		errs = append(errs, validatePool(d.Pool, p.Child("pool"))...)
		errs = append(errs, check.DNSLabel(d.Device, p.Child("device"))...)
		if d.ShareID != nil {
			errs = append(errs, validateDeclaredShare(*d.ShareID, p.Child("shareID"))...)
		}
		if id := idOf(d); !allocated[id] {
			errs = append(errs, field.Invalid(p, id, "must be an allocated device in the claim"))
		}
		conditions := p.Child("conditions")
		if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
			errs = append(errs, field.TooMany(conditions, n, resourcev1.AllocatedDeviceStatusMaxConditions))
		}
		errs = append(errs, metav1validation.ValidateConditions(d.Conditions, conditions)...)
		if d.Data != nil && len(d.Data.Raw) > 0 {
			errs = append(errs, validateRaw(d.Data.Raw, resourcev1.AllocatedDeviceStatusDataMaxLength, p.Child("data"))...)
		}
		return append(errs, validateNetwork(d.NetworkData, p.Child("networkData"))...)
	})
}

// validateNetwork checks what a driver tells of a network device (KEP-4817).
func validateNetwork(d *resourcev1.NetworkDeviceData, p *field.Path) field.ErrorList {
	if d == nil {
		return nil
	}
	var errs field.ErrorList
	if len(d.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, check.Declared(field.ErrorList{field.TooLong(p.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength)})...)
	}
	errs = append(errs, validateUnique(d.IPs, resourcev1.NetworkDeviceDataMaxIPs, p.Child("ips"), itself,
		func(ip *string, p *field.Path) field.ErrorList { return validation.IsValidInterfaceAddress(p, *ip) })...)
	if len(d.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, check.Declared(field.ErrorList{field.TooLong(p.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength)})...)
	}
	return errs
}
