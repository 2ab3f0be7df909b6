package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// parts are the objects of a v2 document that other servers add to, by name.
type parts struct {
	Paths       map[string]json.RawMessage `json:"paths"`
	Definitions map[string]json.RawMessage `json:"definitions"`
	Parameters  map[string]json.RawMessage `json:"parameters"`
}

func partsOf(a Addition) (p parts, err error) {
	err = json.Unmarshal(slices.Concat([]byte(`{"paths":{`), a.Paths, []byte(`},"definitions":{`), a.Definitions, []byte(`},"parameters":{`), a.Parameters, []byte("}}")), &p)
	if err != nil {
		err = fmt.Errorf("reading a part of OpenAPI v2: %w", err)
	}
	return p, err
}

// Cut takes out of another server's v2 document what is below a path ("/apis/example.com/v1/"), with all that it refers to.
func Cut(document []byte, below string) (Addition, error) {
	var all parts
	if err := json.Unmarshal(document, &all); err != nil {
		return Addition{}, fmt.Errorf("reading an OpenAPI v2 document: %w", err)
	}
	kept := parts{Paths: map[string]json.RawMessage{}, Definitions: map[string]json.RawMessage{}, Parameters: map[string]json.RawMessage{}}
	var follow func(j json.RawMessage)
	follow = func(j json.RawMessage) {
		for _, r := range refsIn(j) {
			to, from, name := kept.Definitions, all.Definitions, strings.TrimPrefix(r, definitionRef)
			if rest, ok := strings.CutPrefix(r, parameterRef); ok {
				to, from, name = kept.Parameters, all.Parameters, rest
			}
			if next, ok := from[name]; ok && to[name] == nil {
				to[name] = next
				follow(next)
			}
		}
	}
	for path, j := range all.Paths {
		if strings.HasPrefix(path, below) {
			kept.Paths[path] = j
			follow(j)
		}
	}
	if len(kept.Paths) == 0 {
		return Addition{}, nil
	}
	a := kept.addition()
	a.Foreign = true
	return a, nil
}

// V3 says the same as OpenAPI v3, for servers that don't.
func (a Addition) V3() ([]byte, error) {
	var v2 spec.Swagger
	err := json.Unmarshal(slices.Concat([]byte(`{"swagger":"2.0","paths":{`), a.Paths, []byte(`},"definitions":{`), a.Definitions, []byte(`},"parameters":{`), a.Parameters, []byte("}}")), &v2)
	if err != nil {
		return nil, fmt.Errorf("reading a part of OpenAPI v2: %w", err)
	}
	v3 := openapiconv.ConvertV2ToV3(&v2)
	v3.Info = &spec.Info{InfoProps: spec.InfoProps{Title: "converted from OpenAPI v2", Version: "unversioned"}} // the format requires both
	return json.Marshal(v3)
}

const (
	definitionRef = "#/definitions/"
	parameterRef  = "#/parameters/"
)

// refsIn lists the references in a part of a document.
func refsIn(j json.RawMessage) []string {
	var v any
	if json.Unmarshal(j, &v) != nil {
		return nil // it was read as JSON before
	}
	var out []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if r, ok := v["$ref"].(string); ok {
				out = append(out, r)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(v)
	return out
}

// addition writes the parts in the order of their names, without insignificant space.
func (p parts) addition() Addition {
	write := func(m map[string]json.RawMessage) []byte {
		var b bytes.Buffer
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			quoted, _ := json.Marshal(name) // a string
			b.Write(quoted)
			b.WriteByte(':')
			_ = json.Compact(&b, m[name]) // it was read as JSON before
		}
		return b.Bytes()
	}
	return Addition{Paths: write(p.Paths), Definitions: write(p.Definitions), Parameters: write(p.Parameters)}
}

// taken knows what each name of a document means.
type taken struct{ parts }

// namesOf reads the names of the built-in document and an addition.
func namesOf(a Addition) (*taken, error) {
	base, err := RawV2()
	if err != nil {
		return nil, err
	}
	t := &taken{}
	if err := json.Unmarshal(base, &t.parts); err != nil {
		return nil, fmt.Errorf("reading the embedded OpenAPI v2 document: %w", err)
	}
	return t, t.note(a)
}

// note takes the names of an addition.
func (t *taken) note(a Addition) error {
	p, err := partsOf(a)
	if err != nil {
		return err
	}
	maps.Copy(t.Paths, p.Paths)
	maps.Copy(t.Definitions, p.Definitions)
	maps.Copy(t.Parameters, p.Parameters)
	return nil
}

// fit changes an addition so that none of its names means anything else than before: what is there already is left out, and
// a name of something else gets a number. A path that is there stays what it was.
func (t *taken) fit(a Addition) (Addition, error) {
	p, err := partsOf(a)
	if err != nil {
		return a, err
	}
	for path := range p.Paths {
		if t.Paths[path] != nil {
			delete(p.Paths, path)
		}
	}
	renamed := map[string]string{} // whole references, with their quotes
	rename := func(have, more map[string]json.RawMessage, prefix string) {
		for _, name := range slices.Sorted(maps.Keys(more)) {
			old, is := have[name]
			if !is || sameMeaning(old, more[name]) {
				continue
			}
			next := name
			for n := 2; have[next] != nil || more[next] != nil; n++ {
				next = name + "_v" + strconv.Itoa(n)
			}
			more[next] = more[name]
			delete(more, name)
			renamed[`"`+prefix+name+`"`] = `"` + prefix + next + `"`
		}
	}
	rename(t.Definitions, p.Definitions, definitionRef)
	rename(t.Parameters, p.Parameters, parameterRef)
	if len(renamed) > 0 {
		var pairs []string
		for from, to := range renamed {
			pairs = append(pairs, from, to)
		}
		r := strings.NewReplacer(pairs...)
		for _, m := range [...]map[string]json.RawMessage{p.Paths, p.Definitions, p.Parameters} {
			for name, j := range m {
				m[name] = json.RawMessage(r.Replace(string(j)))
			}
		}
	}
	for name := range p.Definitions {
		if t.Definitions[name] != nil {
			delete(p.Definitions, name)
		}
	}
	for name := range p.Parameters {
		if t.Parameters[name] != nil {
			delete(p.Parameters, name)
		}
	}
	out := p.addition()
	return out, t.note(out)
}

// sameMeaning says whether two definitions differ in nothing but the kinds that they are the schema of: each server names those that
// it has.
func sameMeaning(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	delete(x, "x-kubernetes-group-version-kind")
	delete(y, "x-kubernetes-group-version-kind")
	return reflect.DeepEqual(x, y)
}
