package apiserver

import (
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// includeObject reads what a table's rows are to carry beside their cells.
func (x *exchange) includeObject() (metav1.IncludeObjectPolicy, error) {
	o := metav1.TableOptions{IncludeObject: metav1.IncludeMetadata}
	if v := x.params().Get("includeObject"); v != "" {
		o.IncludeObject = metav1.IncludeObjectPolicy(v)
	}
	if errs := metavalidation.ValidateTableOptions(&o); len(errs) > 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", errs.ToAggregate()))
	}
	return o.IncludeObject, nil
}

// showTable answers with a table.
func (x *exchange) showTable(code int, a negotiate.Accept, rows []shown, meta metav1.ListMeta) error {
	include, err := x.includeObject()
	if err != nil {
		return err
	}
	t, err := x.table(a.MetaVersion, rows, meta, include)
	if err != nil {
		return err
	}
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	x.sendBytes(code, a, nil, data)
	return nil
}

// table makes rows of objects.
func (x *exchange) table(version string, rows []shown, meta metav1.ListMeta, include metav1.IncludeObjectPolicy) (*metav1.Table, error) {
	t := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: metav1.GroupName + "/" + version},
		ListMeta:          meta,
		ColumnDefinitions: x.res.kind.Columns,
	}
	row := x.res.kind.Row
	if row == nil {
		t.ColumnDefinitions = plainColumns()
	} else {
		t.Rows = make([]metav1.TableRow, 0, len(rows))
	}
	now := x.s.clock.Now()
	for _, o := range rows {
		r := metav1.TableRow{}
		if row != nil {
			r.Cells = row(o.obj, now)
		} else {
			r.Cells = []any{o.obj.GetName(), o.obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
		}
		if f := x.res.kind.RowConditions; f != nil {
			r.Conditions = f(o.obj)
		}
		var err error
		switch include {
		case metav1.IncludeNone:
		case metav1.IncludeObject:
			r.Object.Raw, err = x.s.bytes(x.res, o, negotiate.JSON)
		default:
			r.Object.Raw, err = metadataBytes(o, negotiate.JSON, version)
		}
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, r)
	}
	return t, nil
}

// plainColumns are the columns of a kind that has none of its own.
func plainColumns() []metav1.TableColumnDefinition {
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: doc["name"]},
		{Name: "Created At", Type: "date", Description: doc["creationTimestamp"]},
	}
}

// plainTable is a table of one computed object that is no stored kind: a Scale.
func plainTable(version string, columns []metav1.TableColumnDefinition, cells []any, obj runtime.Object, meta metav1.ListMeta) *metav1.Table {
	return &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: metav1.GroupName + "/" + version},
		ListMeta:          meta,
		ColumnDefinitions: columns,
		Rows:              []metav1.TableRow{{Cells: cells, Object: runtime.RawExtension{Object: obj}}},
	}
}

// age is how long ago obj was made, as people read it.
func age(obj metav1.Object, now time.Time) string {
	t := obj.GetCreationTimestamp()
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}
