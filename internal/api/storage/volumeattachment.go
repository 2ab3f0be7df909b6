package storage

import (
	"math"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/core"
	"github.com/celox/celox/internal/api/table"
)

// Limits of what an attacher reports, in bytes.
const (
	maxAttachMetadata = 256 << 10
	maxAttachError    = 1024
)

func volumeAttachment() *api.Kind {
	doc := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:            "storage.k8s.io",
		Kind:             "VolumeAttachment",
		Resource:         "volumeattachments",
		Singular:         "volumeattachment",
		Prefix:           "volumeattachments",
		Versions:         []api.Version{api.NewVersion[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList]("v1")},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		Resets:           map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareForUpdate: api.OnUpdate(func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(a, old *storagev1.VolumeAttachment) {
			a.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&a.ObjectMeta, &old.ObjectMeta)
		}),
		Default: api.On(func(a *storagev1.VolumeAttachment) {
			if s := a.Spec.Source.InlineVolumeSpec; s != nil {
				core.DefaultVolumeSource(&s.PersistentVolumeSource)
			}
		}),
		Validate: api.Check(func(a *storagev1.VolumeAttachment) field.ErrorList {
			return append(validateAttachment(a), check.Driver(a.Spec.Attacher, maxDriverName, field.NewPath("spec", "attacher"))...)
		}),
		ValidateUpdate:       api.CheckUpdate(validateAttachmentUpdate),
		ValidateStatusUpdate: api.CheckUpdate(validateAttachmentUpdate),
		ReturnDeleted:        true,
		Columns: api.Columns(
			table.Name(),
			named(table.Column("Attacher", table.String, doc["attacher"])),
			table.Column("PV", table.String, storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			table.Column("Node", table.String, doc["nodeName"]),
			table.Column("Attached", table.Boolean, storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(a *storagev1.VolumeAttachment, now time.Time) []any {
			volume := ""
			if n := a.Spec.Source.PersistentVolumeName; n != nil {
				volume = *n
			}
			return []any{a.Name, a.Spec.Attacher, volume, a.Spec.NodeName, a.Status.Attached, table.Age(a, now)}
		}),
	}
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	p, s := field.NewPath("spec"), &a.Spec
	var errs field.ErrorList
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	source := p.Child("source")
	switch v, inline := s.Source.PersistentVolumeName, s.Source.InlineVolumeSpec; {
	case v == nil && inline == nil:
		errs = append(errs, field.Required(source, one))
	case v != nil && inline != nil:
		errs = append(errs, field.Forbidden(source, one))
	case v != nil && *v == "":
		errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	case inline != nil:
		errs = append(errs, core.ValidateInlineVolume(inline, source.Child("inlineVolumeSpec"))...)
	}
	errs = append(errs, check.DNSSubdomain(s.NodeName, p.Child("nodeName"))...)
	if v := s.Source.PersistentVolumeName; v != nil {
		errs = append(errs, check.DNSSubdomain(*v, source.Child("persistentVolumeName"))...)
	}
	return errs
}

func validateAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := append(validateDriverName(a.Spec.Attacher, field.NewPath("spec", "attacher")), validateAttachment(a)...)
	p := field.NewPath("status")
	size := 0
	for k, v := range a.Status.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxAttachMetadata {
		errs = append(errs, field.TooLong(p.Child("attachmentMetadata"), "", maxAttachMetadata))
	}
	for _, f := range []struct {
		name string
		err  *storagev1.VolumeError
	}{{"attachError", a.Status.AttachError}, {"detachError", a.Status.DetachError}} {
		if f.err == nil {
			continue
		}
		if len(f.err.Message) > maxAttachError {
			// Upstream names the limit of the metadata here.
			errs = append(errs, field.TooLong(p.Child(f.name, "message"), "", maxAttachMetadata))
		}
		if code := f.err.ErrorCode; code != nil && *code < 0 {
			errs = append(errs, field.Invalid(p.Child(f.name, "errorCode"), *code, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return append(errs, check.Unchanged(a.Spec, old.Spec, field.NewPath("spec"))...)
}
