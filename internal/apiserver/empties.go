package apiserver

import (
	"reflect"
	"strings"
	"sync"
)

// emptier turns empty lists and maps into nil: the stored form can't tell them apart, and what a client sees must not depend on whether
// the server has restarted since. The difference shows in JSON (fields without omitempty), and in who is said to have changed a field. What
// there is to look at is found out once per type.
type emptier struct{ plans sync.Map } // reflect.Type to *emptyPlan

// emptyPlan is what to do with values of one type; nil steps mean nothing.
type emptyPlan struct {
	fields []emptyField
	elem   *emptyPlan // of pointers and slices
}

type emptyField struct {
	index int
	// clear says that an empty value of the field becomes nil.
	clear bool
	plan  *emptyPlan
}

// clean works on the struct that obj points to.
func (e *emptier) clean(obj any) {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return
	}
	t := v.Elem().Type()
	p, ok := e.plans.Load(t)
	if !ok {
		p, _ = e.plans.LoadOrStore(t, buildEmptyPlan(t, map[reflect.Type]*emptyPlan{}))
	}
	p.(*emptyPlan).run(v.Elem()) //nolint:forcetypeassert // nothing else is stored
}

func (p *emptyPlan) run(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && p.elem != nil {
			p.elem.run(v.Elem())
		}
	case reflect.Slice:
		if p.elem != nil {
			for i := range v.Len() {
				p.elem.run(v.Index(i))
			}
		}
	case reflect.Struct:
		for i := range p.fields {
			f := &p.fields[i]
			x := v.Field(f.index)
			if f.clear && !x.IsNil() && x.Len() == 0 {
				x.SetZero()
				continue
			}
			if f.plan != nil {
				f.plan.run(x)
			}
		}
	}
}

// buildEmptyPlan returns the plan of a type; one under construction is in seen, for types that contain themselves.
func buildEmptyPlan(t reflect.Type, seen map[reflect.Type]*emptyPlan) *emptyPlan {
	if p, ok := seen[t]; ok {
		return p
	}
	p := &emptyPlan{}
	seen[t] = p
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		if e := t.Elem(); e.Kind() == reflect.Struct || e.Kind() == reflect.Pointer || e.Kind() == reflect.Slice {
			p.elem = buildEmptyPlan(e, seen)
			if p.elem.nothing() {
				p.elem = nil
			}
		}
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if !f.IsExported() || f.Name == "ObjectMeta" || f.Name == "TypeMeta" {
				continue
			}
			ef := emptyField{index: i}
			switch f.Type.Kind() {
			case reflect.Slice, reflect.Map:
				_, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
				bytes := f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Uint8 // which are stored, also if there are none
				ef.clear = f.Tag.Get("json") != "" && !(bytes && strings.Contains(opts, "omitempty"))
			}
			switch f.Type.Kind() {
			case reflect.Slice, reflect.Pointer, reflect.Struct:
				ef.plan = buildEmptyPlan(f.Type, seen)
				if ef.plan.nothing() {
					ef.plan = nil
				}
			}
			if ef.clear || ef.plan != nil {
				p.fields = append(p.fields, ef)
			}
		}
	}
	return p
}

// nothing says whether a finished plan has no steps. One under construction counts as having some only if it got any so far;
// such recursive types are walked a little less than they could be, which shows nowhere in the API's own types.
func (p *emptyPlan) nothing() bool { return len(p.fields) == 0 && p.elem == nil }
