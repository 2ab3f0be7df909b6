package revision

import (
	"context"
	"maps"
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
