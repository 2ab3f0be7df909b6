package custom

import (
	"math"
	"reflect"
	"regexp"
	"unicode/utf8"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
)

// surely says whether values have nothing that their schema could complain of. The library that finds the words for complaints makes a
// validator of each property of each object, which costs more than the rest of a write: it is asked about what is not surely valid, and about
// what is rare. The patterns it has compiled are kept. Safe for concurrent use.
type surely struct{ patterns map[string]*regexp.Regexp }

// newSurely prepares for the values of a schema.
func newSurely(s *structuralschema.Structural) surely {
	var c surely
	c.compile(s)
	return c
}

func (c *surely) compile(s *structuralschema.Structural) {
	if s == nil {
		return
	}
	if s.ValueValidation != nil && s.ValueValidation.Pattern != "" {
		if re, err := regexp.Compile(s.ValueValidation.Pattern); err == nil {
			if c.patterns == nil {
				c.patterns = map[string]*regexp.Regexp{}
			}
			c.patterns[s.ValueValidation.Pattern] = re
		}
	}
	c.compile(s.Items)
	for name := range s.Properties {
		p := s.Properties[name]
		c.compile(&p)
	}
	if s.AdditionalProperties != nil {
		c.compile(s.AdditionalProperties.Structural)
	}
}

// object is valid for the top of an object, without apiVersion and kind, which are not the schema's, nor metadata, of which it can only
// say what is rare.
func (c surely) object(o *Object, s *structuralschema.Structural) bool {
	if s == nil || len(s.Properties["metadata"].Properties) > 0 || s.Properties["metadata"].ValueValidation != nil || s.XEmbeddedResource || s.XIntOrString {
		return false
	}
	if p := s.ValueValidation; p != nil {
		if junctors(p) || len(p.Enum) > 0 || p.MaxProperties != nil || p.MinProperties != nil {
			return false
		}
		for _, name := range p.Required {
			switch name {
			case "apiVersion", "kind", "metadata":
			default:
				if _, ok := o.Fields[name]; !ok {
					return false
				}
			}
		}
	}
	for _, name := range [...]string{"apiVersion", "kind"} {
		if p, ok := s.Properties[name]; ok && (p.Type != "string" || p.ValueValidation != nil) {
			return false
		}
	}
	return c.members(o.Fields, s)
}

func junctors(p *structuralschema.ValueValidation) bool {
	return len(p.AllOf) > 0 || len(p.AnyOf) > 0 || len(p.OneOf) > 0 || p.Not != nil
}

func (c surely) members(m map[string]any, s *structuralschema.Structural) bool {
	for k, v := range m {
		if p, ok := s.Properties[k]; ok {
			if !c.valid(v, &p) {
				return false
			}
		} else if s.AdditionalProperties != nil && (s.AdditionalProperties.Structural == nil || !c.valid(v, s.AdditionalProperties.Structural)) {
			return false
		}
	}
	return true
}

func (c surely) valid(v any, s *structuralschema.Structural) bool {
	p := s.ValueValidation
	if s.XEmbeddedResource {
		return false
	}
	if p == nil {
		p = &structuralschema.ValueValidation{}
	}
	// What an int or a string is, its schema says once more with anyOf.
	if s.XIntOrString {
		if len(p.AllOf) > 0 || len(p.AnyOf) > 0 && !isIntOrString(p.AnyOf) || len(p.OneOf) > 0 || p.Not != nil {
			return false
		}
	} else if junctors(p) {
		return false
	}
	switch v := v.(type) {
	case nil:
		return s.Nullable && len(p.Enum) == 0
	case string:
		return (s.Type == "string" || s.XIntOrString) && c.text(v, p)
	case bool:
		return s.Type == "boolean" && len(p.Enum) == 0
	case int64:
		return (s.Type == "integer" || s.XIntOrString) && fitsFormat(v, p.Format) && integer(v, p)
	case float64:
		return s.Type == "number" && p.Format == "" && number(v, p)
	case []any:
		n := int64(len(v))
		if s.Type != "array" || s.Items == nil || p.UniqueItems || len(p.Enum) > 0 || p.MaxItems != nil && n > *p.MaxItems || p.MinItems != nil && n < *p.MinItems {
			return false
		}
		for _, e := range v {
			if !c.valid(e, s.Items) {
				return false
			}
		}
		return true
	case map[string]any:
		n := int64(len(v))
		if s.Type != "object" || len(p.Enum) > 0 || p.MaxProperties != nil && n > *p.MaxProperties || p.MinProperties != nil && n < *p.MinProperties {
			return false
		}
		for _, name := range p.Required {
			if _, ok := v[name]; !ok {
				return false
			}
		}
		return c.members(v, s)
	}
	return false
}

func (c surely) text(v string, p *structuralschema.ValueValidation) bool {
	if p.MaxLength != nil || p.MinLength != nil {
		n := int64(utf8.RuneCountInString(v))
		if p.MaxLength != nil && n > *p.MaxLength || p.MinLength != nil && n < *p.MinLength {
			return false
		}
	}
	if p.Pattern != "" {
		if re := c.patterns[p.Pattern]; re == nil || !re.MatchString(v) {
			return false
		}
	}
	if p.Format != "" && !strfmt.Default.Validates(p.Format, v) {
		return false
	}
	if len(p.Enum) == 0 {
		return true
	}
	for _, e := range p.Enum {
		if e.Object == v {
			return true
		}
	}
	return false
}

// fitsFormat says whether an integer surely has a format. Of formats that are unheard of the library knows more.
func fitsFormat(v int64, format string) bool {
	switch format {
	case "", "int64":
		return true
	case "int32":
		return v >= math.MinInt32 && v <= math.MaxInt32
	}
	return false
}

// isIntOrString knows the one anyOf that says nothing new of an int or a string; others can name their bounds.
func isIntOrString(anyOf []structuralschema.NestedValueValidation) bool {
	if len(anyOf) != 2 {
		return false
	}
	for i, name := range [...]string{"integer", "string"} {
		if !reflect.DeepEqual(anyOf[i], structuralschema.NestedValueValidation{ForbiddenGenerics: structuralschema.Generic{Type: name}}) {
			return false
		}
	}
	return true
}

// maxExact is how far a float counts every integer.
const maxExact = 1 << 53

// integer compares with bounds that are integers of the same format. Of others the library has something to say.
func integer(v int64, p *structuralschema.ValueValidation) bool {
	if p.MultipleOf != nil || len(p.Enum) > 0 {
		return false
	}
	for _, bound := range [...]*float64{p.Maximum, p.Minimum} {
		if bound != nil && (*bound != math.Trunc(*bound) || math.Abs(*bound) > maxExact || !fitsFormat(int64(*bound), p.Format)) {
			return false
		}
	}
	switch {
	case p.Maximum != nil && (v > int64(*p.Maximum) || p.ExclusiveMaximum && v == int64(*p.Maximum)):
		return false
	case p.Minimum != nil && (v < int64(*p.Minimum) || p.ExclusiveMinimum && v == int64(*p.Minimum)):
		return false
	}
	return true
}

func number(v float64, p *structuralschema.ValueValidation) bool {
	switch {
	case p.MultipleOf != nil || len(p.Enum) > 0:
		return false
	case p.Maximum != nil && (v > *p.Maximum || p.ExclusiveMaximum && v == *p.Maximum):
		return false
	case p.Minimum != nil && (v < *p.Minimum || p.ExclusiveMinimum && v == *p.Minimum):
		return false
	}
	return true
}

// status is valid for a status alone.
func (c surely) status(v any, s *structuralschema.Structural) bool {
	if s == nil {
		return false
	}
	p, ok := s.Properties["status"]
	return ok && c.valid(v, &p)
}
