package api

import "reflect"

// dropper makes empty lists and maps at any depth of a value absent, as they come back from the stored protobuf form, which
// knows no difference. So an object reads the same before and after the process restarts, and clients see "rules: null" where
// upstream shows it. Lists of bytes are kept: there the difference is stored.
type dropper func(reflect.Value)

// droppers compiles each type once; nil stands for a type that holds no list and no map.
type droppers map[reflect.Type]*dropper

func (d droppers) compile(t reflect.Type) *dropper {
	if f, ok := d[t]; ok {
		return f
	}
	if !mayHold(t, map[reflect.Type]bool{}) {
		d[t] = nil
		return nil
	}
	f := new(dropper)
	d[t] = f // before the parts: types may contain themselves
	switch t.Kind() {
	case reflect.Map:
		*f = func(v reflect.Value) {
			if !v.IsNil() && v.Len() == 0 {
				v.SetZero()
			}
		}
	case reflect.Pointer:
		elem := d.compile(t.Elem())
		*f = func(v reflect.Value) {
			if !v.IsNil() {
				(*elem)(v.Elem())
			}
		}
	case reflect.Slice:
		elem := d.compile(t.Elem())
		*f = func(v reflect.Value) {
			switch n := v.Len(); {
			case n == 0:
				if !v.IsNil() {
					v.SetZero()
				}
			case elem != nil:
				for i := range n {
					(*elem)(v.Index(i))
				}
			}
		}
	case reflect.Struct:
		type part struct {
			index int
			drop  *dropper
		}
		var parts []part
		for i := range t.NumField() {
			if field := t.Field(i); field.IsExported() {
				if drop := d.compile(field.Type); drop != nil {
					parts = append(parts, part{i, drop})
				}
			}
		}
		*f = func(v reflect.Value) {
			for _, p := range parts {
				(*p.drop)(v.Field(p.index))
			}
		}
	}
	return f
}

// mayHold says whether a value of type t can contain a list (of anything but bytes) or a map.
func mayHold(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Uint8
	case reflect.Map:
		return true
	case reflect.Pointer:
		return mayHold(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && mayHold(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// canonicalize returns the kind's own Canonicalize followed by a dropper for its hub type.
func (d droppers) canonicalize(own func(Object), hub reflect.Type) func(Object) {
	drop := d.compile(hub)
	if drop == nil {
		return own
	}
	return func(o Object) {
		if own != nil {
			own(o)
		}
		(*drop)(reflect.ValueOf(o).Elem())
	}
}
