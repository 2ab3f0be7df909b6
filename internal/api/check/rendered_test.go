package check

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRendered: Go field names in their order and nothing left out, but for metadata, which has its own form and stands among the fields.
func TestRendered(t *testing.T) {
	for want, v := range map[string]any{
		`{"name":"a","labels":{"k":"v"},"Spec":`: &corev1.PersistentVolumeClaim{
			TypeMeta: metav1.TypeMeta{Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"k": "v"}},
		},
		`{"Spec":{"AccessModes":null,"Selector":null,`:                           &corev1.PersistentVolumeClaimTemplate{},
		`{"Volumes":null,"InitContainers":null,"Containers":null,"EphemeralCont`: &corev1.PodSpec{},
		`{"Name":"a","Value":"b","ValueFrom":null}`:                              corev1.EnvVar{Name: "a", Value: "b"},
		`[{"name":"a","Spec":{`:                                                  []corev1.PodTemplateSpec{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}},
		`{"matchLabels":{"a":"b"}}`:                                              &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
	} {
		got, err := json.Marshal(Rendered(v))
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%s, %v, want %s...", got, err, want)
		}
	}
}
