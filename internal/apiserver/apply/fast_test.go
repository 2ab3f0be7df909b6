package apply

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
)

func managers(t testing.TB, gvk schema.GroupVersionKind, sub string) *Manager {
	t.Helper()
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	k, v, ok := c.ByKind(gvk)
	if !ok {
		t.Fatalf("no kind %s", gvk)
	}
	return NewTracker(c).Manager(k, v, sub)
}

func draw(t *rapid.T, label string, words ...string) string {
	return rapid.SampledFrom(words).Draw(t, label)
}

// randomPod draws a pod whose parts change often, few of them at a time.
func randomPod(t *rapid.T) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	for _, l := range []string{"a", "b"} {
		if v := draw(t, "label", "", "1", "2"); v != "" {
			if p.Labels == nil {
				p.Labels = map[string]string{}
			}
			p.Labels[l] = v
		}
	}
	p.Finalizers = rapid.SliceOfN(rapid.SampledFrom([]string{"x/a", "x/b"}), 0, 1).Draw(t, "finalizers")
	for i := range rapid.IntRange(1, 2).Draw(t, "containers") {
		c := corev1.Container{Name: fmt.Sprint("c", i), Image: draw(t, "image", "i1", "i2")}
		if draw(t, "env", "yes", "no") == "yes" {
			c.Env = []corev1.EnvVar{{Name: "E", Value: draw(t, "value", "", "1", "2")}}
		}
		if draw(t, "port", "yes", "no") == "yes" {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP, Name: draw(t, "portname", "", "web", "www")}}
		}
		if q := draw(t, "cpu", "", "1", "1000m", "2"); q != "" {
			c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	p.Spec.NodeName = draw(t, "node", "", "n1", "n2")
	p.Status.Phase = corev1.PodPhase(draw(t, "phase", "", "Pending", "Running"))
	for _, c := range []string{"Ready", "PodScheduled"} {
		if s := draw(t, "condition", "", "True", "False"); s != "" {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(c), Status: corev1.ConditionStatus(s), LastTransitionTime: metav1.Unix(int64(rapid.IntRange(0, 1).Draw(t, "at")), 0)})
		}
	}
	if n := rapid.Int32Range(0, 2).Draw(t, "restarts"); n > 0 {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c0", RestartCount: n}}
	}
	return p
}

func randomDeployment(t *rapid.T) *appsv1.Deployment {
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}, ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "n"}}
	if n := rapid.Int32Range(0, 2).Draw(t, "replicas"); n > 0 {
		d.Spec.Replicas = &n
	}
	pod := randomPod(t)
	d.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": draw(t, "selector", "1", "2")}}
	d.Status.Replicas = rapid.Int32Range(0, 2).Draw(t, "have")
	return d
}

// The fast way and the library's agree: whatever the fast way takes on, it leaves as the library would have.
func TestFastAgreesWithLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		gvk  schema.GroupVersionKind
		sub  string
		draw func(*rapid.T) api.Object
	}{
		{"pod", corev1.SchemeGroupVersion.WithKind("Pod"), "", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"pod status", corev1.SchemeGroupVersion.WithKind("Pod"), "status", func(t *rapid.T) api.Object { return randomPod(t) }},
		{"deployment", appsv1.SchemeGroupVersion.WithKind("Deployment"), "", func(t *rapid.T) api.Object { return randomDeployment(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := managers(t, c.gvk, c.sub)
			other := m.tracker.Manager(m.kind, m.version, "")
			taken := 0
			rapid.Check(t, func(t *rapid.T) {
				live, err := other.Update(nil, c.draw(t), "first")
				if err != nil {
					t.Fatal(err)
				}
				if draw(t, "second", "yes", "no") == "yes" {
					next := c.draw(t)
					if live, err = m.Update(live, next, "second"); err != nil {
						t.Fatal(err)
					}
				}
				for i := range live.GetManagedFields() {
					live.GetManagedFields()[i].Time = &metav1.Time{Time: time.Unix(int64(i), 0)}
				}
				obj := c.draw(t)
				if draw(t, "keep", "yes", "no") == "yes" {
					obj = live.DeepCopyObject().(api.Object)
					change(t, obj)
				}
				obj.SetManagedFields(nil)
				by := draw(t, "manager", "first", "second")
				quick := obj.DeepCopyObject().(api.Object)
				if !m.fast(live.DeepCopyObject().(api.Object), quick, by) {
					return
				}
				taken++
				fm, err := m.manager()
				if err != nil {
					t.Fatal(err)
				}
				slow, ok := fm.UpdateNoErrors(live, obj, by).(api.Object)
				if !ok {
					t.Fatal("not an object")
				}
				a, b := quick.GetManagedFields(), slow.GetManagedFields()
				old := time.Unix(1000, 0)
				for _, l := range [][]metav1.ManagedFieldsEntry{a, b} {
					for i := range l {
						if l[i].Time != nil && l[i].Time.After(old) {
							l[i].Time = &metav1.Time{Time: old}
						}
					}
				}
				if !equality.Semantic.DeepEqual(a, b) {
					t.Fatalf("fast %v\nslow %v", a, b)
				}
			})
			if taken == 0 {
				t.Error("the fast way was never taken")
			}
		})
	}
}

// change changes a value or two of an object, as controllers do.
func change(t *rapid.T, obj api.Object) {
	switch o := obj.(type) {
	case *corev1.Pod:
		o.Status.Phase = corev1.PodPhase(draw(t, "newphase", "Pending", "Running"))
		for i := range o.Status.Conditions {
			o.Status.Conditions[i].Status = corev1.ConditionStatus(draw(t, "newstatus", "True", "False"))
		}
		o.Spec.Containers[0].Image = draw(t, "newimage", "i1", "i3")
	case *appsv1.Deployment:
		o.Spec.Template.Spec.Containers[0].Image = draw(t, "newimage", "i1", "i3")
		if o.Spec.Replicas != nil {
			*o.Spec.Replicas = rapid.Int32Range(1, 5).Draw(t, "newreplicas")
		}
	}
}

// What is remembered of one new object holds for every other of its outline.
func TestFastCreateAgreesWithLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		gvk  schema.GroupVersionKind
		draw func(*rapid.T) api.Object
	}{
		{"pod", corev1.SchemeGroupVersion.WithKind("Pod"), func(t *rapid.T) api.Object { return randomPod(t) }},
		{"deployment", appsv1.SchemeGroupVersion.WithKind("Deployment"), func(t *rapid.T) api.Object { return randomDeployment(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := managers(t, c.gvk, "")
			taken := 0
			rapid.Check(t, func(t *rapid.T) {
				obj := c.draw(t)
				quick := obj.DeepCopyObject().(api.Object)
				done, outline := m.fastCreate(quick, "x")
				fm, err := m.manager()
				if err != nil {
					t.Fatal(err)
				}
				slow, ok := fm.UpdateNoErrors(m.tracker.catalogue.New(m.kind), obj, "x").(api.Object)
				if !ok {
					t.Fatal("not an object")
				}
				if !done {
					m.remember(outline, slow)
					return
				}
				taken++
				a, b := quick.GetManagedFields(), slow.GetManagedFields()
				for _, l := range [][]metav1.ManagedFieldsEntry{a, b} {
					for i := range l {
						l[i].Time = nil
					}
				}
				if !equality.Semantic.DeepEqual(a, b) {
					t.Fatalf("fast %v\nslow %v", a, b)
				}
			})
			if taken == 0 {
				t.Log("the fast way was never taken in this run")
			}
		})
	}
}
