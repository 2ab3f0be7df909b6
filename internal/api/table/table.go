package table

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Cells that stand for the absence of something, as kubectl's users know them.
const (
	None    = "<none>"
	Unset   = "<unset>"
	Unknown = "<unknown>"
)

// Types of columns, as OpenAPI names them.
const (
	String  = "string"
	Integer = "integer"
	Boolean = "boolean"
	Date    = "date"
)

// Name is the column that every table has: the object's name.
func Name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: String, Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
}

// AgeColumn is the column that Age fills.
func AgeColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Age", Type: String, Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}
}

// Column is a column that is always shown; typ is one of the types above.
func Column(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: description}
}

// Wide is a column of priority 1: it is shown with "-o wide" only.
func Wide(name, typ, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: description, Priority: 1}
}

// Age is how long ago obj was created, in the short form ("5m", "3h12m", "2d").
func Age(obj metav1.Object, now time.Time) string {
	return Since(obj.GetCreationTimestamp(), now)
}

// Since is the time from t to now in the short form, or "<unknown>" for no time.
func Since(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// SinceMicro is Since for a MicroTime.
func SinceMicro(t metav1.MicroTime, now time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// Until is the time from now to t in the short form, or "<unknown>" for no time.
func Until(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(t.Sub(now))
}

// Containers gives the cells of the Containers and Images columns.
func Containers(containers []corev1.Container) (names, images string) {
	ns, is := make([]string, len(containers)), make([]string, len(containers))
	for i := range containers {
		ns[i], is[i] = containers[i].Name, containers[i].Image
	}
	return strings.Join(ns, ","), strings.Join(is, ",")
}

// Labels gives a label set as "a=b,c=d" sorted by key, "<none>" if it is empty.
func Labels(set map[string]string) string { return labels.FormatLabels(set) }

// Selector gives the cell of a label selector: "<none>" if it selects everything or nothing.
func Selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// OrNone is s, or "<none>" if s is empty.
func OrNone(s string) string {
	if s == "" {
		return None
	}
	return s
}
