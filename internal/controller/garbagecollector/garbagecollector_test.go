package garbagecollector

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *controllertest.Env {
	t.Helper()
	e, _ := startKnowing(t, func(string) bool { return true })
	return e
}

// startKnowing starts a collector that knows the kinds that known says, and looks again soon.
func startKnowing(t *testing.T, known func(kind string) bool) (*controllertest.Env, *Controller) {
	t.Helper()
	e := controllertest.Start(t)
	var resources []Resource
	for _, s := range e.Sources {
		k, ok := e.Catalogue.ByGroupResource(s.GroupResource)
		if ok && slices.Contains(k.ResourceVerbs(), "delete") {
			resources = append(resources, Resource{GVR: controllertest.Preferred(k), Kind: k.Kind, Informer: client.InformerFor(e.Informers, s)})
		}
	}
	ctl, err := New(Config{Metadata: e.Metadata, Resources: resources, Recorder: e.Recorder, Resolve: func(gvk schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
		k, _, ok := e.Catalogue.ByKind(gvk)
		if !ok || !known(gvk.Kind) {
			return schema.GroupVersionResource{}, false, false
		}
		return controllertest.Preferred(k), k.Namespaced, true
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctl.pause = 10 * time.Millisecond
	e.Run(t, ctl)
	return e, ctl
}

func configMap(name string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	for _, o := range owners {
		cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: ptr.To(true),
		})
	}
	return cm
}

type stage struct {
	*testing.T
	e *controllertest.Env
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
}

func (s stage) create(name string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	s.Helper()
	cm, err := s.e.Client.CoreV1().ConfigMaps("default").Create(context.Background(), configMap(name, owners...), metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return cm
}

func (s stage) delete(name string, policy metav1.DeletionPropagation) {
	s.Helper()
	if err := s.e.Client.CoreV1().ConfigMaps("default").Delete(context.Background(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		s.Fatal(err)
	}
}

func (s stage) gone(names ...string) {
	s.Helper()
	for _, name := range names {
		controllertest.Eventually(s.T, func() error {
			_, err := s.e.Client.CoreV1().ConfigMaps("default").Get(context.Background(), name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("%s is there (%v)", name, err)
		})
	}
}

func (s stage) owners(name string) []metav1.OwnerReference {
	s.Helper()
	cm, err := s.e.Client.CoreV1().ConfigMaps("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return cm.OwnerReferences
}

func TestPropagation(t *testing.T) {
	s := stage{t, start(t)}

	owner := s.create("bg-owner")
	s.create("bg-grandchild", s.create("bg-child", owner))
	s.delete("bg-owner", metav1.DeletePropagationBackground)
	s.gone("bg-owner", "bg-child", "bg-grandchild")

	owner = s.create("fg-owner")
	s.create("fg-grandchild", s.create("fg-child", owner))
	s.delete("fg-owner", metav1.DeletePropagationForeground)
	s.gone("fg-owner", "fg-child", "fg-grandchild")

	owner = s.create("orphan-owner")
	s.create("orphan-child", owner)
	s.delete("orphan-owner", metav1.DeletePropagationOrphan)
	s.gone("orphan-owner")
	controllertest.Eventually(t, func() error {
		if refs := s.owners("orphan-child"); len(refs) != 0 {
			return fmt.Errorf("still owned: %v", refs)
		}
		return nil
	})

	// One of two owners goes: the child stays and forgets it.
	a, b := s.create("two-a"), s.create("two-b")
	s.create("two-child", a, b)
	s.delete("two-a", metav1.DeletePropagationBackground)
	controllertest.Eventually(t, func() error {
		if refs := s.owners("two-child"); len(refs) != 1 || refs[0].UID != b.UID {
			return fmt.Errorf("owners %v", refs)
		}
		return nil
	})

	// An owner that never was.
	never := configMap("never")
	never.UID = "00000000-0000-0000-0000-000000000000"
	s.create("of-nobody", never)
	s.gone("of-nobody")

	// Owners in a circle, deleted in the foreground.
	one := s.create("ring-1")
	two := s.create("ring-2", one)
	one.OwnerReferences = configMap("x", two).OwnerReferences
	if _, err := s.e.Client.CoreV1().ConfigMaps("default").Update(context.Background(), one, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.delete("ring-1", metav1.DeletePropagationForeground)
	s.gone("ring-1", "ring-2")
	first := s.create("circle-1")
	third := s.create("circle-3", s.create("circle-2", first))
	first.OwnerReferences = configMap("x", third).OwnerReferences
	if _, err := s.e.Client.CoreV1().ConfigMaps("default").Update(context.Background(), first, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.delete("circle-1", metav1.DeletePropagationBackground)
	s.gone("circle-1", "circle-2", "circle-3")

	// An owner that waits for its dependents does not take along what another one still wants.
	waiting, valid := s.create("waiting"), s.create("valid")
	s.create("theirs", waiting, valid)
	s.create("its", waiting)
	s.delete("waiting", metav1.DeletePropagationForeground)
	s.gone("waiting", "its")
	if refs := s.owners("theirs"); len(refs) != 1 || refs[0].UID != valid.UID {
		t.Errorf("owners %v", refs)
	}
}

// Owners in another namespace are none: the dependent goes, and an event says why. What is in no namespace stays, for nobody can tell which object is meant.
func TestOwnersElsewhere(t *testing.T) {
	s := stage{t, start(t)}
	ctx := context.Background()
	if _, err := s.e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	owner, err := s.e.Client.CoreV1().ConfigMaps("elsewhere").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "o"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	hear := func(kind, namespace string) {
		t.Helper()
		want := fmt.Sprintf("Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: %s, name: o, uid: %s] does not exist in namespace %q", namespace, owner.UID, namespace)
		deadline := time.After(controllertest.Patience)
		for !told[want] {
			select {
			case e := <-s.e.Recorder.(*record.FakeRecorder).Events:
				told[e] = true
			case <-deadline:
				t.Fatalf("%s: %q was not told, but %v", kind, want, told)
			}
		}
	}
	s.create("strange", owner)
	hear("ConfigMap", "default")
	s.gone("strange")
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "of-a-map", OwnerReferences: configMap("x", owner).OwnerReferences}}
	if _, err := s.e.Client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	hear("Node", "")
	if err := s.e.Client.CoreV1().ConfigMaps("elsewhere").Delete(ctx, "o", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.create("after", owner) // its owner is nowhere by now
	s.gone("after")
	if _, err := s.e.Client.CoreV1().Nodes().Get(ctx, "of-a-map", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestGraphForgetsVirtualOwners(t *testing.T) {
	g := &graph{nodes: map[types.UID]*node{}, resolve: func(schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
		return schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, true, true
	}}
	owner := configMap("o")
	owner.UID = "o"
	child := configMap("c", owner)
	child.UID = "c"
	if w := g.upsert(schema.GroupVersionResource{}, schema.GroupVersionKind{}, child); !slices.Contains(w.remove, "c") {
		t.Errorf("a child of an unknown owner is not looked at: %+v", w)
	}
	if v, ok := g.view("o"); !ok || !v.virtual || v.namespace != "default" {
		t.Errorf("owner: %+v, %v", v, ok)
	}
	g.delete("c")
	if len(g.nodes) != 0 {
		t.Errorf("left in the graph: %v", g.nodes)
	}
}
