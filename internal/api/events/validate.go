package events

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Limits of the new events' texts, in bytes.
const (
	maxWordBytes = 128
	maxNoteBytes = 1024
)

// Validate checks an event as every door does. One with an event time is a new one (KEP-383) and must be complete. reporter is the name
// of the field with the controller's name at this door.
func Validate(e *corev1.Event, reporter string) field.ErrorList {
	var errs field.ErrorList
	mismatch := func() {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	about := e.InvolvedObject.Namespace
	if e.EventTime.IsZero() {
		// Events about things without a namespace live in "default".
		if about == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault || about != "" && about != e.Namespace {
			mismatch()
		}
		return errs
	}
	if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		mismatch()
	}
	if e.ReportingController == "" {
		errs = append(errs, field.Required(field.NewPath(reporter), ""))
	}
	errs = append(errs, check.QualifiedName(e.ReportingController, field.NewPath(reporter))...)
	for _, f := range []struct{ name, value string }{{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason}} {
		if f.value == "" {
			errs = append(errs, field.Required(field.NewPath(f.name), ""))
		}
		errs = append(errs, atMost(f.value, maxWordBytes, f.name)...)
	}
	return append(errs, atMost(e.Message, maxNoteBytes, "message")...)
}

func atMost(v string, bytes int, name string) field.ErrorList {
	if len(v) > bytes {
		return field.ErrorList{field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", bytes))}
	}
	return nil
}

// validate checks what only the new door does: events are new ones, and of those only the series changes.
func validate(e, old *corev1.Event) field.ErrorList {
	errs := Validate(e, "reportingController")
	if old != nil {
		return append(errs, validateUpdate(e, old)...)
	}
	errs = append(errs, validateMeta(&e.ObjectMeta)...)
	errs = append(errs, validateSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	wrong := func(name, text string) { errs = append(errs, field.Invalid(field.NewPath(name), "", text)) }
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		wrong("type", fmt.Sprintf("has invalid value: %v", e.Type))
	}
	for _, old := range []struct {
		set  bool
		name string
	}{
		{!e.FirstTimestamp.IsZero(), "firstTimestamp"}, {!e.LastTimestamp.IsZero(), "lastTimestamp"}, {e.Count != 0, "count"},
		{e.Source != corev1.EventSource{}, "source"},
	} {
		if old.set {
			wrong(old.name, "needs to be unset")
		}
	}
	return errs
}

// validateMeta checks metadata as the core group's kinds have it. The library is asked for what few events have.
func validateMeta(m *metav1.ObjectMeta) field.ErrorList {
	if m.Name != "" && m.GenerateName == "" && m.Generation >= 0 && len(m.Labels)+len(m.Annotations)+len(m.OwnerReferences)+len(m.Finalizers) == 0 {
		return check.DNSSubdomain(m.Name, field.NewPath("metadata", "name"))
	}
	p := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMeta(m, true, apivalidation.NameIsDNSSubdomain, p)
	for i, f := range m.Finalizers {
		errs = append(errs, check.FinalizerDomain(f, p.Child("finalizers").Index(i))...)
	}
	return errs
}

// validateSeries wants a series to be one.
func validateSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	p := field.NewPath("series")
	if s.Count < 2 {
		errs = append(errs, field.Invalid(p.Child("count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(p.Child("lastObservedTime"), ""))
	}
	return errs
}

func validateUpdate(e, old *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if (e.Series == nil) != (old.Series == nil) || e.Series != nil && *e.Series != *old.Series {
		errs = append(errs, validateSeries(e.Series)...)
	}
	keep := func(now, was any, name string) {
		errs = append(errs, check.Immutable(now, was, field.NewPath(name))...)
	}
	keepAll := func(now, was any, name string) {
		if !apiequality.Semantic.DeepEqual(now, was) {
			keep(check.Rendered(now), nil, name)
		}
	}
	keepAll(e.InvolvedObject, old.InvolvedObject, "involvedObject")
	keep(e.Reason, old.Reason, "reason")
	keep(e.Message, old.Message, "message")
	keepAll(e.Source, old.Source, "source")
	keep(e.FirstTimestamp, old.FirstTimestamp, "firstTimestamp")
	keep(e.LastTimestamp, old.LastTimestamp, "lastTimestamp")
	keep(e.Count, old.Count, "count")
	keep(e.Reason, old.Reason, "reason") // twice, as upstream has it
	keep(e.Type, old.Type, "type")
	// Clients that cut the time to what JSON can say change nothing by that.
	if now, was := e.EventTime.Truncate(time.Microsecond), old.EventTime.Truncate(time.Microsecond); !now.Equal(was) {
		keep(e.EventTime, old.EventTime, "eventTime")
	}
	keep(e.Action, old.Action, "action")
	keepAll(e.Related, old.Related, "related")
	keep(e.ReportingController, old.ReportingController, "reportingController")
	keep(e.ReportingInstance, old.ReportingInstance, "reportingInstance")
	return errs
}
