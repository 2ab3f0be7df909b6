package garbagecollector

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestAbsentOwners(t *testing.T) {
	var a absentOwners
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u"}
	a.add(coordinatesOf(ref, ""))
	if !a.has(ref, "") || !a.has(ref, "anywhere") {
		t.Error("an owner in no namespace is not known as gone")
	}
	spaced := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "v"}
	a.add(coordinatesOf(spaced, "here"))
	if !a.has(spaced, "here") || a.has(spaced, "there") || a.has(spaced, "") {
		t.Error("an owner is known as gone in other places than its own")
	}
	a.appeared(coordinatesOf(spaced, "here"))
	if a.has(spaced, "here") {
		t.Error("an owner that is there is known as gone")
	}
	for i := range 2 * maxAbsent {
		a.add(coordinatesOf(metav1.OwnerReference{UID: types.UID(fmt.Sprint(i))}, ""))
	}
	if a.has(ref, "") || len(a.known) > maxAbsent {
		t.Errorf("%d owners are remembered", len(a.known))
	}
}

// An object that went together with the definition of its kind takes its dependents along, though nobody can say any more what that kind was.
func TestOwnerOfForgottenKind(t *testing.T) {
	var forgotten atomic.Bool
	e, ctl := startKnowing(t, func(kind string) bool { return kind != "Secret" || !forgotten.Load() })
	s := stage{t, e}
	ctx := context.Background()
	owner, err := e.Client.CoreV1().Secrets("default").Create(ctx, secret("o"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	child := configMap("child")
	child.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: "o", UID: owner.UID}}
	if _, err := e.Client.CoreV1().ConfigMaps("default").Create(ctx, child, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if v, _ := ctl.graph.view(owner.UID); len(v.dependents) != 1 {
			return fmt.Errorf("the graph does not have the child yet: %+v", v)
		}
		return nil
	})
	forgotten.Store(true)
	if err := e.Client.CoreV1().Secrets("default").Delete(ctx, "o", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.gone("child")
}

// Nothing is deleted because nobody knows the kind of its owner; it is when the kind is known and the owner is not there.
func TestOwnerOfUnknownKind(t *testing.T) {
	var defined atomic.Bool
	e, ctl := startKnowing(t, func(kind string) bool { return kind != "Secret" || defined.Load() })
	s := stage{t, e}
	child := configMap("child")
	child.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: "o", UID: "never"}}
	made, err := e.Client.CoreV1().ConfigMaps("default").Create(context.Background(), child, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // asked directly: it stays as it is
		if err := ctl.Reconcile(context.Background(), string(made.UID)); err != nil {
			t.Error(err)
		}
	}
	if refs := s.owners("child"); len(refs) != 1 {
		t.Errorf("owners %v", refs)
	}
	defined.Store(true)
	s.gone("child")
}

// A reference with the right uid and the wrong name means nobody, also when the owner was there first.
func TestOwnerByAnotherName(t *testing.T) {
	s := stage{t, start(t)}
	owner := s.create("owner")
	s.create("right", owner)
	wrong := owner.DeepCopy()
	wrong.Name = "somebody"
	s.create("wrong", wrong)
	s.gone("wrong")
	if refs := s.owners("right"); len(refs) != 1 {
		t.Errorf("owners %v", refs)
	}
}

func TestLinksBySeveralNames(t *testing.T) {
	g := &graph{nodes: map[types.UID]*node{}, resolve: func(schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
		return schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, true, true
	}}
	gvr, kind := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	owner := configMap("o")
	owner.UID = "o"
	called := func(uid types.UID, name, as string) types.UID {
		o := owner.DeepCopy()
		o.Name = as
		d := configMap(name, o)
		d.UID = uid
		g.upsert(gvr, kind, d)
		return uid
	}
	good, bad := called("g", "good", "o"), called("b", "bad", "x")
	w := g.upsert(gvr, kind, owner)
	if slices.Contains(w.remove, good) || !slices.Contains(w.remove, bad) {
		t.Errorf("looked at when the owner appears: %v", w.remove)
	}
	if w := g.delete("o"); !slices.Contains(w.remove, good) || !slices.Contains(w.remove, bad) {
		t.Errorf("looked at when the owner is gone: %v", w.remove)
	}
}

// A deletion holds for the owners that were judged: changes of anything else do not stop it, other owners do.
func TestDeleteAsJudged(t *testing.T) {
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	judged := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", UID: "c", ResourceVersion: "1", OwnerReferences: configMap("x", configMap("o")).OwnerReferences},
	}
	conflict := apierrors.NewConflict(gvr.GroupResource(), "c", fmt.Errorf("changed"))
	for _, tt := range []struct {
		name    string
		now     func(*metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata
		answers []error
		asked   []bool // each deletion: with the revision?
		fails   bool
	}{
		{"at once", nil, []error{nil}, []bool{true}, false},
		{"gone", nil, []error{apierrors.NewNotFound(gvr.GroupResource(), "c")}, []bool{true}, false},
		{"a label came", func(m *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
			m.ResourceVersion, m.Labels = "2", map[string]string{"a": "b"}
			return m
		}, []error{conflict, nil}, []bool{true, false}, false},
		{"an owner went", func(m *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
			m.ResourceVersion, m.OwnerReferences = "2", nil
			return m
		}, []error{conflict}, []bool{true}, true},
		{"another of its name", func(m *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
			m.ResourceVersion, m.UID = "2", "d"
			return m
		}, []error{conflict}, []bool{true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scheme := metadatafake.NewTestScheme()
			if err := metav1.AddMetaToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			fake := metadatafake.NewSimpleMetadataClient(scheme)
			var asked []bool
			fake.PrependReactor("delete", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
				p := a.(clienttesting.DeleteActionImpl).DeleteOptions.Preconditions
				if p == nil || p.UID == nil || *p.UID != "c" {
					t.Errorf("preconditions %+v", p)
				}
				asked = append(asked, p.ResourceVersion != nil && *p.ResourceVersion == "1")
				return true, nil, tt.answers[len(asked)-1]
			})
			fake.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, tt.now(judged.DeepCopy()), nil
			})
			c := &Controller{metadata: fake}
			err := c.delete(context.Background(), identity{gvr: gvr, namespace: "default", name: "c", uid: "c"}, judged, metav1.DeletePropagationBackground)
			if (err != nil) != tt.fails || !slices.Equal(asked, tt.asked) {
				t.Errorf("%v, asked %v", err, asked)
			}
		})
	}
}
