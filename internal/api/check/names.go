package check

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IsHugePages says whether name is a size of huge pages ("hugepages-2Mi").
func IsHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// IsNativeResource says whether name belongs to Kubernetes: it has no domain, or one of kubernetes.io.
func IsNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// IsExtendedResource says whether name is a resource that an operator or a device plugin brought ("example.com/gpu").
func IsExtendedResource(name corev1.ResourceName) bool {
	if IsNativeResource(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// IsOvercommitAllowed says whether a container may request less than its limit of the resource.
func IsOvercommitAllowed(name corev1.ResourceName) bool {
	return IsNativeResource(name) && !IsHugePages(name)
}

// IsContainerResource says whether name may stand in a container's resources without a domain.
func IsContainerResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return IsHugePages(name)
}

// isCounted says whether name counts objects in a quota.
func isCounted(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

// IsQuotaResource says whether a quota may limit name without a domain.
func IsQuotaResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	return isCounted(name) || IsHugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isStandard says whether name is a resource without a domain that is known anywhere.
func isStandard(name corev1.ResourceName) bool {
	return IsQuotaResource(name) || IsContainerResource(name) || name == corev1.ResourceStorage
}

// IsInteger says whether amounts of name are whole numbers.
func IsInteger(name corev1.ResourceName) bool { return isCounted(name) || IsExtendedResource(name) }

// ResourceName wants a qualified name that is a known resource or has a domain.
func ResourceName(name corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := QualifiedName(string(name), p)
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !isStandard(name) {
		errs = append(errs, field.Invalid(p, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

// ContainerResourceName wants a resource that containers can have.
func ContainerResourceName(name corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := ResourceName(name, p)
	switch {
	case !strings.Contains(string(name), "/"):
		if !IsContainerResource(name) {
			errs = append(errs, field.Invalid(p, name, "must be a standard resource for containers"))
		}
	case !IsNativeResource(name) && !IsExtendedResource(name):
		errs = append(errs, field.Invalid(p, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// QuotaResourceName wants a resource that quotas can limit.
func QuotaResourceName(name corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := ResourceName(name, p)
	if !strings.Contains(string(name), "/") && !IsQuotaResource(name) {
		errs = append(errs, field.Invalid(p, name, "must be a standard resource for quota"))
	}
	return errs
}

// ResourceQuantity wants an amount of name that makes sense: not negative, and whole where only whole ones exist.
func ResourceQuantity(name corev1.ResourceName, q resource.Quantity, p *field.Path) field.ErrorList {
	errs := NonNegativeQuantity(q, p)
	if IsInteger(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(p, q, NotIntegerText))
	}
	return errs
}

// HugePagesQuantity wants a whole number of pages.
func HugePagesQuantity(name corev1.ResourceName, q resource.Quantity, p *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil {
		return field.ErrorList{field.Invalid(p, q.String(), err.Error())}
	}
	if size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(p, q.String(), "invalid hugepage size "+size.String())}
	}
	if q.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(p, q.String(), q.String()+" is not positive integer multiple of "+string(name))}
	}
	return nil
}

// Sorted returns the names of a resource list in order, so that complaints have a fixed one.
func Sorted[V any](list map[corev1.ResourceName]V) []corev1.ResourceName {
	return sets.List(sets.KeySet(list))
}

// Addresses as old fields accept them: strict for what is new, anything that was stored before.
//
// IP wants an address; old ones that were accepted before stay.
func IP(v string, p *field.Path, old ...string) field.ErrorList {
	return validation.IsValidIPForLegacyField(p, v, true, old)
}

// CIDR wants an address range; old ones that were accepted before stay.
func CIDR(v string, p *field.Path, old ...string) field.ErrorList {
	return validation.IsValidCIDRForLegacyField(p, v, true, old)
}
