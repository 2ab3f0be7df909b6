package revision

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEnsure(t *testing.T) {
	const label = "hash"
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}}
	data, err := Data(template)
	if err != nil {
		t.Fatal(err)
	}
	first, second := DataHash(data, nil), DataHash(data, ptr.To[int32](1))
	for _, tt := range []struct {
		name       string
		taken      string // what the first name is taken by
		firstHash  bool
		want       string
		label      string
		collisions *int32
	}{
		{"a new one", "", false, first, first, nil},
		{"its name is taken", `{"a":"b"}`, false, second, second, ptr.To[int32](1)},
		{"its name is taken, and its label stays", `{"a":"b"}`, true, second, first, ptr.To[int32](1)},
		{"its name is taken by the same of a namesake before", string(data), false, first, first, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := controllertest.Start(t)
			annotations := map[string]string{corev1.LastAppliedConfigAnnotation: "{}", "kubernetes.io/change-cause": "why"}
			if tt.taken != "" {
				other := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "s-" + first, Namespace: "default", Labels: map[string]string{"app": "a", label: first}, Annotations: annotations}, Data: runtime.RawExtension{Raw: []byte(tt.taken)}, Revision: 1}
				if _, err := e.Client.AppsV1().ControllerRevisions("default").Create(context.Background(), other, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "u", Annotations: annotations}}
			h := &History{Client: e.Client, Kind: appsv1.SchemeGroupVersion.WithKind("StatefulSet")}
			r, all, collisions, err := h.Ensure(context.Background(), nil, Request{Owner: set, Template: template, Hash: DataHash, HashLabel: label, FirstHash: tt.firstHash})
			if err != nil {
				t.Fatal(err)
			}
			if r.Name != "s-"+tt.want || !maps.Equal(r.Labels, map[string]string{"app": "a", label: tt.label}) || len(all) != 1 || !ptr.Equal(collisions, tt.collisions) {
				t.Errorf("%s, labels %v, %d revisions, %v collisions; want %+v", r.Name, r.Labels, len(all), collisions, tt)
			}
			if !maps.Equal(r.Annotations, annotations) {
				t.Errorf("annotations %v, not the owner's", r.Annotations)
			}
		})
	}
}

// What is to be the newest has a number of its own, also if somebody who didn't see the one before gave both the same.
func TestEnsureNewest(t *testing.T) {
	template := func(app string) *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}}
	}
	for _, tt := range []struct {
		name            string
		before, current int64
		want            int64
	}{
		{"the newest", 1, 2, 2},
		{"an older one", 2, 1, 3},
		{"both are the first", 1, 1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := controllertest.Start(t)
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "u"}}
			var all []*appsv1.ControllerRevision
			for app, number := range map[string]int64{"old": tt.before, "new": tt.current} {
				data, err := Data(template(app))
				if err != nil {
					t.Fatal(err)
				}
				r, err := e.Client.AppsV1().ControllerRevisions("default").Create(context.Background(), &appsv1.ControllerRevision{
					ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: "default"}, Data: runtime.RawExtension{Raw: data}, Revision: number}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, r)
			}
			// The oldest first; of two that are equally old, either may be the last: here it is the new one.
			slices.SortFunc(all, func(a, b *appsv1.ControllerRevision) int {
				return cmp.Or(cmp.Compare(a.Revision, b.Revision), -cmp.Compare(a.Name, b.Name))
			})
			h := &History{Client: e.Client, Kind: appsv1.SchemeGroupVersion.WithKind("StatefulSet")}
			r, after, _, err := h.Ensure(context.Background(), all, Request{Owner: set, Template: template("new"), Hash: DataHash, HashLabel: "hash"})
			if err != nil {
				t.Fatal(err)
			}
			if r.Name != "new" || r.Revision != tt.want || len(after) != 2 || after[1].Name != "new" || after[1].Revision != tt.want {
				t.Errorf("%s is revision %d, want %d", r.Name, r.Revision, tt.want)
			}
		})
	}
}
