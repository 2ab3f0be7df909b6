package wire

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"unsafe"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxDepth is how deep documents may be nested. Those that are deeper are left to others.
const maxDepth = 64

// read reads a value into what p points to, which is zero.
type read func(d *document, p unsafe.Pointer) bool

var (
	unmarshalerType     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshalerType = reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()
)

// Read reads a JSON document into obj, a pointer to a struct that is zero. It reports false if there is anything unusual about the
// document; obj is then of no use.
func (t *Types) Read(data []byte, obj any) bool {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return false
	}
	r := t.reader(v.Type().Elem())
	if r == nil {
		return false
	}
	d := document{data: data}
	return d.next() == '{' && r(&d, v.UnsafePointer()) && d.next() == 0 && d.at == len(data)
}

// reader returns how a type is read; nil if it has its own way.
func (t *Types) reader(typ reflect.Type) read {
	r, ok := t.readers.Load(typ)
	if !ok {
		var made read
		if !ownReader(typ) {
			made = (&readerBuilder{seen: map[reflect.Type]*read{}}).of(typ)
		}
		r, _ = t.readers.LoadOrStore(typ, made)
	}
	return r.(read) //nolint:forcetypeassert // nothing else is stored
}

// ownReader says whether a type has its own way of being read.
func ownReader(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(unmarshalerType) || p.Implements(textUnmarshalerType)
}

type readerBuilder struct{ seen map[reflect.Type]*read }

func (b *readerBuilder) of(t reflect.Type) read {
	if r := b.seen[t]; r != nil {
		return func(d *document, p unsafe.Pointer) bool { return (*r)(d, p) } // a type that contains itself
	}
	r := new(read)
	b.seen[t] = r
	*r = b.build(t)
	return *r
}

func (b *readerBuilder) build(t reflect.Type) read {
	switch {
	case t == timeType:
		return func(d *document, p unsafe.Pointer) bool {
			if d.next() == 'n' {
				return d.word("null")
			}
			return asked(t)(d, p)
		}
	case t == intOrType:
		return readIntOrString
	case reflect.PointerTo(t).Implements(unmarshalerType):
		return asked(t)
	case reflect.PointerTo(t).Implements(textUnmarshalerType):
		return refuse
	}
	switch t.Kind() {
	case reflect.String:
		return func(d *document, p unsafe.Pointer) (ok bool) {
			if d.next() == 'n' {
				return d.word("null")
			}
			*(*string)(p), ok = d.text()
			return ok
		}
	case reflect.Bool:
		return func(d *document, p unsafe.Pointer) bool {
			switch d.next() {
			case 't':
				*(*bool)(p) = true
				return d.word("true")
			case 'f':
				return d.word("false")
			}
			return d.word("null")
		}
	case reflect.Int32:
		return func(d *document, p unsafe.Pointer) bool {
			if d.next() == 'n' {
				return d.word("null")
			}
			n, ok := d.integer()
			*(*int32)(p) = int32(n)
			return ok && n >= math.MinInt32 && n <= math.MaxInt32
		}
	case reflect.Int64:
		return func(d *document, p unsafe.Pointer) (ok bool) {
			if d.next() == 'n' {
				return d.word("null")
			}
			*(*int64)(p), ok = d.integer()
			return ok
		}
	case reflect.Pointer:
		elem, to := b.of(t.Elem()), t.Elem()
		return func(d *document, p unsafe.Pointer) bool {
			if d.next() == 'n' {
				return d.word("null")
			}
			v := reflect.New(to)
			reflect.NewAt(t, p).Elem().Set(v.Convert(t))
			return elem(d, v.UnsafePointer())
		}
	case reflect.Slice:
		return b.slice(t)
	case reflect.Map:
		return b.mapOf(t)
	case reflect.Struct:
		return b.structOf(t)
	}
	return refuse
}

func refuse(*document, unsafe.Pointer) bool { return false }

// asked lets a type read itself, if that is a string, a number, or an object or list.
func asked(t reflect.Type) read {
	return func(d *document, p unsafe.Pointer) bool {
		if d.next() == 'n' {
			return false // what null means to a type is its own affair
		}
		raw, ok := d.raw(0)
		if !ok {
			return false
		}
		u, ok := reflect.NewAt(t, p).Interface().(json.Unmarshaler)
		return ok && u.UnmarshalJSON(raw) == nil
	}
}

func readIntOrString(d *document, p unsafe.Pointer) (ok bool) {
	v := (*intstr.IntOrString)(p)
	if d.next() == '"' {
		v.Type = intstr.String
		v.StrVal, ok = d.text()
		return ok
	}
	n, ok := d.integer()
	v.Type, v.IntVal = intstr.Int, int32(n)
	return ok && n >= math.MinInt32 && n <= math.MaxInt32
}

func (b *readerBuilder) slice(t reflect.Type) read {
	if t.Elem().Kind() == reflect.Uint8 {
		return func(d *document, p unsafe.Pointer) bool {
			if d.next() == 'n' {
				return d.word("null")
			}
			text, ok := d.text()
			if !ok {
				return false
			}
			data, err := base64.StdEncoding.DecodeString(text)
			*(*[]byte)(p) = data
			return err == nil
		}
	}
	elem := b.of(t.Elem())
	return func(d *document, p unsafe.Pointer) bool {
		switch d.next() {
		case 'n':
			return d.word("null")
		case '[':
		default:
			return false
		}
		if !d.enter() {
			return false
		}
		list := reflect.NewAt(t, p).Elem()
		if d.next() == ']' {
			list.Set(reflect.MakeSlice(t, 0, 0))
			return d.leave()
		}
		for n := 0; ; n++ {
			if n == list.Cap() {
				list.Grow(max(1, n))
			}
			list.SetLen(n + 1)
			if !elem(d, list.Index(n).Addr().UnsafePointer()) {
				return false
			}
			switch d.next() {
			case ',':
				d.at++
			case ']':
				return d.leave()
			default:
				return false
			}
		}
	}
}

func (b *readerBuilder) mapOf(t reflect.Type) read {
	if t.Key().Kind() != reflect.String || ownReader(t.Key()) {
		return refuse
	}
	strings := t.Elem().Kind() == reflect.String && !ownReader(t.Elem())
	elem := b.of(t.Elem())
	return func(d *document, p unsafe.Pointer) bool {
		switch d.next() {
		case 'n':
			return d.word("null")
		case '{':
		default:
			return false
		}
		m := reflect.NewAt(t, p).Elem()
		m.Set(reflect.MakeMap(t))
		if strings {
			return d.strings(*(*map[string]string)(p))
		}
		return d.members(func() bool {
			name, ok := d.text()
			if !ok {
				return false
			}
			key := reflect.ValueOf(name).Convert(t.Key())
			if m.MapIndex(key).IsValid() || !d.colon() {
				return false
			}
			v := reflect.New(t.Elem())
			if !elem(d, v.UnsafePointer()) {
				return false
			}
			m.SetMapIndex(key, v.Elem())
			return true
		})
	}
}

// strings reads the members of an object into a map, whatever its type is called.
func (d *document) strings(m map[string]string) bool {
	return d.members(func() bool {
		name, ok := d.text()
		if !ok || !d.colon() {
			return false
		}
		if _, twice := m[name]; twice {
			return false
		}
		if d.next() == 'n' {
			m[name] = ""
			return d.word("null")
		}
		m[name], ok = d.text()
		return ok
	})
}

type fieldReader struct {
	offset uintptr
	read   read
}

func (b *readerBuilder) structOf(t reflect.Type) read {
	fields := map[string]int{}
	var list []fieldReader
	if !b.fields(t, 0, fields, &list) || len(list) > 64 {
		return refuse
	}
	return func(d *document, p unsafe.Pointer) bool {
		switch d.next() {
		case 'n':
			return d.word("null")
		case '{':
		default:
			return false
		}
		var seen uint64
		return d.members(func() bool {
			name, ok := d.name()
			if !ok || !d.colon() {
				return false
			}
			i, ok := fields[string(name)]
			if !ok || seen&(1<<i) != 0 {
				return false
			}
			seen |= 1 << i
			f := &list[i]
			return f.read(d, unsafe.Add(p, f.offset))
		})
	}
}

func (b *readerBuilder) fields(t reflect.Type, offset uintptr, names map[string]int, out *[]fieldReader) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, embedded, ok := tagOf(f)
		_, twice := names[name]
		switch {
		case !ok, twice, embedded && ownReader(f.Type), options == "string":
			return false
		case embedded:
			if !b.fields(f.Type, offset+f.Offset, names, out) {
				return false
			}
			continue
		case name == "":
			continue
		}
		names[name] = len(*out)
		*out = append(*out, fieldReader{offset: offset + f.Offset, read: b.of(f.Type)})
	}
	return true
}
