package apply

import (
	"encoding/json"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/api"
)

// libraryStrategic is what a strategic merge patch makes by the library. Not ok: it complains.
func libraryStrategic(t *rapid.T, obj runtime.Object, patch []byte) (runtime.Object, bool) {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if strict, err := kjson.UnmarshalStrict(patch, &m); err != nil || len(strict) > 0 {
		return nil, false
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, m, obj)
	if err != nil {
		return nil, false
	}
	out := empty(obj)
	return out, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, out, true) == nil
}

// Whatever a strategic merge patch makes of a Go object is what the library makes of it.
func TestStrategicAgreesWithLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		draw func(*rapid.T) api.Object
	}{
		{"configmap", func(t *rapid.T) api.Object { return randomConfigMap(t) }},
		{"pod", func(t *rapid.T) api.Object { return listedPod(t) }},
		{"random pod", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"deployment", func(t *rapid.T) api.Object { return randomDeployment(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			quickly := 0
			rapid.Check(t, func(t *rapid.T) {
				obj := c.draw(t)
				other, err := json.Marshal(c.draw(t))
				if err != nil {
					t.Fatal(err)
				}
				patch := other
				if draw(t, "computed", "yes", "no") == "yes" {
					mine, err := json.Marshal(obj)
					if err != nil {
						t.Fatal(err)
					}
					if patch, err = strategicpatch.CreateTwoWayMergePatch(mine, other, empty(obj)); err != nil {
						return // items without their key
					}
				}
				var v map[string]any
				if err := json.Unmarshal(patch, &v); err != nil {
					t.Fatal(err)
				}
				if draw(t, "plain", "yes", "no") == "no" {
					v = mangle(t, v).(map[string]any)
				}
				if patch, err = json.Marshal(v); err != nil {
					t.Fatal(err)
				}
				quick := obj.DeepCopyObject()
				if !strategicInto(quick, patch) {
					return
				}
				quickly++
				slow, ok := libraryStrategic(t, obj, patch)
				if !ok {
					t.Fatalf("the library complains of %s", patch)
				}
				if !equality.Semantic.DeepEqual(quick, slow) || !sameJSON(t, quick, slow) {
					a, _ := json.Marshal(quick)
					b, _ := json.Marshal(slow)
					o, _ := json.Marshal(obj)
					t.Fatalf("object %s\npatch %s\nquick %s\nslow  %s", o, patch, a, b)
				}
			})
			t.Log(quickly, "patches were carried out quickly")
			if quickly == 0 {
				t.Error("none was")
			}
		})
	}
}

// listedPod draws a pod with keyed lists.
func listedPod(t *rapid.T) *corev1.Pod {
	p := &corev1.Pod{}
	p.Kind, p.APIVersion, p.Name = "Pod", "v1", "p"
	names := func(label string) []string {
		out := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 4, rapid.ID).Draw(t, label)
		return slices.Clone(out)
	}
	for _, n := range names("containers") {
		c := corev1.Container{Name: n, Image: draw(t, "image", "", "i", "j")}
		for _, e := range names("env") {
			c.Env = append(c.Env, corev1.EnvVar{Name: e, Value: draw(t, "value", "", "1", "2")})
		}
		for _, port := range rapid.SliceOfN(rapid.Int32Range(1, 3), 0, 3).Draw(t, "ports") {
			c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: port, Protocol: corev1.Protocol(draw(t, "protocol", "TCP", "UDP"))})
		}
		if draw(t, "args", "yes", "no") == "yes" {
			c.Args = []string{draw(t, "arg", "x", "y")}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for _, n := range names("conditions") {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(n), Status: corev1.ConditionStatus(draw(t, "status", "True", "False"))})
	}
	p.Finalizers = names("finalizers")
	p.Annotations = map[string]string{"k": draw(t, "annotation", "1", "2")}
	if draw(t, "context", "yes", "no") == "yes" {
		user := int64(1)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user}
	}
	return p
}

// A status as controllers and nodes write it, whose conditions have no time of a probe, goes the quick way.
func TestStrategicConditions(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "False", LastProbeTime: metav1.Now()}}
	if !strategicInto(pod, []byte(`{"status":{"conditions":[{"lastProbeTime":null,"status":"True","type":"Ready"},{"lastProbeTime":null,"status":"True","type":"New"}]}}`)) {
		t.Fatal("the slow way")
	}
	c := pod.Status.Conditions
	if len(c) != 2 || c[0].Status != "True" || !c[0].LastProbeTime.IsZero() || c[1].Type != "New" {
		t.Errorf("%+v", c)
	}
}

func TestStrategic(t *testing.T) {
	obj := &corev1.Pod{}
	obj.Kind, obj.APIVersion = "Pod", "v1"
	obj.Spec.Containers = []corev1.Container{{Name: "a", Image: "1"}, {Name: "b", Image: "1"}}
	for _, c := range []struct{ patch, want string }{ // want is the names and images of the containers, "" if the library is asked
		{`{"spec":{"containers":[{"name":"b","image":"2"}]}}`, "a1 b2 "},
		{`{"spec":{"containers":[{"name":"c","image":"3"}]}}`, "c3 a1 b1 "},
		{`{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}`, "b1 a1 "},
		{`{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}],"containers":[{"name":"c","image":"3"}]}}`, "c3 a1 b1 "},
		{`{"spec":{"containers":[{"name":"b","image":null},{"name":"c","image":null}]}}`, "a1 b c "},
		{`{"spec":{"containers":[{"name":"b","resources":{"limits":null}}]}}`, ""},
		{`{"spec":{"containers":[{"$patch":"delete","name":"a"}]}}`, ""},
		{`{"spec":{"containers":[{"image":"2"}]}}`, ""},
		{`{"spec":{"$retainKeys":["containers"]}}`, ""},
		{`{"metadata":{"$deleteFromPrimitiveList/finalizers":["x"]}}`, ""},
		{`{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"b"}]}}`, ""},
		{`{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":null}}`, ""},
		{`{"nonsense":1}`, ""}, {`[]`, ""}, {`{`, ""},
	} {
		pod, got := obj.DeepCopy(), ""
		if strategicInto(pod, []byte(c.patch)) {
			for _, x := range pod.Spec.Containers {
				got += x.Name + x.Image + " "
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.patch, got, c.want)
		}
	}
}

// FuzzStrategic looks for patches that Go objects take in another way than the library.
func FuzzStrategic(f *testing.F) {
	for _, s := range []string{
		`{"spec":{"containers":[{"name":"b","image":"2"},{"name":"n"}]}}`, `{"metadata":{"labels":{"x":null,"z":"1"},"finalizers":["f"]}}`, `{"status":null}`,
		`{"status":{"conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2030-01-01T00:00:00Z"}]}}`, `{"spec":{"containers":[{"name":"a","image":null},{"name":"n","image":null}]}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","env":[{"name":"e","value":"v"}]}]}}`, `{"spec":{"securityContext":{"runAsUser":null}}}`,
	} {
		f.Add([]byte(s))
	}
	live := &corev1.Pod{}
	live.Kind, live.APIVersion, live.Name, live.Labels = "Pod", "v1", "p", map[string]string{"x": "y"}
	live.Spec.Containers = []corev1.Container{{Name: "a", Image: "1"}, {Name: "b", Image: "1"}}
	f.Fuzz(func(t *testing.T, patch []byte) {
		quick := live.DeepCopy()
		var m map[string]any
		if strict, err := kjson.UnmarshalStrict(patch, &m); err != nil || len(strict) > 0 || !strategicInto(quick, patch) {
			return
		}
		before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
		if err != nil {
			t.Fatal(err)
		}
		after, err := strategicpatch.StrategicMergeMapPatch(before, m, live)
		if err != nil {
			t.Fatalf("the library complains of %s: %v", patch, err)
		}
		slow := &corev1.Pod{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, slow, true); err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(quick, slow) {
			t.Fatalf("patch %s\nquick %v\nslow %v", patch, quick, slow)
		}
	})
}
