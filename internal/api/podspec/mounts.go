package podspec

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateMounts checks where a container wants which volumes. Upstream reports some fields without the mount's index.
func (v *specValidation) validateMounts(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, paths := sets.New[string](), sets.New[string]()
	for i := range c.VolumeDevices {
		names.Insert(c.VolumeDevices[i].Name)
		paths.Insert(c.VolumeDevices[i].DevicePath)
	}
	seen := sets.New[string]()
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], p.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		if v.volumes[m.Name] == nil {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		}
		if seen.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		seen.Insert(m.MountPath)
		if names.Has(m.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if paths.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if m.SubPath != "" {
			errs = append(errs, validateLocalPath(m.SubPath, p.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, validateLocalPath(m.SubPathExpr, p.Child("subPathExpr"))...)
		}
		errs = append(errs, validatePropagation(m, c, p.Child("mountPropagation"))...)
		errs = append(errs, validateRecursiveReadOnly(m, p.Child("recursiveReadOnly"))...)
	}
	return errs
}

func validatePropagation(m *corev1.VolumeMount, c *corev1.Container, p *field.Path) field.ErrorList {
	if m.MountPropagation == nil {
		return nil
	}
	if errs := check.OneOf(*m.MountPropagation, p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone); len(errs) > 0 {
		return errs
	}
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		return field.ErrorList{field.Forbidden(p, "Bidirectional mount propagation is available only to privileged containers")}
	}
	return nil
}

// validateRecursiveReadOnly wants mounts that are read-only all the way down (KEP-3857) to be read-only and private.
func validateRecursiveReadOnly(m *corev1.VolumeMount, p *field.Path) field.ErrorList {
	if m.RecursiveReadOnly == nil {
		return nil
	}
	var errs field.ErrorList
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyDisabled:
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			errs = append(errs, field.Forbidden(p, "may only be specified when readOnly is true"))
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			errs = append(errs, field.Forbidden(p, "may only be specified when mountPropagation is None or not specified"))
		}
	default:
		errs = append(errs, check.OneOf(*m.RecursiveReadOnly, p, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled)...)
	}
	return errs
}

// validateDevices checks which volumes a container wants as raw devices.
func (v *specValidation) validateDevices(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, paths := sets.New[string](), sets.New[string]()
	for i := range c.VolumeMounts {
		names.Insert(c.VolumeMounts[i].Name)
		paths.Insert(c.VolumeMounts[i].MountPath)
	}
	seenNames, seenPaths := sets.New[string](), sets.New[string]()
	for i := range c.VolumeDevices {
		d, name, at := &c.VolumeDevices[i], p.Index(i).Child("name"), p.Index(i).Child("devicePath")
		if d.Name == "" {
			errs = append(errs, field.Required(name, ""))
		}
		if seenNames.Has(d.Name) {
			errs = append(errs, field.Invalid(name, d.Name, "must be unique"))
		}
		if source := v.volumes[d.Name]; source == nil {
			errs = append(errs, field.NotFound(name, d.Name))
		} else if source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			errs = append(errs, field.Invalid(name, d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		if d.DevicePath == "" {
			errs = append(errs, field.Required(at, ""))
		}
		if seenPaths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at, d.DevicePath, "must be unique"))
		}
		if d.DevicePath != "" && hasBackstep(d.DevicePath) {
			errs = append(errs, field.Invalid(at, d.DevicePath, "can not contain backsteps ('..')"))
		} else {
			seenPaths.Insert(d.DevicePath)
		}
		if names.Has(d.Name) {
			errs = append(errs, field.Invalid(name, d.Name, "must not already exist in volumeMounts"))
		}
		if paths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at, d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
		if d.Name != "" {
			seenNames.Insert(d.Name)
		}
	}
	return errs
}

// hasBackstep says whether a path leads upwards somewhere, whatever the system's separator.
func hasBackstep(p string) bool {
	for part := range strings.SplitSeq(strings.ReplaceAll(p, `\`, "/"), "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func validateNoBacksteps(v string, p *field.Path) field.ErrorList {
	if hasBackstep(v) {
		return field.ErrorList{field.Invalid(p, v, "must not contain '..'")}
	}
	return nil
}

// validateLocalPath wants a relative path that stays below where it starts.
func validateLocalPath(v string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(v) {
		errs = append(errs, field.Invalid(p, v, "must be a relative path"))
	}
	return append(errs, validateNoBacksteps(v, p)...)
}

// validateFilePath is validateLocalPath for files that the node itself writes, whose names beginning with ".." are its own.
func validateFilePath(v string, p *field.Path) field.ErrorList {
	errs := validateLocalPath(v, p)
	if strings.HasPrefix(v, "..") && !strings.HasPrefix(v, "../") {
		errs = append(errs, field.Invalid(p, v, "must not start with '..'"))
	}
	return errs
}
