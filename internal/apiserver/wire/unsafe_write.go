package wire

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Types are the plans of all types that were met. The zero value is ready; it is safe for concurrent use.
type Types struct {
	writers sync.Map // reflect.Type to write
	readers sync.Map // reflect.Type to read

	mu      sync.RWMutex
	written map[string]bool // guarded by mu: field sets that are written as they are
}

// maxWritten bounds what is remembered of field sets: those of objects that are made from one template are equal.
const maxWritten = 4096

// write appends the JSON of the value that p points to.
type write func(b []byte, p unsafe.Pointer) ([]byte, error)

var (
	timeType     = reflect.TypeFor[metav1.Time]()
	fieldsType   = reflect.TypeFor[metav1.FieldsV1]()
	quantityType = reflect.TypeFor[resource.Quantity]()
	intOrType    = reflect.TypeFor[intstr.IntOrString]()

	marshalerType     = reflect.TypeFor[json.Marshaler]()
	textMarshalerType = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
)

var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

// maxKept is the size in bytes of the largest buffer that is kept for later.
const maxKept = 256 << 10

// Write returns what json.Marshal(obj) returns; beyond its end may be a newline, see Line. Obj is a pointer to a struct, and must not change meanwhile.
func (t *Types) Write(obj any) ([]byte, error) {
	v := reflect.ValueOf(obj)
	w := t.writer(v)
	if w == nil {
		return json.Marshal(obj)
	}
	kept := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in the pool
	b, err := w((*kept)[:0], v.UnsafePointer())
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(b)+1), b...)
	out[:len(b)+1][len(b)] = '\n' // for those who want one after it: they need not copy all
	if cap(b) <= maxKept {
		*kept = b
		buffers.Put(kept)
	}
	return out, nil
}

// Append appends what Write returns to b.
func (t *Types) Append(b []byte, obj any) ([]byte, error) {
	v := reflect.ValueOf(obj)
	w := t.writer(v)
	if w == nil {
		data, err := json.Marshal(obj)
		return append(b, data...), err
	}
	return w(b, v.UnsafePointer())
}

// writer returns how what v points to is written; nil if its type has its own way.
func (t *Types) writer(v reflect.Value) write {
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return nil
	}
	typ := v.Type().Elem()
	w, ok := t.writers.Load(typ)
	if !ok {
		var made write
		if !custom(typ) {
			made = (&writerBuilder{types: t, seen: map[reflect.Type]*write{}}).of(typ)
		}
		w, _ = t.writers.LoadOrStore(typ, made)
	}
	return w.(write) //nolint:forcetypeassert // nothing else is stored
}

// Line returns JSON with a newline at its end. The result may share its memory with data, and must not be changed.
func Line(data []byte) []byte {
	n := len(data)
	if cap(data) > n && data[:n+1][n] == '\n' {
		return data[:n+1]
	}
	return append(data[:n:n], '\n')
}

// custom says whether a type has its own way of being written.
func custom(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(marshalerType) || p.Implements(textMarshalerType)
}

type writerBuilder struct {
	types *Types
	seen  map[reflect.Type]*write
}

func (b *writerBuilder) of(t reflect.Type) write {
	if w := b.seen[t]; w != nil {
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) { return (*w)(buf, p) } // a type that contains itself
	}
	w := new(write)
	b.seen[t] = w
	*w = b.build(t)
	return *w
}

func (b *writerBuilder) build(t reflect.Type) write {
	switch t {
	case timeType:
		return writeTime
	case fieldsType:
		return b.types.writeFields
	case quantityType:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			text, err := (*resource.Quantity)(p).MarshalJSON()
			return append(buf, text...), err
		}
	case intOrType:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			v := (*intstr.IntOrString)(p)
			switch v.Type {
			case intstr.Int:
				return strconv.AppendInt(buf, int64(v.IntVal), 10), nil
			case intstr.String:
				return appendString(buf, v.StrVal), nil
			}
			return left(intOrType)(buf, p)
		}
	}
	if custom(t) {
		return left(t)
	}
	switch t.Kind() {
	case reflect.String:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) { return appendString(buf, *(*string)(p)), nil }
	case reflect.Bool:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) { return strconv.AppendBool(buf, *(*bool)(p)), nil }
	case reflect.Int32:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			return strconv.AppendInt(buf, int64(*(*int32)(p)), 10), nil
		}
	case reflect.Int64:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			return strconv.AppendInt(buf, *(*int64)(p), 10), nil
		}
	case reflect.Int:
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			return strconv.AppendInt(buf, int64(*(*int)(p)), 10), nil
		}
	case reflect.Pointer:
		elem := b.of(t.Elem())
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			if p = *(*unsafe.Pointer)(p); p == nil {
				return append(buf, "null"...), nil
			}
			return elem(buf, p)
		}
	case reflect.Slice:
		return b.slice(t)
	case reflect.Map:
		return b.mapOf(t)
	case reflect.Struct:
		return b.structOf(t)
	}
	return left(t)
}

// left leaves values of a type to encoding/json.
func left(t reflect.Type) write {
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		text, err := json.Marshal(reflect.NewAt(t, p).Interface())
		return append(buf, text...), err
	}
}

// writeFields writes a field set, which is JSON already, though not always as short as it could be.
func (t *Types) writeFields(buf []byte, p unsafe.Pointer) ([]byte, error) {
	raw := (*metav1.FieldsV1)(p).GetRawBytes()
	t.mu.RLock()
	known := t.written[string(raw)]
	t.mu.RUnlock()
	if known {
		return append(buf, raw...), nil
	}
	begin := len(buf)
	buf, err := left(fieldsType)(buf, p)
	if err == nil && string(buf[begin:]) == string(raw) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.written == nil || len(t.written) >= maxWritten {
			t.written = map[string]bool{}
		}
		t.written[string(raw)] = true
	}
	return buf, err
}

func writeTime(buf []byte, p unsafe.Pointer) ([]byte, error) {
	v := (*metav1.Time)(p)
	if v.IsZero() {
		return append(buf, "null"...), nil
	}
	if y := v.UTC().Year(); y < 0 || y > 9999 {
		return left(timeType)(buf, p)
	}
	buf = append(buf, '"')
	buf = v.UTC().AppendFormat(buf, "2006-01-02T15:04:05Z07:00")
	return append(buf, '"'), nil
}

// header is how a slice lies in memory.
type header struct {
	data     unsafe.Pointer
	len, cap int
}

func (b *writerBuilder) slice(t reflect.Type) write {
	if t.Elem().Kind() == reflect.Uint8 {
		if custom(t.Elem()) {
			return left(t)
		}
		return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
			v := *(*[]byte)(p)
			if v == nil {
				return append(buf, "null"...), nil
			}
			buf = append(buf, '"')
			buf = base64.StdEncoding.AppendEncode(buf, v)
			return append(buf, '"'), nil
		}
	}
	elem, size := b.of(t.Elem()), t.Elem().Size()
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		h := (*header)(p)
		if h.data == nil {
			return append(buf, "null"...), nil
		}
		buf = append(buf, '[')
		var err error
		for i := range h.len {
			if i > 0 {
				buf = append(buf, ',')
			}
			if buf, err = elem(buf, unsafe.Add(h.data, uintptr(i)*size)); err != nil {
				return nil, err
			}
		}
		return append(buf, ']'), nil
	}
}

func (b *writerBuilder) mapOf(t reflect.Type) write {
	if t.Key().Kind() != reflect.String || t.Key().Implements(textMarshalerType) {
		return left(t)
	}
	if t.Elem().Kind() == reflect.String && !custom(t.Elem()) {
		return writeStrings
	}
	elem := b.of(t.Elem())
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		m := reflect.NewAt(t, p).Elem()
		if m.IsNil() {
			return append(buf, "null"...), nil
		}
		type member struct {
			key   string
			value reflect.Value
		}
		members := make([]member, 0, m.Len())
		for it := m.MapRange(); it.Next(); {
			v := reflect.New(t.Elem())
			v.Elem().Set(it.Value())
			members = append(members, member{it.Key().String(), v})
		}
		slices.SortFunc(members, func(x, y member) int { return strings.Compare(x.key, y.key) })
		buf = append(buf, '{')
		var err error
		for i, x := range members {
			if i > 0 {
				buf = append(buf, ',')
			}
			buf = append(appendString(buf, x.key), ':')
			if buf, err = elem(buf, x.value.UnsafePointer()); err != nil {
				return nil, err
			}
		}
		return append(buf, '}'), nil
	}
}

// writeStrings writes a map of strings to strings, whatever its type is called.
func writeStrings(buf []byte, p unsafe.Pointer) ([]byte, error) {
	m := *(*map[string]string)(p)
	if m == nil {
		return append(buf, "null"...), nil
	}
	var few [16]string
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	buf = append(buf, '{')
	for i, k := range keys {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(appendString(buf, k), ':')
		buf = appendString(buf, m[k])
	}
	return append(buf, '}'), nil
}

// fieldWriter writes one field of a struct.
type fieldWriter struct {
	name   string // as it is written, with quotes and colon
	offset uintptr
	omit   func(p unsafe.Pointer) bool // nil: never
	write  write
}

func (b *writerBuilder) structOf(t reflect.Type) write {
	fields, ok := b.fields(t, 0, map[string]bool{}, nil)
	if !ok {
		return left(t)
	}
	return func(buf []byte, p unsafe.Pointer) ([]byte, error) {
		begin := len(buf)
		buf = append(buf, '{')
		var err error
		for i := range fields {
			f := &fields[i]
			x := unsafe.Add(p, f.offset)
			if f.omit != nil && f.omit(x) {
				continue
			}
			if len(buf) > begin+1 {
				buf = append(buf, ',')
			}
			buf = append(buf, f.name...)
			if buf, err = f.write(buf, x); err != nil {
				return nil, err
			}
		}
		return append(buf, '}'), nil
	}
}

func (b *writerBuilder) fields(t reflect.Type, offset uintptr, names map[string]bool, out []fieldWriter) ([]fieldWriter, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, embedded, ok := tagOf(f)
		switch {
		case !ok:
			return nil, false
		case embedded:
			if out, ok = b.fields(f.Type, offset+f.Offset, names, out); !ok {
				return nil, false
			}
			continue
		case name == "":
			continue
		case names[name]:
			return nil, false // which one counts is for encoding/json to say
		}
		names[name] = true
		omit, ok := omission(f.Type, options)
		if !ok {
			return nil, false
		}
		out = append(out, fieldWriter{name: string(appendString(nil, name)) + ":", offset: offset + f.Offset, omit: omit, write: b.of(f.Type)})
	}
	return out, true
}

// tagOf reads how a field is called in JSON, "" if it is not there. Embedded structs lend their fields. Not ok: it can't tell.
func tagOf(f reflect.StructField) (name, options string, embedded, ok bool) {
	tag := f.Tag.Get("json")
	if tag == "-" {
		return "", "", false, true
	}
	name, options, _ = strings.Cut(tag, ",")
	if f.Anonymous && name == "" {
		return "", "", true, f.Type.Kind() == reflect.Struct && !custom(f.Type)
	}
	if !f.IsExported() {
		return "", "", false, true
	}
	if name == "" {
		name = f.Name
	}
	for i := range len(name) {
		if c := name[i]; c < '!' || c > '~' || strings.IndexByte(`"\,`, c) >= 0 {
			return "", "", false, false
		}
	}
	return name, options, false, true
}

// omission says when a field is left out.
func omission(t reflect.Type, options string) (func(unsafe.Pointer) bool, bool) {
	var empty, zero func(unsafe.Pointer) bool
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "", "inline":
		case "omitempty":
			empty = emptiness(t)
		case "omitzero":
			switch _, own := reflect.PointerTo(t).MethodByName("IsZero"); {
			case t == timeType:
				zero = func(p unsafe.Pointer) bool { return (*metav1.Time)(p).IsZero() }
			case own:
				return nil, false
			default:
				zero = func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() }
			}
		default:
			return nil, false
		}
	}
	switch {
	case empty == nil:
		return zero, true
	case zero == nil:
		return empty, true
	}
	return func(p unsafe.Pointer) bool { return empty(p) || zero(p) }, true
}

func emptiness(t reflect.Type) func(unsafe.Pointer) bool {
	switch t.Kind() {
	case reflect.String:
		return func(p unsafe.Pointer) bool { return *(*string)(p) == "" }
	case reflect.Bool:
		return func(p unsafe.Pointer) bool { return !*(*bool)(p) }
	case reflect.Int32:
		return func(p unsafe.Pointer) bool { return *(*int32)(p) == 0 }
	case reflect.Int64:
		return func(p unsafe.Pointer) bool { return *(*int64)(p) == 0 }
	case reflect.Pointer:
		return func(p unsafe.Pointer) bool { return *(*unsafe.Pointer)(p) == nil }
	case reflect.Slice:
		return func(p unsafe.Pointer) bool { return (*header)(p).len == 0 }
	case reflect.Map:
		if t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String {
			return func(p unsafe.Pointer) bool { return len(*(*map[string]string)(p)) == 0 }
		}
		return func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().Len() == 0 }
	case reflect.Struct, reflect.Array:
		if t.Kind() == reflect.Array && t.Len() == 0 {
			return func(unsafe.Pointer) bool { return true }
		}
		return nil // structs are never empty
	}
	return func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() }
}
