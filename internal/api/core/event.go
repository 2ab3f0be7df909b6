package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/events"
	"github.com/celox/celox/internal/api/table"
)

// eventTTL is how long events are kept.
const eventTTL = time.Hour

func event() *api.Kind {
	doc := corev1.Event{}.SwaggerDoc()
	return &api.Kind{
		Kind: "Event", Resource: "events", Singular: "event", ShortNames: []string{"ev"}, Namespaced: true, Prefix: "events", TTL: eventTTL,
		// Each door has rules of its own, even for the same object.
		Versions: []api.Version{eventVersion(), events.Version()}, Hub: "v1",
		// Old clients name events after the object and a counter in hexadecimal; any path segment will do. The newer door has rules of its own.
		MetadataLast:             true,
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		FieldNames: []string{
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
			"involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
		},
		Fields: eventFields,
		Columns: api.Columns(
			table.Column("Last Seen", table.String, doc["lastTimestamp"]),
			table.Column("Type", table.String, doc["type"]),
			table.Column("Reason", table.String, doc["reason"]),
			table.Column("Object", table.String, doc["involvedObject"]),
			table.Wide("Subobject", table.String, corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
			table.Wide("Source", table.String, doc["source"]),
			table.Column("Message", table.String, doc["message"]),
			table.Wide("First Seen", table.String, doc["firstTimestamp"]),
			table.Wide("Count", table.String, doc["count"]),
			wideName()),
		Row: api.Row(eventRow),
	}
}

func wideName() metav1.TableColumnDefinition {
	c := table.Name()
	c.Priority = 1
	return c
}

func eventFields(obj api.Object) fields.Set {
	e := obj.(*corev1.Event)
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	o := e.InvolvedObject
	return fields.Set{
		"involvedObject.kind": o.Kind, "involvedObject.namespace": o.Namespace, "involvedObject.name": o.Name, "involvedObject.uid": string(o.UID),
		"involvedObject.apiVersion": o.APIVersion, "involvedObject.resourceVersion": o.ResourceVersion, "involvedObject.fieldPath": o.FieldPath,
		"reason": e.Reason, "reportingComponent": e.ReportingController, "source": source, "type": e.Type,
	}
}

// eventVersion is the old door to events, where anything goes that was ever allowed.
func eventVersion() api.Version {
	v := api.NewVersion[corev1.Event, corev1.EventList]("v1")
	v.Validate = func(obj, _ api.Object) field.ErrorList {
		return events.Validate(obj.(*corev1.Event), "reportingComponent")
	}
	return v
}

func eventRow(e *corev1.Event, now time.Time) []any {
	first := table.Since(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = table.SinceMicro(e.EventTime, now)
	}
	last := table.Since(e.LastTimestamp, now)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := e.Count
	if e.Series != nil {
		last, count = table.SinceMicro(e.Series.LastObservedTime, now), e.Series.Count
	} else if count == 0 {
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	if host := e.Source.Host; host != "" {
		source = fmt.Sprintf("%s, %s", source, host)
	} else if e.ReportingInstance != "" {
		source = fmt.Sprintf("%s, %s", source, e.ReportingInstance)
	}
	return []any{
		last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, int64(count), e.Name,
	}
}
