package custom

import (
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

func wanting(name, kind string, short ...string) *CRD {
	crd := &CRD{}
	crd.Name = name + ".example.com"
	crd.Spec.Group = "example.com"
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: name, Singular: name + "x", Kind: kind, ListKind: kind + "List", ShortNames: short}
	return crd
}

// TestNames: the first to ask for a name gets it; the next gets it when it is free again.
func TestNames(t *testing.T) {
	names := NewNames()
	now := time.Unix(1e9, 0)
	first := Observe(wanting("as", "A", "s"), names, now)
	if !isTrue(first, apiextensionsv1.NamesAccepted) || !isTrue(first, apiextensionsv1.Established) || first.Status.AcceptedNames.Kind != "A" {
		t.Fatalf("%+v", first.Status)
	}
	names.Set(first.Name, first.Status.AcceptedNames)
	second := Observe(wanting("bs", "A", "s"), names, now)
	c := condition(second, apiextensionsv1.NamesAccepted)
	if c == nil || c.Status != apiextensionsv1.ConditionFalse || c.Reason != "ListKindConflict" || c.Message != `"AList" is already in use` || Serving(second) {
		t.Fatalf("%+v", second.Status)
	}
	if second.Status.AcceptedNames.Plural != "bs" || second.Status.AcceptedNames.Kind != "" || len(second.Status.AcceptedNames.ShortNames) != 0 {
		t.Errorf("%+v", second.Status.AcceptedNames)
	}
	names.Set(first.Name, apiextensionsv1.CustomResourceDefinitionNames{})
	if third := Observe(second, names, now); !Serving(third) || third.Status.AcceptedNames.Kind != "A" {
		t.Errorf("%+v", third.Status)
	}
	if again := Observe(first, names, now); again != first {
		t.Error("what is as it should be was changed")
	}
}

func TestBeginDeletion(t *testing.T) {
	crd := wanting("as", "A")
	next := BeginDeletion(crd, time.Unix(1e9, 0))
	if next == crd || !Terminating(next) || Terminating(crd) || len(next.Finalizers) != 1 {
		t.Errorf("%+v", next)
	}
}

// TestNamesWithoutPlural: a definition that got some names, but not its plural, lets them go when it is gone.
func TestNamesWithoutPlural(t *testing.T) {
	names := NewNames()
	now := time.Unix(1e9, 0)
	names.Set("as.example.com", apiextensionsv1.CustomResourceDefinitionNames{Plural: "as", ShortNames: []string{"bs"}})
	second := Observe(wanting("bs", "B"), names, now)
	if got := second.Status.AcceptedNames; got.Plural != "" || got.Kind != "B" || Serving(second) {
		t.Fatalf("%+v", second.Status)
	}
	names.Set(second.Name, second.Status.AcceptedNames)
	names.Set(second.Name, apiextensionsv1.CustomResourceDefinitionNames{})
	if third := Observe(wanting("cs", "B"), names, now); !Serving(third) {
		t.Errorf("%+v", third.Status)
	}
}
