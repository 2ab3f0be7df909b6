package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// What a pod's own fields may be called where they are offered to its containers, in variables and in files. Read-only.
var (
	envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	fileFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")
	// knownFields are those that mean something in version v1, offered or not.
	knownFields = sets.New("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
		"spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	resourceFields = sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage",
		"requests.cpu", "requests.memory", "requests.ephemeral-storage")
	resourceFieldPrefixes = []string{"limits.hugepages-", "requests.hugepages-"}
)

// Messages about references of which exactly one must be there.
const (
	tooManySources = "may not have more than one field specified at a time"
	noEnvSource    = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
)

func validateEnv(env []corev1.EnvVar, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range env {
		if env[i].Name == "" {
			errs = append(errs, field.Required(p.Index(i).Child("name"), ""))
		} else if wrong := validation.IsRelaxedEnvVarName(env[i].Name); len(wrong) > 0 {
			errs = append(errs, check.Each(wrong, p.Index(i).Child("name"), env[i].Name)...)
		}
		if env[i].ValueFrom != nil {
			errs = append(errs, validateEnvSource(&env[i], p.Index(i).Child("valueFrom"))...)
		}
	}
	return errs
}

func validateEnvSource(e *corev1.EnvVar, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	from, n := e.ValueFrom, 0
	if f := from.FieldRef; f != nil {
		n++
		errs = append(errs, validateFieldRef(f, envFields, p.Child("fieldRef"))...)
	}
	if f := from.ResourceFieldRef; f != nil {
		n++
		errs = append(errs, validateResourceFieldRef(f, false, p.Child("resourceFieldRef"))...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, p.Child("configMapKeyRef"))...)
	}
	if r := from.SecretKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(r.Name, r.Key, p.Child("secretKeyRef"))...)
	}
	if f := from.FileKeyRef; f != nil {
		n++
		errs = append(errs, validateFileKeyRef(f, p.Child("fileKeyRef"))...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(p, "", noEnvSource))
	case e.Value != "":
		errs = append(errs, field.Invalid(p, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(p, "", tooManySources))
	}
	return errs
}

func validateKeyRef(name, key string, p *field.Path) field.ErrorList {
	errs := check.DNSSubdomain(name, p.Child("name"))
	if key == "" {
		return append(errs, field.Required(p.Child("key"), ""))
	}
	return append(errs, check.Each(validation.IsConfigMapKey(key), p.Child("key"), key)...)
}

// validateFileVolumes wants the volumes whose files variables come from to be there and empty at first, valid or not.
func (v *specValidation) validateFileVolumes(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, c := range v.all {
		for i := range c.Env {
			from := c.Env[i].ValueFrom
			if from == nil || from.FileKeyRef == nil {
				continue
			}
			name, at := from.FileKeyRef.VolumeName, c.path(p).Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			var source *corev1.VolumeSource
			for j := range v.spec.Volumes {
				if v.spec.Volumes[j].Name == name {
					source = &v.spec.Volumes[j].VolumeSource
				}
			}
			switch {
			case source == nil:
				errs = append(errs, field.NotFound(at, name))
			case source.EmptyDir == nil:
				errs = append(errs, field.Invalid(at, name, "referenced volume must be of type emptyDir"))
			}
		}
	}
	return errs
}

// validateFileKeyRef checks a reference to a variable in a file of a volume of the pod (KEP-3721).
func validateFileKeyRef(f *corev1.FileKeySelector, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if f.Key == "" {
		errs = append(errs, field.Required(p.Child("key"), ""))
	} else {
		errs = append(errs, check.Each(validation.IsRelaxedEnvVarName(f.Key), p.Child("key"), f.Key)...)
	}
	volume := p.Child("volumeName")
	if f.VolumeName == "" {
		errs = append(errs, field.Required(volume, ""))
	} else {
		errs = append(errs, check.DNSLabel(f.VolumeName, volume)...)
	}
	if f.Path == "" {
		return append(errs, field.Required(p.Child("path"), ""))
	}
	return append(errs, validateNoBacksteps(f.Path, p.Child("path"))...)
}

// splitSubscript takes "metadata.labels['app']" apart.
func splitSubscript(path string) (base, subscript string, ok bool) {
	rest, found := strings.CutSuffix(path, "']")
	if !found {
		return path, "", false
	}
	base, subscript, found = strings.Cut(rest, "['")
	if !found || base == "" {
		return path, "", false
	}
	return base, subscript, true
}

func validateFieldRef(f *corev1.ObjectFieldSelector, offered sets.Set[string], p *field.Path) field.ErrorList {
	if f.APIVersion == "" {
		return field.ErrorList{field.Required(p.Child("apiVersion"), "")}
	}
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(p.Child("fieldPath"), "")}
	}
	bad := func(text string) field.ErrorList {
		return field.ErrorList{field.Invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: "+text)}
	}
	if f.APIVersion != "v1" {
		return bad("unsupported pod version: " + f.APIVersion)
	}
	if base, key, ok := splitSubscript(f.FieldPath); ok {
		switch base {
		case "metadata.annotations":
			return check.QualifiedName(strings.ToLower(key), p)
		case "metadata.labels":
			return check.QualifiedName(key, p)
		}
		return bad("field label does not support subscript: " + f.FieldPath)
	}
	path := f.FieldPath
	if path == "spec.host" {
		path = "spec.nodeName" // its name before v1
	}
	if !knownFields.Has(path) {
		return bad("field label not supported: " + path)
	}
	if !offered.Has(path) {
		return field.ErrorList{field.NotSupported(p.Child("fieldPath"), path, sets.List(offered))}
	}
	return nil
}

func validateResourceFieldRef(f *corev1.ResourceFieldSelector, inVolume bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	hasPrefix := func(prefix string) bool { return strings.HasPrefix(f.Resource, prefix) }
	switch {
	case inVolume && f.ContainerName == "":
		errs = append(errs, field.Required(p.Child("containerName"), ""))
	case f.Resource == "":
		errs = append(errs, field.Required(p.Child("resource"), ""))
	case !resourceFields.Has(f.Resource) && !slices.ContainsFunc(resourceFieldPrefixes, hasPrefix):
		errs = append(errs, field.NotSupported(p.Child("resource"), f.Resource, sets.List(resourceFields)))
	}
	return append(errs, validateDivisor(f.Resource, f.Divisor, p)...)
}

// Divisors that make sense, as they are listed in messages. Read-only.
var (
	cpuDivisors  = []string{"1m", "1"}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func validateDivisor(name string, divisor resource.Quantity, p *field.Path) field.ErrorList {
	if divisor.IsZero() {
		return nil
	}
	var allowed []string
	var text string
	switch _, kind, _ := strings.Cut(name, "."); {
	case kind == "cpu":
		allowed, text = cpuDivisors, "only divisor's values 1m and 1 are supported with the cpu resource"
	case kind == "memory":
		allowed, text = byteDivisors, "only divisor's values %s are supported with the memory resource"
	case kind == "ephemeral-storage":
		allowed, text = byteDivisors, "only divisor's values %s are supported with the local ephemeral storage resource"
	case strings.HasPrefix(kind, corev1.ResourceHugePagesPrefix):
		allowed, text = byteDivisors, "only divisor's values %s are supported with the hugepages resource"
	default:
		return nil
	}
	if slices.Contains(allowed, divisor.String()) {
		return nil
	}
	if strings.Contains(text, "%s") {
		text = fmt.Sprintf(text, strings.Join(allowed, ", "))
	}
	return field.ErrorList{field.Invalid(p.Child("divisor"), name, text)}
}

func validateEnvFrom(list []corev1.EnvFromSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		e, at, n := &list[i], p.Index(i), 0
		if e.Prefix != "" {
			errs = append(errs, check.Each(validation.IsRelaxedEnvVarName(e.Prefix), at.Child("prefix"), e.Prefix)...)
		}
		if e.ConfigMapRef != nil {
			n++
			errs = append(errs, validateSourceName(e.ConfigMapRef.Name, at.Child("configMapRef", "name"))...)
		}
		if e.SecretRef != nil {
			n++
			errs = append(errs, validateSourceName(e.SecretRef.Name, at.Child("secretRef", "name"))...)
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(p, "", tooManySources))
		}
	}
	return errs
}

func validateSourceName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.DNSSubdomain(name, p)
}
