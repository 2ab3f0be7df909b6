package builtin_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/celox/celox/internal/apiserver/apply/builtin"
)

// The prepared schema is the library's, so a new version of that makes it necessary to generate anew.
func TestSchema(t *testing.T) {
	some := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	typed, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(some)
	if err != nil {
		t.Fatal(err)
	}
	got, want := builtin.Schema(), typed.Schema()
	if len(got.Types) != len(want.Types) {
		t.Fatalf("%d types of %d: run go generate ./internal/apiserver/apply/builtin", len(got.Types), len(want.Types))
	}
	for i := range want.Types {
		if got.Types[i].Name != want.Types[i].Name {
			t.Fatalf("%s in the place of %s", got.Types[i].Name, want.Types[i].Name)
		}
		same(t, got.Types[i].Name, reflect.ValueOf(got.Types[i].Atom), reflect.ValueOf(want.Types[i].Atom))
	}
}

// same compares what is exported; maps that are defaults are read from YAML with keys of any type, and from JSON with strings.
func same(t *testing.T, path string, got, want reflect.Value) {
	t.Helper()
	if got.IsValid() != want.IsValid() {
		t.Errorf("%s: %v, not %v", path, got, want)
		return
	}
	if !want.IsValid() {
		return
	}
	switch want.Kind() {
	case reflect.Pointer, reflect.Interface:
		if got.IsNil() != want.IsNil() {
			t.Errorf("%s: %v, not %v", path, got, want)
			return
		}
		same(t, path, got.Elem(), want.Elem())
	case reflect.Struct:
		for i := range want.NumField() {
			if f := want.Type().Field(i); f.IsExported() {
				same(t, path+"."+f.Name, got.Field(i), want.Field(i))
			}
		}
	case reflect.Slice:
		if got.Len() != want.Len() {
			t.Errorf("%s: %d, not %d", path, got.Len(), want.Len())
			return
		}
		for i := range want.Len() {
			same(t, path+"[]", got.Index(i), want.Index(i))
		}
	case reflect.Map:
		if got.Len() != want.Len() {
			t.Errorf("%s: %d, not %d", path, got.Len(), want.Len())
			return
		}
		for _, k := range want.MapKeys() {
			same(t, path+"{}", got.MapIndex(reflect.ValueOf(k.Interface().(string))), want.MapIndex(k))
		}
	default:
		if !reflect.DeepEqual(got.Interface(), want.Interface()) {
			t.Errorf("%s: %v, not %v", path, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	named, related := "a", schema.Atomic
	scalar := schema.String
	data, err := builtin.Encode(&schema.Schema{Types: []schema.TypeDef{
		{Name: "a", Atom: schema.Atom{Scalar: &scalar}},
		{Name: "b", Atom: schema.Atom{List: &schema.List{Keys: []string{"k"}, ElementType: schema.TypeRef{NamedType: &named, ElementRelationship: &related, Nullable: true}}}},
		{Name: "c", Atom: schema.Atom{Map: &schema.Map{
			Fields: []schema.StructField{{Name: "f", Default: "x"}, {Name: "g", Default: -7}, {Name: "h", Default: true}, {Name: "i", Default: map[any]any{"j": []any{1}}}},
			Unions: []schema.Union{{Discriminator: &named, Fields: []schema.UnionField{{FieldName: "f", DiscriminatorValue: "F"}}}},
		}}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data))
	f.Add("\x00\x00")
	f.Fuzz(func(t *testing.T, data string) {
		s, err := builtin.Decode(data)
		if err != nil {
			return
		}
		again, err := builtin.Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := builtin.Decode(string(again)); err != nil {
			t.Errorf("what was read and written is not read again: %v", err)
		}
	})
}

func BenchmarkSchema(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		builtin.Schema()
	}
}
