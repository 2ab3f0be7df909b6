package negotiate

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestUntypedRefuses(t *testing.T) {
	target := Target{Kind: schema.GroupVersionKind{Group: "a.b", Version: "v1", Kind: "Thing"}}
	for _, c := range []struct {
		body, media string
		strictly    bool
		want        string
	}{
		{`{"apiVersion":"a/b/c","kind":"Thing"}`, JSON, true, "the object provided is unrecognized (must be of type Thing): unexpected GroupVersion string: a/b/c"},
		{`{"apiVersion":"a/b/c"}`, JSON, false, "the object provided is unrecognized (must be of type Thing): unexpected GroupVersion string: a/b/c"},
		{`{"apiVersion":"a.b/v1"}`, JSON, true, "the object provided is unrecognized (must be of type Thing): Object 'Kind' is missing in '{\"apiVersion\":\"a.b/v1\"}'"},
		{`{"apiVersion":"a.b/v1"}`, JSON, false, "Thing in version \"v1\" cannot be handled as a Thing: Object 'Kind' is missing in '{\"apiVersion\":\"a.b/v1\"}'"},
		{"apiVersion: a.b/v1", YAML, false, "Thing in version \"v1\" cannot be handled as a Thing: Object 'Kind' is missing in '{\"apiVersion\":\"a.b/v1\"}'"},
		{`null`, JSON, false, "Thing in version \"v1\" cannot be handled as a Thing: Object 'Kind' is missing in 'null'"},
	} {
		_, _, _, err := Untyped([]byte(c.body), c.media, target, c.strictly)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s, strictly %v: %v, want %s", c.body, c.strictly, err, c.want)
		}
	}
}

func TestIntegers(t *testing.T) {
	for _, c := range []struct{ in, want any }{
		{1.0, int64(1)}, {-2.0, int64(-2)}, {1.5, 1.5}, {1e300, 1e300}, {float64(1 << 63), float64(1 << 63)}, {-float64(1 << 63), int64(-1 << 63)},
		{"1.0", "1.0"}, {nil, nil}, {int64(7), int64(7)},
		{map[string]any{"a": 1.0, "b": []any{2.0, "x", map[string]any{"c": 3e3}}}, map[string]any{"a": int64(1), "b": []any{int64(2), "x", map[string]any{"c": int64(3000)}}}},
	} {
		if got := Integers(c.in); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%#v became %#v, want %#v", c.in, got, c.want)
		}
	}
}

func TestNoObject(t *testing.T) {
	for doc, want := range map[string]string{
		`{}`: "", `{"kind":"a"}`: "", `[]`: "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value", `{"kind":5}`: "couldn't get version/kind",
	} {
		if err := NoObject([]byte(doc)); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}
