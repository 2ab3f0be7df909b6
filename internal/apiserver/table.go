package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/negotiate"
	"github.com/celox/celox/internal/store"
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

// showTable answers with a table of objects that are no list, each shown by itself.
func (x *exchange) showTable(code int, a negotiate.Accept, rows []shown, meta metav1.ListMeta) error {
	include, err := x.includeObject()
	if err != nil {
		return err
	}
	return x.sendTable(code, a, rows, x.res.kind.Row, meta, include)
}

// sendTable answers with a table whose cells row makes.
func (x *exchange) sendTable(code int, a negotiate.Accept, rows []shown, row api.Cells, meta metav1.ListMeta, include metav1.IncludeObjectPolicy) error {
	t, err := x.tableOf(a.MetaVersion, rows, row, meta, include)
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

// table makes rows of objects, each shown by itself.
func (x *exchange) table(version string, rows []shown, meta metav1.ListMeta, include metav1.IncludeObjectPolicy) (*metav1.Table, error) {
	return x.tableOf(version, rows, x.res.kind.Row, meta, include)
}

// tableOf makes rows of objects, with the cells that row makes.
func (x *exchange) tableOf(version string, rows []shown, row api.Cells, meta metav1.ListMeta, include metav1.IncludeObjectPolicy) (*metav1.Table, error) {
	t := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{Kind: "Table", APIVersion: metav1.GroupName + "/" + version},
		ListMeta:          meta,
		ColumnDefinitions: x.res.kind.Columns,
	}
	if row == nil {
		t.ColumnDefinitions = plainColumns()
	} else {
		t.Rows = make([]metav1.TableRow, 0, len(rows))
	}
	now := x.s.clock.Now()
	for _, o := range rows {
		r, err := x.tableRow(version, o, row, include, now)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, r)
	}
	return t, nil
}

// tableRow makes the row of an object.
func (x *exchange) tableRow(version string, o shown, row api.Cells, include metav1.IncludeObjectPolicy, now time.Time) (r metav1.TableRow, err error) {
	if row != nil {
		r.Cells = row(o.obj, now)
	} else {
		r.Cells = []any{o.obj.GetName(), o.obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	if f := x.res.kind.RowConditions; f != nil {
		r.Conditions = f(o.obj)
	}
	switch include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		r.Object.Raw, err = x.s.bytes(x.res, o, negotiate.JSON)
	default:
		r.Object.Raw, err = metadataBytes(x.res.kind, o, negotiate.JSON, version)
	}
	return r, err
}

// showTableOf answers with the table of a list, row by row: what objects show of themselves is cached, what depends on the time is small.
func (x *exchange) showTableOf(a negotiate.Accept, items []*store.Item, meta metav1.ListMeta) error {
	include, err := x.includeObject()
	if err != nil {
		return err
	}
	row := x.res.kind.Row
	if f := x.res.kind.ListRow; f != nil {
		row = f(objectsOf(items))
	}
	if len(items) == 0 || a.Media == negotiate.YAML || a.Pretty || x.pretty() {
		rows := make([]shown, len(items))
		for i, item := range items {
			rows[i] = stored(item)
		}
		return x.sendTable(http.StatusOK, a, rows, row, meta, include)
	}
	t, err := x.table(a.MetaVersion, nil, meta, include)
	if err != nil {
		return err
	}
	t.Rows = []metav1.TableRow{}
	frame, err := json.Marshal(t)
	if err != nil {
		return err
	}
	const tail = `]}`
	head, whole := bytes.CutSuffix(frame, []byte(tail))
	if !whole {
		return fmt.Errorf("a table does not end with its rows")
	}
	size := 0
	for _, it := range items {
		size += it.Size
	}
	// A row is made before it is known whether all of them can be: one that fails breaks the answer off, and none does once its object is stored.
	x.stream(negotiate.JSON, -1, func(w pieces) error {
		w.write(head)
		now := x.s.clock.Now()
		var block []byte
		for i, it := range items {
			o := stored(it)
			if size > cachedList {
				o = shown{obj: it.Object}
			}
			r, err := x.tableRow(a.MetaVersion, o, row, include, now)
			if err != nil {
				return err
			}
			if len(block)+256 > cap(block) {
				block = make([]byte, 0, blockSize/4) // the old one is on its way
			}
			from := len(block)
			if i > 0 {
				block = append(block, ',')
			}
			if block, err = appendRow(block, r); err != nil {
				return err
			}
			w.write(block[from:len(block):len(block)])
			if r.Object.Raw != nil {
				w.write(r.Object.Raw)
			} else {
				w.write(jsonNull)
			}
			w.write(rowEnd)
		}
		w.write([]byte(tail + "\n"))
		return w.flush()
	})
	return nil
}

// objectsOf are the objects of items, one after the other.
func objectsOf(items []*store.Item) iter.Seq[api.Object] {
	return func(yield func(api.Object) bool) {
		for _, item := range items {
			if !yield(item.Object) {
				return
			}
		}
	}
}

var jsonNull, rowEnd = []byte("null"), []byte("}")

// appendRow appends the JSON of a row up to its object.
func appendRow(b []byte, r metav1.TableRow) ([]byte, error) {
	b = append(b, `{"cells":[`...)
	for i, c := range r.Cells {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendCell(b, c); err != nil {
			return b, err
		}
	}
	b = append(b, ']')
	if len(r.Conditions) > 0 {
		data, err := json.Marshal(r.Conditions)
		if err != nil {
			return b, err
		}
		b = append(b, `,"conditions":`...)
		b = append(b, data...)
	}
	return append(b, `,"object":`...), nil
}

// appendCell appends the JSON of a cell.
func appendCell(b []byte, cell any) ([]byte, error) {
	switch c := cell.(type) {
	case nil:
		return append(b, jsonNull...), nil
	case string:
		if plainText(c) {
			b = append(b, '"')
			b = append(b, c...)
			return append(b, '"'), nil
		}
	case int:
		return strconv.AppendInt(b, int64(c), 10), nil
	case int32:
		return strconv.AppendInt(b, int64(c), 10), nil
	case int64:
		return strconv.AppendInt(b, c, 10), nil
	case bool:
		return strconv.AppendBool(b, c), nil
	}
	data, err := json.Marshal(cell)
	return append(b, data...), err
}

// plainText says that encoding/json writes s as it is.
func plainText(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < ' ', c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
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
