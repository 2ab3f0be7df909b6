package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// writtenByOthers are scales whose workload others write: each answer to a resize is the next one, and each look shows a newer version.
type writtenByOthers struct {
	answers []error
	asked   []string // version and size of each resize
	looks   int
	blind   bool
}

func (w *writtenByOthers) Scale(context.Context, string, *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error) {
	w.looks++
	if w.blind {
		return nil, errors.New("no answer")
	}
	return &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{ResourceVersion: fmt.Sprint(w.looks)}}, nil
}

func (w *writtenByOthers) Resize(_ context.Context, _ string, _ *autoscalingv2.CrossVersionObjectReference, s *autoscalingv1.Scale) error {
	w.asked = append(w.asked, fmt.Sprintf("%s:%d", s.ResourceVersion, s.Spec.Replicas))
	return w.answers[min(len(w.asked), len(w.answers))-1]
}

func TestResizeBesideOthers(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "d", errors.New("changed"))
	denied := errors.New("denied")
	for _, tt := range []struct {
		name    string
		answers []error
		blind   bool
		asked   []string
		fails   error
	}{
		{"at once", []error{nil}, false, []string{"0:5"}, nil},
		{"somebody wrote", []error{conflict, nil}, false, []string{"0:5", "1:5"}, nil},
		{"and cannot be asked what", []error{conflict, nil}, true, []string{"0:5", "0:5"}, nil},
		{"refused", []error{denied}, false, []string{"0:5"}, denied},
		{"somebody writes all the time", []error{conflict}, false, []string{"0:5", "1:5", "2:5", "3:5", "4:5"}, conflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &writtenByOthers{answers: tt.answers, blind: tt.blind}
			r := &round{Controller: &Controller{Config: Config{Scales: w}}, h: &autoscalingv2.HorizontalPodAutoscaler{}}
			err := r.resize(t.Context(), &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "0"}}, 5)
			if !errors.Is(err, tt.fails) || !slices.Equal(w.asked, tt.asked) {
				t.Errorf("%v, asked %v", err, w.asked)
			}
		})
	}
}
