package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

func TestPatience(t *testing.T) {
	added := time.Unix(1000, 0)
	at := metav1.NewTime(added)
	taint := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
	tolerates := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	tests := []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        time.Duration // after added; negative: for ever
	}{
		{"none", nil, []corev1.Taint{taint}, 0},
		{"for ever", []corev1.Toleration{tolerates("k", nil)}, []corev1.Taint{taint}, -1},
		{"for a while", []corev1.Toleration{tolerates("k", ptr.To[int64](300))}, []corev1.Taint{taint}, 300 * time.Second},
		{"the shortest counts", []corev1.Toleration{tolerates("k", ptr.To[int64](300)), tolerates("", ptr.To[int64](10))}, []corev1.Taint{taint}, 10 * time.Second},
		{"one of two", []corev1.Toleration{tolerates("k", nil)}, []corev1.Taint{taint, other}, 0},
		{"negative is at once", []corev1.Toleration{tolerates("k", ptr.To[int64](-5))}, []corev1.Taint{taint}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			deadline, ends := patience(klog.Background(), p, tt.taints, added.Add(time.Hour))
			if ends != (tt.want >= 0) || ends && deadline.Sub(added) != tt.want {
				t.Errorf("got %v, %v; want %v", deadline.Sub(added), ends, tt.want)
			}
		})
	}
}
