package apitest

import (
	"embed"
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
)

//go:embed samples/*.yaml
var samples embed.FS

// Sample is a valid object of a kind as a user writes it.
type Sample struct {
	Kind     *api.Kind
	Document string // YAML
}

// Samples returns a sample of every stored kind of a catalogue, in its order. A kind without one fails the test: a new kind
// brings its sample along, and all properties of kinds are checked for it.
func Samples(t testing.TB, c *api.Catalogue) []Sample {
	t.Helper()
	files, err := samples.ReadDir("samples")
	if err != nil {
		t.Fatal(err)
	}
	documents := map[schema.GroupVersionKind]string{}
	separator := regexp.MustCompile(`(?m)^---$`)
	for _, f := range files {
		data, err := samples.ReadFile("samples/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range separator.Split(string(data), -1) {
			var meta struct{ APIVersion, Kind string }
			if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
				t.Fatalf("%s: %v", f.Name(), err)
			}
			documents[schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind)] = doc
		}
	}
	var out []Sample
	for _, k := range c.Kinds() {
		if k.Virtual {
			continue
		}
		doc, ok := documents[k.HubKind()]
		if !ok {
			t.Errorf("%s has no sample", k.HubKind())
			continue
		}
		delete(documents, k.HubKind())
		out = append(out, Sample{k, doc})
	}
	for gvk := range documents {
		t.Errorf("the sample of %s belongs to no kind", gvk)
	}
	return out
}
