package events_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"

	"github.com/celox/celox/internal/api/events"
)

// TestForms: an event says the same in both of its forms, whatever it says.
func TestForms(t *testing.T) {
	v := events.Version()
	if v.Group != "events.k8s.io" || v.Version != "v1" {
		t.Fatalf("version %s/%s", v.Group, v.Version)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := &corev1.Event{}
		randfill.NewWithSeed(rapid.Int64().Draw(t, "seed")).NilChance(0.3).MaxDepth(8).Fill(e)
		e.TypeMeta.Kind, e.TypeMeta.APIVersion = "", ""
		out, err := v.FromHub(e)
		if err != nil {
			t.Fatal(err)
		}
		n := out.(*eventsv1.Event)
		if n.Note != e.Message || n.Regarding != e.InvolvedObject || n.DeprecatedCount != e.Count {
			t.Fatalf("written as %+v", n)
		}
		back, err := v.ToHub(n)
		if err != nil {
			t.Fatal(err)
		}
		if !apiequality.Semantic.DeepEqual(back, e) {
			t.Fatalf("came back as %+v, was %+v", back, e)
		}
	})
}
