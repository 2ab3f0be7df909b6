package apitest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
)

// Catalogue makes a catalogue of a group's kinds.
func Catalogue(t testing.TB, kinds []*api.Kind) *api.Catalogue {
	t.Helper()
	c, err := api.NewCatalogue(kinds)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Kind finds a kind by name.
func Kind(t testing.TB, kinds []*api.Kind, name string) *api.Kind {
	t.Helper()
	i := slices.IndexFunc(kinds, func(k *api.Kind) bool { return k.Kind == name })
	if i < 0 {
		t.Fatalf("no kind %s", name)
	}
	return kinds[i]
}

// Read reads a YAML document of one of the kind's versions (the hub's if it names none), converts it and fills in the defaults.
func Read(t testing.TB, c *api.Catalogue, k *api.Kind, doc string) api.Object {
	t.Helper()
	var meta struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
		t.Fatal(err)
	}
	v := k.HubVersion()
	for i := range k.Versions {
		if k.GroupVersion(&k.Versions[i]).String() == meta.APIVersion {
			v = &k.Versions[i]
		}
	}
	in := v.New()
	if err := yaml.UnmarshalStrict([]byte(doc), in); err != nil {
		t.Fatal(err)
	}
	obj, err := c.ToHub(k, v, in)
	if err != nil {
		t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj
}

// Create is Read, and what the server does to a new object.
func Create(t testing.TB, c *api.Catalogue, k *api.Kind, doc string) (api.Object, field.ErrorList) {
	t.Helper()
	obj := Read(t, c, k, doc)
	if slices.Contains(k.ResourceVerbs(), "get") {
		obj.SetUID("11111111-2222-3333-4444-555555555555") // what is only a question is never stored and has none
	}
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(obj)
	}
	errs := names(k, obj)
	if k.Validate != nil {
		errs = append(errs, k.Validate(obj)...)
	}
	if len(errs) == 0 && k.Canonicalize != nil {
		k.Canonicalize(obj)
	}
	return obj, errs
}

// names checks names that depend on what the object says, where there are any.
func names(k *api.Kind, obj api.Object) field.ErrorList {
	var errs field.ErrorList
	if k.ValidateNameOf == nil {
		return nil
	}
	for _, n := range []struct {
		field, value string
		prefix       bool
	}{{"generateName", obj.GetGenerateName(), true}, {"name", obj.GetName(), false}} {
		if n.value == "" {
			continue
		}
		for _, text := range k.ValidateNameOf(obj, n.value, n.prefix) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", n.field), n.value, text))
		}
	}
	return errs
}

// Text joins complaints, one a line.
func Text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, e := range errs {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Case is a name, a document that a user sends, and what he is told: "" for nothing, else a part of each complaint, one a line.
type Case [3]string

// Check runs cases against a kind.
func Check(t *testing.T, kinds []*api.Kind, kind string, cases []Case) {
	t.Helper()
	c, k := Catalogue(t, kinds), Kind(t, kinds, kind)
	for _, x := range cases {
		name, doc, told := x[0], x[1], x[2]
		t.Run(name, func(t *testing.T) {
			_, errs := Create(t, c, k, doc)
			judge(t, errs, told)
		})
	}
}

// Change is a name, the stored document, the document that a user sends, and what he is told, as in Case.
type Change [4]string

// CheckChanges runs changes against a kind, through the main door ("") or that of the status ("status").
func CheckChanges(t *testing.T, kinds []*api.Kind, kind, door string, changes []Change) {
	t.Helper()
	c, k := Catalogue(t, kinds), Kind(t, kinds, kind)
	prepare, validate := k.PrepareForUpdate, k.ValidateUpdate
	if door == "status" {
		prepare, validate = k.PrepareForStatusUpdate, k.ValidateStatusUpdate
	}
	for _, x := range changes {
		t.Run(x[0], func(t *testing.T) {
			old, obj := Read(t, c, k, x[1]), Read(t, c, k, x[2])
			if prepare != nil {
				prepare(obj, old)
			}
			judge(t, validate(obj, old), x[3])
		})
	}
}

// judge compares complaints with the parts of them that are expected, one a line.
func judge(t *testing.T, errs field.ErrorList, told string) {
	t.Helper()
	var want []string
	if told != "" {
		want = strings.Split(told, "\n")
	}
	if len(errs) != len(want) {
		t.Fatalf("complaints:\n%s\nwant:\n%s", Text(errs), told)
	}
	for i, e := range errs {
		if !strings.Contains(e.Error(), want[i]) {
			t.Errorf("complaint %q, want %q", e, want[i])
		}
	}
}

// Row is an object's row in a Table, its cells joined by "|".
func Row(k *api.Kind, obj api.Object, now time.Time) string {
	cells := k.Row(obj, now)
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = fmt.Sprint(c)
	}
	return strings.Join(texts, "|")
}
