package custom

import (
	"bytes"
	"fmt"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"github.com/celox/celox/internal/api"
)

type column struct {
	path *jsonpath.JSONPath
	typ  string
}

// addColumns makes the version's Table: the name, and the columns of the definition or else the age.
func (v *Version) addColumns(k *api.Kind) {
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	k.Columns = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: doc["name"]}}
	var columns []column
	for _, c := range v.spec.AdditionalPrinterColumns {
		path := jsonpath.New(c.Name).AllowMissingKeys(true)
		if path.Parse("{"+c.JSONPath+"}") != nil {
			// Upstream shows what comes before a column that it can't read, and nothing after.
			break
		}
		about := c.Description
		if about == "" {
			about = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		columns = append(columns, column{path: path, typ: c.Type})
		k.Columns = append(k.Columns, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: about, Priority: c.Priority})
	}
	if len(v.spec.AdditionalPrinterColumns) == 0 {
		k.Columns = append(k.Columns, metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: doc["creationTimestamp"]})
		k.Row = func(obj api.Object, now time.Time) []any {
			return []any{obj.GetName(), age(obj.GetCreationTimestamp(), now)}
		}
		return
	}
	k.Row = func(obj api.Object, now time.Time) []any {
		cells := make([]any, 1, 1+len(columns))
		cells[0] = obj.GetName()
		content, err := custom(obj).Content()
		if err != nil {
			content = custom(obj).content(nil)
		}
		for i := range columns {
			cells = append(cells, columns[i].cell(content, now))
		}
		return cells
	}
}

func (c *column) cell(content map[string]any, now time.Time) any {
	results, err := c.path.FindResults(content)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	if c.typ == "string" {
		var b bytes.Buffer
		if c.path.PrintResults(&b, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return b.String()
	}
	return cell(c.typ, value, now)
}

// cell turns a value into a cell of a column's type; what does not fit is not shown.
func cell(typ string, value any, now time.Time) any {
	switch typ {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			var t metav1.Time
			if t.UnmarshalQueryParameter(s) != nil {
				return "<invalid>"
			}
			return age(t, now)
		}
	}
	return nil
}

func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// ScaleColumns are the columns of the Table of a Scale.
func (v *Version) ScaleColumns() []metav1.TableColumnDefinition {
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	out := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: doc["name"]}}
	if s := v.Scale(); s != nil {
		if s.SpecReplicasPath != "" {
			out = append(out, metav1.TableColumnDefinition{Name: "Desired", Type: "integer", Description: "Number of desired replicas"})
		}
		if s.StatusReplicasPath != "" {
			out = append(out, metav1.TableColumnDefinition{Name: "Available", Type: "integer", Description: "Number of actual replicas"})
		}
	}
	return append(out, metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: doc["creationTimestamp"]})
}

// nested finds the value at a simple path (".spec.replicas").
func nested(fields map[string]any, path []string) (value any, found bool, err error) {
	var at any = fields
	for i, name := range path {
		m, ok := at.(map[string]any)
		if !ok {
			if at == nil {
				return nil, false, nil
			}
			return nil, false, fmt.Errorf("%s accessor error: %v is of the type %T, expected map[string]interface{}", jsonPath(path[:i+1]), at, at)
		}
		if at, ok = m[name]; !ok {
			return nil, false, nil
		}
	}
	return at, true, nil
}

func jsonPath(path []string) string {
	var b bytes.Buffer
	for _, p := range path {
		b.WriteByte('.')
		b.WriteString(p)
	}
	return b.String()
}
