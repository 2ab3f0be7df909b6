package disruption

import (
	"context"
	"errors"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

// kinds has a scale for each object of the kinds that there are; those that are nil have none.
type kinds map[string]*autoscalingv1.Scale

func (k kinds) Scale(_ context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error) {
	s, ok := k[target.Kind]
	switch {
	case target.Kind == "Broken":
		return nil, errors.New("broken")
	case !ok:
		return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "example.com", Kind: target.Kind}}
	case s == nil || target.Name != s.Name || namespace != "ns":
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "example.com", Resource: "things"}, target.Name)
	}
	return s, nil
}

// Kinds that are not built in may appear at any time.
func TestScalesOfOthers(t *testing.T) {
	others := kinds{"Plain": nil}
	w := NewWorkloads(informers.New(fake.NewClientset()), others)
	ask := func(kind, name string, uid types.UID) (string, int32, bool, error) {
		return w.Expected(t.Context(), "ns", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: kind, Name: name, UID: uid})
	}
	unknown := func(kind, name string, uid types.UID) {
		t.Helper()
		if id, n, known, err := ask(kind, name, uid); known || err != nil {
			t.Errorf("%s %s: %q %d %t %v", kind, name, id, n, known, err)
		}
	}
	unknown("Plain", "a", "1")
	unknown("Thing", "a", "1")
	others["Thing"] = &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}, Spec: autoscalingv1.ScaleSpec{Replicas: 7}}
	if id, n, known, err := ask("Thing", "a", "1"); id != "1" || n != 7 || !known || err != nil {
		t.Errorf("a kind that came later: %q %d %t %v", id, n, known, err)
	}
	unknown("Thing", "b", "2")
	if _, n, known, err := ask("Thing", "a", "2"); n != 0 || !known || err != nil {
		t.Errorf("another one of the name: %d %t %v", n, known, err)
	}
	if _, _, _, err := ask("Broken", "a", "1"); err == nil {
		t.Error("an error is not told")
	}
	if _, _, known, err := (NewWorkloads(informers.New(fake.NewClientset()), nil)).Expected(t.Context(), "ns", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing"}); known || err != nil {
		t.Errorf("without others: %t %v", known, err)
	}
}
