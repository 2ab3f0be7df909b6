package events

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func fresh() *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "ns"}, InvolvedObject: corev1.ObjectReference{Namespace: "ns"}, Type: corev1.EventTypeNormal,
		EventTime: metav1.NewMicroTime(time.Unix(1700000000, 5000)), ReportingController: "a/b", ReportingInstance: "i", Action: "A", Reason: "R", Message: "M",
	}
}

// TestNewDoor: what events.k8s.io/v1 wants of events and of their changes.
func TestNewDoor(t *testing.T) {
	later := metav1.NewMicroTime(time.Unix(1700000009, 0))
	for _, c := range []struct {
		name   string
		update bool
		change func(*corev1.Event)
		told   string
	}{
		{"complete", false, func(*corev1.Event) {}, ""},
		{"no time", false, func(e *corev1.Event) { e.EventTime, e.Type = metav1.MicroTime{}, "Odd" }, `[eventTime: Required value, type: Invalid value: "": has invalid value: Odd]`},
		{"old fields", false, func(e *corev1.Event) { e.Count, e.Source.Host = 1, "h" }, `[count: Invalid value: "": needs to be unset, source: Invalid value: "": needs to be unset]`},
		{"no reporter", false, func(e *corev1.Event) { e.ReportingController = "a b c/d" }, `reportingController: Invalid value: "a b c/d": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"no series", false, func(e *corev1.Event) { e.Series = &corev1.EventSeries{Count: 1} }, `[series.count: Invalid value: "": should be at least 2, series.lastObservedTime: Required value]`},
		{"series grows", true, func(e *corev1.Event) { e.Series = &corev1.EventSeries{Count: 2, LastObservedTime: later} }, ""},
		{"note", true, func(e *corev1.Event) { e.Message = "other" }, `message: Invalid value: "other": field is immutable`},
		{"cut time", true, func(e *corev1.Event) { e.EventTime = metav1.NewMicroTime(e.EventTime.Add(7)) }, ""},
	} {
		e := fresh()
		var old *corev1.Event
		if c.update {
			old = fresh()
		}
		c.change(e)
		got := ""
		if err := validate(e, old).ToAggregate(); err != nil {
			got = err.Error()
		}
		if got != c.told {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.told)
		}
	}
}
