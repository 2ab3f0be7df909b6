package apply

import (
	"encoding/json"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/api"
)

// mangle makes a random merge patch of the JSON of an object: members are dropped, nulled, or taken for others.
func mangle(t *rapid.T, v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, x := range m {
		switch rapid.IntRange(0, 9).Draw(t, "fate") {
		case 0, 1, 2:
		case 3:
			out[k] = nil
		case 4:
			out[k] = draw(t, "other", "text", "1")
		case 5:
			out[k] = map[string]any{}
		default:
			out[k] = mangle(t, x)
		}
	}
	if rapid.IntRange(0, 20).Draw(t, "more") == 0 {
		out["unknown"] = "x"
	}
	return out
}

// Whatever is merged into a Go object is what the patched JSON would be read as.
func TestMergeAgreesWithJSON(t *testing.T) {
	for _, c := range []struct {
		name string
		draw func(*rapid.T) api.Object
	}{
		{"configmap", func(t *rapid.T) api.Object { return randomConfigMap(t) }},
		{"pod", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"deployment", func(t *rapid.T) api.Object { return randomDeployment(t) }},
		{"secret", func(t *rapid.T) api.Object {
			s := &corev1.Secret{Data: map[string][]byte{"a": []byte(draw(t, "a", "", "1"))}}
			s.Kind, s.APIVersion = "Secret", "v1"
			return s
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			merged := 0
			rapid.Check(t, func(t *rapid.T) {
				obj := c.draw(t)
				other, err := json.Marshal(c.draw(t))
				if err != nil {
					t.Fatal(err)
				}
				var v map[string]any
				if err := json.Unmarshal(other, &v); err != nil {
					t.Fatal(err)
				}
				if draw(t, "plain", "yes", "no") == "no" {
					v = mangle(t, v).(map[string]any)
				}
				patch, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				quick := obj.DeepCopyObject()
				if !mergeInto(quick, patch) {
					return
				}
				merged++
				doc, err := json.Marshal(obj)
				if err != nil {
					t.Fatal(err)
				}
				patched, err := jsonpatch.MergePatch(doc, patch)
				if err != nil {
					t.Fatal(err)
				}
				slow := empty(obj)
				if strict, err := kjson.UnmarshalStrict(patched, slow); err != nil || len(strict) > 0 {
					t.Fatalf("%s: %v %v", patched, strict, err)
				}
				if !equality.Semantic.DeepEqual(quick, slow) || !sameJSON(t, quick, slow) {
					a, _ := json.Marshal(quick)
					b, _ := json.Marshal(slow)
					t.Fatalf("patch %s\nquick %s\nslow  %s", patch, a, b)
				}
			})
			if merged == 0 {
				t.Error("nothing was merged")
			}
		})
	}
}

func empty(obj runtime.Object) runtime.Object {
	switch obj.(type) {
	case *corev1.Pod:
		return &corev1.Pod{}
	case *appsv1.Deployment:
		return &appsv1.Deployment{}
	case *corev1.Secret:
		return &corev1.Secret{}
	}
	return &corev1.ConfigMap{}
}

// What only JSON can say is left to it.
func TestMergeGivesUp(t *testing.T) {
	for _, patch := range []string{
		``, `[]`, `null`, `"x"`, `{"kind":"Pod"}`, `{"kind":null}`, `{"nonsense":1}`, `{"data":{"a":1}}`, `{"data":"x"}`, `{"metadata":{"labels":["x"]}}`,
		`{"metadata":{"finalizers":[null]}}`, `{"metadata":{"creationTimestamp":{}}}`, `{"metadata":{"creationTimestamp":"yesterday"}}`, `{"immutable":"true"}`, `{"data":{"a":"b"}`,
	} {
		obj := &corev1.ConfigMap{}
		obj.Kind, obj.APIVersion = "ConfigMap", "v1"
		if mergeInto(obj, []byte(patch)) {
			t.Errorf("%s: merged", patch)
		}
	}
}

// FuzzMerge looks for patches that Go objects take in another way than JSON.
func FuzzMerge(f *testing.F) {
	for _, s := range []string{`{"data":{"a":"2","b":null}}`, `{"metadata":{"labels":null,"finalizers":["x"]},"immutable":true}`, `{"data":{},"binaryData":{"a":"YQ=="}}`, `{"data":{"a":"\ud800"}}`} {
		f.Add([]byte(s))
	}
	live := &corev1.ConfigMap{Data: map[string]string{"a": "1"}}
	live.Kind, live.APIVersion, live.Name, live.Labels = "ConfigMap", "v1", "c", map[string]string{"x": "y"}
	doc, err := json.Marshal(live)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		quick := live.DeepCopy()
		if strict, err := kjson.UnmarshalStrict(patch, &map[string]any{}); err != nil || len(strict) > 0 || !mergeInto(quick, patch) {
			return
		}
		patched, err := jsonpatch.MergePatch(doc, patch)
		if err != nil {
			t.Fatal(err)
		}
		slow := &corev1.ConfigMap{}
		if strict, err := kjson.UnmarshalStrict(patched, slow); err != nil || len(strict) > 0 {
			t.Fatalf("%s: %v %v", patched, strict, err)
		}
		if !equality.Semantic.DeepEqual(quick, slow) {
			t.Fatalf("patch %s\nquick %v\nslow %v", patch, quick, slow)
		}
	})
}
