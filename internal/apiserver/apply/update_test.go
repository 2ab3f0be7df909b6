package apply

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api"
)

// randomConfigMap draws an object with few outlines.
func randomConfigMap(t *rapid.T) *corev1.ConfigMap {
	c := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n", UID: "u"}}
	fill := func(m *map[string]string) {
		for _, k := range []string{"a", "b"} {
			if v := draw(t, k, "", "1", "2"); v != "" {
				if *m == nil {
					*m = map[string]string{}
				}
				(*m)[k] = v
			}
		}
	}
	fill(&c.Data)
	fill(&c.Labels)
	if draw(t, "immutable", "yes", "no") == "yes" {
		c.Immutable = new(bool)
	}
	return c
}

// aged gives the entries of an object different times, all long ago.
func aged(obj api.Object) api.Object {
	for i := range obj.GetManagedFields() {
		obj.GetManagedFields()[i].Time = &metav1.Time{Time: time.Unix(int64(100+i), 0)}
	}
	return obj
}

// untimed replaces times of now, which may differ by a second.
func untimed(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	for i := range entries {
		if old := time.Unix(1000, 0); entries[i].Time != nil && entries[i].Time.After(old) {
			entries[i].Time = &metav1.Time{Time: old}
		}
	}
	return entries
}

// What is remembered of one change holds for every other of its outline.
func TestUpdateOutlineAgreesWithLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		gvk  schema.GroupVersionKind
		sub  string
		draw func(*rapid.T) api.Object
	}{
		{"configmap", corev1.SchemeGroupVersion.WithKind("ConfigMap"), "", func(t *rapid.T) api.Object { return randomConfigMap(t) }},
		{"pod", corev1.SchemeGroupVersion.WithKind("Pod"), "", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"pod status", corev1.SchemeGroupVersion.WithKind("Pod"), "status", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"deployment", appsv1.SchemeGroupVersion.WithKind("Deployment"), "", func(t *rapid.T) api.Object { return randomDeployment(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := managers(t, c.gvk, c.sub)
			other := m.tracker.Manager(m.kind, m.version, "")
			hits := 0
			rapid.Check(t, func(t *rapid.T) {
				live, err := other.Update(nil, c.draw(t), "first")
				if err != nil {
					t.Fatal(err)
				}
				if draw(t, "second", "yes", "no") == "yes" {
					if live, err = m.libraryUpdate(live, c.draw(t), "second"); err != nil {
						t.Fatal(err)
					}
				}
				aged(live)
				obj := c.draw(t)
				if draw(t, "keep", "yes", "no") == "yes" {
					obj = live.DeepCopyObject().(api.Object)
					change(t, obj)
				}
				obj.SetManagedFields(nil)
				by := draw(t, "manager", "first", "second", "third")
				if outline := m.updateOutline(live, obj, by); outline != nil {
					if _, ok := m.updates.Get(outline); ok {
						hits++
					}
				}
				quick, err := m.Update(live.DeepCopyObject().(api.Object), obj.DeepCopyObject().(api.Object), by)
				if err != nil {
					t.Fatal(err)
				}
				slow, err := m.libraryUpdate(live, obj, by)
				if err != nil {
					t.Fatal(err)
				}
				if a, b := untimed(quick.GetManagedFields()), untimed(slow.GetManagedFields()); !equality.Semantic.DeepEqual(a, b) {
					t.Fatalf("quick %v\nslow %v", a, b)
				}
			})
			if hits == 0 {
				t.Log("nothing was remembered in this run")
			}
		})
	}
}
