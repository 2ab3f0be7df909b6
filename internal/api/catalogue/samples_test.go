package catalogue_test

import (
	"strings"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
)

// TestSamples: the sample of each kind, with its defaults,
//   - is valid when it is new, and stays so when it is defaulted again,
//   - may be updated with itself, and then nothing changes and no generation counts,
//   - and comes back from every version in which it is shown.
func TestSamples(t *testing.T) {
	c := newCatalogue(t)
	for _, s := range apitest.Samples(t, c) {
		k := s.Kind
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			obj, errs := apitest.Create(t, c, k, s.Document)
			if len(errs) > 0 {
				t.Fatalf("not valid:\n%s", apitest.Text(errs))
			}
			obj.SetResourceVersion("1")
			before := show(obj)
			if k.Default != nil {
				k.Default(obj)
			}
			if got := show(obj); got != before {
				t.Fatalf("defaulting again changed it: %s", difference(before, got))
			}
			if k.Validate != nil {
				if errs := k.Validate(obj); len(errs) > 0 {
					t.Fatalf("no longer valid with its defaults:\n%s", apitest.Text(errs))
				}
			}
			checkSelfUpdate(t, k, obj)
			checkStatusDoor(t, k, obj)
			for i := range k.Versions {
				once := through(t, c, k, &k.Versions[i], obj)
				twice := through(t, c, k, &k.Versions[i], once)
				if a, b := show(once), show(twice); a != b {
					t.Errorf("through %s again: %s", k.GroupVersion(&k.Versions[i]), difference(a, b))
				}
				if a, b := show(obj), show(once); a != b && k.HubVersion() == &k.Versions[i] {
					t.Errorf("through its own version: %s", difference(a, b))
				}
			}
		})
	}
}

// through is what a client makes of an object that it gets and puts in a version. Other versions may have less room or other
// defaults, but what they lose they lose once.
func through(t *testing.T, c *api.Catalogue, k *api.Kind, v *api.Version, obj api.Object) api.Object {
	t.Helper()
	shown, err := c.FromHub(k, v, obj)
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.ToHub(k, v, shown.DeepCopyObject())
	if err != nil {
		t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(back)
	}
	return back
}

func checkSelfUpdate(t *testing.T, k *api.Kind, obj api.Object) {
	t.Helper()
	next := obj.DeepCopyObject().(api.Object)
	if k.PrepareForUpdate != nil {
		k.PrepareForUpdate(next, obj)
	}
	if k.ValidateUpdate != nil {
		if errs := k.ValidateUpdate(next, obj); len(errs) > 0 {
			t.Fatalf("an update that changes nothing is refused:\n%s", apitest.Text(errs))
		}
	}
	if !apiequality.Semantic.DeepEqual(next, obj) {
		t.Fatalf("an update that changes nothing changes it: %s", difference(show(obj), show(next)))
	}
	if k.GenerationChanged != nil && k.GenerationChanged(next, obj) {
		t.Fatal("an update that changes nothing counts")
	}
}

func checkStatusDoor(t *testing.T, k *api.Kind, obj api.Object) {
	t.Helper()
	if k.PrepareForStatusUpdate == nil {
		return
	}
	next := obj.DeepCopyObject().(api.Object)
	k.PrepareForStatusUpdate(next, obj)
	if k.ValidateStatusUpdate != nil {
		if errs := k.ValidateStatusUpdate(next, obj); len(errs) > 0 {
			t.Fatalf("a status that changes nothing is refused:\n%s", apitest.Text(errs))
		}
	}
	if !apiequality.Semantic.DeepEqual(next, obj) {
		t.Fatalf("a status that changes nothing changes it: %s", difference(show(obj), show(next)))
	}
}

// TestDisabledFields: what is behind a gate that is off is dropped from pods wherever they are described.
func TestDisabledFields(t *testing.T) {
	c := newCatalogue(t)
	const signal = `lifecycle: {stopSignal: SIGUSR1}`
	for _, s := range apitest.Samples(t, c) {
		document := strings.Replace(s.Document, "{name: c, image: i", "{name: c, "+signal+", image: i", 1)
		if s.Kind.Kind == "Pod" {
			document = strings.Replace(s.Document, "preStop:", "stopSignal: SIGUSR1, preStop:", 1)
		}
		if document == s.Document {
			continue
		}
		obj, errs := apitest.Create(t, c, s.Kind, document)
		if text := show(obj); len(errs) > 0 || strings.Contains(text, "stopSignal") {
			t.Errorf("%s: %v %s", s.Kind.Kind, errs, text)
		}
		old, _ := apitest.Create(t, c, s.Kind, s.Document)
		now := apitest.Read(t, c, s.Kind, document)
		s.Kind.PrepareForUpdate(now, old)
		if strings.Contains(show(now), "stopSignal") {
			t.Errorf("%s: an update brings it back", s.Kind.Kind)
		}
	}
}
