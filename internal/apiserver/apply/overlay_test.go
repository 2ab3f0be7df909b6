package apply

import (
	"encoding/json"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api"
)

// configuration makes of an object what a client would apply: some of its fields.
func configuration(t *rapid.T, obj api.Object) *unstructured.Unstructured {
	obj.SetManagedFields(nil)
	obj.SetUID("")
	if d, ok := obj.(*appsv1.Deployment); ok {
		d.Status = appsv1.DeploymentStatus{}
	}
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &u.Object); err != nil {
		t.Fatal(err)
	}
	for _, path := range [][]string{{"metadata", "labels", "a"}, {"data", "b"}, {"spec", "containers"}, {"spec", "template", "spec", "nodeName"}} {
		if draw(t, "drop", "yes", "no") == "yes" {
			unstructured.RemoveNestedField(u.Object, path...)
		}
	}
	prune(u.Object)
	return u
}

// prune drops what an object written by Go has empty and a client would not say.
func prune(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case map[string]any:
			if prune(v); len(v) == 0 {
				delete(m, k)
			}
		case []any:
			for _, item := range v {
				if item, ok := item.(map[string]any); ok {
					prune(item)
				}
			}
		}
	}
}

// similarDeployment draws a deployment with few outlines.
func similarDeployment(t *rapid.T) *appsv1.Deployment {
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}, ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "n", UID: "u"}}
	d.Labels = map[string]string{"a": draw(t, "label", "1", "2")}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "1"}}
	for _, name := range []string{"one", "two"} {
		if name == "two" && draw(t, "two", "yes", "no") == "no" {
			continue
		}
		c := corev1.Container{Name: name, Image: draw(t, "image", "i1", "i2"), Command: []string{draw(t, "command", "a", "b")}}
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(draw(t, "cpu", "1", "1000m", "2"))}
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, c)
	}
	if draw(t, "order", "yes", "no") == "yes" {
		slices.Reverse(d.Spec.Template.Spec.Containers)
	}
	return d
}

// What is remembered of one configuration holds for every other of its outline: the objects and their managed fields are the library's.
func TestOverlayAgreesWithLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		gvk  schema.GroupVersionKind
		draw func(*rapid.T) api.Object
	}{
		{"configmap", corev1.SchemeGroupVersion.WithKind("ConfigMap"), func(t *rapid.T) api.Object { return randomConfigMap(t) }},
		{"pod", corev1.SchemeGroupVersion.WithKind("Pod"), func(t *rapid.T) api.Object { p := randomPod(t); p.Status = corev1.PodStatus{}; return p }},
		{"deployment", appsv1.SchemeGroupVersion.WithKind("Deployment"), func(t *rapid.T) api.Object {
			return randomDeployment(t)
		}},
		{"similar deployment", appsv1.SchemeGroupVersion.WithKind("Deployment"), func(t *rapid.T) api.Object { return similarDeployment(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := managers(t, c.gvk, "")
			hits := 0
			rapid.Check(t, func(t *rapid.T) {
				live, err := m.Update(nil, c.draw(t), "first")
				if err != nil {
					t.Fatal(err)
				}
				if draw(t, "second", "yes", "no") == "yes" {
					if live, err = m.libraryApply(live, configuration(t, c.draw(t)), draw(t, "by", "applier", "other"), true); err != nil {
						t.Fatal(err)
					}
				}
				aged(live)
				config, by, force := configuration(t, c.draw(t)), draw(t, "manager", "applier", "first", "kubectl"), draw(t, "force", "yes", "no") == "yes"
				before := live.DeepCopyObject().(api.Object)
				if laid := m.overlay(live, config, by, force); laid != nil {
					if o, _ := m.applies.Get(laid.buf); o != nil {
						hits++
					}
				}
				quick, err1 := m.Apply(live, config.DeepCopy(), by, force)
				if !equality.Semantic.DeepEqual(live, before) {
					t.Fatal("applying changed the live object")
				}
				slow, err2 := m.libraryApply(live, config, by, force)
				if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
					t.Fatalf("quick: %v\nslow: %v", err1, err2)
				}
				if err1 != nil {
					return
				}
				quick.SetManagedFields(untimed(quick.GetManagedFields()))
				slow.SetManagedFields(untimed(slow.GetManagedFields()))
				if !equality.Semantic.DeepEqual(quick, slow) || !sameJSON(t, quick, slow) {
					a, _ := json.MarshalIndent(quick, "", " ")
					b, _ := json.MarshalIndent(slow, "", " ")
					t.Fatalf("quick %s\nslow %s", a, b)
				}
			})
			if hits == 0 {
				t.Log("nothing was remembered in this run")
			} else {
				t.Log("remembered", hits)
			}
		})
	}
}

func sameJSON(t *rapid.T, a, b runtime.Object) bool {
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}
