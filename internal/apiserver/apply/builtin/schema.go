package builtin

import (
	_ "embed" // the schema
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

//go:generate go run ./gen types.bin

//go:embed types.bin
var prepared string

// Schema returns the schema of the built-in types. Each call makes another one, for the caller to keep; its strings are those of the program.
func Schema() *schema.Schema {
	s, err := Decode(prepared)
	if err != nil { // a test reads the same bytes
		panic(fmt.Sprintf("the prepared schema: %v", err))
	}
	return s
}

// What a reference or an atom has, and what kind of default a field has.
const (
	hasScalar = 1 << iota
	hasList
	hasMap

	isNamed      = 1
	isRelated    = 2
	isNullable   = 4
	isInlined    = 8
	textDefault  = 1
	intDefault   = 2
	trueDefault  = 3
	falseDefault = 4
	jsonDefault  = 5
)

// Encode prepares a schema: a table of its strings, then its types, with strings by their place and numbers as varints.
func Encode(s *schema.Schema) ([]byte, error) {
	w := &writer{places: map[string]int{}}
	w.count(len(s.Types))
	for i := range s.Types {
		w.text(s.Types[i].Name)
		w.atom(&s.Types[i].Atom)
	}
	out := binary.AppendUvarint(nil, uint64(len(w.texts)))
	for _, t := range w.texts {
		out = append(binary.AppendUvarint(out, uint64(len(t))), t...)
	}
	return append(out, w.out...), w.err
}

type writer struct {
	out    []byte
	texts  []string
	places map[string]int
	err    error
}

func (w *writer) count(n int)  { w.out = binary.AppendUvarint(w.out, uint64(n)) }
func (w *writer) flags(b byte) { w.out = append(w.out, b) }
func (w *writer) text(s string) {
	i, ok := w.places[s]
	if !ok {
		i = len(w.texts)
		w.texts, w.places[s] = append(w.texts, s), i
	}
	w.count(i)
}

func (w *writer) bool(b bool) {
	if b {
		w.flags(1)
		return
	}
	w.flags(0)
}

func (w *writer) atom(a *schema.Atom) {
	var f byte
	if a.Scalar != nil {
		f |= hasScalar
	}
	if a.List != nil {
		f |= hasList
	}
	if a.Map != nil {
		f |= hasMap
	}
	w.flags(f)
	if a.Scalar != nil {
		w.text(string(*a.Scalar))
	}
	if l := a.List; l != nil {
		w.ref(&l.ElementType)
		w.text(string(l.ElementRelationship))
		w.count(len(l.Keys))
		for _, k := range l.Keys {
			w.text(k)
		}
	}
	if m := a.Map; m != nil {
		w.fields(m)
	}
}

func (w *writer) fields(m *schema.Map) {
	w.count(len(m.Fields))
	for i := range m.Fields {
		w.text(m.Fields[i].Name)
		w.ref(&m.Fields[i].Type)
		w.value(m.Fields[i].Default)
	}
	w.count(len(m.Unions))
	for _, u := range m.Unions {
		w.bool(u.Discriminator != nil)
		if u.Discriminator != nil {
			w.text(*u.Discriminator)
		}
		w.bool(u.DeduceInvalidDiscriminator)
		w.count(len(u.Fields))
		for _, f := range u.Fields {
			w.text(f.FieldName)
			w.text(f.DiscriminatorValue)
		}
	}
	w.ref(&m.ElementType)
	w.text(string(m.ElementRelationship))
}

func (w *writer) ref(r *schema.TypeRef) {
	var f byte
	if r.NamedType != nil {
		f |= isNamed
	}
	if r.ElementRelationship != nil {
		f |= isRelated
	}
	if r.Nullable {
		f |= isNullable
	}
	if r.Inlined != (schema.Atom{}) {
		f |= isInlined
	}
	w.flags(f)
	if r.NamedType != nil {
		w.text(*r.NamedType)
	}
	if r.ElementRelationship != nil {
		w.text(string(*r.ElementRelationship))
	}
	if f&isInlined != 0 {
		w.atom(&r.Inlined)
	}
}

func (w *writer) value(v any) {
	switch v := v.(type) {
	case nil:
		w.flags(0)
	case string:
		w.flags(textDefault)
		w.text(v)
	case int:
		w.flags(intDefault)
		w.out = binary.AppendVarint(w.out, int64(v))
	case bool:
		if v {
			w.flags(trueDefault)
			return
		}
		w.flags(falseDefault)
	default:
		data, err := json.Marshal(stringKeys(v))
		if err != nil {
			w.err = errors.Join(w.err, err)
		}
		w.flags(jsonDefault)
		w.text(string(data))
	}
}

// stringKeys is a value as YAML is read, with maps as JSON has them.
func stringKeys(v any) any {
	switch v := v.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(k)] = stringKeys(e)
		}
		return m
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = stringKeys(out[i])
		}
		return out
	}
	return v
}

// Decode reads what Encode has made. The strings of the schema are parts of data.
func Decode(data string) (*schema.Schema, error) {
	r := &reader{data: data}
	r.texts = make([]string, r.count())
	for i := range r.texts {
		r.texts[i] = r.take(r.count())
	}
	s := &schema.Schema{Types: make([]schema.TypeDef, r.count())}
	for i := range s.Types {
		s.Types[i].Name = r.text()
		r.atom(&s.Types[i].Atom)
	}
	if r.data != "" && r.err == nil {
		r.err = fmt.Errorf("%d bytes more than types", len(r.data))
	}
	return s, r.err
}

var errTruncated = errors.New("it ends too early")

type reader struct {
	data   string // what is left
	texts  []string
	depth  int
	err    error
	scalar [4]schema.Scalar // those that there are, to be pointed at
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.data = ""
}

// count reads the number of things of which each takes a byte or more.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.fail(errTruncated)
		return 0
	}
	return int(n)
}

func (r *reader) uvarint() uint64 {
	var n uint64
	for shift := 0; shift < 64; shift += 7 {
		b := r.flags()
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			return n
		}
	}
	r.fail(errors.New("a number has too many digits"))
	return 0
}

func (r *reader) flags() byte {
	if r.data == "" {
		r.fail(errTruncated)
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) take(n int) string {
	if n > len(r.data) {
		r.fail(errTruncated)
		return ""
	}
	s := r.data[:n]
	r.data = r.data[n:]
	return s
}

func (r *reader) text() string {
	i := r.uvarint()
	if i >= uint64(len(r.texts)) {
		r.fail(fmt.Errorf("there is no string %d", i))
		return ""
	}
	return r.texts[i]
}

// deepest is how far types may be inlined in each other.
const deepest = 100

func (r *reader) atom(a *schema.Atom) {
	if r.depth++; r.depth > deepest {
		r.fail(errors.New("types are inlined too deeply"))
		return
	}
	defer func() { r.depth-- }()
	f := r.flags()
	if f&hasScalar != 0 {
		a.Scalar = r.shared(schema.Scalar(r.text()))
	}
	if f&hasList != 0 {
		a.List = &schema.List{}
		r.ref(&a.List.ElementType)
		a.List.ElementRelationship = schema.ElementRelationship(r.text())
		if n := r.count(); n > 0 {
			a.List.Keys = make([]string, n)
			for i := range a.List.Keys {
				a.List.Keys[i] = r.text()
			}
		}
	}
	if f&hasMap != 0 {
		a.Map = &schema.Map{}
		r.fields(a.Map)
	}
}

// shared is a place where a scalar stands, the same for all that are equal.
func (r *reader) shared(s schema.Scalar) *schema.Scalar {
	for i := range r.scalar {
		if r.scalar[i] == "" {
			r.scalar[i] = s
		}
		if r.scalar[i] == s {
			return &r.scalar[i]
		}
	}
	return &s
}

func (r *reader) fields(m *schema.Map) {
	if n := r.count(); n > 0 {
		m.Fields = make([]schema.StructField, n)
		for i := range m.Fields {
			f := &m.Fields[i]
			f.Name = r.text()
			r.ref(&f.Type)
			f.Default = r.value()
		}
	}
	if n := r.count(); n > 0 {
		m.Unions = make([]schema.Union, n)
		for i := range m.Unions {
			r.union(&m.Unions[i])
		}
	}
	r.ref(&m.ElementType)
	m.ElementRelationship = schema.ElementRelationship(r.text())
}

func (r *reader) union(u *schema.Union) {
	if r.flags() != 0 {
		d := r.text()
		u.Discriminator = &d
	}
	u.DeduceInvalidDiscriminator = r.flags() != 0
	if n := r.count(); n > 0 {
		u.Fields = make([]schema.UnionField, n)
		for i := range u.Fields {
			u.Fields[i].FieldName = r.text()
			u.Fields[i].DiscriminatorValue = r.text()
		}
	}
}

func (r *reader) ref(to *schema.TypeRef) {
	f := r.flags()
	if f&isNamed != 0 {
		if i := r.uvarint(); i < uint64(len(r.texts)) {
			to.NamedType = &r.texts[i]
		} else {
			r.fail(fmt.Errorf("there is no string %d", i))
		}
	}
	if f&isRelated != 0 {
		e := schema.ElementRelationship(r.text())
		to.ElementRelationship = &e
	}
	to.Nullable = f&isNullable != 0
	if f&isInlined != 0 {
		r.atom(&to.Inlined)
	}
}

func (r *reader) value() any {
	switch k := r.flags(); k {
	case 0:
		return nil
	case textDefault:
		return r.text()
	case intDefault:
		u := r.uvarint()
		n := int64(u>>1) ^ -int64(u&1)
		if n < math.MinInt32 || n > math.MaxInt32 {
			r.fail(fmt.Errorf("a default of %d", n))
		}
		return int(n)
	case trueDefault, falseDefault:
		return k == trueDefault
	case jsonDefault:
		var v any
		if err := json.Unmarshal([]byte(r.text()), &v); err != nil {
			r.fail(err)
		}
		return v
	default:
		r.fail(fmt.Errorf("a default of the kind %d", k))
		return nil
	}
}
