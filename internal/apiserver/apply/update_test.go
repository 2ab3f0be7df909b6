package apply

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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

// randomAddresses draws a pod that differs from others in the items that are keyed by a value of their own.
func randomAddresses(t *rapid.T) *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	for _, uid := range rapid.SliceOfNDistinct(rapid.SampledFrom([]types.UID{"0", "4", "a"}), 0, 2, rapid.ID).Draw(t, "owners") {
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "K", Name: draw(t, "owner", "x", "y"), UID: uid})
	}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	addresses := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"4", "10.0.0.1", "10.0.0.2", "fd00::1", "é"}), 0, 2, rapid.ID)
	for _, ip := range addresses.Draw(t, "podIPs") {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	for _, ip := range addresses.Draw(t, "hostIPs") {
		p.Status.HostIPs = append(p.Status.HostIPs, corev1.HostIP{IP: ip})
	}
	p.Status.Phase = corev1.PodPhase(draw(t, "phase", "", "Pending", "Running"))
	return p
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

// The doors of a pod to its resources and its ephemeral containers record all that a client sent, what they drop later included; the
// status door does not record what it puts back.
func TestDoorsOfPods(t *testing.T) {
	for _, c := range []struct {
		sub  string
		want string
	}{
		{"", `{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:activeDeadlineSeconds":{}}}`},
		{"resize", `{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:activeDeadlineSeconds":{}},"f:status":{"f:reason":{}}}`},
		{"ephemeralcontainers", `{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:activeDeadlineSeconds":{}},"f:status":{"f:reason":{}}}`},
		{"status", `{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:status":{"f:reason":{}}}`},
	} {
		m := managers(t, corev1.SchemeGroupVersion.WithKind("Pod"), c.sub)
		live := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
		live.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
		sent := live.DeepCopy()
		sent.Labels, sent.Spec.ActiveDeadlineSeconds, sent.Status.Reason = map[string]string{"a": "b"}, new(int64(5)), "r"
		got, err := m.Update(live, sent, "somebody")
		if err != nil {
			t.Fatal(err)
		}
		var mine string
		for _, e := range got.GetManagedFields() {
			if e.Manager == "somebody" && e.Subresource == c.sub {
				mine = string(e.FieldsV1.Raw)
			}
		}
		if mine != c.want {
			t.Errorf("%q: %s, want %s", c.sub, mine, c.want)
		}
	}
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
		{"pod with addresses", corev1.SchemeGroupVersion.WithKind("Pod"), "", func(t *rapid.T) api.Object { return randomAddresses(t) }},
		{"pod status with addresses", corev1.SchemeGroupVersion.WithKind("Pod"), "status", func(t *rapid.T) api.Object { return randomAddresses(t) }},
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
				if outline, _ := m.updateOutline(live, obj, by); outline != nil {
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

// A change that differs from one seen before only in addresses and owners is one of the same outline; what comes of it is told by its own.
func TestIndividualItemsShareOutlines(t *testing.T) {
	m := managers(t, corev1.SchemeGroupVersion.WithKind("Pod"), "status")
	created := m.tracker.Manager(m.kind, m.version, "")
	report := func(owner types.UID, ips ...string) (outline []byte, quick bool) {
		t.Helper()
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "n", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: owner}},
		}}
		live, err := created.Update(nil, pod, "controller")
		if err != nil {
			t.Fatal(err)
		}
		next := live.DeepCopyObject().(*corev1.Pod) //nolint:forcetypeassert // it is one
		for _, ip := range ips {
			next.Status.PodIPs = append(next.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		outline, _ = m.updateOutline(live, next, "kubelet")
		_, quick = m.updates.Get(outline)
		got, err := m.Update(live, next.DeepCopy(), "kubelet")
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.libraryUpdate(live, next, "kubelet")
		if err != nil {
			t.Fatal(err)
		}
		if a, b := untimed(got.GetManagedFields()), untimed(want.GetManagedFields()); !equality.Semantic.DeepEqual(a, b) {
			t.Fatalf("%v: got %v\nwant %v", ips, a, b)
		}
		if quick && got.GetManagedFields()[0].FieldsV1 != live.GetManagedFields()[0].FieldsV1 {
			t.Error("what has not changed is not shared with the object before")
		}
		return outline, quick
	}
	first, quick := report("u-1", "10.0.0.1")
	if quick {
		t.Error("the first of all was seen before")
	}
	second, quick := report("u-2", "10.0.0.2")
	if !quick || string(first) != string(second) {
		t.Error("another address and owner make another outline")
	}
	if _, quick = report("u-2", "10.0.0.2", "fd00::1"); quick {
		t.Error("two addresses are like one")
	}
	if _, quick = report("u-2", "fd00::1", "10.0.0.2"); quick {
		t.Error("the order of addresses plays no part")
	}
	if _, quick = report("u-9", "fd00::9", "10.9.9.9"); !quick {
		t.Error("other addresses in the same order make another outline")
	}
}
