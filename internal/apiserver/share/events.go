package share

import corev1 "k8s.io/api/core/v1"

// Events shares what is equal in events. It is safe for concurrent use.
type Events struct{ words words }

// Share replaces words of an event by equal ones of other events.
func (e *Events) Share(ev *corev1.Event) {
	o := &ev.InvolvedObject
	e.words.share(&ev.Reason, &ev.Type, &ev.Action, &ev.Source.Component, &ev.Source.Host, &ev.ReportingController, &ev.ReportingInstance,
		&o.Kind, &o.APIVersion, &o.Namespace, &o.FieldPath)
}
