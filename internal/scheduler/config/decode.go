package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxBytes bounds the size of a file.
	maxBytes = 1 << 20
	// maxDepth bounds how deep values may be nested.
	maxDepth = 64
)

// document is a YAML file whose values know their lines.
type document struct {
	root  *yaml.Node
	lines map[string]int // by the path of a value, as in profiles[0].schedulerName
	nodes map[string]*yaml.Node
	errs  []error
}

// read parses YAML, or JSON, which is YAML too.
func read(data []byte) (*document, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("the file has %d bytes, more than %d", len(data), maxBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("line 1: want apiVersion: " + apiVersion + ", kind: " + kind + " and their fields")
	}
	return &document{root: doc.Content[0], lines: map[string]int{}, nodes: map[string]*yaml.Node{}}, nil
}

// decode fills in what into points to from the value of a path. What is wrong is kept in errs.
func (d *document) decode(path string, n *yaml.Node, into any) {
	d.value(path, n, reflect.ValueOf(into).Elem(), 0)
}

func (d *document) fail(n *yaml.Node, path, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("line %d: %s: %s", n.Line, path, fmt.Sprintf(format, args...)))
}

func (d *document) value(path string, n *yaml.Node, into reflect.Value, depth int) {
	d.lines[path], d.nodes[path] = n.Line, n
	if depth > maxDepth {
		d.fail(n, path, "nested too deep")
		return
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, path, "aliases are not supported: write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // as if it weren't there
	}
	t := into.Type()
	if t.Kind() == reflect.Pointer {
		p := reflect.New(t.Elem())
		d.value(path, n, p.Elem(), depth)
		into.Set(p)
		return
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		d.unmarshal(path, n, into)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			d.fail(n, path, "want an object, got %s", describe(n))
			return
		}
		d.object(path, n, into, depth)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			d.unmarshal(path, n, into) // base64
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "want a list, got %s", describe(n))
			return
		}
		list := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.value(fmt.Sprintf("%s[%d]", path, i), item, list.Index(i), depth+1)
		}
		into.Set(list)
	default:
		d.unmarshal(path, n, into)
	}
}

func (d *document) object(path string, n *yaml.Node, into reflect.Value, depth int) {
	fields := fieldsOf(into)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := key.Value
		if path != "" {
			at = path + "." + key.Value
		}
		if line, twice := seen[key.Value]; twice {
			d.fail(key, at, "stands in line %d already", line)
			continue
		}
		seen[key.Value] = key.Line
		f, ok := fields[key.Value]
		if !ok {
			d.fail(key, at, "unknown field%s", suggest(fields, key.Value))
			continue
		}
		d.value(at, value, f, depth+1)
	}
}

// fieldsOf are the fields of a struct by their names in JSON, those of embedded structs too.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			for k, inner := range fieldsOf(v.Field(i)) {
				out[k] = inner
			}
			continue
		}
		if f.IsExported() && name != "-" && name != "" {
			out[name] = v.Field(i)
		}
	}
	return out
}

// unmarshal leaves a value to encoding/json.
func (d *document) unmarshal(path string, n *yaml.Node, into reflect.Value) {
	v, err := plain(n, 0)
	if err != nil {
		d.fail(n, path, "%v", err)
		return
	}
	text, err := json.Marshal(v)
	if err != nil {
		d.fail(n, path, "%v", err)
		return
	}
	err = json.Unmarshal(text, into.Addr().Interface())
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		d.fail(n, path, "want %s, got %s", wanted(wrong.Type), describe(n))
	case err != nil:
		d.fail(n, path, "%v", err)
	}
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number (%s)", t.Kind())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a value of type " + t.String()
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}

// plain turns a value into what encoding/json knows.
func plain(n *yaml.Node, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	switch n.Kind {
	case yaml.AliasNode:
		return nil, errors.New("aliases are not supported: write the value out")
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("%q stands there twice (line %d)", key, n.Content[i].Line)
			}
			v, err := plain(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			m[key] = v
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := plain(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	switch n.Tag {
	case "!!int", "!!float", "!!bool", "!!null":
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return v, nil
	}
	return n.Value, nil // times, too, are text in JSON
}

// suggest names the field that is most like a word.
func suggest[T any](fields map[string]T, word string) string {
	for name := range fields {
		if strings.EqualFold(name, word) {
			return fmt.Sprintf(": did you mean %q?", name)
		}
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return "; there are " + strings.Join(names, ", ")
}

// line is where a path stands in the file, or the nearest part of it that does; 0 if none does.
func (d *document) line(path string) int {
	for path != "" {
		if n, ok := d.lines[path]; ok {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return 0
}
