package catalogue_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/catalogue"
)

func TestMain(m *testing.M) {
	// A check makes a random object of each of some sixty kinds; -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func newCatalogue(t *testing.T) *api.Catalogue {
	t.Helper()
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// draw makes a random hub object of a kind.
func draw(t *rapid.T, c *api.Catalogue, k *api.Kind) api.Object {
	seed := rapid.Int64().Draw(t, "seed")
	f := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, apitest.Fillers), rand.NewSource(seed), runtimeserializer.NewCodecFactory(c.Scheme()))
	// No empty lists: the stored form has none, so they would come back absent and be defaulted.
	f = f.MaxDepth(12).NilChance(0.4).NumElements(1, 2)
	o := k.HubVersion().New().(api.Object)
	f.Fill(o)
	o.SetResourceVersion("")
	o.GetObjectKind().SetGroupVersionKind(k.HubKind())
	return o
}

func stored(c *api.Catalogue) []*api.Kind {
	return slices.DeleteFunc(slices.Clone(c.Kinds()), func(k *api.Kind) bool { return k.Virtual })
}

// TestEveryKind checks what must hold for each kind by itself.
func TestEveryKind(t *testing.T) {
	c := newCatalogue(t)
	verbs := sets.New(append(api.AllVerbs(), "proxy")...)
	for _, k := range c.Kinds() {
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			for _, v := range k.ResourceVerbs() {
				if !verbs.Has(v) {
					t.Errorf("verb %q", v)
				}
			}
			for _, s := range k.Subresources {
				for _, v := range s.Verbs {
					if !verbs.Has(v) {
						t.Errorf("%s: verb %q", s.Name, v)
					}
				}
				if s.Name == "status" && k.PrepareForStatusUpdate == nil {
					t.Error("a status subresource without PrepareForStatusUpdate lets controllers change the spec")
				}
			}
			for i := range k.Versions {
				v := &k.Versions[i]
				gv := k.GroupVersion(v)
				if got, gotVersion, ok := c.ByResource(gv.WithResource(k.Resource)); !ok || got != k || gotVersion != v {
					t.Errorf("%s is not found by its resource", gv)
				}
				if got, _, ok := c.ByKind(gv.WithKind(k.Kind)); !ok || got != k {
					t.Errorf("%s is not found by its kind", gv)
				}
				if v.Hidden && v.Deprecated == "" {
					t.Errorf("%s is hidden but not deprecated", gv)
				}
			}
			for i, col := range k.Columns {
				if col.Name == "" || col.Type == "" {
					t.Errorf("column %d: %+v", i, col)
				}
			}
		})
	}
}

// TestRandomObjects: for a random object of each kind,
//   - the stored form and JSON give it back,
//   - defaulting twice is defaulting once,
//   - a row has a cell for each column, of the column's type,
//   - selectable fields are those that are announced,
//   - each version that it is shown in can be read again,
//   - and no function panics.
func TestRandomObjects(t *testing.T) {
	c := newCatalogue(t)
	for _, k := range stored(c) {
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				o := draw(t, c, k)
				if k.Default != nil {
					k.Default(o)
					again := o.DeepCopyObject().(api.Object)
					k.Default(again)
					if !apiequality.Semantic.DeepEqual(o, again) {
						t.Fatal("defaulting is not idempotent")
					}
				}
				if k.Canonicalize != nil {
					k.Canonicalize(o)
				}
				if k.Stored != nil {
					k.Stored(o)
					again := o.DeepCopyObject().(api.Object)
					k.Stored(again)
					if !apiequality.Semantic.DeepEqual(o, again) {
						t.Fatal("completing a stored object is not idempotent")
					}
				}
				roundTrip(t, c, k, o)
				checkRow(t, k, o)
				checkFields(t, k, o)
				checkVersions(t, c, k, o)
				checkRules(k, o)
			})
		})
	}
}

func roundTrip(t *rapid.T, c *api.Catalogue, k *api.Kind, o api.Object) {
	codec := c.Codec(k)
	o.SetResourceVersion("7")
	data, err := codec.Append(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.GetResourceVersion() != "7" {
		t.Fatal("encoding changed the object")
	}
	o.SetResourceVersion("")
	back, err := codec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !apiequality.Semantic.DeepEqual(o, back) {
		t.Fatalf("stored form: %s", difference(show(o), show(back)))
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := codec.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if k.Canonicalize != nil {
		k.Canonicalize(fromJSON)
	}
	if a, b := show(o), show(fromJSON); a != b {
		t.Fatalf("JSON: %s", difference(a, b))
	}
}

func show(o any) string {
	b, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// difference shows two texts from a little before where they part.
func difference(put, got string) string {
	i := 0
	for i < min(len(put), len(got)) && put[i] == got[i] {
		i++
	}
	from := max(i-100, 0)
	return fmt.Sprintf("\n put %.300s\n got %.300s", put[from:], got[min(from, len(got)):])
}

func checkRow(t *rapid.T, k *api.Kind, o api.Object) {
	if k.Row == nil {
		return
	}
	row := k.Row(o, time.Now())
	want := len(k.Columns)
	if k.Resource == "ipaddresses" {
		want++ // an age without a column, as upstream has it
	}
	if len(row) != want {
		t.Fatalf("%d cells for %d columns", len(row), want)
	}
	for i, col := range k.Columns {
		switch row[i].(type) {
		case string, int64, bool:
		default:
			t.Fatalf("column %s: %T", col.Name, row[i])
		}
		if _, isText := row[i].(string); col.Type == "integer" && isText {
			t.Fatalf("column %s is an integer, its cell %q", col.Name, row[i])
		}
	}
}

func checkFields(t *rapid.T, k *api.Kind, o api.Object) {
	if k.Fields == nil {
		return
	}
	if extra := sets.KeySet(k.Fields(o)).Difference(sets.New(k.FieldNames...)); extra.Len() > 0 {
		t.Fatalf("fields %v are not announced", sets.List(extra))
	}
}

func checkVersions(t *rapid.T, c *api.Catalogue, k *api.Kind, o api.Object) {
	before := show(o)
	for i := range k.Versions {
		v := &k.Versions[i]
		shown, err := c.FromHub(k, v, o)
		if err != nil {
			t.Fatalf("%s: %v", k.GroupVersion(v), err)
		}
		if got, want := shown.GetObjectKind().GroupVersionKind(), k.GroupVersion(v).WithKind(k.Kind); got != want {
			t.Fatalf("shown as %s, want %s", got, want)
		}
		if show(o) != before {
			t.Fatalf("showing as %s changed the object", k.GroupVersion(v))
		}
		if _, err := c.ToHub(k, v, shown.DeepCopyObject()); err != nil {
			t.Fatalf("%s: reading what was shown: %v", k.GroupVersion(v), err)
		}
	}
}

// checkRules runs every function of the kind on nonsense; what they complain about does not matter.
func checkRules(k *api.Kind, o api.Object) {
	other := o.DeepCopyObject().(api.Object)
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(other)
	}
	if k.Validate != nil && len(k.Validate(other)) == 0 && k.Warnings != nil {
		k.Warnings(other, nil) // only valid objects are warned about
	}
	for _, prepare := range []func(obj, old api.Object){k.PrepareForUpdate, k.PrepareForStatusUpdate} {
		if prepare != nil {
			prepare(other, o)
		}
	}
	if k.ValidateUpdate != nil && len(k.ValidateUpdate(other, o)) == 0 && k.Warnings != nil {
		k.Warnings(other, o)
	}
	if k.ValidateStatusUpdate != nil {
		k.ValidateStatusUpdate(other, o)
	}
	if k.GenerationChanged != nil {
		k.GenerationChanged(other, o)
	}
	if k.GracePeriod != nil {
		k.GracePeriod(o, nil)
	}
}

// TestGroupOrder: the order of the groups is part of the API, for clients look for names in it.
func TestGroupOrder(t *testing.T) {
	c := newCatalogue(t)
	var got []string
	for _, g := range c.Groups() {
		got = append(got, g.Name)
	}
	if got[0] != "" || !slices.Contains(got, "apps") || slices.Contains(got, "extensions") {
		t.Errorf("groups %v", got)
	}
	if i, j := slices.Index(got, "apps"), slices.Index(got, "events.k8s.io"); i > j {
		t.Errorf("apps comes after events.k8s.io: %v", got)
	}
	k, ok := c.ByGroupResource(schema.GroupResource{Group: "autoscaling", Resource: "horizontalpodautoscalers"})
	if !ok || k.Versions[0].Version != "v2" {
		t.Error("the preferred version of autoscaling is not v2")
	}
}

func BenchmarkEncode(b *testing.B) {
	c, err := catalogue.New()
	if err != nil {
		b.Fatal(err)
	}
	k, _ := c.ByGroupResource(schema.GroupResource{Resource: "pods"})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", ResourceVersion: "5"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	codec := c.Codec(k)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.Append(nil, pod); err != nil {
			b.Fatal(err)
		}
	}
}
