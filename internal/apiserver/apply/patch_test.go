package apply

import (
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestPatchCheck(t *testing.T) {
	const apply = types.ApplyYAMLPatchType
	for _, c := range []struct {
		kind       types.PatchType
		body, want string
	}{
		{types.MergePatchType, `{}`, ""},
		{types.MergePatchType, `[1]`, ""}, // JSON, if no patch
		{types.MergePatchType, `{"a":}`, "invalid JSON patch"},
		{types.JSONPatchType, ``, "invalid JSON patch"},
		{types.StrategicMergePatchType, "a: b", "invalid JSON patch"},
		{apply, "a: b", ""},
		{apply, "", ""},
		{apply, " {", ""}, // read as YAML later, which says it better
		{apply, "a: b: c", "error encoding patch: yaml: mapping values are not allowed in this context"},
		{apply, "a: .inf", "error encoding patch: json: unsupported value: +Inf"},
	} {
		err := (&Patch{Type: c.kind, Data: []byte(c.body)}).Check()
		if got := text(err); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.kind, c.body, got, c.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestConfiguration(t *testing.T) {
	const twice = "a: 1\nb: v\nb: w\n"
	for _, c := range []struct {
		name, body, validation string
		want                   map[string]any
		refused, late          string
		warned                 []string
	}{
		{name: "whole numbers", body: "a: 9007199254740993\nb: 1.0\nc: 1.5", want: map[string]any{"a": int64(9007199254740993), "b": int64(1), "c": 1.5}},
		{name: "whole numbers in JSON", body: `{"a":9007199254740993,"b":1.0,"c":1.5}`, want: map[string]any{"a": int64(9007199254740993), "b": int64(1), "c": 1.5}},
		{name: "a list", body: "- a", refused: "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}"},
		{name: "twice", body: twice, validation: "Warn", want: map[string]any{"a": int64(1), "b": "w"}, warned: []string{`line 3: key "b" already set in map`}},
		{name: "twice, strictly", body: twice, validation: "Strict", want: map[string]any{"a": int64(1), "b": "w"},
			late: "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  line 3: key \"b\" already set in map"},
		{name: "twice, whatever", body: twice, validation: "Ignore", want: map[string]any{"a": int64(1), "b": "w"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var warned []string
			p := &Patch{Type: types.ApplyYAMLPatchType, Data: []byte(c.body), Validation: c.validation, Warn: func(s string) { warned = append(warned, s) }}
			u, done, err := p.Configuration()
			if text(err) != c.refused {
				t.Fatalf("%q, want %q", text(err), c.refused)
			}
			if err != nil {
				return
			}
			if !reflect.DeepEqual(u.Object, c.want) {
				t.Errorf("read %#v, want %#v", u.Object, c.want)
			}
			if len(warned) > 0 {
				t.Errorf("warned of %q before anything was applied", warned)
			}
			if err := done(); text(err) != c.late || !slices.Equal(warned, c.warned) {
				t.Errorf("then %q and warnings %q, want %q and %q", text(err), warned, c.late, c.warned)
			}
		})
	}
}
