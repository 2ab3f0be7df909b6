package request

import (
	"errors"
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestGiven(t *testing.T) {
	pod := &corev1.Pod{}
	encode := func(obj runtime.Object) ([]byte, error) {
		if obj != pod {
			t.Errorf("encodes %v", obj)
		}
		return []byte("a pod"), nil
	}
	read := Give(pod, encode)
	if data, err := io.ReadAll(read); err != nil || string(data) != "a pod" || read.Object() != nil || read.Take() != nil {
		t.Errorf("read: %q, %v, %v is left", data, err, read.Object())
	}
	taken := Give(pod, encode)
	if taken.Object() != pod || taken.Take() != pod || taken.Object() != nil {
		t.Error("not what was given")
	}
	if data, err := io.ReadAll(taken); err != nil || len(data) > 0 {
		t.Errorf("read after it was taken: %q, %v", data, err)
	}
	wrong := errors.New("no form")
	if _, err := io.ReadAll(Give(pod, func(runtime.Object) ([]byte, error) { return nil, wrong })); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
}
